//! `rental-agent schema`: the JSON Schemas (2020-12) of all that goes over the wire and of the
//! configuration. They are made from the types; the files under `schemas/` are held equal to them.

mod asyncapi;
mod shape;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use schemars::{
    JsonSchema,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use self::shape::{closed, exact, with_nulls};
use super::{complain, print};
use crate::{
    api,
    clock::Timestamp,
    config,
    ids::CommandId,
    protocol::{
        Error, Instance,
        command::{
            Ack, Cancel, DeployFields, NoFields, PullImage, QuarantineGpu, ReleaseGpu, Terminate,
            Welcome,
        },
        message::{
            Goodbye, HealthReport, Heartbeat, Hello, InstanceMessage, Inventory, Metrics, Output,
            Progress, Reply, Synced,
        },
        spec::InstanceSpec,
    },
};

/// Of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Only this one, like agent/hello, server/command, instance-spec, config or asyncapi.
    name: Option<String>,
    /// Write each to a file of its own below this directory instead.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    write: Option<PathBuf>,
}

/// Prints or writes the schemas.
pub fn run(args: &SchemaArgs) -> ExitCode {
    let all = files();
    if let Some(directory) = &args.write {
        return match write(&all, directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(
                &format!("{}: {error}", directory.display()),
                ExitCode::FAILURE,
            ),
        };
    }
    match &args.name {
        None => print(text(&json!(all)).trim_end()),
        Some(name) => match all.get(name.as_str()) {
            Some(schema) => print(text(schema).trim_end()),
            None => {
                let names: Vec<_> = all.into_keys().collect();
                let message = format!("there is no schema `{name}`, but {}", names.join(", "));
                complain(&message, ExitCode::FAILURE)
            }
        },
    }
}

/// All schemas by name; the name is the file's path without `.json`.
pub fn schemas() -> BTreeMap<&'static str, Value> {
    let mut all = BTreeMap::from([
        ("config", config::schema()),
        ("error", written::<Error>()),
        ("instance", written::<Instance>()),
        ("instance-spec", closed(with_nulls(read::<InstanceSpec>()))),
        ("server/ack", with_nulls(tagged("ack", read::<Ack>()))),
        ("server/command", command()),
        (
            "server/welcome",
            with_nulls(tagged("welcome", read::<Welcome>())),
        ),
    ]);
    all.extend([
        ("agent/goodbye", tagged("goodbye", written::<Goodbye>())),
        ("agent/health", tagged("health", written::<HealthReport>())),
        (
            "agent/heartbeat",
            tagged("heartbeat", written::<Heartbeat>()),
        ),
        ("agent/hello", tagged("hello", written::<Hello>())),
        (
            "agent/instance",
            tagged("instance", written::<InstanceMessage>()),
        ),
        (
            "agent/inventory",
            tagged("inventory", written::<Inventory>()),
        ),
        ("agent/metrics", tagged("metrics", written::<Metrics>())),
        ("agent/output", tagged("output", written::<Output>())),
        ("agent/progress", tagged("progress", written::<Progress>())),
        ("agent/reply", tagged("reply", written::<Reply>())),
        ("agent/synced", tagged("synced", written::<Synced>())),
    ]);
    all
}

/// All files below `schemas/` but the examples: the schemas, and the documents that put them to use.
pub fn files() -> BTreeMap<&'static str, Value> {
    let mut all = schemas();
    all.insert("openapi", api::openapi::document());
    all.insert("asyncapi", asyncapi::document());
    all
}

/// A schema as the text of its file.
pub fn text(schema: &Value) -> String {
    // A value is always written: its keys are strings.
    let mut text = serde_json::to_string_pretty(schema).unwrap_or_default();
    text.push('\n');
    text
}

fn write(all: &BTreeMap<&'static str, Value>, directory: &Path) -> io::Result<()> {
    for (name, schema) in all {
        let path = directory.join(format!("{name}.json"));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text(schema))?;
    }
    Ok(())
}

/// Of what the agent writes: what is always there is required.
fn written<T: JsonSchema>() -> Value {
    exact(of::<T>(Contract::Serialize))
}

/// Of what the agent reads: what has a default is not required.
fn read<T: JsonSchema>() -> Value {
    of::<T>(Contract::Deserialize)
}

fn of<T: JsonSchema>(contract: Contract) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.contract = contract);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    schema.to_value()
}

/// Adds the `type` that names a message.
fn tagged(name: &str, mut schema: Value) -> Value {
    require(&mut schema, "type", json!({ "const": name }));
    schema
}

fn require(schema: &mut Value, name: &str, property: Value) {
    add(schema, name, property);
    if let Some(object) = schema.as_object_mut() {
        let required = object.entry("required").or_insert_with(|| json!([]));
        if let Some(names) = required.as_array_mut() {
            names.insert(0, name.into());
        }
    }
}

fn add(schema: &mut Value, name: &str, property: Value) {
    if let Some(object) = schema.as_object_mut() {
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert(name.into(), property);
        }
    }
}

/// One alternative for each op that is served. A command is closed at every depth: a field that is
/// not listed is refused as `unsupported`.
fn command() -> Value {
    let ops = [
        ("cancel", "Give up a running command.", read::<Cancel>()),
        ("deploy", "Start a rental.", read::<DeployFields>()),
        ("drain", "Refuse new deploys.", read::<NoFields>()),
        (
            "pull_image",
            "Fetch an image ahead of a deploy.",
            read::<PullImage>(),
        ),
        (
            "quarantine_gpu",
            "Give a GPU to nobody until it is released.",
            read::<QuarantineGpu>(),
        ),
        (
            "release_gpu",
            "End a GPU's quarantine, whatever the cause.",
            read::<ReleaseGpu>(),
        ),
        (
            "report",
            "Send inventory, metrics and health.",
            read::<NoFields>(),
        ),
        ("resume", "Take deploys again.", read::<NoFields>()),
        ("terminate", "End a rental.", read::<Terminate>()),
    ];
    let mut definitions = Map::new();
    let mut alternatives = Vec::new();
    for (op, description, fields) in ops {
        let mut schema = tagged("command", fields);
        require(&mut schema, "op", json!({ "const": op }));
        require(&mut schema, "id", fragment::<CommandId>());
        add(&mut schema, "not_after", fragment::<Timestamp>());
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            if let Some(Value::Object(own)) = object.remove("$defs") {
                definitions.extend(own);
            }
            object.insert("title".into(), op.into());
            object.insert("description".into(), description.into());
        }
        alternatives.push(schema);
    }
    closed(with_nulls(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Command",
        "description": "What the server tells the agent to do; one alternative for each op.",
        "oneOf": alternatives,
        "$defs": definitions,
    })))
}

/// A schema to put inside another one.
fn fragment<T: JsonSchema>() -> Value {
    let mut schema = read::<T>();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
    schema
}
