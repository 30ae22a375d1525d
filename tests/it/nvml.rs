//! NVIDIA's GPUs by a stand-in for the driver's library, built here from `tests/support/fake_nvml.c`:
//! it shows the agent's logic and says nothing about hardware.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its stage fails"
)]

mod all;
mod inventory;
mod readings;
mod watching;
mod xid;

#[path = "../support/fake_nvml.rs"]
pub(crate) mod fake_nvml;

use std::{path::Path, time::Duration};

use rental_agent::gpu::{
    ProbeError,
    nvml::{Asking, NvmlProbe},
    watch::Pace,
};

const LIMIT: Duration = Duration::from_secs(20);

/// The stand-in's name of this GPU.
fn uuid(number: u32) -> String {
    format!("GPU-{number:08x}-0000-0000-0000-000000000000")
}

fn open(library: &Path) -> Result<NvmlProbe, ProbeError> {
    NvmlProbe::open(&Asking {
        library: Some(library.to_owned()),
        sees_processes: true,
    })
}

/// Quick enough for tests.
fn pace() -> Pace {
    Pace {
        inventory_every: Duration::from_millis(50),
        sample_every: Duration::from_millis(20),
        answer_within: Duration::from_millis(200),
    }
}
