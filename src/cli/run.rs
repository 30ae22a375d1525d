//! `rental-agent run`: configuration, logging, runtime, agent, exit code, in this order.

use std::{collections::BTreeMap, num::NonZeroUsize, process::ExitCode, thread, time::Duration};

use rustix::process::setpriority_process;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{EXIT_CONFIG, complain, configured, logging};
use crate::{
    agent,
    config::{Config, Overrides},
};

/// The agent waits for others nearly all the time: more threads than these only cost memory on the
/// large hosts that it is made for.
const MAX_WORKERS: usize = 4;

/// For blocking calls that are still under way when the agent has ended; a driver that hangs must not
/// keep the process.
pub(super) const BLOCKING_GRACE: Duration = Duration::from_millis(500);

/// As nice(1) counts: the agent comes before the tenants whose host it looks after. It needs little, and
/// a terminate must not wait for a rental that takes all processors.
const NICE: i32 = -10;

/// Runs the agent until it is told to end.
pub fn run(overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let config = match configured(overrides, env) {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string(), ExitCode::from(EXIT_CONFIG)),
    };
    // Before all threads: they inherit it.
    let precedence = setpriority_process(None, NICE);
    let _flush = match logging::init(&config.log) {
        Ok(flush) => flush,
        // Alternate: the whole chain of causes in one line.
        Err(error) => return complain(&format!("{error:#}"), ExitCode::FAILURE),
    };
    if let Err(error) = precedence {
        tracing::debug!(%error, "the agent runs with the priority of everybody else");
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent has failed");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let ended = runtime.block_on(until_told_to_stop(config));
    runtime.shutdown_timeout(BLOCKING_GRACE);
    ended
}

/// The first signal stops the agent in order, the second one at once.
pub(super) async fn until_told_to_stop(config: Config) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let agent = agent::run(config, token.clone());
    tokio::pin!(agent);
    loop {
        tokio::select! {
            ended = &mut agent => return ended,
            Some(()) = async { tokio::select! { s = term.recv() => s, s = int.recv() => s } } => {
                anyhow::ensure!(!token.is_cancelled(), "stopped at once by a second signal");
                token.cancel();
            }
        }
    }
}

/// The runtime that everything in the process runs on.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .thread_name("rental-agent")
        .enable_all()
        .build()?;
    Ok(runtime)
}
