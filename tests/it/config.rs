//! Configuration: where values come from, and which source wins.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test ends where its expectation does"
)]

mod examples;
mod faults;
mod sources;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rental_agent::config::{self, Config, ConfigError, Flag, Overrides, Token};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// What has to be set, in the environment.
const REQUIRED: &[(&str, &str)] = &[
    ("AGENT_ID", "host-1"),
    ("API_SERVER_URL", "wss://server.example.com"),
    ("AGENT_TOKEN", "t0"),
];

/// The one that RFC 8410 prints.
const ED25519_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
                           MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                           -----END PRIVATE KEY-----\n";

/// Its public half.
const ED25519_PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
                                  MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                                  -----END PUBLIC KEY-----\n";

#[test]
fn each_source_is_stronger_than_the_one_before() {
    let file = "[agent]\nid = 'from-file'\n[resources]\nmax_instances = 2";
    let short = ("AGENT_ID", "from-short");
    let long = ("RENTAL_AGENT__AGENT__ID", "from-long");
    let set = ("agent.id", "from-set");
    let id = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]| {
        let rest = [REQUIRED[1], REQUIRED[2]];
        let config = load(file, &[&rest, env].concat(), flags).unwrap();
        config.agent.id.to_string()
    };
    assert_eq!(id(file, &[], &[]), "from-file");
    assert_eq!(id(file, &[short], &[]), "from-short");
    assert_eq!(id(file, &[short, long], &[]), "from-long");
    assert_eq!(id(file, &[short, long], &[set]), "from-set");
    assert_eq!(id(file, &[], &[set, ("agent.id", "the-last")]), "the-last");
    assert_eq!(id(file, &[("AGENT_ID", "")], &[]), "from-file");
    // A default is weaker than the file, and the file weaker than the rest, for every type alike.
    let instances = |file: &str, env: &[(&str, &str)]| {
        let config = load(file, &[REQUIRED, env].concat(), &[]).unwrap();
        config.resources.instances
    };
    assert_eq!(instances("", &[]), 64);
    assert_eq!(instances(file, &[]), 2);
    assert_eq!(
        instances(file, &[("RENTAL_AGENT__RESOURCES__MAX_INSTANCES", "3")]),
        3
    );
}

#[test]
fn tables_are_merged_key_by_key_and_lists_are_replaced() {
    let file = "[agent]\nlabels = { zone = 'a', 'Rack.No' = '1' }\n\
                [resources.reserve]\ncpus = 2\nmemory_bytes = 7\n\
                [policy]\nallowed_registries = ['a.example', 'b.example']";
    let env = [
        ("RENTAL_AGENT__AGENT__LABELS", r#"{"zone": "b"}"#),
        (
            "RENTAL_AGENT__RESOURCES__RESERVE",
            r#"{"cpus": 3, "disk_bytes": 9}"#,
        ),
        ("RENTAL_AGENT__RESOURCES__RESERVE__CPUS", "4"),
        (
            "RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES",
            r#"["c.example:5000"]"#,
        ),
    ];
    let config = load(file, &[REQUIRED, &env].concat(), &[]).unwrap();
    let labels = [("Rack.No", "1"), ("zone", "b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(config.agent.labels, BTreeMap::from(labels));
    let reserve = &config.resources;
    assert_eq!(
        (
            reserve.reserve_cpus,
            reserve.reserve_memory_bytes,
            reserve.reserve_disk_bytes
        ),
        (4.0, 7, 9)
    );
    assert_eq!(
        config.policy.allowed_registries.unwrap(),
        ["c.example:5000"]
    );
}

#[test]
fn every_key_can_be_set_by_the_environment() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("file");
    write(&path, "-----BEGIN CERTIFICATE-----\n".trim(), 0o600);
    write(&files.path().join("token"), "t1", 0o600);
    let keys_for_http = http_files(files.path());
    let signing_key = files.path().join("key");
    write(&signing_key, ED25519_KEY, 0o600);
    let public_key = files.path().join("public");
    write(&public_key, ED25519_PUBLIC_KEY, 0o600);
    let public_key = public_key.display().to_string();
    let before = format!("{:?}", load("", REQUIRED, &[]).unwrap());
    let all = keys(&config::schema(), "");
    assert!(all.len() > 25, "{all:?}");
    for (key, schema) in all {
        let http_file = keys_for_http.get(key.as_str());
        let value = match (&schema["format"], key.as_str()) {
            _ if http_file.is_some() => http_file.unwrap().display().to_string(),
            (_, "policy.command_public_key_file") => public_key.clone(),
            (_, "gpu.cuda_library") => "/usr/lib/libcuda.so.1".to_owned(),
            (_, "server.jwt_key_file") => signing_key.display().to_string(),
            (_, "server.token_file") => files.path().join("token").display().to_string(),
            (Value::String(format), _) if format == "path" => path.display().to_string(),
            _ => another_value(&key, &schema),
        };
        let name = format!("RENTAL_AGENT__{}", key.replace('.', "__").to_uppercase());
        let mut env: BTreeMap<_, _> = REQUIRED.iter().copied().collect();
        if ["server.token_file", "server.jwt_key_file"].contains(&key.as_str()) {
            env.remove("AGENT_TOKEN");
        }
        env.insert(&name, &value);
        let file_of = |key: &str| keys_for_http[key].to_str().unwrap();
        // What is only right together with another key.
        let with = match key.as_str() {
            "http.auth.issuer" => Some(("PUBLIC_KEY_FILE", file_of("http.auth.public_key_file"))),
            _ if key.starts_with("http.auth.") && key.ends_with("_file") => Some(("ISSUER", "me")),
            "http.auth" | "http.auth.max_token_age_s" => {
                env.insert("RENTAL_AGENT__HTTP__AUTH__ISSUER", "me");
                Some(("PUBLIC_KEY_FILE", file_of("http.auth.public_key_file")))
            }
            _ => None,
        };
        let with = with.map(|(name, value)| (format!("RENTAL_AGENT__HTTP__AUTH__{name}"), value));
        env.extend(with.as_ref().map(|(name, value)| (name.as_str(), *value)));
        match key.as_str() {
            "http.tls.cert_file" => {
                env.insert(
                    "RENTAL_AGENT__HTTP__TLS__KEY_FILE",
                    file_of("http.tls.key_file"),
                );
            }
            "http.tls.key_file" => {
                env.insert(
                    "RENTAL_AGENT__HTTP__TLS__CERT_FILE",
                    file_of("http.tls.cert_file"),
                );
            }
            _ => {}
        }
        // A key is checked, and in force only when it is required.
        if key.starts_with("policy.command") {
            env.insert("RENTAL_AGENT__POLICY__REQUIRE_SIGNED_COMMANDS", "true");
        }
        if key == "policy.require_signed_commands" {
            env.insert("RENTAL_AGENT__POLICY__COMMAND_PUBLIC_KEY_FILE", &public_key);
        }
        let env: Vec<_> = env.into_iter().collect();
        let config = load("", &env, &[]).unwrap_or_else(|e| panic!("{name}={value}: {e}"));
        // The value of a token is not in the debug output, and allowing plain text leaves no trace.
        let silent = ["server.token", "server.allow_plaintext", "http.tls"];
        if !silent.contains(&key.as_str()) {
            assert_ne!(
                format!("{config:?}"),
                before,
                "{name}={value} changes nothing"
            );
        }
    }
}

#[test]
fn the_short_names_set_their_keys() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write(file.path(), "from-file\n", 0o600);
    let path = file.path().to_str().unwrap();
    let env = [
        ("AGENT_ID", "a"),
        ("API_SERVER_URL", "http://localhost:7070/"),
        ("AGENT_TOKEN_FILE", path),
        ("DOCKER_HOST", "unix:///tmp/d.sock"),
    ];
    let config = load("", &env, &[]).unwrap();
    assert_eq!(config.agent.id.as_str(), "a");
    assert_eq!(config.server.url.as_str(), "ws://localhost:7070/");
    assert_eq!(config.docker.host, "unix:///tmp/d.sock");
    assert!(matches!(&config.server.token, Token::File(file) if file == Path::new(path)));
    assert_eq!(
        config.server.token.read().unwrap().expose_secret(),
        "from-file"
    );
}

#[test]
fn a_token_is_taken_as_it_is_written() {
    for token in ["0123", "1e5", "true", "123456789012345678901234567890"] {
        let env = [REQUIRED[0], REQUIRED[1], ("AGENT_TOKEN", token)];
        let config = load("", &env, &[]).unwrap();
        assert_eq!(config.server.token.read().unwrap().expose_secret(), token);
    }
}

#[test]
fn a_stronger_source_replaces_token_token_file_and_jwt_key_file_by_one_another() {
    let token = tempfile::NamedTempFile::new().unwrap();
    write(token.path(), "t", 0o600);
    let path = token.path().to_str().unwrap();
    let with_file = format!("[server]\ntoken_file = '{path}'");
    let config = load(&with_file, REQUIRED, &[]).unwrap();
    assert!(matches!(config.server.token, Token::Static(_)));
    let config = load(
        "[server]\ntoken = 't'",
        &REQUIRED[..2],
        &[("server.token_file", path)],
    )
    .unwrap();
    assert!(matches!(config.server.token, Token::File(_)));
    let key = tempfile::NamedTempFile::new().unwrap();
    write(key.path(), ED25519_KEY, 0o600);
    let key = key.path().to_str().unwrap();
    let config = load(&with_file, REQUIRED, &[("server.jwt_key_file", key)]).unwrap();
    assert!(matches!(config.server.token, Token::Jwt(_)));
    let with_key = format!("[server]\njwt_key_file = '{key}'");
    let config = load(&with_key, REQUIRED, &[]).unwrap();
    assert!(matches!(config.server.token, Token::Static(_)));
    let all_but_one = [
        &REQUIRED[..2],
        &[("RENTAL_AGENT__SERVER__TOKEN_FILE", path)],
    ]
    .concat();
    let key_too = [
        &all_but_one[..],
        &[("RENTAL_AGENT__SERVER__JWT_KEY_FILE", key)],
    ]
    .concat();
    assert_eq!(faulty(load("", &key_too, &[])), ["server.token_file"]);
    // Within one source there is no telling which is meant.
    let both = [REQUIRED, &[("RENTAL_AGENT__SERVER__TOKEN_FILE", path)]].concat();
    assert_eq!(faulty(load("", &both, &[])), ["server.token"]);
}

#[test]
fn urls_are_normalised_and_plain_text_needs_a_loopback_or_permission() {
    for (given, url) in [
        ("https://s.example.com", "wss://s.example.com/"),
        (
            "wss://s.example.com:8443/api/",
            "wss://s.example.com:8443/api",
        ),
        ("http://127.8.0.1:7070", "ws://127.8.0.1:7070/"),
        ("ws://[::1]:7070", "ws://[::1]:7070/"),
        ("ws://localhost", "ws://localhost/"),
    ] {
        let config = with(&[("API_SERVER_URL", given)]).unwrap();
        assert_eq!(config.server.url.as_str(), url);
    }
    for given in [
        "http://s.example.com",
        "ws://10.0.0.1",
        "ws://localhost.example.com",
    ] {
        assert_eq!(faulty(with(&[("API_SERVER_URL", given)])), ["server.url"]);
        let allowed = [
            ("API_SERVER_URL", given),
            ("RENTAL_AGENT__SERVER__ALLOW_PLAINTEXT", "true"),
        ];
        assert_eq!(with(&allowed).unwrap().server.url.scheme(), "ws");
    }
}

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    write(&path, file, 0o600);
    load_file(path, env, flags)
}

fn load_file(
    file: PathBuf,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let flag = |(key, value): &(&str, &str)| Flag {
        name: "--set".into(),
        key: (*key).into(),
        value: (*value).into(),
    };
    let overrides = Overrides {
        file: Some(file),
        env_file: None,
        settings: flags.iter().map(flag).collect(),
    };
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    config::load(&overrides, env.iter().map(own).collect())
}

/// What is required, and this.
fn with(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load("", &[REQUIRED, env].concat(), &[])
}

/// A file for each key of the HTTP surface that names one.
fn http_files(directory: &Path) -> BTreeMap<&'static str, PathBuf> {
    let contents = [
        (
            "http.auth.hs256_secret_file",
            "0123456789abcdef0123456789abcdef",
        ),
        ("http.auth.jwks_file", r#"{"keys": [{"kty": "OKP"}]}"#),
        ("http.auth.public_key_file", "-----BEGIN PUBLIC KEY-----"),
        ("http.tls.cert_file", "-----BEGIN CERTIFICATE-----"),
        ("http.tls.key_file", "-----BEGIN PRIVATE KEY-----"),
    ];
    let files = contents.map(|(key, content)| {
        let path = directory.join(key);
        write(&path, content, 0o600);
        (key, path)
    });
    files.into()
}

fn write(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// All settable keys with their schemas, read from the schema without the program's own reading.
fn keys(schema: &Value, prefix: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        found.extend(keys(property, &format!("{path}.")));
        if !prefix.is_empty() {
            found.insert(path, property.clone());
        }
    }
    found
}

/// A value that is allowed and is not the default: the schema's example, else one made by its type.
fn another_value(key: &str, schema: &Value) -> String {
    let default = &schema["default"];
    match schema["type"].as_str() {
        _ if !schema["examples"].is_null() => {
            let example = &schema["examples"][0];
            example
                .as_str()
                .map_or_else(|| example.to_string(), str::to_owned)
        }
        Some("boolean") => (*default != json!(true)).to_string(),
        Some("integer") => (default.as_u64().unwrap() - 1).to_string(),
        Some("number") => (default.as_f64().unwrap() + 1.5).to_string(),
        Some("string") if schema["enum"].is_array() => {
            let choices = schema["enum"].as_array().unwrap();
            let other = choices.iter().find(|choice| *choice != default).unwrap();
            other.as_str().unwrap().to_owned()
        }
        _ => panic!("{key} needs an `example` in its schema"),
    }
}

/// The keys of the faults.
fn faulty(result: Result<Config, ConfigError>) -> Vec<String> {
    let faults = result.expect_err("it was accepted").0;
    faults.into_iter().map(|fault| fault.key).collect()
}
