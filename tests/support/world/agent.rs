//! The agent as a process of its own, configured by its environment alone, as on a rented host.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_until;

/// So much of its log is shown when a test fails.
const SHOWN_LINES: usize = 150;

/// One agent process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct AgentProcess {
    child: Child,
    log: PathBuf,
}

impl AgentProcess {
    /// Starts the agent with this environment and nothing else of ours. It logs to the end of `log`.
    pub(crate) fn spawn(env: &BTreeMap<String, String>, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let child = Command::new(binary())
            .arg("run")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("RUST_BACKTRACE", "1")
            .envs(env)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until nothing is left of it.
    pub(crate) fn kill(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Its exit status once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let pid = self.pid();
        let what = format!("agent {pid} to end");
        wait_until(&what, limit, || std::future::ready(self.ended())).await
    }

    /// All that it, and those before it with the same log, have written.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // A stopped process is killed too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent of this build; for the bench, which is none of its tests, the one that it is given.
fn binary() -> PathBuf {
    let of_this_build = option_env!("CARGO_BIN_EXE_rental-agent").map(PathBuf::from);
    let given = || std::env::var_os("BENCH_AGENT").map(PathBuf::from);
    of_this_build.or_else(given).expect("an agent to start")
}

/// A log as text.
pub(crate) fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The end of a log, for a test that fails.
pub(crate) fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines[from..].join("\n")
}
