//! GPUs as the server sees them: what each is, how it is, and who has it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::GpuUuid;

/// A verdict on a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Health {
    Ok,
    Warning,
    Failed,
    Unknown,
}

/// Who has a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GpuState {
    /// Can be rented.
    Available,
    /// By a rental; which one is in `Instance.gpus`.
    Held,
    /// By something that is not ours.
    BusyExternal,
    /// Kept out of the offer until it is proven good.
    Quarantined,
    /// Cannot be seen, or what is on it is not known yet.
    Unknown,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// The name that stays.
    pub uuid: GpuUuid,
    /// The driver's number today.
    pub index: u32,
    /// `nvidia`, `amd`, …
    pub vendor: String,
    /// As the driver names it.
    pub model: String,
    /// Memory in all.
    pub memory_bytes: u64,
    /// Domain:bus:device.function.
    pub pci_bus_id: String,
    /// The driver's version.
    pub driver_version: String,
    /// Newest CUDA that the driver serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuda_version: Option<String>,
    /// `major.minor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// Its partitions, where the driver can partition it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<Mig>,
    /// The memory node that it hangs on, where the host has more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// Processors of that node, as Linux writes them: `0-15,32-47`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_affinity: Option<String>,
    /// How it reaches the other GPUs of this host; the best way to each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<GpuLink>,
    /// How it is.
    pub health: Health,
    /// Why, where it is not `ok`.
    #[serde(default)]
    pub health_reasons: Vec<String>,
    /// Who has it.
    pub state: GpuState,
}

impl Gpu {
    /// One of which nothing is known but its name and who made it.
    pub fn bare(uuid: GpuUuid, vendor: &str) -> Self {
        Self {
            uuid,
            index: 0,
            vendor: vendor.to_owned(),
            model: "unknown".to_owned(),
            memory_bytes: 0,
            pci_bus_id: String::new(),
            driver_version: String::new(),
            cuda_version: None,
            compute_capability: None,
            mig: None,
            numa_node: None,
            cpu_affinity: None,
            links: Vec::new(),
            health: Health::Ok,
            health_reasons: Vec::new(),
            state: GpuState::Available,
        }
    }
}

/// Whether a GPU is partitioned, and into what. One that is, is not rented out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mig {
    /// The mode is on: programs see partitions only.
    pub enabled: bool,
    /// The partitions that there are.
    #[serde(default)]
    pub devices: Vec<MigDevice>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MigDevice {
    /// The driver's name of it: `MIG-…`.
    pub uuid: GpuUuid,
    /// Its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// A way to another GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuLink {
    /// The other one.
    pub uuid: GpuUuid,
    /// What they share.
    pub kind: LinkKind,
}

/// How two GPUs are connected, the best first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// The vendor's own links: NVLink, xGMI.
    Nvlink,
    /// One PCIe switch, or a tree of them.
    PcieSwitch,
    /// One PCIe host bridge.
    HostBridge,
    /// One memory node.
    NumaNode,
    /// Only the system's own interconnect.
    System,
}
