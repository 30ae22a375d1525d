//! The contract, as it is served.

use rental_agent::api::openapi;
use serde_json::{Value, json};

use super::rig::{Rig, spec};

#[tokio::test]
async fn the_contract_is_served_and_its_references_lead_somewhere() {
    let rig = Rig::start().await;
    let served = rig.ask("GET", "/openapi.json", &[], None).await;
    assert_eq!((served.status, served.json()), (200, openapi::document()));
    let document = openapi::document();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            references.extend(
                object
                    .get("$ref")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            object.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[tokio::test]
async fn answers_are_what_the_contract_says() {
    let rig = Rig::start().await;
    let started = rig.post("/start_instance", &[], &spec("a")).await;
    let problem = rig
        .post("/start_instance", &[], &json!({ "image_name": 1 }))
        .await;
    let list = rig.get("/instances", "instances:read").await;
    let one = rig.get("/instances/a", "instances:read").await;
    let ended = rig
        .post("/terminate_instance", &[], &json!({ "instance_id": "a" }))
        .await;
    let health = rig.ask("GET", "/health", &[], None).await;
    let ready = rig.ask("GET", "/ready", &[], None).await;
    for (name, answer) in [
        ("Started", started),
        ("Problem", problem),
        ("Instances", list),
        ("Instance", one),
        ("Terminated", ended),
        ("Health", health),
        ("Readiness", ready),
    ] {
        let mut schema = openapi::document();
        schema["$ref"] = json!(format!("#/components/schemas/{name}"));
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let answer = answer.json();
        let errors: Vec<_> = validator
            .iter_errors(&answer)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:?}: {answer}");
    }
}
