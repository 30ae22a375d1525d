//! `InstanceSpec` as it is written on the wire. Nothing here has been checked beyond its types;
//! `instance::spec` turns it into one that is known to be sane.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::Deserialize;

use super::record::PortProtocol;
use crate::ids::InstanceId;

/// What to run, with how much of the host. Fields that are not listed here are not served.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct InstanceSpec {
    /// Used once, ever.
    pub instance_id: InstanceId,
    /// Full reference grammar: registry with port, tag, digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// When to ask the registry.
    #[serde(default)]
    pub pull: PullPolicy,
    /// Credentials for the registry.
    #[serde(default)]
    pub registry_auth: Option<RegistryAuth>,
    /// Unset: the image's; an empty list clears it.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub entrypoint: Option<Vec<String>>,
    /// Unset: the image's; an empty list clears it.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub command: Option<Vec<String>>,
    /// Keys `[A-Za-z_][A-Za-z0-9_]*`; 64 KiB in all.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>", extend("maxProperties" = 1024))]
    pub env: BTreeMap<String, SecretString>,
    /// Which GPUs; unset: none.
    #[serde(default)]
    pub gpus: Option<GpuRequest>,
    /// Cores; unset: the host's default, or the GPUs' share.
    #[serde(default)]
    #[schemars(range(min = 0.01, max = 4096.0))]
    pub cpus: Option<f64>,
    /// Memory, swap included; unset: the host's default, or the GPUs' share.
    #[serde(default)]
    #[schemars(range(min = 6_291_456_u64, max = 9_007_199_254_740_991_u64))]
    pub memory_bytes: Option<u64>,
    /// Size of `/dev/shm`, part of `memory_bytes`.
    #[serde(default)]
    #[schemars(range(min = 1_u64, max = 9_007_199_254_740_991_u64))]
    pub shm_bytes: Option<u64>,
    /// Ports to publish.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub ports: Vec<PortRequest>,
    /// Between TERM and KILL.
    #[serde(default = "default_stop_grace_s")]
    #[schemars(range(min = 0.0, max = 600.0))]
    pub stop_grace_s: f64,
    /// For the server's own use; returned in the record.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
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
pub struct RegistryAuth {
    /// With `password`.
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub username: Option<String>,
    /// With `username`.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(max = 16384))]
    pub password: Option<SecretString>,
    /// Instead of both.
    #[serde(default)]
    #[schemars(with = "Option<String>", length(max = 16384))]
    pub identity_token: Option<SecretString>,
}

/// GPUs by count or by UUID, never both.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct GpuRequest {
    /// So many, whichever fit best.
    #[serde(default)]
    #[schemars(range(min = 1, max = 64))]
    pub count: Option<u32>,
    /// Exactly these.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub uuids: Option<Vec<String>>,
    /// Run without, where the host's configuration allows it and the engine has no GPU runtime.
    #[serde(default)]
    pub optional: bool,
}

/// A port to publish.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct PortRequest {
    /// Unique within the spec: 1 to 63 of `[a-z0-9-]`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Port inside the container.
    #[schemars(range(min = 1))]
    pub container: u16,
    /// Transport.
    #[serde(default)]
    pub protocol: PortProtocol,
}
