//! The host's side of the records: its engine, itself, and how the agent is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the container engine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Engine {
    /// `docker`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Newest API that it serves.
    pub api_version: String,
    /// Like `overlay2`.
    pub storage_driver: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// Names of its OCI runtimes.
    pub runtimes: Vec<String>,
    /// Whether it resolves CDI devices.
    pub cdi: bool,
    /// Whether it can hand GPUs to containers, as far as it tells.
    pub gpu_runtime: bool,
}

/// A file system of interest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Disk {
    pub mount: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// From where the agent sees the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// A process of the host.
    #[default]
    Host,
    /// Inside a container.
    Container,
}

/// The ports that rentals are published on, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Host {
    pub hostname: String,
    pub os: String,
    pub kernel: String,
    pub arch: String,
    pub cpu_model: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub boot_id: String,
    pub view: View,
    /// Where renters reach it, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_address: Option<String>,
    /// Absent until the engine has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    pub disks: Vec<Disk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<PortRange>,
}

/// An amount of what is rented.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Resources {
    pub cpus: f64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub gpus: u32,
    pub instances: u32,
}

/// Whether the engine answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineStatus {
    /// In time.
    Ok,
    /// It takes connections, and is silent or cannot be listed.
    Degraded,
    /// Nobody listens, it is too old, or it has not been asked yet.
    #[default]
    Unavailable,
}

/// How the agent is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Whether the engine answers.
    pub engine: EngineStatus,
    /// Refusing new deploys because it was told to.
    pub draining: bool,
    /// Whether a deploy has a chance.
    pub rentable: bool,
    /// Why not, or what is odd: `engine_unavailable`, `draining`, `clock_skew`, …
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Server time minus host time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_s: Option<f64>,
    /// Final records given up after 7 days without an ack.
    #[serde(default)]
    pub records_dropped: u64,
}
