//! What the program says of an engine that it cannot use: the real binary against a socket that
//! nobody serves, or that a scripted engine serves.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::wait::wait_until_blocking;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn check_names_the_whole_cause_for_the_engine_and_for_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let report = check(&socket);
    let message = |check: usize| report["checks"][check]["message"].as_str().unwrap();
    assert!(message(1).contains("nobody listens"), "{report}");
    for check in [1, 2] {
        let refused = message(check).matches("Connection refused").count();
        assert_eq!(refused, 1, "{report}");
    }
}

#[test]
fn check_says_that_an_engine_is_too_old() {
    let engine = OldEngine::start();
    let report = check(&engine.socket());
    let message = report["checks"][1]["message"].as_str().unwrap();
    assert!(message.contains("1.30 is too old"), "{report}");
}

#[test]
fn the_log_says_once_why_the_engine_cannot_be_used() {
    let engine = OldEngine::start();
    let agent = Agent::start(&engine.socket());
    // Three calls make one try.
    wait_until_blocking("several tries", LIMIT, || engine.asked() >= 9);
    let lines = agent.log();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "the container engine cannot be used")
        .collect();
    assert_eq!(told.len(), 1, "{lines:?}");
    assert_eq!(told[0]["level"], "WARN");
    assert_eq!(told[0]["status"], "Unavailable");
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(reason.contains("1.30 is too old"), "{reason}");
}

#[test]
fn no_core_file_is_left_of_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(&folder.path().join("none.sock"));
    let path = format!("/proc/{}/limits", agent.process.id());
    let cores = || {
        let limits = std::fs::read_to_string(&path).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core"));
        let numbers = line.unwrap().split_whitespace().skip(4).take(2);
        numbers.map(str::to_owned).collect::<Vec<_>>()
    };
    wait_until_blocking("no room for core files", LIMIT, || cores() == ["0", "0"]);
}

fn check(socket: &Path) -> Value {
    let output = program(socket, &["check", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The binary, for this engine and a server that is not there. Core files have room at first.
fn program(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_rental-agent"))
        .args(["--config", "/dev/null", "--log-format", "json"])
        .args(arguments)
        .env_clear()
        .env("AGENT_ID", format!("it-{}", std::process::id()))
        .env("AGENT_TOKEN", "t")
        .env("API_SERVER_URL", "ws://127.0.0.1:9")
        .env("DOCKER_HOST", format!("unix://{}", socket.display()));
    command
}

/// A running agent.
struct Agent {
    process: Child,
}

impl Agent {
    fn start(socket: &Path) -> Self {
        let mut command = program(socket, &["run"]);
        let process = command.stderr(Stdio::piped()).spawn().unwrap();
        Self { process }
    }

    /// Ends it; all that it has logged.
    fn log(mut self) -> Vec<Value> {
        self.process.kill().unwrap();
        let mut text = String::new();
        let mut stderr = self.process.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers every request with its version, which is that of Docker 17.
struct OldEngine {
    folder: TempDir,
    asked: Arc<AtomicUsize>,
}

impl OldEngine {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                counter.fetch_add(1, Ordering::SeqCst);
                let body = r#"{"Version":"17.06.0-ce","ApiVersion":"1.30"}"#;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                // Whoever has hung up needs no answer.
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        });
        Self { folder, asked }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}
