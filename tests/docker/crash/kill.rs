//! SIGKILL, and certainty.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::wait_until_blocking;

/// Kills a child of this process and waits until it runs no more. Whoever started it still has to
/// reap it.
pub(crate) fn kill_and_wait(pid: u32) {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(number, Signal::KILL).unwrap();
    let what = format!("the end of process {pid}");
    wait_until_blocking(&what, Duration::from_secs(10), || has_ended(pid));
}

/// Its state follows its name, which stands in parentheses and may hold anything.
fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.starts_with(['Z', 'X'])
}
