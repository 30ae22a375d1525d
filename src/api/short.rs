//! The short form of a deploy, as an `InstanceSpec`; and the ids that requests get.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Problem, auth::Caller, body::invalid};
use crate::{
    ids::CommandId,
    protocol::{Error, ErrorCode, Stage, command::escape},
};

/// The names of the short form.
const IMAGE: &str = "image_name";
const KEY: &str = "user_ssh_key";
const GPU: &str = "gpu_uuid";
const MEMORY: &str = "memory_limit_mb";

/// Where each is in the spec that it becomes.
const BECOMES: &[(&str, &str)] = &[
    ("/image", "/image_name"),
    ("/env", "/user_ssh_key"),
    ("/gpus", "/gpu_uuid"),
    ("/memory_bytes", "/memory_limit_mb"),
];

const MIB: u64 = 1024 * 1024;

/// Whether a body is of the short form.
pub(super) fn is_short(body: &Map<String, Value>) -> bool {
    [IMAGE, KEY, GPU, MEMORY]
        .iter()
        .any(|name| body.contains_key(*name))
}

/// The spec that the short form stands for.
pub(super) fn spec(
    mut body: Map<String, Value>,
    instance_id: &str,
) -> Result<Map<String, Value>, Problem> {
    let mut spec = Map::new();
    spec.insert("instance_id".into(), instance_id.into());
    match body.remove(IMAGE) {
        Some(Value::String(image)) => spec.insert("image".into(), image.into()),
        Some(_) => return Err(wrong(IMAGE, "has to be a text")),
        None => return Err(invalid("image_name is missing")),
    };
    match body.remove(KEY) {
        Some(Value::String(keys)) => {
            let env = json!({ "SSH_PUBLIC_KEYS": keys, "PUBLIC_KEY": keys });
            spec.insert("env".into(), env);
        }
        Some(Value::Null) | None => {}
        Some(_) => return Err(wrong(KEY, "has to be a text")),
    }
    match body.remove(GPU) {
        Some(Value::String(uuid)) => {
            spec.insert("gpus".into(), json!({ "uuids": [uuid] }));
        }
        Some(Value::Null) | None => {}
        Some(_) => return Err(wrong(GPU, "has to be a text")),
    }
    match body.remove(MEMORY) {
        Some(Value::Null) | None => {}
        Some(mib) => {
            let bytes = mib.as_u64().and_then(|mib| mib.checked_mul(MIB));
            let why = "has to be a whole number of MiB";
            let bytes = bytes.ok_or_else(|| wrong(MEMORY, why))?;
            spec.insert("memory_bytes".into(), bytes.into());
        }
    }
    if let Some(name) = body.keys().next() {
        let pointer = format!("/{}", escape(name));
        let message = format!("the short form has no field at {pointer}");
        let error = Error::new(ErrorCode::Unsupported, message).at(Stage::Validate);
        return Err(Problem::from(error.pointing(pointer)));
    }
    Ok(spec)
}

/// A pointer into the spec, as one into the short form.
pub(super) fn pointer(in_spec: &str) -> String {
    let found = BECOMES.iter().find(|(spec, _)| in_spec.starts_with(spec));
    found.map_or(String::new(), |(_, short)| (*short).to_owned())
}

fn wrong(name: &str, why: &str) -> Problem {
    invalid(&format!("{name} {why}")).pointing(format!("/{name}"))
}

/// The rental of the short form: the same for a request that is sent again with its key.
pub(super) fn instance_id(caller: &Caller, idempotency_key: Option<&str>) -> String {
    let key = idempotency_key.unwrap_or(&caller.jti);
    format!("http-{}", digest(&caller.sub, key))
}

/// The command that a request becomes: one for each token, since a token is taken once.
pub(super) fn command_id(caller: &Caller) -> CommandId {
    let id = format!("{}:{}", caller.surface, digest(&caller.sub, &caller.jti));
    id.parse()
        .unwrap_or_else(|_| unreachable!("a word, a colon and hexadecimal digits"))
}

/// 32 hexadecimal digits of SHA-256 over both with a NUL between.
fn digest(sub: &str, key: &str) -> String {
    let digest = Sha256::new()
        .chain_update(sub)
        .chain_update([0])
        .chain_update(key)
        .finalize();
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: Value) -> Result<Value, Problem> {
        let Value::Object(body) = body else {
            unreachable!()
        };
        assert!(is_short(&body));
        spec(body, "i").map(Value::Object)
    }

    #[test]
    fn the_short_form_is_a_spec() {
        let short = json!({ "image_name": "busybox", "user_ssh_key": "ssh-ed25519 A u@h",
            "gpu_uuid": "GPU-1", "memory_limit_mb": 2 });
        let spec = json!({ "instance_id": "i", "image": "busybox", "memory_bytes": 2_097_152,
            "env": { "PUBLIC_KEY": "ssh-ed25519 A u@h", "SSH_PUBLIC_KEYS": "ssh-ed25519 A u@h" },
            "gpus": { "uuids": ["GPU-1"] } });
        assert_eq!(of(short).unwrap(), spec);
    }

    #[test]
    fn what_is_wrong_in_it_is_pointed_at_by_its_own_names() {
        for (body, at) in [
            (json!({ "image_name": 1 }), "/image_name"),
            (
                json!({ "image_name": "a", "user_ssh_key": 1 }),
                "/user_ssh_key",
            ),
            (json!({ "image_name": "a", "gpu_uuid": [] }), "/gpu_uuid"),
            (
                json!({ "image_name": "a", "memory_limit_mb": -1 }),
                "/memory_limit_mb",
            ),
            (
                json!({ "image_name": "a", "memory_limit_mb": 1u64 << 60 }),
                "/memory_limit_mb",
            ),
            (json!({ "image_name": "a", "a/b": 1 }), "/a~1b"),
        ] {
            assert_eq!(
                of(body.clone()).unwrap_err().pointer.as_deref(),
                Some(at),
                "{body}"
            );
        }
        assert_eq!(pointer("/gpus/uuids/0"), "/gpu_uuid");
    }

    #[test]
    fn ids_are_what_the_protocol_says() {
        let caller = Caller::of_token("me", "j1");
        // printf 'me\0j1' | sha256sum | cut -c-32
        let id = instance_id(&caller, None);
        assert_eq!(id, "http-d5531dbfc480d903a52e14f544a202b3");
        assert_eq!(
            command_id(&caller).as_str(),
            id.replacen("http-", "http:", 1)
        );
        assert_ne!(id, instance_id(&caller, Some("k")));
        assert_eq!(
            instance_id(&caller, Some("k")),
            instance_id(&Caller::of_token("me", "j2"), Some("k"))
        );
    }
}
