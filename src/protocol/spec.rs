//! `InstanceSpec` as it is written on the wire. Nothing here has been checked beyond its types;
//! `instance::spec` turns it into one that is known to be sane.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::{limits::*, record::PortProtocol};
use crate::ids::{GpuUuid, InstanceId};

/// What to run, with how much of the host. Fields that are not listed here are not served.
///
/// Beyond what a schema can say: entrypoint and command have 64 KiB together and are not both empty,
/// `env` has 64 KiB in all, `shm_bytes` is a part of `memory_bytes`, names and numbers of ports
/// differ, and the host's rules keep some registries and variables for themselves. Lengths count
/// bytes of UTF-8.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("not" = {
    "required": ["entrypoint", "command"],
    "properties": {
        "entrypoint": { "type": "array", "maxItems": 0 },
        "command": { "type": "array", "maxItems": 0 },
    },
}))]
pub struct InstanceSpec {
    /// Used once, ever.
    pub instance_id: InstanceId,
    /// Full reference grammar: registry with port, tag, digest.
    #[schemars(length(min = 1, max = MAX_REFERENCE_BYTES), regex(pattern = REFERENCE))]
    pub image: String,
    /// When to ask the registry.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Credentials for the registry.
    #[serde(default)]
    pub registry_auth: Option<RegistryAuth>,
    /// Unset: the image's; an empty list clears it.
    #[serde(default)]
    #[schemars(length(max = MAX_ARGUMENTS), inner(length(max = MAX_ARGUMENT_BYTES - 1), regex(pattern = WITHOUT_NUL)))]
    #[schemars(extend("prefixItems" = [{
        "type": "string", "minLength": 1, "maxLength": MAX_ARGUMENT_BYTES - 1, "pattern": WITHOUT_NUL,
    }]))]
    pub entrypoint: Option<Vec<String>>,
    /// Unset: the image's; an empty list clears it.
    #[serde(default)]
    #[schemars(length(max = MAX_ARGUMENTS), inner(length(max = MAX_ARGUMENT_BYTES - 1), regex(pattern = WITHOUT_NUL)))]
    pub command: Option<Vec<String>>,
    /// Keys `[A-Za-z_][A-Za-z0-9_]*`; 64 KiB in all.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>", extend(
        "maxProperties" = MAX_ENV,
        "propertyNames" = { "pattern": ENV_NAME },
        "additionalProperties" = { "type": "string", "maxLength": MAX_ENV_BYTES, "pattern": ONE_LINE },
    ))]
    pub env: BTreeMap<String, SecretString>,
    /// Which GPUs; unset: none.
    #[serde(default)]
    pub gpus: Option<GpuRequest>,
    /// Cores; unset: the host's default, or the GPUs' share.
    #[serde(default)]
    #[schemars(range(min = MIN_CPUS, max = MAX_CPUS))]
    pub cpus: Option<f64>,
    /// Memory, swap included; unset: the host's default, or the GPUs' share.
    #[serde(default)]
    #[schemars(range(min = MIN_MEMORY_BYTES, max = MAX_INTEGER))]
    pub memory_bytes: Option<u64>,
    /// Size of `/dev/shm`, part of `memory_bytes`.
    #[serde(default)]
    #[schemars(range(min = 1_u64, max = MAX_INTEGER))]
    pub shm_bytes: Option<u64>,
    /// Ports to publish.
    #[serde(default)]
    #[schemars(length(max = MAX_PORTS))]
    pub ports: Vec<PortRequest>,
    /// Between TERM and KILL.
    #[serde(default = "default_stop_grace_s")]
    #[schemars(range(min = 0.0, max = MAX_GRACE_S))]
    pub stop_grace_s: f64,
    /// For the server's own use; returned in the record.
    #[serde(default)]
    #[schemars(extend(
        "maxProperties" = MAX_LABELS,
        "propertyNames" = { "minLength": 1, "maxLength": MAX_LABEL_KEY_BYTES, "pattern": LABEL_KEY },
        "additionalProperties" = {
            "type": "string", "maxLength": MAX_LABEL_VALUE_BYTES, "pattern": WITHOUT_CONTROL,
        },
    ))]
    pub labels: BTreeMap<String, String>,
}

/// The top-level names of `InstanceSpec` that are served: `hello.capabilities.spec`.
pub const SERVED_SPEC: &[&str] = &[
    "command",
    "cpus",
    "entrypoint",
    "env",
    "gpus",
    "image",
    "instance_id",
    "labels",
    "memory_bytes",
    "ports",
    "pull",
    "registry_auth",
    "shm_bytes",
    "stop_grace_s",
];

fn default_stop_grace_s() -> f64 {
    10.0
}

/// When to ask the registry for an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the host does not have it.
    #[default]
    Missing,
    /// At each deploy.
    Always,
    /// Not at all.
    Never,
}

/// Credentials for a registry: a username and a password, or an identity token.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [
    {
        "required": ["username", "password"],
        "properties": {
            "username": { "type": "string" },
            "password": { "type": "string" },
            "identity_token": { "type": "null" },
        },
    },
    {
        "required": ["identity_token"],
        "properties": {
            "username": { "type": "null" },
            "password": { "type": "null" },
            "identity_token": { "type": "string" },
        },
    },
]))]
pub struct RegistryAuth {
    /// With `password`.
    #[serde(default)]
    #[schemars(length(min = 1, max = MAX_USERNAME_BYTES), regex(pattern = WITHOUT_CONTROL))]
    pub username: Option<String>,
    /// With `username`.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(min = 1, max = MAX_SECRET_BYTES), regex(pattern = WITHOUT_NUL))]
    pub password: Option<SecretString>,
    /// Instead of both.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(min = 1, max = MAX_SECRET_BYTES), regex(pattern = WITHOUT_NUL))]
    pub identity_token: Option<SecretString>,
}

/// GPUs by count or by UUID, never both.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [
    {
        "required": ["count"],
        "properties": { "count": { "type": "integer" }, "uuids": { "type": "null" } },
    },
    {
        "required": ["uuids"],
        "properties": { "count": { "type": "null" }, "uuids": { "type": "array" } },
    },
]))]
pub struct GpuRequest {
    /// So many, whichever fit best.
    #[serde(default)]
    #[schemars(range(min = 1, max = MAX_GPUS))]
    pub count: Option<u32>,
    /// Exactly these.
    #[serde(default)]
    #[schemars(with = "Option<Vec<GpuUuid>>", length(min = 1, max = MAX_GPUS))]
    #[schemars(extend("uniqueItems" = true))]
    pub uuids: Option<Vec<String>>,
    /// Run without, where the engine has no GPU runtime and the host's configuration allows that
    /// (`gpu.on_missing_runtime`); GPUs that are taken are `gpu_unavailable` also then.
    #[serde(default)]
    pub optional: bool,
}

/// A port to publish.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct PortRequest {
    /// Unique within the spec: 1 to 63 of `[a-z0-9-]`.
    #[schemars(length(min = 1, max = MAX_PORT_NAME_BYTES), regex(pattern = PORT_NAME))]
    pub name: String,
    /// Port inside the container.
    #[schemars(range(min = 1))]
    pub container: u16,
    /// Transport.
    #[serde(default)]
    pub protocol: PortProtocol,
}
