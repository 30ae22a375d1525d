//! `rental-agent gpu quarantine` and `gpu release`, for the owner of the machine, and the hidden
//! `gpu-wipe`, which the agent starts.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{Args, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal, setpriority_process};

use super::{
    complain,
    control::{self, Common, Question},
    print,
};
use crate::{
    config::Overrides,
    gpu::{
        ProbeError,
        nvml::{self, NvmlProbe},
        wipe,
    },
    ids::GpuUuid,
};

/// What `gpu` takes.
#[derive(Debug, Args)]
pub struct GpuArgs {
    #[command(subcommand)]
    command: GpuCommand,
}

#[derive(Debug, Subcommand)]
enum GpuCommand {
    /// Give a GPU to nobody until it is released; who has it keeps it. A restart of the agent ends it.
    Quarantine(QuarantineArgs),
    /// End a GPU's quarantine, whatever the cause; what still ails it brings it back.
    Release(ReleaseArgs),
}

/// Of `gpu quarantine`.
#[derive(Debug, Args)]
pub(super) struct QuarantineArgs {
    /// The GPU, as `rental-agent inventory` names it.
    #[arg(value_name = "UUID")]
    pub(super) uuid: GpuUuid,
    /// Why, for whoever asks.
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Of `gpu release`.
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The GPU, as `rental-agent inventory` names it.
    #[arg(value_name = "UUID")]
    pub(super) uuid: GpuUuid,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Asks the agent that runs on this machine.
pub fn run(args: GpuArgs, overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let question = match args.command {
        GpuCommand::Quarantine(args) => Question::quarantine(args.uuid, args.reason, args.common),
        GpuCommand::Release(args) => Question::release(args.uuid, args.common),
    };
    control::run(&question, overrides, env)
}

/// CUDA's driver library as the loader names it.
const CUDA_LIBRARY: &str = "libcuda.so.1";

/// Wipes the GPU that this process sees, and says so in one line.
pub fn wipe() -> ExitCode {
    // The agent's own precedence is for what cannot wait; a wipe can. One that has none stays where it is.
    let _ = setpriority_process(None, 0);
    // Nobody would end it in time when the agent is gone.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // Whoever asks for CUDA without it is ended. The other driver library's loader says whether a
    // file is there and can be loaded, whatever is in it.
    let asking = nvml::Asking {
        library: Some(CUDA_LIBRARY.into()),
        sees_processes: false,
    };
    if let Err(ProbeError::Absent(_)) = NvmlProbe::open(&asking) {
        let why = format!("{CUDA_LIBRARY} not found");
        return complain(&why, ExitCode::from(wipe::EXIT_IMPOSSIBLE));
    }
    match wipe::zero::zero() {
        Ok(zeroed) => print(&serde_json::json!(zeroed).to_string()),
        Err(error) => complain(&error.to_string(), ExitCode::FAILURE),
    }
}
