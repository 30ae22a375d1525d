//! What the server says to the agent, decoded strictly: in a command nothing is skipped silently.

use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{
    error::{Error, ErrorCode, Stage},
    limits::{MAX_GRACE_S, MAX_REFERENCE_BYTES, REFERENCE},
    spec::{InstanceSpec, RegistryAuth},
    text::without_value,
};
use crate::{
    clock::Timestamp,
    ids::{CommandId, Epoch, Generation, GpuUuid, InstanceId, SpecHash},
};

/// A command's text is at most this long.
pub const MAX_COMMAND_BYTES: usize = 256 * 1024;

/// The names of the commands that are served: `hello.capabilities.ops`.
pub const SERVED_OPS: &[&str] = &[
    "cancel",
    "deploy",
    "drain",
    "pull_image",
    "quarantine_gpu",
    "release_gpu",
    "report",
    "resume",
    "terminate",
];

/// A text frame from the server.
#[derive(Debug)]
pub enum Incoming {
    /// The answer to `hello`.
    Welcome(Welcome),
    /// Records that are stored.
    Ack(Ack),
    /// Something to do.
    Command(Box<Command>),
    /// A command that cannot be done as it is written, and the reply's error.
    BadCommand(CommandId, Box<Error>),
    /// A command that nobody whom the host's policy names has signed, and the reply's error; not to be
    /// remembered, since one of the same id that is signed may follow.
    Unauthorized(CommandId, Box<Error>),
    /// A `type` that this version does not know; to be ignored.
    Unknown(String),
}

/// A frame that is no message at all; to be ignored and counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame that cannot be decoded: {0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(super) fn new(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// The server's greeting.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
pub struct Welcome {
    /// Names this session in logs.
    pub session_id: String,
    /// The server's clock.
    pub server_time: Timestamp,
    /// Seconds between heartbeats, clamped to 1 … 3600.
    #[serde(default)]
    pub heartbeat_interval_s: Option<f64>,
    /// Seconds between metrics, clamped to 1 … 3600.
    #[serde(default)]
    pub metrics_interval_s: Option<f64>,
    /// Seconds between health reports, clamped to 1 … 3600.
    #[serde(default)]
    pub health_interval_s: Option<f64>,
    /// Over how long reconnects are spread when the server goes away, at most 60.
    #[serde(default)]
    pub reconnect_spread_s: Option<f64>,
}

/// Every record up to `generation` is stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Ack {
    /// Of the process that sent the records.
    pub epoch: Epoch,
    /// The last one that is stored.
    pub generation: Generation,
}

/// Something to do.
#[derive(Debug, Clone)]
pub struct Command {
    /// The same id is the same command.
    pub id: CommandId,
    /// Not to be begun after this, in server time.
    pub not_after: Option<Timestamp>,
    /// What.
    pub op: Op,
}

/// What to do.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each variant's payload is documented")]
pub enum Op {
    Deploy(Box<Deploy>),
    Terminate(Terminate),
    Cancel(Cancel),
    PullImage(PullImage),
    QuarantineGpu(QuarantineGpu),
    ReleaseGpu(ReleaseGpu),
    Report,
    Drain,
    Resume,
}

/// Start a rental.
#[derive(Debug, Clone)]
pub struct Deploy {
    /// As written.
    pub spec: InstanceSpec,
    /// Of the spec as received.
    pub spec_sha256: SpecHash,
    /// Admission only; nothing is kept.
    pub dry_run: bool,
}

/// End a rental.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Terminate {
    pub instance_id: InstanceId,
    /// For people; kept in the log only, and cut there.
    #[serde(default)]
    pub reason: Option<String>,
    /// Seconds between TERM and KILL; unset: the spec's.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = MAX_GRACE_S))]
    pub grace_s: Option<f64>,
}

/// Give up a running command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Cancel {
    pub command_id: CommandId,
}

/// Fetch an image ahead of a deploy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct PullImage {
    #[schemars(length(min = 1, max = MAX_REFERENCE_BYTES), regex(pattern = REFERENCE))]
    pub image: String,
    #[serde(default)]
    pub registry_auth: Option<RegistryAuth>,
}

/// Give a GPU to nobody until it is released; whoever has it keeps it. Lasts as long as the agent's
/// process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct QuarantineGpu {
    pub uuid: GpuUuid,
    /// For people; shown with the GPU, and cut there.
    #[serde(default)]
    pub reason: Option<String>,
}

/// End a GPU's quarantine, whatever the cause; what still ails it brings it back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct ReleaseGpu {
    pub uuid: GpuUuid,
    /// For people; ignored.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `deploy` as it is written; public for the schemas.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct DeployFields {
    pub spec: InstanceSpec,
    #[serde(default)]
    pub dry_run: bool,
}

/// A command without fields of its own.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct NoFields {}

/// Reads one text frame. The frame's size has been checked against the session's limit before.
pub fn decode(text: &str) -> Result<Incoming, DecodeError> {
    let (kind, object) = frame(text)?;
    message(&kind, object, text.len())
}

/// A frame's `type`, and what else is in it.
pub(super) fn frame(text: &str) -> Result<(String, Map<String, Value>), DecodeError> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| DecodeError(format!("not JSON: {e}")))?;
    let Value::Object(mut object) = value else {
        return Err(DecodeError("not a JSON object".into()));
    };
    match object.remove("type") {
        Some(Value::String(kind)) => Ok((kind, object)),
        _ => Err(DecodeError("no `type`".into())),
    }
}

/// What a frame says.
pub(super) fn message(
    kind: &str,
    object: Map<String, Value>,
    frame_bytes: usize,
) -> Result<Incoming, DecodeError> {
    match kind {
        "welcome" => lenient(object).map(Incoming::Welcome),
        "ack" => lenient(object).map(Incoming::Ack),
        "command" => decode_command(object, frame_bytes),
        _ => Ok(Incoming::Unknown(super::text::printable(kind, 80))),
    }
}

fn lenient<T: DeserializeOwned>(mut object: Map<String, Value>) -> Result<T, DecodeError> {
    strip_nulls(&mut object);
    serde_json::from_value(Value::Object(object))
        .map_err(|e| DecodeError(without_value(&e.to_string())))
}

pub(super) fn decode_command(
    mut object: Map<String, Value>,
    frame_bytes: usize,
) -> Result<Incoming, DecodeError> {
    strip_nulls(&mut object);
    let id = match object.remove("id") {
        Some(Value::String(id)) => id.parse().map_err(|e| DecodeError(format!("id: {e}")))?,
        _ => return Err(DecodeError("a command without an `id`".into())),
    };
    if frame_bytes > MAX_COMMAND_BYTES {
        let message = format!("the command has {frame_bytes} bytes; at most {MAX_COMMAND_BYTES}");
        let error = Error::new(ErrorCode::InvalidSpec, message).at(Stage::Validate);
        return Ok(Incoming::BadCommand(id, Box::new(error)));
    }
    Ok(match read_command(id.clone(), object) {
        Ok(command) => Incoming::Command(Box::new(command)),
        Err(error) => Incoming::BadCommand(id, Box::new(error)),
    })
}

/// A command that another surface than the session asks for, read by the same rules: `object` has its
/// `op` and that one's fields.
///
/// # Errors
/// Why it is rejected, with a pointer from `object`.
pub fn compose(id: CommandId, mut object: Map<String, Value>) -> Result<Command, Error> {
    strip_nulls(&mut object);
    read_command(id, object)
}

fn read_command(id: CommandId, mut object: Map<String, Value>) -> Result<Command, Error> {
    let op = match object.remove("op") {
        Some(Value::String(op)) => op,
        Some(_) => return Err(invalid("`op` has to be a string", "/op")),
        None => return Err(invalid("`op` is missing", "")),
    };
    let not_after = match object.remove("not_after") {
        Some(value) => {
            Some(serde_json::from_value(value).map_err(|e| invalid(&e.to_string(), "/not_after"))?)
        }
        None => None,
    };
    let op = match op.as_str() {
        "deploy" => {
            let spec_sha256 = spec_hash(object.get("spec").unwrap_or(&Value::Null));
            let DeployFields { spec, dry_run } = strict(object)?;
            Op::Deploy(Box::new(Deploy {
                spec,
                spec_sha256,
                dry_run,
            }))
        }
        "terminate" => Op::Terminate(strict(object)?),
        "cancel" => Op::Cancel(strict(object)?),
        "pull_image" => Op::PullImage(strict(object)?),
        "quarantine_gpu" => Op::QuarantineGpu(strict(object)?),
        "release_gpu" => Op::ReleaseGpu(strict(object)?),
        "report" => strict::<NoFields>(object).map(|NoFields {}| Op::Report)?,
        "drain" => strict::<NoFields>(object).map(|NoFields {}| Op::Drain)?,
        "resume" => strict::<NoFields>(object).map(|NoFields {}| Op::Resume)?,
        other => {
            let other = super::text::printable(other, 80);
            let message = format!(
                "this agent has no op `{other}`; it serves {}",
                SERVED_OPS.join(", ")
            );
            return Err(Error::new(ErrorCode::Unsupported, message)
                .at(Stage::Validate)
                .pointing("/op"));
        }
    };
    Ok(Command { id, not_after, op })
}

/// Deserialises with every field known: the first unknown one is `unsupported`, the first ill-typed
/// or missing one `invalid_spec`, each with its pointer.
fn strict<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T, Error> {
    let mut unknown: Option<String> = None;
    let mut track = serde_path_to_error::Track::new();
    let mut note_unknown = |path: serde_ignored::Path<'_>| {
        unknown.get_or_insert_with(|| ignored_pointer(&path));
    };
    let inner = serde_ignored::Deserializer::new(Value::Object(object), &mut note_unknown);
    let result = T::deserialize(serde_path_to_error::Deserializer::new(inner, &mut track));
    if let Some(pointer) = unknown {
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!("this agent does not serve the field at {pointer}"),
        )
        .at(Stage::Validate)
        .pointing(pointer));
    }
    result.map_err(|e| {
        let message = without_value(&e.to_string());
        invalid(&message, &tracked_pointer(&track.path()))
    })
}

fn invalid(message: &str, pointer: &str) -> Error {
    Error::new(ErrorCode::InvalidSpec, message)
        .at(Stage::Validate)
        .pointing(pointer)
}

fn ignored_pointer(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", ignored_pointer(parent)),
        Path::Map { parent, key } => format!("{}/{}", ignored_pointer(parent), escape(key)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored_pointer(parent),
    }
}

fn tracked_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .fold(String::new(), |pointer, segment| match segment {
            Segment::Seq { index } => format!("{pointer}/{index}"),
            Segment::Map { key } => format!("{pointer}/{}", escape(key)),
            Segment::Enum { .. } | Segment::Unknown => pointer,
        })
}

/// A reference token of RFC 6901, cut where a hostile key would make a long message.
pub(crate) fn escape(key: &str) -> String {
    super::text::printable(key, 100)
        .replace('~', "~0")
        .replace('/', "~1")
}

/// SHA-256 over the spec as RFC 8785 JSON, without nulls and `registry_auth`.
pub fn spec_hash(spec: &Value) -> SpecHash {
    let mut spec = spec.clone();
    if let Value::Object(object) = &mut spec {
        strip_nulls(object);
        object.remove("registry_auth");
    }
    let canonical = serde_json_canonicalizer::to_vec(&spec).unwrap_or_default();
    let digest = Sha256::digest(&canonical);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse()
        .unwrap_or_else(|_| unreachable!("64 hexadecimal digits"))
}

/// `null` is absent: removes such members, at every depth.
pub(super) fn strip_nulls(object: &mut Map<String, Value>) {
    object.retain(|_, value| !value.is_null());
    object.values_mut().for_each(strip_nulls_within);
}

fn strip_nulls_within(value: &mut Value) {
    match value {
        Value::Object(object) => strip_nulls(object),
        Value::Array(items) => items.iter_mut().for_each(strip_nulls_within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(text: &str) -> Error {
        let Ok(Incoming::BadCommand(_, error)) = decode(text) else {
            panic!("not refused: {text}");
        };
        *error
    }

    #[test]
    fn unknown_fields_of_a_command_are_unsupported_with_their_pointer() {
        let text = r#"{"type":"command","id":"c1","op":"deploy","spec":{"instance_id":"a","image":"b","colour":"red"}}"#;
        let error = bad(text);
        assert_eq!(error.code, ErrorCode::Unsupported);
        assert_eq!(error.detail.unwrap()["pointer"], "/spec/colour");
        let nested = r#"{"type":"command","id":"c1","op":"deploy","spec":{"instance_id":"a","image":"b","ports":[{"name":"x","container":1,"a/b":2}]}}"#;
        assert_eq!(bad(nested).detail.unwrap()["pointer"], "/spec/ports/0/a~1b");
        let op = r#"{"type":"command","id":"c1","op":"fly"}"#;
        assert_eq!(bad(op).detail.unwrap()["pointer"], "/op");
    }

    #[test]
    fn ill_typed_and_missing_fields_are_invalid_with_their_pointer() {
        let text = r#"{"type":"command","id":"c1","op":"deploy","spec":{"instance_id":"a","image":"b","ports":[{"name":"x","container":70000}]}}"#;
        let error = bad(text);
        assert_eq!(error.code, ErrorCode::InvalidSpec);
        assert_eq!(error.detail.unwrap()["pointer"], "/spec/ports/0/container");
        let missing = bad(r#"{"type":"command","id":"c1","op":"terminate"}"#);
        assert!(missing.message.contains("instance_id"), "{missing}");
    }

    #[test]
    fn null_is_absent() {
        let text = r#"{"type":"command","id":"c1","op":"deploy","dry_run":null,"spec":{"instance_id":"a","image":"b","labels":null,"gpus":{"count":1,"uuids":null}}}"#;
        assert!(matches!(decode(text).unwrap(), Incoming::Command(_)));
    }

    #[test]
    fn equal_specs_have_equal_hashes_whatever_their_spelling() {
        let hash = |text: &str| spec_hash(&serde_json::from_str(text).unwrap());
        let plain = hash(r#"{"instance_id":"a","cpus":1,"env":{"A":"1"}}"#);
        assert_eq!(
            plain,
            hash(r#"{"env":{"A":"1"},"cpus":1.0,"shm_bytes":null,"instance_id":"a"}"#)
        );
        assert_eq!(
            plain,
            hash(
                r#"{"instance_id":"a","cpus":1,"env":{"A":"1"},"registry_auth":{"username":"u"}}"#
            )
        );
        assert_ne!(
            plain,
            hash(r#"{"instance_id":"a","cpus":1,"env":{"A":"2"}}"#)
        );
    }

    #[test]
    fn a_command_that_is_too_long_is_answered() {
        let text = format!(
            r#"{{"type":"command","id":"c1","op":"report","padding":"{}"}}"#,
            "x".repeat(MAX_COMMAND_BYTES)
        );
        assert_eq!(bad(&text).code, ErrorCode::InvalidSpec);
    }

    #[test]
    fn what_is_no_message_is_an_error_and_not_a_panic() {
        for text in [
            "",
            "nonsense",
            "[]",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"command"}"#,
            &"[".repeat(100_000),
        ] {
            assert!(decode(text).is_err(), "{text:.40}");
        }
        assert!(matches!(
            decode(r#"{"type":"later"}"#),
            Ok(Incoming::Unknown(_))
        ));
    }
}
