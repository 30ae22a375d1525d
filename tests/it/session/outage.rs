//! A server that is away for long, and a name that comes and goes.

use std::{
    fs,
    io::{self, Write},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rental_agent::session::{Limits, LinkState, backoff::Waits};
use tokio::time::Instant;
use tracing_subscriber::filter::LevelFilter;

use super::rig::Rig;
use crate::peer::{Peer, soon};

/// Time goes so much faster than on a host.
const FASTER: u32 = 2_000;
/// With up to 30 s between two of them, and 15 s on average, more than four hours.
const DIALS: u32 = 1_000;

fn scaled(limits: &Limits) -> Limits {
    let each = |(from, to): (Duration, Duration)| (from / FASTER, to / FASTER);
    let waits = &limits.waits;
    Limits {
        waits: Waits {
            base: waits.base / FASTER,
            cap: waits.cap / FASTER,
            first: waits.first / FASTER,
            floor: waits.floor / FASTER,
            refused: each(waits.refused),
            retry_after: each(waits.retry_after),
            spread: each(waits.spread),
        },
        log_interval: limits.log_interval / FASTER,
        ..limits.clone()
    }
}

#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn containing(&self, words: &str) -> u32 {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(words));
        u32::try_from(lines.count()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn f43_a_server_that_is_away_for_hours_is_dialled_gently_and_found_again() {
    let log = Lines::default();
    let writer = log.clone();
    // The session runs on this thread.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let limits = Limits::default();
    let mean = limits.waits.cap / 2 / FASTER;
    let interval = limits.log_interval / FASTER;
    let begin = Instant::now();
    let mut rig = Rig::start(scaled(&limits)).await;
    for _ in 0..DIALS {
        // Something is at the address, and hangs up.
        drop(rig.peer.tcp().await);
    }
    let took = begin.elapsed();
    // A mean of a thousand such waits is within a tenth of what it should be but once in 10^7 times;
    // a machine with too much to do only makes it longer.
    assert!(took > mean * DIALS * 9 / 10, "a hot loop: {took:?}");
    let lines = log.containing("no session with the central server");
    let minutes = u32::try_from(took.as_nanos() / interval.as_nanos()).unwrap();
    assert!((1..=minutes + 2).contains(&lines), "{lines} in {minutes}");
    let connection = rig.peer.session().await;
    rig.connected().await;
    assert!(matches!(*rig.state.borrow(), LinkState::Connected { .. }));
    assert_eq!(log.containing("connected to the central server again"), 1);
    drop(connection);
}

/// An agent that sees its own `/etc/hosts` and asks no name server. Dropping it kills it.
struct Secluded(Child);

impl Drop for Secluded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Secluded {
    /// `None` where this user may not have a mount namespace.
    fn start(folder: &std::path::Path, env: &[(&str, &str)]) -> Option<Self> {
        let able = Command::new("unshare").args(["-rm", "true"]).status();
        if !able.is_ok_and(|status| status.success()) {
            return None;
        }
        fs::write(folder.join("nsswitch"), "hosts: files\n").unwrap();
        let script = "mount --bind nsswitch /etc/nsswitch.conf && \
                      mount --bind hosts /etc/hosts && exec \"$0\" --config /dev/null run";
        let log = fs::File::create(folder.join("log")).unwrap();
        let agent = Command::new("unshare")
            .args(["-rm", "sh", "-c", script])
            .arg(env!("CARGO_BIN_EXE_rental-agent"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(env.iter().copied())
            .current_dir(folder)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self(agent))
    }
}

#[tokio::test]
async fn f58_a_name_that_is_unknown_at_first_is_found_once_it_is_known() {
    let peer = Peer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let control = folder.path().join("control.sock");
    let url = format!("ws://rentals.test:{}", peer.port());
    let env = [
        ("AGENT_ID", "looks-up"),
        ("AGENT_TOKEN", "t"),
        ("API_SERVER_URL", url.as_str()),
        ("RENTAL_AGENT__SERVER__ALLOW_PLAINTEXT", "true"),
        ("DOCKER_HOST", "unix:///nonexistent/docker.sock"),
        ("RENTAL_AGENT__HTTP__LISTEN", "off"),
        ("RENTAL_AGENT__CONTROL__SOCKET", control.to_str().unwrap()),
    ];
    let Some(mut agent) = Secluded::start(folder.path(), &env) else {
        println!("SKIPPED: this user may not have a mount namespace (unshare -rm)");
        return;
    };
    let log = || fs::read_to_string(folder.path().join("log")).unwrap();
    let failed = async {
        while !log().contains("no session with the central server") {
            assert!(agent.0.try_wait().unwrap().is_none(), "{}", log());
            tokio::task::yield_now().await;
        }
    };
    soon(failed).await;
    assert!(log().contains("rentals.test"), "{}", log());
    // The same file, so that the agent sees it, too.
    fs::write(&hosts, "127.0.0.1 localhost rentals.test\n").unwrap();
    let mut connection = peer.accept().await;
    let hello = connection.expect("hello").await;
    assert_eq!(hello["agent"]["id"], "looks-up");
}
