//! The contract of the HTTP surface: OpenAPI 3.1. The paths stand here, the schemas come from the
//! types.

use schemars::{
    SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{
    Problem,
    answer::{Accepted, Health, Instances, Readiness, Started, Terminated},
};
use crate::protocol::{Instance, spec::InstanceSpec};

/// The whole document.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "rental-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Rentals on one host.",
            "description": "For schedulers that speak HTTP. What is asked here is decided by the \
                same admission as what the central server asks, and each sees the other's rentals.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "iss, aud (the agent's id), sub, exp and scope are required; jti \
                        too for what changes something, and it is taken once. With iat that holds \
                        across a restart of the agent, too: a token from before is refused then.",
                },
            },
            "schemas": schemas(),
        },
    })
}

fn paths() -> Value {
    json!({
        "/start_instance": { "post": start() },
        "/terminate_instance": { "post": terminate() },
        "/instances": { "get": operation(
            "list_instances", "All rentals.", Some("instances:read"), json!({}),
            [ok("Their records.", "Instances")],
        ) },
        "/instances/{id}": { "get": operation(
            "get_instance", "One rental.", Some("instances:read"),
            json!({ "parameters": [{
                "name": "id", "in": "path", "required": true,
                "description": "The rental's id.",
                "schema": { "$ref": "#/components/schemas/InstanceId" },
            }] }),
            [ok("Its record.", "Instance"), problem("404", "There is none.")],
        ) },
        "/ws": { "get": operation(
            "watch", "A WebSocket: `instance` frames of all rentals, `synced`, then `instance` and \
                `progress` as they happen, as on the session. It is closed with 4401 when the token \
                has expired.", Some("events:read"),
            json!({ "parameters": [{
                "name": "Sec-WebSocket-Protocol", "in": "header", "required": false,
                "description": "`bearer.` and the token, where no other header can be sent.",
                "schema": { "type": "string" },
            }] }),
            [
                ("101".to_owned(), json!({ "description": "The WebSocket is open." })),
                problem("426", "No WebSocket was asked for."),
            ],
        ) },
        "/health": { "get": operation(
            "health", "Whether the process answers.", None, json!({}),
            [ok("It does.", "Health")],
        ) },
        "/ready": { "get": operation(
            "ready", "Whether a deploy has a chance.", None, json!({}),
            [
                ok("It has.", "Readiness"),
                ("503".to_owned(), answer("It has not, and why.", "application/json", "Readiness")),
            ],
        ) },
        "/openapi.json": { "get": operation(
            "contract", "This document.", None, json!({}),
            [("200".to_owned(), json!({
                "description": "OpenAPI 3.1.",
                "content": { "application/json": { "schema": { "type": "object" } } },
            }))],
        ) },
    })
}

fn start() -> Value {
    let form = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let request = json!({
        "required": true,
        "content": { "application/json": {
            "schema": { "anyOf": [form("InstanceSpec"), form("ShortForm")] },
        } },
    });
    let parameters = json!([
        {
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "With the short form: the same key of the same `sub` is the same rental.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255,
                "pattern": "^[ -~]+$" },
        },
        {
            "name": "Prefer", "in": "header", "required": false,
            "description": "`respond-async`: answer 202 as soon as it is accepted.",
            "schema": { "type": "string" },
        },
    ]);
    operation(
        "start_instance",
        "Start a rental, and answer once it is ready. A client that goes away changes nothing.",
        Some("instances:write"),
        json!({ "requestBody": request, "parameters": parameters }),
        [
            ok("It is ready.", "Started"),
            (
                "202".to_owned(),
                answer("It was accepted.", "application/json", "Accepted"),
            ),
        ]
        .into_iter()
        .chain(changes())
        .chain([
            problem("502", "The image cannot be had."),
            problem("507", "The host's disk is full."),
        ]),
    )
}

fn terminate() -> Value {
    let request = json!({
        "required": true,
        "content": { "application/json": {
            "schema": { "$ref": "#/components/schemas/TerminateRequest" },
        } },
    });
    operation(
        "terminate_instance",
        "End a rental, and answer once its container is gone and its GPUs are free.",
        Some("instances:write"),
        json!({ "requestBody": request }),
        [
            ok("It is over.", "Terminated"),
            problem("404", "No rental has this container."),
        ]
        .into_iter()
        .chain(changes()),
    )
}

/// How what changes something can end.
fn changes() -> Vec<(String, Value)> {
    vec![
        problem("400", "The request is not what it has to be."),
        problem("408", "The body did not come in time; nothing was done."),
        problem("409", "It cannot be done here as things are."),
        problem("413", "The body is too large."),
        problem("415", "The body is no JSON."),
        problem("500", "It was tried and failed."),
        problem("504", "It took too long."),
    ]
}

fn operation(
    id: &str,
    summary: &str,
    scope: Option<&str>,
    more: Value,
    answers: impl IntoIterator<Item = (String, Value)>,
) -> Value {
    let mut answers: Map<String, Value> = answers.into_iter().collect();
    let mut add = |(status, answer): (String, Value)| {
        answers.entry(status).or_insert(answer);
    };
    if scope.is_some() {
        add(problem("401", "No good token, or one that was used."));
        add(problem("403", "The token has not the scope."));
        add(problem(
            "503",
            "Not now, or the host has no key to check tokens with.",
        ));
    }
    let security = match scope {
        Some(scope) => json!([{ "token": [scope] }]),
        None => json!([]),
    };
    let mut operation = json!({
        "operationId": id, "summary": summary, "security": security, "responses": answers,
    });
    if let (Some(operation), Value::Object(more)) = (operation.as_object_mut(), more) {
        operation.extend(more);
    }
    operation
}

fn ok(description: &str, schema: &str) -> (String, Value) {
    let answer = answer(description, "application/json", schema);
    ("200".to_owned(), answer)
}

fn problem(status: &str, description: &str) -> (String, Value) {
    let mut answer = answer(description, "application/problem+json", "Problem");
    let headers: &[(&str, &str)] = match status {
        "401" => &[("WWW-Authenticate", "Bearer")],
        "426" => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        _ => &[],
    };
    if let Some(answer) = answer.as_object_mut().filter(|_| !headers.is_empty()) {
        let header = |(name, value): &(&str, &str)| {
            let header =
                json!({ "required": true, "schema": { "type": "string", "const": value } });
            ((*name).to_owned(), header)
        };
        let headers = headers.iter().map(header).collect();
        answer.insert("headers".into(), Value::Object(headers));
    }
    (status.to_owned(), answer)
}

fn answer(description: &str, media: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({ "description": description, "content": { media: { "schema": schema } } })
}

fn schemas() -> Value {
    let mut reads = generator(Contract::Deserialize);
    reads.subschema_for::<InstanceSpec>();
    let mut writes = generator(Contract::Serialize);
    writes.subschema_for::<Accepted>();
    writes.subschema_for::<Health>();
    writes.subschema_for::<Instance>();
    writes.subschema_for::<Instances>();
    writes.subschema_for::<Problem>();
    writes.subschema_for::<Readiness>();
    writes.subschema_for::<Started>();
    writes.subschema_for::<Terminated>();
    let mut all = reads.take_definitions(true);
    all.values_mut().for_each(close);
    // Of what is both read and written the type is simple, and its schema the same.
    all.extend(writes.take_definitions(true));
    all.insert("ShortForm".to_owned(), short_form());
    all.insert("TerminateRequest".to_owned(), terminate_request());
    Value::Object(all)
}

/// What is not listed is refused as `unsupported`.
fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut()
        && object.contains_key("properties")
    {
        object.insert("additionalProperties".into(), Value::Bool(false));
    }
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

fn short_form() -> Value {
    json!({
        "description": "A rental in few words; its id is made from the token's `sub` and the \
            Idempotency-Key, else its `jti`.",
        "type": "object",
        "properties": {
            "image_name": { "type": "string", "minLength": 1, "maxLength": 512,
                "description": "The image." },
            "user_ssh_key": { "type": ["string", "null"],
                "description": "Set as SSH_PUBLIC_KEYS and PUBLIC_KEY inside." },
            "gpu_uuid": { "type": ["string", "null"],
                "description": "Its GPU; without one it has none." },
            "memory_limit_mb": { "type": ["integer", "null"], "minimum": 6, "maximum": 8_589_934_591_u64,
                "description": "Memory in MiB." },
        },
        "required": ["image_name"],
        "additionalProperties": false,
    })
}

fn terminate_request() -> Value {
    let one = |name: &str, schema: &str| {
        json!({
            "type": "object",
            "properties": { name: { "$ref": format!("#/components/schemas/{schema}") } },
            "required": [name],
            "additionalProperties": false,
        })
    };
    json!({
        "description": "Which rental: by its container or by its id.",
        "oneOf": [one("container_id", "ContainerId"), one("instance_id", "InstanceId")],
    })
}
