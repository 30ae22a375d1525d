//! `rental-agent inventory`: the GPUs of this machine as their drivers list them, and why there is none
//! where there is none. Asks the drivers, not the agent: who has a GPU it does not know.

use std::{collections::BTreeMap, fmt::Write, process::ExitCode, time::Duration};

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    EXIT_CONFIG, complain, print,
    run::{BLOCKING_GRACE, runtime},
};
use crate::{
    agent,
    config::{self, Overrides},
    gpu::{
        probes,
        watch::{GpuReport, Pace, ProbeReport},
    },
    protocol::record::{Gpu, GpuState, Health},
};

/// A little more than a driver has for an answer, so that its silence is heard of.
const LIMIT: Duration = Duration::from_secs(15);

const GIB: u64 = 1 << 30;

/// Of `inventory`.
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is there.
#[derive(Debug, Serialize)]
struct Inventory {
    /// As they go to the server; `state` is `unknown`, since the agent is not asked.
    gpus: Vec<Gpu>,
    probes: Vec<Probe>,
}

/// What became of asking a vendor's driver.
#[derive(Debug, Serialize)]
struct Probe {
    vendor: &'static str,
    /// `ok` also where there is none.
    health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Asks all drivers once and prints what they list; ends with 1 when one does not answer as it should.
pub fn run(args: &InventoryArgs, overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let config = match config::load(overrides, env) {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string(), ExitCode::from(EXIT_CONFIG)),
    };
    let asked = runtime().and_then(|runtime| {
        let asked = runtime.block_on(ask(&agent::looking(&config)));
        runtime.shutdown_timeout(BLOCKING_GRACE);
        asked
    });
    let inventory = match asked {
        Ok(report) => Inventory::of(report),
        Err(error) => return complain(&format!("{error:#}"), ExitCode::FAILURE),
    };
    let text = match args.json {
        // Strings, numbers and lists only, which can always be written.
        true => serde_json::to_string_pretty(&inventory).unwrap_or_default(),
        false => inventory.table(),
    };
    let printed = print(&text);
    let well = |probe: &Probe| probe.health == Health::Ok;
    match inventory.probes.iter().all(well) {
        true => printed,
        false => ExitCode::FAILURE,
    }
}

/// Until every driver has answered, or is known not to.
async fn ask(options: &probes::Options) -> anyhow::Result<GpuReport> {
    let (probes, mut readings, mut heard) = probes::start(options, Pace::default())?;
    let spoken = |probe: &ProbeReport| probe.complete || probe.problem.is_some();
    let mut report = readings.report.clone();
    let answers = report.wait_for(|report| report.probes.iter().all(spoken));
    tokio::select! {
        biased;
        // What there is counts more than that somebody ended.
        _ = timeout(LIMIT, answers) => {}
        ended = probes.run(CancellationToken::new()) => ended?,
        // What is heard has to be taken, or nothing more is said.
        () = async { while heard.recv().await.is_some() {} } => {}
    }
    Ok(readings.report.borrow_and_update().clone())
}

impl Inventory {
    fn of(report: GpuReport) -> Self {
        let gpus = report.gpus.into_iter().map(|found| Gpu {
            state: GpuState::Unknown,
            ..found.gpu
        });
        let probes = report.probes.into_iter().map(|probe| Probe {
            vendor: probe.vendor,
            health: probe.health,
            problem: probe.problem,
        });
        Self {
            gpus: gpus.collect(),
            probes: probes.collect(),
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        if !self.gpus.is_empty() {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header([
                "VENDOR", "INDEX", "UUID", "MODEL", "MEMORY", "PCI", "NODE", "DRIVER", "HEALTH",
            ]);
            table.add_rows(self.gpus.iter().map(row));
            let _ = writeln!(text, "{table}\n");
        }
        for probe in &self.probes {
            let problem = probe.problem.as_deref().unwrap_or("the driver answers");
            let _ = writeln!(text, "{:<8} {problem}", probe.vendor);
        }
        text.trim_end().to_owned()
    }
}

fn row(gpu: &Gpu) -> [String; 9] {
    let health = match gpu.health {
        Health::Ok => "ok",
        Health::Warning => "warning",
        Health::Failed => "FAILED",
        Health::Unknown => "unknown",
    };
    let reasons = gpu.health_reasons.join("; ");
    [
        gpu.vendor.clone(),
        gpu.index.to_string(),
        gpu.uuid.to_string(),
        gpu.model.clone(),
        format!("{} GiB", gpu.memory_bytes / GIB),
        gpu.pci_bus_id.clone(),
        gpu.numa_node
            .map_or_else(String::new, |node| node.to_string()),
        gpu.driver_version.clone(),
        match reasons.is_empty() {
            true => health.to_owned(),
            false => format!("{health}: {reasons}"),
        },
    ]
}
