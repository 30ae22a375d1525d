//! The agent as a process of its own: this same executable, started again whenever it dies, as a
//! service manager would.

use std::{
    io::{self, Write},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::Settings;

/// Between a death and the next start.
const PAUSE: Duration = Duration::from_secs(1);
/// The agent drains within 10 s after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);
/// The configuration cannot be used; another start would not help.
const EXIT_CONFIG: i32 = 78;

/// Keeps an agent running until `stop` says so, then lets it drain.
pub(super) async fn keep_running(
    settings: &Settings,
    stop: impl Future<Output = io::Result<()>>,
) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
    loop {
        let mut child = start(settings)?;
        tokio::select! {
            biased; // Told to stop while it dies: it is not started again.
            stopped = &mut stop => {
                stopped.context("waiting for a signal")?;
                return drain(child).await;
            }
            died = child.wait() => again(died.context("waiting for the agent")?)?,
        }
        tokio::select! {
            stopped = &mut stop => return stopped.context("waiting for a signal"),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn start(settings: &Settings) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("finding this executable")?;
    let child = Command::new(&program)
        .arg("run")
        .envs(settings.iter().map(|(name, value)| (*name, value)))
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {} run", program.display()))?;
    writeln!(
        io::stdout(),
        "Agent started as process {}.",
        child.id().unwrap_or(0)
    )?;
    Ok(child)
}

fn again(status: ExitStatus) -> anyhow::Result<()> {
    if status.code() == Some(EXIT_CONFIG) {
        bail!("the agent cannot use its configuration; it says above what is wrong");
    }
    writeln!(io::stdout(), "Agent ended: {status}. It is started again.")?;
    Ok(())
}

async fn drain(mut child: Child) -> anyhow::Result<()> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have died this moment, which is as good.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(ended) => ended.map(drop).context("waiting for the agent"),
        Err(_) => child.kill().await.context("killing the agent"),
    }
}
