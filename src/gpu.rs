//! GPUs: what there is, and the seam to the vendors' drivers. Pure; the probes are adapters.

pub mod affinity;
pub mod amd;
pub mod assign;
pub mod health;
pub mod nvidia;
pub mod nvidia_smi;
pub mod nvml;
pub mod occupancy;
pub mod probes;
pub mod quarantine;
mod sysfs;
pub mod tpu;
pub mod ward;
pub mod watch;
pub mod wipe;
pub mod xid;

use std::time::Duration;

use crate::{
    ids::GpuUuid,
    protocol::{message::GpuSample, record::Gpu},
};

/// A vendor's driver. Its methods block, perhaps for ever: each probe runs on a thread of its own.
pub trait GpuProbe: Send + 'static {
    /// Lists the GPUs.
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError>;

    /// Measures them.
    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError>;

    /// What the last inventory could not list although it is there.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// A GPU that a probe has found, and what only this host needs to know of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// As it goes to the server. `state` is the registry's to say and comes as `available`; `health`
    /// is what the driver's own answers show.
    pub gpu: Gpu,
    /// Its device files on the host, like `/dev/nvidia0` or `/dev/dri/renderD128`; empty where the
    /// driver does not tell.
    pub nodes: Vec<String>,
}

impl From<Gpu> for Found {
    fn from(gpu: Gpu) -> Self {
        Self {
            gpu,
            nodes: Vec::new(),
        }
    }
}

/// The GPUs of one probe at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampled {
    /// When it was asked for: what happened before that shows in it (boot-time clock).
    pub asked_at: Duration,
    /// One for each GPU; empty while the probe sees nothing.
    pub readings: Vec<Reading>,
}

/// A GPU at one moment. What a driver does not tell is absent, which is not the same as zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// As it goes to the server.
    pub sample: GpuSample,
    /// Who works on it; `None` where that cannot be seen.
    pub processes: Option<Vec<GpuProcess>>,
    /// What its health is judged by.
    pub vitals: Vitals,
}

impl Reading {
    /// One of which nothing was measured.
    pub fn of(uuid: GpuUuid) -> Self {
        Self {
            sample: GpuSample {
                uuid,
                memory_used_bytes: None,
                utilization_percent: None,
                temperature_c: None,
                power_w: None,
            },
            processes: None,
            vitals: Vitals::default(),
        }
    }
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuProcess {
    /// Its number on the host.
    pub pid: u32,
    /// What it is called, where the host's processes can be seen; printable.
    pub name: Option<String>,
    /// Of the GPU's memory.
    pub memory_bytes: Option<u64>,
}

/// What a GPU's health is judged by, beside temperature and power of its sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vitals {
    /// Errors of its memory that could not be corrected, since the driver was loaded.
    pub ecc_uncorrected_volatile: Option<u64>,
    /// The same, over its life.
    pub ecc_uncorrected_aggregate: Option<u64>,
    /// A row of its memory waits to be remapped, or a page to be retired, by a reset.
    pub remap_pending: Option<bool>,
    /// No spare row is left.
    pub remap_failed: Option<bool>,
    /// 0 to 100, of the fastest fan.
    pub fan_percent: Option<u32>,
    /// Why its clocks are lower than they could be, by the driver's names; idle is none.
    pub throttle_reasons: Vec<String>,
    /// Generation of its PCIe link: now, and at most here.
    pub pcie_generation: Option<(u32, u32)>,
    /// Lanes of its PCIe link: now, and at most here.
    pub pcie_width: Option<(u32, u32)>,
    /// What the driver itself wants done, where that is not nothing.
    pub recovery: Option<Recovery>,
}

/// What a driver says has to be done about a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Reset it.
    ResetGpu,
    /// Reboot the host.
    RebootNode,
    /// Let nothing new onto it, and reset it when it is free.
    DrainAndReset,
}

/// An error that a GPU reported by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xid {
    /// Which.
    pub uuid: GpuUuid,
    /// NVIDIA's number of it.
    pub code: u64,
}

/// Why a probe sees nothing. Not an error of the agent: a host without GPUs is a normal host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The vendor's library is not on this host.
    #[error("{0}")]
    Absent(String),
    /// It is there and cannot be loaded.
    #[error("{0}")]
    Unloadable(String),
    /// The driver answers with an error.
    #[error("{0}")]
    Failed(String),
}
