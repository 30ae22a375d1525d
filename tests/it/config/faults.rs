//! Configuration: what is refused, and how that is said.

use std::fs;

use rental_agent::config::{self, ConfigError};
use serde_json::{Value, json};

use super::{REQUIRED, faulty, load, load_file, with, write};

/// Stands for a secret; it may be seen nowhere.
const CANARY: &str = "canary-7f3a";

/// Values of each key that are of the wrong type, out of range or against its rule.
const REFUSED: &[(&str, &[&str])] = &[
    ("agent.id", &["-a", "A", "a.b", "ä"]),
    (
        "agent.labels",
        &[
            r#"{"": "x"}"#,
            r#"{"a b": "x"}"#,
            r#"{"a": "\u0007"}"#,
            r#"{"a": 1}"#,
            "[]",
            "zone=a",
        ],
    ),
    (
        "server.url",
        &[
            "s.example.com",
            "ftp://s.example.com",
            "wss://",
            "wss://h/?a=b",
        ],
    ),
    ("server.allow_plaintext", &["yes", "1", "TRUE"]),
    (
        "server.ca_file",
        &["ca.pem", "/nonexistent/ca.pem", "/proc/version"],
    ),
    (
        "docker.host",
        &[
            "tcp://127.0.0.1:2375",
            "/var/run/docker.sock",
            "unix://docker.sock",
        ],
    ),
    ("docker.pull_stall_s", &["0", "1e9", "NaN", "inf", "two"]),
    (
        "network.name",
        &["host", "bridge", "-x", "a b", "container:x"],
    ),
    (
        "network.subnet",
        &[
            "8.8.8.0/24",
            "10.0.0.0/8",
            "10.0.0.0/30",
            "10.0.0.1/24",
            "172.16.0.0/11",
            "fd00::/64",
            "x",
        ],
    ),
    (
        "network.port_range",
        &[
            "30000",
            "31000-30000",
            "80-90",
            "1-2000",
            "60000-70000",
            "a-b",
        ],
    ),
    (
        "network.public_address",
        &[
            "https://a.example",
            "a.example:80",
            "0.0.0.0",
            "[::1]",
            "a b",
        ],
    ),
    (
        "resources.max_instances",
        &["0", "-1", "1.5", "1e3", "99999999999999999999"],
    ),
    (
        "resources.reserve",
        &[
            "{}x",
            "[]",
            "1",
            r#"{"cpus": "x"}"#,
            r#"{"cpus": -1}"#,
            r#"{"colour": 1}"#,
        ],
    ),
    (
        "resources.ulimits",
        &[
            r#"{"nofiles": {"soft": 1, "hard": 1}}"#,
            r#"{"nofile": {"soft": 2, "hard": 1}}"#,
            r#"{"nofile": {"soft": -1, "hard": 1}}"#,
            r#"{"nofile": {"soft": 1}}"#,
            r#"{"nofile": {"soft": 1, "hard": 1, "x": 1}}"#,
            r#"{"nofile": 5}"#,
        ],
    ),
    (
        "policy.allowed_registries",
        &[
            "docker.io",
            r#"["https://docker.io"]"#,
            r#"["Docker.io"]"#,
            r#"["a/b"]"#,
            r#"["a:0"]"#,
            r#"["a:99999"]"#,
            "[5]",
        ],
    ),
    ("policy.runtime", &["a b", "/bin/runc"]),
    (
        "policy.command_public_key_file",
        &["commands.pub", "/nonexistent", "/proc/version"],
    ),
    ("policy.require_signed_commands", &["yes"]),
    (
        "gpu.driver_capabilities",
        &["compute,", "everything", "compute utility"],
    ),
    ("gpu.nvml_library", &["libnvidia-ml.so.1"]),
    ("gpu.verify", &["yes", "Strict"]),
    ("gpu.on_missing_runtime", &["ignore"]),
    ("resources.numa", &["on", "true"]),
    (
        "host.boot_id_file",
        &["boot_id", "/nonexistent", "/dev/null"],
    ),
    ("log.filter", &["loud", "a=b=c"]),
    ("log.format", &["xml", "JSON"]),
];

#[test]
fn values_that_make_no_sense_are_refused() {
    for (key, values) in REFUSED {
        for value in *values {
            let name = format!("RENTAL_AGENT__{}", key.replace('.', "__").to_uppercase());
            let found = faulty(with(&[(name.as_str(), *value)]));
            assert!(
                found.iter().all(|found| found.starts_with(key)),
                "{name}={value}: {found:?}"
            );
            assert_eq!(found.len(), 1, "{name}={value}: {found:?}");
        }
    }
}

/// What only a look at the machine, or more than a pattern, tells.
const BEYOND_THE_SCHEMA: &[&str] = &[
    "/nonexistent/ca.pem",
    "/proc/version",
    "8.8.8.0/24",
    "10.0.0.1/24",
    "31000-30000",
    "80-90",
    "1-2000",
    "60000-70000",
    r#"{"nofile": {"soft": 2, "hard": 1}}"#,
    r#"{"nofile": {"soft": -1, "hard": 1}}"#,
    r#"["a:0"]"#,
    r#"["a:99999"]"#,
    "/nonexistent",
    "/dev/null",
    "loud",
    "a=b=c",
    // A whole number to a schema, but not as it is written.
    "1e3",
];

#[test]
fn what_is_refused_the_schema_refuses_too_where_it_can_say_it() {
    let schema = jsonschema::draft202012::new(&config::schema()).unwrap();
    let mut faults = Vec::new();
    for (key, values) in REFUSED {
        for value in *values {
            // Texts as they are; everything else as JSON, like in the environment.
            let text = Value::from(*value);
            let typed = serde_json::from_str(value).unwrap_or_else(|_| text.clone());
            let (section, name) = key.split_once('.').unwrap();
            let accepted = [text, typed]
                .iter()
                .any(|value| schema.is_valid(&json!({ section: { name: value } })));
            let beyond = BEYOND_THE_SCHEMA.contains(value) || *key == "network.public_address";
            faults.extend((accepted != beyond).then(|| format!("{key} = {value}: {accepted}")));
        }
    }
    assert!(
        faults.is_empty(),
        "accepted by the schema, or refused as no pattern can: {faults:#?}"
    );
}

#[test]
fn signed_commands_need_a_key_that_nobody_else_can_change() {
    let required = ("RENTAL_AGENT__POLICY__REQUIRE_SIGNED_COMMANDS", "true");
    let key = "policy.command_public_key_file";
    assert_eq!(faulty(with(&[required])), [key]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let named = ("RENTAL_AGENT__POLICY__COMMAND_PUBLIC_KEY_FILE", path);
    write(file.path(), super::ED25519_PUBLIC_KEY, 0o644);
    let in_force = |env: &[(&str, &str)]| with(env).unwrap().policy.command_key.is_some();
    assert!(in_force(&[required, named]));
    assert!(!in_force(&[named]));
    write(file.path(), super::ED25519_PUBLIC_KEY, 0o646);
    assert_eq!(faulty(with(&[required, named])), [key]);
    // The private half is not the public one.
    write(file.path(), super::ED25519_KEY, 0o600);
    assert_eq!(faulty(with(&[required, named])), [key]);
}

#[test]
fn the_file_holds_typed_values() {
    for (line, key) in [
        ("resources.max_instances = '5'", "resources.max_instances"),
        ("resources.default_cpus = true", "resources.default_cpus"),
        ("resources.default_cpus = nan", "resources.default_cpus"),
        ("policy.sudo = 1", "policy.sudo"),
        ("agent.labels = { a = 1 }", "agent.labels"),
        (
            "policy.allowed_registries = ['a', 1]",
            "policy.allowed_registries",
        ),
        ("docker = 'unix:///x'", "docker"),
        ("log.filter = 3", "log.filter"),
    ] {
        assert_eq!(faulty(load(line, REQUIRED, &[])), [key], "{line}");
    }
}

#[test]
fn all_faults_are_reported_at_once_each_with_what_to_do() {
    let file = "[agent]\nid = 'NOT AN ID'\nlabel = 'x'\n[srver]\nurl = 'x'\n\
                [resources]\npids_limit = 1\n[network]\nport_range = '9-1'";
    let env = [
        ("RENTAL_AGENT__LOG__LEVEL", "debug"),
        ("RENTAL_AGENT__POLICY__SUDO", "perhaps"),
        ("DOCKER_HOST", "tcp://somewhere"),
    ];
    let error = load(file, &env, &[("log.format", "xml")]).unwrap_err();
    let mut found: Vec<_> = error.0.iter().map(|fault| fault.key.as_str()).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "RENTAL_AGENT__LOG__LEVEL",
            "agent.id",
            "agent.label",
            "docker.host",
            "log.format",
            "network.port_range",
            "policy.sudo",
            "resources.pids_limit",
            "server.token_file",
            "server.url",
            "srver",
        ]
    );
    let text = error.to_string();
    for fault in &error.0 {
        assert!(
            !fault.reason.is_empty() && !fault.remedy.is_empty(),
            "{fault:?}"
        );
        assert!(
            text.contains(&fault.reason) && text.contains(&fault.remedy),
            "{fault:?}"
        );
    }
    let port = error
        .0
        .iter()
        .find(|fault| fault.key == "network.port_range")
        .unwrap();
    assert_eq!(port.value.as_deref(), Some("9-1"));
    assert!(
        port.source.as_ref().unwrap().ends_with("config.toml"),
        "{port:?}"
    );
    let sudo = error
        .0
        .iter()
        .find(|fault| fault.key == "policy.sudo")
        .unwrap();
    assert_eq!(sudo.source.as_deref(), Some("RENTAL_AGENT__POLICY__SUDO"));
}

#[test]
fn unknown_keys_are_faults_with_the_nearest_right_name() {
    let remedy = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]| {
        let error = load(file, &[REQUIRED, env].concat(), flags).unwrap_err();
        assert_eq!(error.0.len(), 1, "{error}");
        error.0[0].remedy.clone()
    };
    assert_eq!(
        remedy("[server]\nca_fle = 'x'", &[], &[]),
        "did you mean server.ca_file?"
    );
    assert_eq!(remedy("sudo = true", &[], &[]), "did you mean policy.sudo?");
    assert_eq!(
        remedy("[resources.reserve]\nmemory = 1", &[], &[]),
        "did you mean resources.reserve.memory_bytes?"
    );
    assert_eq!(
        remedy("", &[("RENTAL_AGENT__NETWORK__PORTRANGE", "1-2")], &[]),
        "did you mean RENTAL_AGENT__NETWORK__PORT_RANGE?"
    );
    assert_eq!(
        remedy("", &[], &[("resources.maxinstances", "1")]),
        "did you mean resources.max_instances?"
    );
    // Variables that others set for us to see, like a cluster's, are none of ours.
    load(
        "",
        &[
            REQUIRED,
            &[
                ("RENTAL_AGENT_SERVICE_HOST", "10.0.0.1"),
                ("RENTAL_AGENT_PORT", "x"),
            ],
        ]
        .concat(),
        &[],
    )
    .unwrap();
}

#[test]
fn a_secret_is_in_no_fault_and_in_no_debug_output() {
    let config = load(
        "",
        &[REQUIRED[0], REQUIRED[1], ("AGENT_TOKEN", CANARY)],
        &[],
    )
    .unwrap();
    assert!(!format!("{config:?}").contains(CANARY));
    let spaced = format!("{CANARY} {CANARY}");
    let url = format!("wss://user:{CANARY}@server.example.com");
    let bad_url = format!("not a url {CANARY}@x");
    let query = format!("wss://server.example.com/?token={CANARY}");
    let engine = format!("tcp://u:{CANARY}@host");
    let envs: &[(&str, &str)] = &[
        ("AGENT_TOKEN", &spaced),
        ("AGENT_TOKEN_FILE", CANARY),
        ("RENTAL_AGENT__SERVER__TOKN", CANARY),
        ("RENTAL_AGENT__TOKEN", CANARY),
        ("RENTAL_AGENT__SERVER", CANARY),
        ("API_SERVER_URL", &url),
        ("API_SERVER_URL", &bad_url),
        ("API_SERVER_URL", &query),
        ("DOCKER_HOST", &engine),
    ];
    for env in envs {
        let error = load("", &[REQUIRED, &[*env]].concat(), &[]).unwrap_err();
        silent(&error, env.0);
    }
    for file in [
        format!("[server]\ntoken = \"{CANARY}"),
        format!("[server]\ntoken = {CANARY}"),
        format!("[server]\ntoken = ['{CANARY}']"),
        format!("[server]\ntoken = {{ a = '{CANARY}' }}"),
        format!("[server]\ntokn = '{CANARY}'"),
        format!("server = '{CANARY}'"),
        format!("token = '{CANARY}'"),
        format!("token = '{CANARY}'\ntoken = '{CANARY}'"),
        format!("[server]\ntoken = '{CANARY}' '{CANARY}'"),
        format!("[server]\ntoken = '''{CANARY}\n | {CANARY}\n"),
        format!("[server]\ntoken = '{CANARY} x'"),
        format!("[server]\ntoken_file = '{CANARY}'"),
    ] {
        let error = load(&file, &REQUIRED[..2], &[]).unwrap_err();
        silent(&error, &file);
    }
    let error = load("", REQUIRED, &[("server.token", CANARY)]).unwrap_err();
    silent(&error, "--set");
    // The scan itself works: what is no secret is shown.
    let error = with(&[("AGENT_ID", &format!("{CANARY}-"))]).unwrap_err();
    assert!(error.to_string().contains(CANARY));
}

#[test]
fn a_broken_file_is_told_by_line_and_hides_no_other_fault() {
    let file = "[agent]\nid = 'a'\n[log\nformat = 'text'";
    let error = load(file, &[("DOCKER_HOST", "tcp://x")], &[]).unwrap_err();
    let [broken, engine] = error.0.as_slice() else {
        panic!("{error}");
    };
    assert!(broken.reason.contains("line 3"), "{broken}");
    assert_eq!(engine.key, "docker.host");
}

#[test]
fn f16_files_that_cannot_be_read_or_that_everyone_can_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let token_file = |mode: Option<u32>| {
        let _ = fs::remove_file(&token);
        if let Some(mode) = mode {
            write(&token, "t", mode);
        }
        load(
            "",
            &REQUIRED[..2],
            &[("server.token_file", token.to_str().unwrap())],
        )
    };
    for mode in [0o600, 0o400, 0o640] {
        token_file(Some(mode)).unwrap();
    }
    for mode in [Some(0o644), Some(0o604), Some(0o602), None] {
        assert_eq!(faulty(token_file(mode)), ["server.token_file"], "{mode:?}");
    }
    let key = |content: &str, mode: u32| {
        write(&token, content, mode);
        let path = token.to_str().unwrap();
        load("", &REQUIRED[..2], &[("server.jwt_key_file", path)])
    };
    key(super::ED25519_KEY, 0o600).unwrap();
    assert_eq!(
        faulty(key(super::ED25519_KEY, 0o644)),
        ["server.jwt_key_file"]
    );
    for content in [
        "",
        CANARY,
        "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5LTdmM2E=\n-----END PRIVATE KEY-----",
    ] {
        let error = key(content, 0o600).unwrap_err();
        assert_eq!(error.0[0].key, "server.jwt_key_file");
        silent(&error, "a key that is none");
    }
    let config = directory.path().join("config.toml");
    let with_mode = |text: &str, mode: u32| {
        write(&config, text, mode);
        load_file(config.clone(), REQUIRED, &[])
    };
    with_mode("", 0o644).unwrap();
    with_mode("[server]\ntoken = 't'", 0o640).unwrap();
    let path = config.to_str().unwrap();
    assert_eq!(faulty(with_mode("[server]\ntoken = 't'", 0o644)), [path]);
    assert_eq!(faulty(with_mode("", 0o666)), [path]);
    fs::remove_file(&config).unwrap();
    assert_eq!(faulty(load_file(config.clone(), REQUIRED, &[])), [path]);
    let parent = directory.path().to_owned();
    assert_eq!(
        faulty(load_file(parent, &[], &[])).len(),
        1,
        "nothing is said to be missing"
    );
}

fn silent(error: &ConfigError, what: &str) {
    let json = serde_json::to_string(&error.0).unwrap();
    let all = format!("{error} {error:?} {json}");
    assert!(!all.contains(CANARY), "with {what}: {all}");
}
