//! The schemas are what the types say, and the examples are what the schemas say.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where its expectation does"
)]

mod agreement;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use rental_agent::{
    cli::schema::{files, schemas, text},
    protocol::{
        Error, Incoming, Instance, Message,
        command::{SERVED_OPS, decode},
        spec::{InstanceSpec, SERVED_SPEC},
    },
};
use schemars::JsonSchema;
use serde_json::{Value, json};

#[test]
fn the_files_are_what_the_types_say() {
    let committed: BTreeMap<String, String> = json_files("schemas")
        .into_iter()
        .filter(|(name, _)| !name.starts_with("examples/"))
        .collect();
    let made: BTreeMap<String, String> = files()
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), text(&schema)))
        .collect();
    let names = |all: &BTreeMap<String, String>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&made));
    for (name, made) in made {
        assert!(
            committed[&name] == made,
            "schemas/{name}.json is out of date: run `cargo run -- schema --write schemas`"
        );
    }
}

#[test]
fn every_schema_is_valid_2020_12_and_has_an_example_that_it_accepts() {
    let examples = examples();
    for (name, schema) in schemas() {
        jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        if name == "config" {
            continue; // Its example is TOML; see `config`.
        }
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let own: Vec<_> = examples.iter().filter(|(of, _, _)| of == name).collect();
        assert!(!own.is_empty(), "there is no schemas/examples/{name}.json");
        for (_, file, example) in own {
            let errors: Vec<_> = validator
                .iter_errors(example)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{file}: {errors:#?}");
        }
    }
}

#[test]
fn every_example_is_of_a_schema() {
    let names: BTreeSet<_> = schemas().into_keys().collect();
    for (of, file, _) in examples() {
        assert!(
            names.contains(of.as_str()),
            "{file} is an example of nothing"
        );
    }
}

#[test]
fn the_types_read_every_example_and_write_it_again() {
    for (of, file, example) in examples() {
        let text = example.to_string();
        let again = match of.split_once('/') {
            Some(("agent", _)) => rewritten::<Message>(&example),
            Some(_) => {
                let incoming = decode(&text).unwrap();
                let good = matches!(
                    incoming,
                    Incoming::Welcome(_) | Incoming::Ack(_) | Incoming::Command(_)
                );
                assert!(good, "{file}: {incoming:?}");
                continue;
            }
            None if of == "error" => rewritten::<Error>(&example),
            None if of == "instance" => rewritten::<Instance>(&example),
            None => {
                let mut spec = example.clone();
                spec.as_object_mut().unwrap().retain(|_, v| !v.is_null());
                serde_json::from_value::<InstanceSpec>(spec).unwrap();
                continue;
            }
        };
        assert_eq!(again, example, "{file}");
    }
}

#[test]
fn a_field_that_is_not_served_is_refused_by_schema_and_decoder_alike() {
    let all = schemas();
    let validator = jsonschema::draft202012::new(&all["server/command"]).unwrap();
    for (_, file, example) in examples()
        .into_iter()
        .filter(|(of, _, _)| of == "server/command")
    {
        for pointer in records(&example) {
            let mut spoilt = example.clone();
            let record = spoilt.pointer_mut(&pointer).unwrap();
            record
                .as_object_mut()
                .unwrap()
                .insert("colour".into(), json!("red"));
            assert!(!validator.is_valid(&spoilt), "{file}: {pointer}/colour");
            let decoded = decode(&spoilt.to_string()).unwrap();
            assert!(
                matches!(decoded, Incoming::BadCommand(_, _)),
                "{file}: {pointer}/colour: {decoded:?}"
            );
        }
    }
}

#[test]
fn the_schemas_name_all_messages_ops_and_fields_that_the_code_serves() {
    let all = schemas();
    let mut generator = schemars::SchemaGenerator::default();
    let message = Message::json_schema(&mut generator).to_value();
    let mut types: Vec<_> = message["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(type_of)
        .collect();
    types.sort();
    let agent: Vec<_> = all
        .iter()
        .filter(|(name, _)| name.starts_with("agent/"))
        .collect();
    let named: Vec<_> = agent.iter().map(|(_, schema)| type_of(schema)).collect();
    assert_eq!(named, types);
    for (name, schema) in agent {
        assert_eq!(*name, format!("agent/{}", type_of(schema)));
    }
    let ops = all["server/command"]["oneOf"].as_array().unwrap();
    let ops: Vec<_> = ops
        .iter()
        .map(|op| op["properties"]["op"]["const"].as_str())
        .collect();
    assert_eq!(
        ops,
        SERVED_OPS.iter().map(|op| Some(*op)).collect::<Vec<_>>()
    );
    let spec = all["instance-spec"]["properties"].as_object().unwrap();
    assert_eq!(spec.keys().collect::<Vec<_>>(), SERVED_SPEC);
}

#[test]
fn the_session_document_names_every_message_once_and_nothing_that_is_not_there() {
    let document = &files()["asyncapi"];
    let schemas = schemas();
    let messages = document["components"]["messages"].as_object().unwrap();
    let mut named = BTreeSet::new();
    for (name, message) in messages {
        let file = message["payload"]["schema"]["$ref"].as_str().unwrap();
        let file = file.trim_start_matches("./").trim_end_matches(".json");
        assert_eq!(type_of_message(&schemas[file]), *name);
        named.insert(file);
    }
    let frames = |name: &&str| name.starts_with("agent/") || name.starts_with("server/");
    assert_eq!(named, schemas.keys().copied().filter(frames).collect());
    // Whoever sends it, each is sent in one operation.
    let operations = document["operations"].as_object().unwrap();
    for file in named {
        let (side, name) = file.split_once('/').unwrap();
        let action = if side == "agent" { "send" } else { "receive" };
        assert_eq!(operations[&format!("{action}-{name}")]["action"], action);
    }
    assert_eq!(operations.len(), messages.len());
    for pointer in references(document) {
        if let Some(pointer) = pointer.strip_prefix('#') {
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}

/// Each alternative of the command says it for itself.
fn type_of_message(schema: &Value) -> String {
    match schema["oneOf"].get(0) {
        Some(alternative) => type_of(alternative),
        None => type_of(schema),
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(object) => {
            let own = object
                .get("$ref")
                .and_then(Value::as_str)
                .map(str::to_owned);
            own.into_iter()
                .chain(object.values().flat_map(references))
                .collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn type_of(schema: &Value) -> String {
    schema["properties"]["type"]["const"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn rewritten<T: serde::de::DeserializeOwned + serde::Serialize>(example: &Value) -> Value {
    let read: T = serde_json::from_value(example.clone()).unwrap();
    serde_json::to_value(read).unwrap()
}

/// Pointers to the objects whose members have names that the protocol gives.
fn records(value: &Value) -> Vec<String> {
    const FREE: &[&str] = &["env", "labels"];
    let mut found = Vec::new();
    if let Value::Object(object) = value {
        found.push(String::new());
        for (name, inner) in object
            .iter()
            .filter(|(name, _)| !FREE.contains(&name.as_str()))
        {
            found.extend(
                records(inner)
                    .into_iter()
                    .map(|rest| format!("/{name}{rest}")),
            );
        }
    }
    if let Value::Array(items) = value {
        for (i, inner) in items.iter().enumerate() {
            found.extend(records(inner).into_iter().map(|rest| format!("/{i}{rest}")));
        }
    }
    found
}

/// Which schema each is of, its file, and itself. What follows a dot in the file's name tells
/// several of one schema apart.
fn examples() -> Vec<(String, String, Value)> {
    let files = json_files("schemas/examples").into_iter();
    files
        .map(|(name, content)| {
            let of = name.split('.').next().unwrap().to_owned();
            let value = serde_json::from_str(&content).unwrap_or_else(|e| panic!("{name}: {e}"));
            (of, format!("schemas/examples/{name}.json"), value)
        })
        .collect()
}

/// Name without `.json`, relative to `directory`, to content.
fn json_files(directory: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                let name = name.to_str().unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}
