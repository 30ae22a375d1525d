//! Every refusal has the one shape, and the contract has every status that a path can answer with.

use std::time::Duration;

use rental_agent::api::{Limits, openapi};
use serde_json::{Value, json};

use super::{
    client::{Answer, request},
    rig::{Rig, spec},
    tokens::token,
};

/// Refusals of every kind that needs no engine: path of the contract, method, answer.
async fn refusals(rig: &Rig) -> Vec<(&'static str, &'static str, Answer)> {
    let mut all = Vec::new();
    let bearer = |scope: &str| format!("Bearer {}", token(scope));
    for (path, method) in [
        ("/start_instance", "POST"),
        ("/terminate_instance", "POST"),
        ("/instances", "GET"),
        ("/ws", "GET"),
    ] {
        let body = json!({});
        let body = (method == "POST").then_some(&body);
        all.push((path, method, rig.ask(method, path, &[], body).await));
        let other = bearer("other:scope");
        let headers = [("Authorization", other.as_str())];
        all.push((path, method, rig.ask(method, path, &headers, body).await));
    }
    for path in ["/start_instance", "/terminate_instance"] {
        all.push((path, "POST", rig.post(path, &[], &json!({})).await));
        let large = json!({ "x": "y".repeat(300_000) });
        all.push((path, "POST", rig.post(path, &[], &large).await));
        let authorization = bearer("instances:write");
        let headers = [("Authorization", authorization.as_str())];
        let text = request("POST", path, &headers, Some("{}"));
        let text = text.replace("application/json", "text/plain");
        all.push((path, "POST", rig.raw(&text).await));
        // Half a body, and then nothing.
        let authorization = bearer("instances:write");
        let slow = format!(
            "POST {path} HTTP/1.1\r\nHost: agent\r\nAuthorization: {authorization}\r\n\
             Content-Length: 100\r\n\r\n{{\"inst"
        );
        all.push((path, "POST", rig.raw(&slow).await));
    }
    let twice = json!({ "instance_id": "a", "image": "beta" });
    all.push((
        "/start_instance",
        "POST",
        rig.post("/start_instance", &[], &twice).await,
    ));
    let nobody = json!({ "container_id": "0".repeat(64) });
    let answer = rig.post("/terminate_instance", &[], &nobody).await;
    all.push(("/terminate_instance", "POST", answer));
    for id in ["none", "%ff", "a%2Fb", "%00"] {
        let answer = rig.get(&format!("/instances/{id}"), "instances:read").await;
        all.push(("/instances/{id}", "GET", answer));
    }
    all.push(("/ws", "GET", rig.get("/ws", "events:read").await));
    all
}

#[tokio::test]
async fn every_refusal_is_a_problem_that_the_contract_has() {
    let limits = Limits {
        send: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::with(limits, &[]).await;
    let ready = rig.post("/start_instance", &[], &spec("a")).await;
    assert_eq!(ready.status, 200);
    let document = openapi::document();
    let mut schema = document.clone();
    schema["$ref"] = json!("#/components/schemas/Problem");
    let problem = jsonschema::draft202012::new(&schema).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (path, method, answer) in refusals(&rig).await {
        answer.problem();
        assert!(problem.is_valid(&answer.json()), "{path}: {answer:?}");
        let status = answer.status.to_string();
        let told = &document["paths"][path][method.to_lowercase()]["responses"][&status];
        let form = "/content/application~1problem+json/schema/$ref";
        let form = told.pointer(form).and_then(Value::as_str);
        let expected = Some("#/components/schemas/Problem");
        assert_eq!(form, expected, "{method} {path}: {answer:?}");
        for (name, header) in told["headers"].as_object().into_iter().flatten() {
            let value = answer.headers.get(&name.to_lowercase());
            let value = value.map(String::as_str);
            assert_eq!(value, header["schema"]["const"].as_str(), "{name}");
        }
        seen.insert(answer.status);
    }
    let kinds = [400, 401, 403, 404, 408, 409, 413, 415, 426];
    assert_eq!(seen, kinds.into(), "a kind was not tried");
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_told_how_long_was_waited() {
    let limits = Limits {
        send: Duration::from_millis(1500),
        ..Limits::default()
    };
    let rig = Rig::with(limits, &[]).await;
    let slow = format!(
        "POST /start_instance HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 100\r\n\r\n{{",
        token("instances:write")
    );
    let answer = rig.raw(&slow).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (408, "deadline_exceeded")
    );
    let said = answer.json();
    assert_eq!(said["retry"], "here");
    let detail = "the whole body did not come within 1.5 s; nothing was done";
    assert_eq!(said["detail"], detail);
    assert_eq!(answer.headers["connection"], "close");
}
