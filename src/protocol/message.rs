//! What the agent says to the server.

use std::{collections::BTreeMap, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    error::Error,
    limits::MAX_OUTPUT_BYTES,
    record::{Gpu, Health, Host, Instance, Phase, Resources, Status},
};
use crate::{
    clock::Timestamp,
    ids::{AgentId, CommandId, Epoch, Generation, GpuUuid, InstanceId},
};

/// One text frame from the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant's payload is documented")]
pub enum Message {
    Hello(Box<Hello>),
    Instance(InstanceMessage),
    Synced(Synced),
    Progress(Progress),
    Reply(Reply),
    Heartbeat(Heartbeat),
    Inventory(Box<Inventory>),
    Metrics(Metrics),
    Health(HealthReport),
    Output(Output),
    Goodbye(Goodbye),
}

/// Who the agent is, what it has and how it is: the first frame of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Hello {
    pub agent: AgentInfo,
    pub host: Host,
    pub gpus: Vec<Gpu>,
    /// `false` until all probes have answered; an `inventory` follows then.
    pub inventory_complete: bool,
    pub capacity: Resources,
    pub occupied: Resources,
    pub capabilities: Capabilities,
    pub status: Status,
}

/// The agent's own facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct AgentInfo {
    pub id: AgentId,
    pub version: String,
    pub epoch: Epoch,
    pub started_at: Timestamp,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What this agent serves; everything else is refused as `unsupported`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capabilities {
    /// Names of commands.
    pub ops: Vec<String>,
    /// Top-level names of `InstanceSpec`.
    pub spec: Vec<String>,
}

/// A record, whole, at one of its states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct InstanceMessage {
    pub generation: Generation,
    pub instance: Arc<Instance>,
}

/// All records have been sent; an id that is not listed is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Synced {
    /// The highest so far.
    pub generation: Generation,
    /// Of all records just sent, ended ones included.
    pub ids: Vec<InstanceId>,
}

/// How far something is. Lossy: the newest wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Of a deploy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// Of a `pull_image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_id: Option<CommandId>,
    /// What it is doing.
    pub phase: Phase,
    /// For people.
    pub message: String,
    /// Of a pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullProgress>,
}

/// How far a pull is, summed over layers. A total that is absent is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct PullProgress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_total: Option<u32>,
    pub layers_done: u32,
    pub downloaded_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    pub extracted_layers: u32,
    pub bytes_per_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_s: Option<f64>,
}

/// How a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// First reply: it will be done, and ends as `done` or `failed`.
    Accepted,
    /// First reply: an equal deploy runs or ran; ends as that one ends.
    Already,
    /// First and last reply: nothing was changed.
    Rejected,
    /// Last reply.
    Done,
    /// Last reply.
    Failed,
}

impl Outcome {
    /// Whether no other reply to the same command follows.
    pub fn is_final(self) -> bool {
        match self {
            Self::Accepted | Self::Already => false,
            Self::Rejected | Self::Done | Self::Failed => true,
        }
    }
}

/// The answer to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Reply {
    pub command_id: CommandId,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Heartbeat {
    pub at: Timestamp,
    pub generation: Generation,
    pub status: Status,
    pub occupied: Resources,
}

/// What changed of the hardware; each field replaces the earlier one whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Inventory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<Gpu>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory_complete: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
}

/// Samples. Lossy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Metrics {
    pub at: Timestamp,
    pub host: HostSample,
    pub gpus: Vec<GpuSample>,
    pub instances: Vec<InstanceSample>,
}

/// The host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct HostSample {
    /// 0 to 100 of all cores since the last sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub cpu_percent: Option<f64>,
    pub memory_used_bytes: u64,
    pub memory_total_bytes: u64,
    pub load_1m: f64,
}

/// A GPU at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct GpuSample {
    pub uuid: GpuUuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
}

/// A rental at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct InstanceSample {
    pub id: InstanceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used_bytes: Option<u64>,
}

/// Verdicts. Lossy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct HealthReport {
    pub at: Timestamp,
    pub checks: Vec<HealthCheck>,
}

/// One verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct HealthCheck {
    pub name: String,
    pub subject: String,
    pub status: Health,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum StreamName {
    Stdout,
    Stderr,
}

/// How `Output.data` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Encoding {
    Utf8,
    Base64,
}

/// A chunk of a command's output, at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Output {
    pub command_id: CommandId,
    pub seq: u64,
    pub stream: StreamName,
    #[schemars(length(max = MAX_OUTPUT_BYTES.div_ceil(3) * 4))]
    pub data: String,
    pub encoding: Encoding,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_bytes: Option<u64>,
}

/// Why the agent hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum GoodbyeReason {
    Shutdown,
    Drained,
}

/// The last frame before close 1001.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Goodbye {
    pub reason: GoodbyeReason,
}
