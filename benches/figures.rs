//! What the agent costs: how much longer things take than the engine alone takes for them, how much
//! memory it holds, how soon it answers and is back. Each figure has a bar that it has to meet.
//! `scripts/bench` builds what this needs and runs it.
//!
//! What is compared runs in turn on the same engine, so that whatever else the machine does falls on
//! both sides. A table is for people, the JSON object in the last line for programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "a bench whose stage does not stand ends there"
)]

#[path = "../tests/support/fake_nvml.rs"]
mod fake_nvml;
#[path = "../tests/support/lab.rs"]
mod lab;
#[path = "../tests/support/peer.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod peer;
#[path = "../tests/support/world.rs"]
mod world;

#[path = "figures/commands.rs"]
mod commands;
#[path = "figures/deploys.rs"]
mod deploys;
#[path = "figures/pulls.rs"]
mod pulls;
#[path = "figures/report.rs"]
mod report;
#[path = "figures/samples.rs"]
mod samples;
#[path = "figures/sizes.rs"]
mod sizes;
#[path = "figures/stage.rs"]
mod stage;
#[path = "figures/starts.rs"]
mod starts;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// Measures the agent beside the raw API of the engine.
#[derive(Debug, Parser)]
struct Args {
    /// Pairs of a deploy and a terminate by the agent, and by the engine alone.
    #[arg(long, default_value_t = 100)]
    pairs: usize,
    /// Pairs of twenty at once.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Pairs of pulls.
    #[arg(long, default_value_t = 20)]
    pulls: usize,
    /// Size of each image that is pulled.
    #[arg(long, default_value_t = 64)]
    pull_mib: u64,
    /// Rentals that a start finds.
    #[arg(long, default_value_t = 100)]
    rentals: usize,
    /// Starts.
    #[arg(long, default_value_t = 20)]
    starts: usize,
    /// Samples of GPUs.
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// End with 0 also where a bar is missed.
    #[arg(long)]
    ignore_bars: bool,
}

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Deploys,
    AtOnce,
    Pulls,
    Starts,
    Commands,
    Sizes,
    GpuSample,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let mut figures = Vec::new();
    if wants(Part::Sizes) {
        figures.extend(sizes::sizes());
    }
    if wants(Part::GpuSample) {
        figures.push(samples::samples(args.samples));
    }
    if wants(Part::Deploys) {
        figures.extend(deploys::one_by_one(args.pairs).await);
    }
    if wants(Part::AtOnce) {
        figures.push(deploys::at_once(args.rounds).await);
    }
    if wants(Part::Pulls) {
        figures.push(pulls::pulls(args.pulls, args.pull_mib).await);
    }
    if wants(Part::Commands) {
        figures.push(commands::first_replies(args.pull_mib * 4).await);
    }
    if wants(Part::Starts) {
        figures.extend(starts::memory_and_starts(args.rentals, args.starts).await);
    }
    let met = report::print(&figures, stage::machine().await);
    if met || args.ignore_bars {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
