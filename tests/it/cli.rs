//! The command line, by running the binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test ends where its expectation does"
)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use rental_agent::config;
use serde_json::Value;

/// Stands for a secret; it may be seen nowhere.
const CANARY: &str = "canary-7f3a";

#[test]
fn a_configuration_that_cannot_be_used_ends_the_process_with_78() {
    let broken = [("AGENT_TOKEN", CANARY), ("API_SERVER_URL", "ftp://x")];
    for arguments in [&[][..], &["run"], &["run", "--log-level", "trace"]] {
        let output = binary(arguments, &broken);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(
            errors.contains("agent.id") && errors.contains("server.url"),
            "{errors}"
        );
        assert!(!errors.contains(CANARY), "{errors}");
    }
}

/// What a look at the file's form does not show: the agent would end at once, and so does each start.
#[test]
fn a_key_or_certificate_that_cannot_be_used_is_a_fault_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pem = |what: &str| format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n");
    let key = file("key.pem", &pem("PUBLIC KEY"));
    let set = file("set.json", r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#);
    let (chain, private) = (
        file("chain.pem", &pem("CERTIFICATE")),
        file("private.pem", &pem("PRIVATE KEY")),
    );
    let auth = |name: &'static str, path: &str| {
        let issuer = (
            "RENTAL_AGENT__HTTP__AUTH__ISSUER",
            "https://s.test".to_owned(),
        );
        vec![issuer, (name, path.to_owned())]
    };
    for (keys, fault) in [
        (
            auth("RENTAL_AGENT__HTTP__AUTH__PUBLIC_KEY_FILE", &key),
            "http.auth.public_key_file",
        ),
        (
            auth("RENTAL_AGENT__HTTP__AUTH__JWKS_FILE", &set),
            "http.auth.jwks_file",
        ),
        (
            vec![
                ("RENTAL_AGENT__HTTP__TLS__CERT_FILE", chain),
                ("RENTAL_AGENT__HTTP__TLS__KEY_FILE", private),
            ],
            "http.tls",
        ),
    ] {
        let mut env = vec![
            ("AGENT_ID", "a"),
            ("AGENT_TOKEN", CANARY),
            ("API_SERVER_URL", "ws://127.0.0.1:9"),
            ("DOCKER_HOST", "unix:///nonexistent/docker.sock"),
        ];
        env.extend(keys.iter().map(|(name, value)| (*name, value.as_str())));
        for (arguments, code) in [
            (&["run"][..], 78),
            (&["config", "show"], 78),
            (&["check"], 1),
        ] {
            let output = binary(arguments, &env);
            assert_eq!(output.status.code(), Some(code), "{arguments:?} {output:?}");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains("1 fault") && said.contains(fault), "{said}");
            assert!(said.contains("    -> "), "no remedy: {said}");
        }
    }
}

/// An agent without engine and server, once its control socket is there: then everything runs.
fn lonely(id: &str, control: &Path, stderr: Stdio) -> Child {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_rental-agent"))
        .args(["--config", "/dev/null", "run"])
        .env_clear()
        .envs([
            ("AGENT_ID", id),
            ("AGENT_TOKEN", "t"),
            ("API_SERVER_URL", "ws://127.0.0.1:9"),
            ("DOCKER_HOST", "unix:///nonexistent/docker.sock"),
            ("RENTAL_AGENT__HTTP__LISTEN", "off"),
            ("RENTAL_AGENT__CONTROL__SOCKET", control.to_str().unwrap()),
        ])
        .stderr(stderr)
        .spawn()
        .unwrap();
    while !control.exists() && agent.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    agent
}

#[test]
fn a_log_that_nobody_reads_stops_nothing_and_is_whole_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe holds: not one line of the agent's fits in.
    writer.write_all(&[b'\n'; 65_536]).unwrap();
    let mut agent = lonely("not-read", &control, writer.into());
    let mut socket = UnixStream::connect(&control).unwrap();
    let limit = std::time::Duration::from_secs(20);
    socket.set_read_timeout(Some(limit)).unwrap();
    socket
        .write_all(b"GET /instances HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let pid = rustix::process::Pid::from_child(&agent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{log}");
    for line in ["rental-agent starts", "stopping; rentals go on"] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
}

/// A field of the scheduler's for each thread of a process: its name and how nice it is.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
        let nice = rest.split_whitespace().nth(16)?.parse().ok()?;
        Some((name.to_owned(), nice))
    };
    tasks.filter_map(read).collect()
}

#[test]
fn all_threads_of_the_agent_come_before_those_of_tenants_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control.sock");
    let mut agent = lonely("comes-first", &control, Stdio::null());
    let threads = threads(agent.id());
    agent.kill().unwrap();
    agent.wait().unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let able = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let able = u64::from_str_radix(able.unwrap().trim(), 16).unwrap();
    // CAP_SYS_NICE.
    let expected = match able & (1 << 23) {
        0 => rustix::process::getpriority_process(None).unwrap(),
        _ => -10,
    };
    assert!(threads.len() > 2, "{threads:?}");
    assert!(
        threads.iter().all(|(_, nice)| *nice == expected),
        "{threads:?}"
    );
}

#[test]
fn check_reports_faults_as_text_and_as_json_and_ends_with_1() {
    let broken = [("AGENT_TOKEN", CANARY), ("API_SERVER_URL", "ftp://x")];
    let text = binary(&["check"], &broken);
    assert_eq!(text.status.code(), Some(1), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("FAILED   configuration  2 faults"), "{text}");
    let output = binary(&["check", "--json"], &broken);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["checks"][0]["faults"][1]["key"], "server.url");
    assert!(!text.contains(CANARY) && !report.to_string().contains(CANARY));
}

#[test]
fn healthcheck_names_the_agent_that_is_not_there_and_ends_with_1() {
    for (arguments, env) in [
        (&["healthcheck", "--agent-id", "nobody-here"][..], &[][..]),
        (&["healthcheck"], &[("AGENT_ID", "nobody-here")]),
    ] {
        let output = binary(arguments, env);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("agent nobody-here does not"), "{errors}");
    }
}

#[test]
fn check_names_the_engine_and_the_server_that_do_not_answer() {
    let env = [
        ("AGENT_ID", "a"),
        ("AGENT_TOKEN", CANARY),
        ("API_SERVER_URL", "ws://127.0.0.1:9"),
        ("DOCKER_HOST", "unix:///nonexistent/docker.sock"),
    ];
    let output = binary(&["check", "--json"], &env);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let statuses: Vec<_> = (0..3)
        .map(|i| report["checks"][i]["status"].as_str())
        .collect();
    assert_eq!(
        statuses,
        [Some("ok"), Some("failed"), Some("failed")],
        "{report}"
    );
    assert!(!report.to_string().contains(CANARY));
}

#[test]
fn config_show_prints_values_with_their_sources_and_no_secret() {
    let env = [
        ("AGENT_ID", "a"),
        ("AGENT_TOKEN", CANARY),
        ("API_SERVER_URL", "ws://127.0.0.1:9"),
    ];
    let text = binary(&["config", "show", "--log-format", "json"], &env);
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    let text = String::from_utf8(text.stdout).unwrap();
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(
        line("agent.id ").ends_with("environment: AGENT_ID"),
        "{text}"
    );
    assert!(
        line("log.format ").ends_with("flag: --log-format"),
        "{text}"
    );
    assert!(line("log.filter ").ends_with("default"), "{text}");
    assert!(line("server.token ").contains("[redacted]"), "{text}");
    let output = binary(&["config", "show", "--json"], &env);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["ok"], true);
    assert!(!text.contains(CANARY) && !shown.to_string().contains(CANARY));
    let broken = binary(&["config", "show"], &[("AGENT_TOKEN", CANARY)]);
    assert_eq!(broken.status.code(), Some(78), "{broken:?}");
    let errors = String::from_utf8(broken.stderr).unwrap();
    assert!(
        errors.contains("agent.id") && !errors.contains(CANARY),
        "{errors}"
    );
    assert!(
        String::from_utf8(broken.stdout)
            .unwrap()
            .contains("log.filter")
    );
}

#[test]
fn env_file_in_the_working_folder_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".env"), "AGENT_ID=from-dot-env\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rental-agent"))
        .args(["--config", "/dev/null", "config", "show", "--json"])
        .env_clear()
        .current_dir(folder.path())
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = &shown["values"][0];
    assert_eq!(
        (&id["key"], &id["value"], &id["source"]),
        (
            &Value::from("agent.id"),
            &Value::from("from-dot-env"),
            &Value::from("env_file")
        )
    );
}

#[test]
fn the_help_names_exit_codes_and_the_version_is_the_packages() {
    let help = binary(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    let help = String::from_utf8(help.stdout).unwrap();
    for part in [
        "Examples:",
        "Exit codes:",
        "78 ",
        "AGENT_TOKEN_FILE",
        "--config",
    ] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
    let version = binary(&["--version"], &[]).stdout;
    assert_eq!(
        String::from_utf8(version).unwrap(),
        format!("rental-agent {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn schema_prints_all_or_one_and_says_which_there_are() {
    let all: Value = serde_json::from_slice(&binary(&["schema"], &[]).stdout).unwrap();
    assert_eq!(all["config"], config::schema());
    let one: Value = serde_json::from_slice(&binary(&["schema", "config"], &[]).stdout).unwrap();
    assert_eq!(one, config::schema());
    let none = binary(&["schema", "nothing"], &[]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        String::from_utf8(none.stderr)
            .unwrap()
            .contains("agent/hello")
    );
}

/// Runs the real binary in an environment of these variables alone, without any file.
fn binary(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rental-agent"))
        .args(["--config", "/dev/null"])
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}
