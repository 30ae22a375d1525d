//! Signed commands: what one is, and that nothing outside the signature counts. Whether a signature is
//! right, and what time it is, others know. Pure.
//!
//! ```text
//! {"type": "command", "id": …, "signed": base64(payload), "sig": base64(signature of the payload)}
//! payload = {"id", "op", …, "agent_id", "not_after"}
//! ```
//!
//! `id` outside is for the answer to what cannot be read; with a right signature the one inside counts.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{
    command::{
        DecodeError, Incoming, MAX_COMMAND_BYTES, decode_command, frame, message, strip_nulls,
    },
    error::{Error, ErrorCode, Stage},
};
use crate::ids::{AgentId, CommandId};

/// Of Ed25519.
const SIGNATURE_BYTES: usize = 64;

/// Reads one text frame where commands have to be signed. `verify` is asked once for each command:
/// whether the second is the right signature of the first.
pub fn decode(
    text: &str,
    agent: &AgentId,
    verify: impl FnOnce(&[u8], &[u8]) -> bool,
) -> Result<Incoming, DecodeError> {
    let (kind, mut object) = frame(text)?;
    if kind != "command" {
        return message(&kind, object, text.len());
    }
    strip_nulls(&mut object);
    let outside = id_of(&object);
    match open(&object, text.len(), agent, verify) {
        Ok(payload) => decode_command(payload, text.len()),
        Err((inside, error)) => match outside.or(inside) {
            Some(id) => Ok(Incoming::Unauthorized(id, Box::new(error))),
            None => Err(DecodeError::new("a command without an `id`")),
        },
    }
}

/// Of a refused command, as far as it can be read, and why.
type Refused = (Option<CommandId>, Error);

/// The command that was signed for this agent, without what only the signature is about.
fn open(
    object: &Map<String, Value>,
    frame_bytes: usize,
    agent: &AgentId,
    verify: impl FnOnce(&[u8], &[u8]) -> bool,
) -> Result<Map<String, Value>, Refused> {
    use ErrorCode::{InvalidSpec, PolicyDenied};
    if frame_bytes > MAX_COMMAND_BYTES {
        let message = format!("the command has {frame_bytes} bytes; at most {MAX_COMMAND_BYTES}");
        return Err((None, at("", InvalidSpec, message)));
    }
    let signed = bytes_at(object, "signed").map_err(|error| (None, error))?;
    let payload: Option<Map<String, Value>> = serde_json::from_slice(&signed).ok();
    let inside = payload.as_ref().and_then(id_of);
    let refuse = |pointer: &str, code, message: &str| (inside.clone(), at(pointer, code, message));
    let sig = bytes_at(object, "sig").map_err(|error| (inside.clone(), error))?;
    if sig.len() != SIGNATURE_BYTES {
        return Err(refuse("/sig", InvalidSpec, "a signature has 64 bytes"));
    }
    if !verify(&signed, &sig) {
        let message = "the signature is not that of the key that this host takes commands from";
        return Err(refuse("/sig", PolicyDenied, message));
    }
    let Some(mut payload) = payload else {
        return Err(refuse(
            "/signed",
            InvalidSpec,
            "what is signed is no JSON object",
        ));
    };
    strip_nulls(&mut payload);
    if payload.remove("type").is_some_and(|kind| kind != "command") {
        return Err(refuse("/type", InvalidSpec, "what is signed is no command"));
    }
    match payload.remove("agent_id") {
        Some(Value::String(id)) if id == agent.as_str() => {}
        Some(Value::String(_)) => {
            return Err(refuse(
                "/agent_id",
                PolicyDenied,
                "signed for another agent",
            ));
        }
        Some(_) => {
            return Err(refuse(
                "/agent_id",
                InvalidSpec,
                "`agent_id` has to be a string",
            ));
        }
        None => return Err(refuse("/agent_id", InvalidSpec, "`agent_id` is missing")),
    }
    if !payload.contains_key("not_after") {
        return Err(refuse("/not_after", InvalidSpec, "`not_after` is missing"));
    }
    match inside {
        Some(_) => Ok(payload),
        None => Err(refuse("/id", InvalidSpec, "what is signed has no `id`")),
    }
}

fn id_of(object: &Map<String, Value>) -> Option<CommandId> {
    object.get("id")?.as_str()?.parse().ok()
}

fn bytes_at(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Error> {
    let pointer = format!("/{name}");
    let text = match object.get(name) {
        Some(Value::String(text)) => text,
        Some(_) => {
            let message = format!("`{name}` has to be a string");
            return Err(at(&pointer, ErrorCode::InvalidSpec, message));
        }
        None => {
            let message = format!("this host takes signed commands only; `{name}` is missing");
            return Err(at(&pointer, ErrorCode::PolicyDenied, message));
        }
    };
    let decoded = BASE64_STANDARD.decode(text);
    decoded.map_err(|_| {
        let message = format!("`{name}` is not base64");
        at(&pointer, ErrorCode::InvalidSpec, message)
    })
}

fn at(pointer: &str, code: ErrorCode, message: impl AsRef<str>) -> Error {
    Error::new(code, message)
        .at(Stage::Validate)
        .pointing(pointer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SIG: [u8; 64] = [7; 64];

    fn payload() -> Value {
        json!({
            "id": "inside", "op": "report", "agent_id": "host-7",
            "not_after": "2026-11-21T12:00:00.000Z",
        })
    }

    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut payload = payload();
        change(&mut payload);
        payload
    }

    fn signed(payload: &[u8]) -> Value {
        let (signed, sig) = (BASE64_STANDARD.encode(payload), BASE64_STANDARD.encode(SIG));
        json!({"type": "command", "id": "outside", "signed": signed, "sig": sig})
    }

    /// With a key that has signed everything that comes with [`SIG`].
    fn read(frame: &Value) -> Incoming {
        let agent = "host-7".parse().unwrap();
        decode(&frame.to_string(), &agent, |_, sig| sig == SIG).unwrap()
    }

    #[track_caller]
    fn refused(frame: &Value, id: &str, code: ErrorCode, pointer: &str) {
        let Incoming::Unauthorized(of, error) = read(frame) else {
            panic!("not refused: {frame}");
        };
        let found = (of.as_str(), error.code, error.detail.unwrap());
        assert_eq!(found, (id, code, json!({ "pointer": pointer })), "{frame}");
    }

    #[test]
    fn of_a_signed_command_only_what_is_signed_counts() {
        let mut frame = signed(payload().to_string().as_bytes());
        frame["op"] = json!("drain");
        frame["spec"] = json!({"image": "evil"});
        frame["colour"] = json!("red");
        let Incoming::Command(command) = read(&frame) else {
            panic!("{:?}", read(&frame));
        };
        assert_eq!(command.id.as_str(), "inside");
        assert!(matches!(command.op, super::super::Op::Report));
        assert!(command.not_after.is_some());
        let typed = with(|payload| payload["type"] = json!("command"));
        assert!(matches!(
            read(&signed(typed.to_string().as_bytes())),
            Incoming::Command(_)
        ));
    }

    #[test]
    fn what_is_not_signed_for_this_agent_is_refused_with_its_pointer() {
        use ErrorCode::{InvalidSpec, PolicyDenied};
        let plain = json!({"type": "command", "id": "outside", "op": "report"});
        refused(&plain, "outside", PolicyDenied, "/signed");
        let good = signed(payload().to_string().as_bytes());
        let spoilt = |name: &str, value: Value| {
            let mut frame = good.clone();
            frame[name] = value;
            frame
        };
        refused(
            &spoilt("signed", json!(7)),
            "outside",
            InvalidSpec,
            "/signed",
        );
        refused(
            &spoilt("signed", json!("%")),
            "outside",
            InvalidSpec,
            "/signed",
        );
        refused(&spoilt("sig", json!(null)), "outside", PolicyDenied, "/sig");
        refused(
            &spoilt("sig", json!("c2hvcnQ=")),
            "outside",
            InvalidSpec,
            "/sig",
        );
        let other = BASE64_STANDARD.encode([8; 64]);
        refused(
            &spoilt("sig", json!(other)),
            "outside",
            PolicyDenied,
            "/sig",
        );
        for (change, code, pointer) in [
            (json!({"agent_id": "host-8"}), PolicyDenied, "/agent_id"),
            (json!({"agent_id": 7}), InvalidSpec, "/agent_id"),
            (json!({"agent_id": null}), InvalidSpec, "/agent_id"),
            (json!({"not_after": null}), InvalidSpec, "/not_after"),
            (json!({"type": "ack"}), InvalidSpec, "/type"),
            (json!({"id": null}), InvalidSpec, "/id"),
        ] {
            let changed = with(|payload| {
                let changes = change.as_object().unwrap().clone();
                payload.as_object_mut().unwrap().extend(changes);
            });
            let frame = signed(changed.to_string().as_bytes());
            refused(&frame, "outside", code, pointer);
        }
        refused(&signed(b"[1]"), "outside", InvalidSpec, "/signed");
        refused(&signed(b"nonsense"), "outside", InvalidSpec, "/signed");
    }

    #[test]
    fn an_id_that_stands_only_inside_is_answered_too() {
        let mut frame = signed(payload().to_string().as_bytes());
        frame.as_object_mut().unwrap().remove("id");
        assert!(matches!(read(&frame), Incoming::Command(_)));
        frame["sig"] = json!(BASE64_STANDARD.encode([8; 64]));
        refused(&frame, "inside", ErrorCode::PolicyDenied, "/sig");
        frame["signed"] = json!("");
        let agent = "host-7".parse().unwrap();
        assert!(decode(&frame.to_string(), &agent, |_, _| true).is_err());
    }

    #[test]
    fn what_is_wrong_within_a_good_signature_is_refused_as_ever() {
        let unknown = with(|payload| payload["colour"] = json!("red"));
        let Incoming::BadCommand(id, error) = read(&signed(unknown.to_string().as_bytes())) else {
            panic!("not refused");
        };
        assert_eq!(
            (id.as_str(), error.code),
            ("inside", ErrorCode::Unsupported)
        );
        assert_eq!(error.detail.unwrap()["pointer"], "/colour");
        let ill = with(|payload| payload["not_after"] = json!("tomorrow"));
        assert!(matches!(
            read(&signed(ill.to_string().as_bytes())),
            Incoming::BadCommand(..)
        ));
    }

    #[test]
    fn a_signed_command_that_is_too_long_is_refused_before_it_is_looked_at() {
        let frame = signed(&vec![b' '; MAX_COMMAND_BYTES]);
        let agent = "host-7".parse().unwrap();
        let looked = decode(&frame.to_string(), &agent, |_, _| panic!("looked at"));
        assert!(matches!(looked, Ok(Incoming::Unauthorized(..))));
    }

    #[test]
    fn other_messages_are_not_signed() {
        let ack = json!({"type": "ack", "epoch": "e", "generation": 1});
        assert!(matches!(read(&ack), Incoming::Ack(_)));
        assert!(matches!(
            read(&json!({"type": "later"})),
            Incoming::Unknown(_)
        ));
    }
}
