//! The probes on a real NVIDIA GPU, beside NVIDIA's own tool. Run by `scripts/test gpu`; without a GPU
//! they fail and say so, since a test that is skipped in silence proves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::print_stdout,
    reason = "a panic here is a failed test"
)]

mod inventory;
mod sample;
mod xml;

use rental_agent::gpu::nvml::{Asking, NvmlProbe};

use self::xml::Report;

/// The driver of this host.
fn probe() -> NvmlProbe {
    let asking = Asking {
        library: None,
        sees_processes: true,
    };
    NvmlProbe::open(&asking).unwrap_or_else(|why| panic!("these tests need an NVIDIA GPU: {why}"))
}

/// What NVIDIA's tool says.
fn report() -> Report {
    Report::ask().unwrap_or_else(|why| panic!("these tests need nvidia-smi: {why}"))
}
