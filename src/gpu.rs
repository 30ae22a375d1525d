//! GPUs: what there is, and the seam to the vendors' drivers. Pure; the probes are adapters.

pub mod assign;
pub mod nvml;
pub mod watch;

use crate::protocol::{message::GpuSample, record::Gpu};

/// A vendor's driver. Its methods block, perhaps for ever: each probe runs on a thread of its own.
pub trait GpuProbe: Send + 'static {
    /// Lists the GPUs. `Gpu.state` is the registry's to say and comes as `available`.
    fn inventory(&mut self) -> Result<Vec<Gpu>, ProbeError>;

    /// Measures them.
    fn sample(&mut self) -> Result<Vec<GpuSample>, ProbeError>;
}

/// Why a probe sees nothing. Not an error of the agent: a host without GPUs is a normal host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The vendor's library is not on this host.
    #[error("{0}")]
    Absent(String),
    /// The driver answers with an error.
    #[error("{0}")]
    Failed(String),
}
