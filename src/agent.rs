//! The composition root: builds adapters, channels and tasks, supervises them, and takes them down
//! in order. Decides nothing about rentals.
//!
//! Every task runs until it is told to stop. The first one that ends by itself is a defect: the
//! process ends with an error, its service manager starts it again, and the start adopts.

mod lock;
pub mod pulse;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api},
    clock,
    config::Config,
    driver::{Driver, Identity, Inputs},
    gpu::{
        probes::{self, Heard},
        watch::{Pace, Readings as GpuReadings},
        wipe::Wiper,
    },
    host,
    instance::registry::{Input, Options, Registry},
    runtime::{Hardening, docker::Docker},
    session::{Feeds, Limits, Session},
    telemetry::{self, Telemetry},
};

/// After the driver has drained, the session has so long to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the agent until `token` is cancelled, then stops it in order: no new commands, what cannot be
/// cut is finished, `goodbye`. Rentals are not touched.
///
/// # Errors
/// When it cannot start, or a task ended that should not have.
pub async fn run(config: Config, token: CancellationToken) -> anyhow::Result<()> {
    let lock = lock::acquire(&config.agent.id, &token)
        .await
        .context("the lock of the agent's id")?;
    let Some(lock) = lock else { return Ok(()) };
    let identity = identity(&config);
    tracing::info!(agent_id = %identity.agent_id, epoch = %identity.epoch,
        version = env!("CARGO_PKG_VERSION"), "rental-agent starts");
    let (probes, gpus, heard) = probes::start(&looking(&config), Pace::default())?;
    let docker =
        Docker::connect(&config.docker, &config.network)?.from_within(host::own_container());
    let (driver, inputs) = Driver::new(Registry::new(options(&config)), docker);
    let look = Arc::clone(&gpus.look);
    let mut driver = driver.looking(look).wiping(wiper(&config));
    let (telemetry, samples) = telemetry(&config, &inputs, gpus)?;
    let feeds = Feeds {
        snapshot: inputs.snapshot.clone(),
        metrics: samples.metrics,
        health: samples.health,
    };
    let from_server = inputs.from_server.clone();
    let limits = Limits::default();
    let mut session = Session::new(config.server.clone(), identity, from_server, feeds, limits);
    if let Some(key) = config.policy.command_key.clone() {
        session = session.obeying(key);
    }

    let shutdown = Shutdown::default();
    let api = Api::new(
        &config,
        &inputs,
        shutdown.stop.clone(),
        api::Limits::default(),
    )?;
    let mut tasks = Tasks::default();
    let stages = shutdown.clone();
    tasks.spawn("driver", async move {
        driver.run(stages.stop).await?;
        stages.drained.cancel();
        // Its channels stay open until then: closed ones look like an overflow to the session.
        stages.hang_up.cancelled().await;
        Ok(())
    });
    tasks.spawn("session", session.run(shutdown.hang_up.clone()));
    tasks.spawn("api", api.run(shutdown.hang_up.clone()));
    let until = shutdown.hang_up.clone();
    tasks.spawn("telemetry", async move { Ok(telemetry.run(until).await?) });
    let until = shutdown.hang_up.clone();
    tasks.spawn("probes", async move { Ok(probes.run(until).await?) });
    let asked = lock.listener().context("the lock's socket")?;
    let until = shutdown.hang_up.clone();
    tasks.spawn("pulse", pulse::answer(asked, inputs.turned.clone(), until));
    let until = shutdown.hang_up.clone();
    tasks.spawn("inventory", tell_gpus(heard, inputs, until));
    tasks.supervise(&token, &shutdown).await
}

/// This program, also after an update has put another in its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The stages of a shutdown, in their order.
#[derive(Debug, Default, Clone)]
struct Shutdown {
    /// The driver takes nothing more and finishes what it cannot cut.
    stop: CancellationToken,
    /// It has.
    drained: CancellationToken,
    /// Everybody else ends.
    hang_up: CancellationToken,
}

/// The tasks, by name.
#[derive(Debug, Default)]
struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.0.spawn(async move { (name, task.await) });
    }

    /// Waits for the end that is asked for, or the one that is not; stops the driver, and everybody
    /// else when that has drained.
    async fn supervise(
        mut self,
        token: &CancellationToken,
        shutdown: &Shutdown,
    ) -> anyhow::Result<()> {
        self.until(token).await?;
        tracing::info!("stopping; rentals go on");
        shutdown.stop.cancel();
        // The driver has a limit of its own.
        self.until(&shutdown.drained).await?;
        shutdown.hang_up.cancel();
        let goodbye = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            tracing::warn!("not all tasks ended in time");
        }
        Ok(())
    }

    /// Waits for `wanted`; a task that ends before is an error.
    async fn until(&mut self, wanted: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            // A task that ended by itself counts more than the wish to stop.
            biased;
            Some(ended) = self.0.join_next() => Err(unexpected(ended)),
            () = wanted.cancelled() => Ok(()),
        }
    }
}

fn unexpected(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("task {name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("task {name}")),
        Err(error) => anyhow::Error::new(error).context("a task"),
    }
}

/// Passes on what the probes say.
async fn tell_gpus(
    mut heard: mpsc::Receiver<Heard>,
    inputs: Inputs,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let tell = async {
        loop {
            let input = match heard.recv().await.context("the probes are gone")? {
                Heard::Gpus(report) => Input::Gpus {
                    complete: report.complete(),
                    gpus: report.gpus,
                },
                Heard::Readings(look) => Input::GpuReadings(look),
                Heard::Xid(xid) => Input::Xid(xid),
            };
            let told = inputs.from_below.send(input).await;
            told.context("the driver is gone")?;
        }
    };
    token.run_until_cancelled(tell).await.unwrap_or(Ok(()))
}

/// How this host's GPUs are looked for.
pub fn looking(config: &Config) -> probes::Options {
    probes::Options {
        nvml_library: config.gpu.nvml_library.clone(),
        nvidia_smi: config.gpu.nvidia_smi.clone(),
        sees_processes: host::sees_processes(),
        offered: config.resources.gpus.clone(),
    }
}

fn telemetry(
    config: &Config,
    inputs: &Inputs,
    gpus: GpuReadings,
) -> std::io::Result<(Telemetry, telemetry::Readings)> {
    let reserve = config.resources.reserve_disk_bytes;
    let thresholds = config.gpu.policy.thresholds.clone();
    Telemetry::start(reserve, inputs.snapshot.clone(), gpus, thresholds)
}

fn wiper(config: &Config) -> Wiper {
    Wiper::new(OWN_PROGRAM.into(), config.gpu.cuda_library.as_deref())
}

fn identity(config: &Config) -> Identity {
    let epoch = uuid::Uuid::new_v4().to_string().parse();
    Identity {
        agent_id: config.agent.id.clone(),
        epoch: epoch.unwrap_or_else(|_| unreachable!("a UUID is an epoch")),
        started_at: clock::now().wall,
        labels: config.agent.labels.clone(),
    }
}

fn options(config: &Config) -> Options {
    let host = host::facts(config, None);
    Options {
        agent_id: config.agent.id.clone(),
        address: host.public_address.clone().unwrap_or_default(),
        host,
        limits: config.resources.clone(),
        policy: config.policy.clone(),
        hardening: hardening(config),
        gpu_rules: config.gpu.rules,
        port_range: config.network.port_range,
        gpus: config.gpu.policy.clone(),
    }
}

fn hardening(config: &Config) -> Hardening {
    let limits = &config.resources;
    Hardening {
        network: config.network.name.clone(),
        pids_limit: i64::from(limits.pids_limit),
        log_max_bytes: limits.log_max_bytes,
        log_files: limits.log_files,
        sudo: config.policy.sudo,
        ulimits: limits
            .ulimits
            .iter()
            .map(|(name, (s, h))| (name.clone(), *s, *h))
            .collect(),
        runtime: config.policy.runtime.clone(),
        driver_capabilities: config.gpu.driver_capabilities.clone(),
    }
}
