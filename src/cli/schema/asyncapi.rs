//! The session as an AsyncAPI 3.0 document, from the agent's side. The messages are the schemas
//! beside it; what is said here is who sends what, where, and in answer to what.

use serde_json::{Map, Value, json};

use crate::protocol::SUBPROTOCOL;

/// Of JSON Schema 2020-12.
const FORMAT: &str = "application/schema+json;version=draft-2020-12";

/// What the agent sends: name and summary.
const FROM_AGENT: &[(&str, &str)] = &[
    (
        "hello",
        "Who the agent is, what it has and how it is: the first frame.",
    ),
    (
        "instance",
        "One record, whole: all of them after `welcome`, then at each change.",
    ),
    (
        "synced",
        "All records have been sent; an id that is not listed is gone.",
    ),
    ("reply", "How a command stands."),
    ("progress", "How far something is; lossy, the newest wins."),
    ("heartbeat", "A sign of life."),
    ("inventory", "What changed of the hardware."),
    ("metrics", "Samples; lossy."),
    ("health", "Verdicts; lossy."),
    ("output", "A chunk of a command's output."),
    ("goodbye", "The last frame before close 1001."),
];

/// What the server sends.
const FROM_SERVER: &[(&str, &str)] = &[
    ("welcome", "The answer to `hello`; the first frame."),
    ("command", "Something to do."),
    ("ack", "Records up to this generation are stored."),
];

/// The document.
pub(super) fn document() -> Value {
    let mut messages = Map::new();
    for (side, all) in [("agent", FROM_AGENT), ("server", FROM_SERVER)] {
        for (name, summary) in all {
            let payload = json!({
                "schemaFormat": FORMAT,
                "schema": { "$ref": format!("./{side}/{name}.json") },
            });
            let message = json!({ "name": name, "summary": summary, "payload": payload });
            messages.insert((*name).to_owned(), message);
        }
    }
    let in_channel: Map<String, Value> = messages
        .keys()
        .map(|name| (name.clone(), reference("components", name)))
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "rental-agent session",
            "version": SUBPROTOCOL,
            "description": "A WebSocket that the agent opens to the central server. State is \
                re-sent at each connect, messages are not. Unknown fields are ignored but in \
                commands, where they are refused.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "id": "urn:rental-agent:session:v1",
        "defaultContentType": "application/json",
        "servers": { "central": server() },
        "channels": { "session": channel(in_channel) },
        "operations": operations(),
        "components": {
            "messages": messages,
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The host's token, in the upgrade request.",
            }},
        },
    })
}

fn server() -> Value {
    json!({
        "host": "{host}",
        "protocol": "wss",
        "description": "Whatever `server.url` names, with its path before the channel's address.",
        "variables": { "host": {
            "description": "Host and port.",
            "examples": ["rentals.example.com"],
        }},
        "security": [{ "$ref": "#/components/securitySchemes/token" }],
    })
}

fn channel(messages: Map<String, Value>) -> Value {
    json!({
        "address": "/agents/{agent_id}/session",
        "description": "One message in each text frame, at most 1 MiB; a command at most 256 KiB.",
        "parameters": { "agent_id": {
            "description": "The agent's id: 1 to 63 of [a-z0-9-], alphanumeric at both ends.",
            "examples": ["gpu-host-1"],
        }},
        "messages": messages,
        "bindings": { "ws": {
            "method": "GET",
            "headers": {
                "type": "object",
                "required": ["Authorization", "Sec-WebSocket-Protocol"],
                "properties": {
                    "Authorization": { "type": "string", "pattern": "^Bearer " },
                    "Sec-WebSocket-Protocol": { "const": SUBPROTOCOL },
                },
            },
        }},
    })
}

fn operations() -> Value {
    let channel = json!({ "$ref": "#/channels/session" });
    let operation = |action: &str, (name, summary): &(&str, &str)| {
        let key = format!("{action}-{name}");
        let messages = [reference("channels/session", name)];
        let operation = json!({
            "action": action, "channel": channel, "summary": summary, "messages": messages,
        });
        (key, operation)
    };
    let sends = FROM_AGENT.iter().map(|message| operation("send", message));
    let receives = FROM_SERVER
        .iter()
        .map(|message| operation("receive", message));
    let mut all: Map<String, Value> = sends.chain(receives).collect();
    // `hello` is answered by `welcome`, a command by one reply or two.
    for (asks, answer) in [("send-hello", "welcome"), ("receive-command", "reply")] {
        if let Some(Value::Object(operation)) = all.get_mut(asks) {
            let reply = json!({
                "channel": channel, "messages": [reference("channels/session", answer)],
            });
            operation.insert("reply".into(), reply);
        }
    }
    Value::Object(all)
}

fn reference(place: &str, message: &str) -> Value {
    json!({ "$ref": format!("#/{place}/messages/{message}") })
}
