//! The records of the wire: what a rental, a GPU, a host and the agent's condition look like to the
//! server. An absent field says nothing about a value stored earlier.

mod gpu;
mod host;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    gpu::{Gpu, GpuLink, GpuState, Health, LinkKind, Mig, MigDevice},
    host::{Disk, Engine, EngineStatus, Host, PortRange, Resources, Status, View},
};
use super::{error::Error, limits::MAX_LOG_TAIL_BYTES};
use crate::{
    clock::Timestamp,
    ids::{CommandId, ContainerId, GpuUuid, InstanceId, SpecHash},
};

/// Where a rental is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the names are the documentation; instance.rs draws the diagram"
)]
pub enum Phase {
    Accepted,
    Pulling,
    Creating,
    Starting,
    Running,
    Ready,
    Stopping,
    Stopped,
    Restarting,
    Ending,
    Ended,
}

/// Why a rental ended. The first decision to end gives the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A terminate for a deploy that had been accepted.
    Terminated,
    /// Its lease ran out.
    Expired,
    /// The tenant's process ended by itself after `ready`.
    Exited,
    /// The deploy failed before `ready`.
    Failed,
    /// The kernel killed it for memory after `ready`.
    OomKilled,
    /// Its container vanished and nobody said why.
    Lost,
    /// The engine or the host restarted and it could not be brought back.
    Interrupted,
    /// A terminate for an id that was never seen.
    Cancelled,
}

/// Transport of a published port.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum PortProtocol {
    #[default]
    Tcp,
    Udp,
}

/// A port of the container, published on all addresses of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPort {
    /// The name that the spec gave it.
    pub name: String,
    /// Port inside the container.
    #[schemars(range(min = 1))]
    pub container: u16,
    /// Port of the host.
    #[schemars(range(min = 1))]
    pub host: u16,
    /// Transport.
    pub protocol: PortProtocol,
    /// The host's address that renters use.
    pub address: String,
}

/// When each phase was first reached, in server time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "each is the time at which the phase of that name was reached"
)]
pub struct Timeline {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pulling_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creating_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starting_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Trouble that is not an end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// For programs: `stuck_stopping`, `paused`, `gpu_lost`, `unobservable`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
}

/// How a rental ended. Final.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// Of the tenant's first process, where one ran and the engine knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// What went wrong, where something did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The last of the tenant's output: at most 4 KiB, control characters escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_LOG_TAIL_BYTES))]
    pub log_tail: Option<String>,
}

/// What is to be paid: time from the first `ready_at` to `ended_at`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Seconds used.
    pub used_s: f64,
    /// The end is the last time it was seen running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<bool>,
}

/// When a rental runs out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseRecord {
    /// In server time.
    pub expires_at: Timestamp,
}

/// One rental, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Chosen by the server.
    pub id: InstanceId,
    /// Where it is in its life.
    pub phase: Phase,
    /// The reference that the spec named; absent for an id that was never deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What that was when it was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The engine's name of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<ContainerId>,
    /// Which spec it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_sha256: Option<SpecHash>,
    /// The command that deployed it (for `cancelled`: that terminated it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// As in the spec.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its GPUs, its alone.
    #[serde(default)]
    pub gpus: Vec<GpuUuid>,
    /// Effective limit, in cores.
    #[serde(default)]
    pub cpus: f64,
    /// Effective limit.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Where it can be reached.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// When it runs out, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseRecord>,
    /// When each phase was reached.
    pub timeline: Timeline,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// Found in the engine by an agent that did not start it.
    #[serde(default)]
    pub recovered: bool,
    /// Trouble that is not an end.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// What is to be paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}
