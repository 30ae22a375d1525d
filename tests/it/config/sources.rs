//! Configuration: YAML, `.env`, and where each value in force was read.

use std::{collections::BTreeMap, fs, path::PathBuf};

use rental_agent::config::{
    self, Config, ConfigError, Entry, Flag, Overrides, Shown, Source, Token,
};
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;

use super::{REQUIRED, faulty, write};

/// Stands for a secret; it may be seen nowhere.
const CANARY: &str = "canary-7f3a";

/// All places that values are read from.
struct Places {
    folder: TempDir,
    file: PathBuf,
    env: Vec<(&'static str, String)>,
    flags: Vec<(&'static str, &'static str)>,
}

impl Places {
    /// With everything that is required in the environment.
    fn new(file: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(file);
        write(&file, text, 0o600);
        let env = REQUIRED.iter().map(|(k, v)| (*k, (*v).to_owned()));
        Self {
            env: env.collect(),
            file,
            folder,
            flags: Vec::new(),
        }
    }

    fn env_file(self, text: &str) -> Self {
        write(&self.folder.path().join(".env"), text, 0o600);
        self
    }

    fn read(&self) -> (Overrides, BTreeMap<String, String>) {
        let flag = |(key, value): &(&str, &str)| Flag {
            name: "--set".into(),
            key: (*key).into(),
            value: (*value).into(),
        };
        let overrides = Overrides {
            file: Some(self.file.clone()),
            env_file: Some(self.folder.path().join(".env")),
            settings: self.flags.iter().map(flag).collect(),
        };
        let env = self.env.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
        (overrides, env.collect())
    }

    fn load(&self) -> Result<Config, ConfigError> {
        let (overrides, env) = self.read();
        config::load(&overrides, env)
    }

    fn show(&self) -> Shown {
        let (overrides, env) = self.read();
        config::show(&overrides, &env)
    }
}

fn entry<'a>(shown: &'a Shown, key: &str) -> &'a Entry {
    let found = shown.values.iter().find(|entry| entry.key == key);
    found.unwrap_or_else(|| panic!("{key} is not shown"))
}

#[test]
fn yaml_says_what_toml_says() {
    let toml = "[agent]\nlabels = { zone = 'a', rack = '7' }\n[resources]\nmax_instances = 2\n\
                default_cpus = 1.5\n[resources.reserve]\ncpus = 1\n\
                [policy]\nallowed_registries = ['docker.io']\nsudo = true";
    let yaml = "agent:\n  labels: { zone: a, rack: \"7\" }\nresources:\n  max_instances: 2\n  \
                default_cpus: 1.5\n  reserve:\n    cpus: 1\n\
                policy:\n  allowed_registries:\n    - docker.io\n  sudo: true\n";
    let loaded = |name: &str, text: &str| format!("{:?}", Places::new(name, text).load().unwrap());
    let toml = loaded("config.toml", toml);
    assert_eq!(loaded("config.yaml", yaml), toml);
    assert_eq!(loaded("config.yml", yaml), toml);
    // A key without a value is an unset one, and so is a section.
    let unset = loaded("c.yaml", "# only\nserver:\nnetwork:\n  subnet:\n");
    assert_eq!(unset, loaded("c.toml", ""));
    assert_eq!(loaded("c.yaml", ""), unset);
}

#[test]
fn yaml_is_read_as_strictly_as_toml() {
    for (text, key) in [
        (
            "resources:\n  max_instances: '5'",
            "resources.max_instances",
        ),
        ("policy:\n  sudo: yes", "policy.sudo"),
        ("agent:\n  labels: { rack: 7 }", "agent.labels"),
        ("agent:\n  id: 7", "agent.id"),
        ("docker: unix:///x", "docker"),
        ("servr:\n  url: x", "servr"),
    ] {
        let mut places = Places::new("c.yaml", text);
        places
            .env
            .retain(|(name, _)| key != "agent.id" || *name != "AGENT_ID");
        assert_eq!(faulty(places.load()), [key], "{text}");
    }
    let error = Places::new("c.yaml", "server:\n  ca_fle: x")
        .load()
        .unwrap_err();
    assert_eq!(error.0[0].remedy, "did you mean server.ca_file?");
}

#[test]
fn broken_yaml_is_told_by_line_and_shows_no_secret() {
    for (text, words) in [
        (format!("server:\n  token: \"{CANARY}\n"), "line "),
        (format!("server:\n  url: x\n token: {CANARY}\n"), "line 3"),
        (format!("server:\n\ttoken: {CANARY}"), "line 2"),
        (format!("{CANARY}: 1\n{CANARY}: 2"), "there twice, line 2"),
        (
            format!("? [{CANARY}]\n: 1\n? [{CANARY}]\n: 2"),
            "there twice",
        ),
        (format!("? [{CANARY}]\n: 1"), "keys"),
        (format!("- {CANARY}"), "top is a table"),
        (
            format!("a: 1\n---\nserver:\n  token: {CANARY}"),
            "one YAML document",
        ),
        (format!("server: {{ token: .inf, x: {CANARY} }}"), "finite"),
        (CANARY.to_owned(), "top is a table"),
    ] {
        let error = Places::new("c.yaml", &text).load().unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains(words), "{text}: {error}");
        assert!(!said.contains(CANARY), "{text}: {error}");
        assert!(error.0[0].key.ends_with("c.yaml"), "{error}");
    }
    for text in [
        format!("server:\n  token: [{CANARY}]"),
        format!("server:\n  tokn: {CANARY}"),
        format!("server: {CANARY}"),
    ] {
        let mut places = Places::new("c.yaml", &text);
        places.env.truncate(1);
        let error = places.load().unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
    }
}

#[test]
fn a_yaml_file_with_a_token_that_everyone_can_read_is_refused() {
    let places = Places::new("c.yaml", "server:\n  token: t");
    write(&places.file, "server:\n  token: t", 0o644);
    assert_eq!(faulty(places.load()), [places.file.to_str().unwrap()]);
}

#[test]
fn env_file_is_stronger_than_the_file_and_weaker_than_the_environment() {
    let id = |env_file: &str, env: Option<&str>| {
        let mut places = Places::new("c.toml", "agent.id = 'file'").env_file(env_file);
        places.env.retain(|(name, _)| *name != "AGENT_ID");
        places.env.extend(env.map(|id| ("AGENT_ID", id.to_owned())));
        places.load().unwrap().agent.id.to_string()
    };
    assert_eq!(id("", None), "file");
    assert_eq!(id("AGENT_ID=short", None), "short");
    assert_eq!(
        id("RENTAL_AGENT__AGENT__ID=long\nAGENT_ID=short", None),
        "long"
    );
    // Also when the stronger place uses the weaker name, and when it sets nothing.
    assert_eq!(id("RENTAL_AGENT__AGENT__ID=long", Some("env")), "env");
    assert_eq!(id("AGENT_ID=short", Some("")), "short");
}

#[test]
fn env_file_takes_part_in_the_replacement_of_a_token_by_its_file() {
    let token = tempfile::NamedTempFile::new().unwrap();
    write(token.path(), "from-file", 0o600);
    let line = format!("AGENT_TOKEN_FILE={}", token.path().display());
    let mut places = Places::new("c.toml", "[server]\ntoken = 'weak'").env_file(&line);
    let environment = places.load().unwrap().server.token;
    assert!(matches!(environment, Token::Static(_)), "{environment:?}");
    places.env.retain(|(name, _)| *name != "AGENT_TOKEN");
    let env_file = places.load().unwrap().server.token;
    assert_eq!(env_file.read().unwrap().expose_secret(), "from-file");
}

#[test]
fn faults_of_env_file_are_told_by_file_and_line_without_its_words() {
    let text = format!(
        "# {CANARY}\nAGENT_TOKEN='{CANARY}\n{CANARY}\nRENTAL_AGENT__SERVER__TOKN={CANARY}\n\
         RENTAL_AGENT__POLICY__SUDO=perhaps\nOTHER=1\nOTHER=2\nSOMEBODY_ELSES={CANARY}\n"
    );
    let places = Places::new("c.toml", "").env_file(&text);
    let path = places.folder.path().join(".env").display().to_string();
    let error = places.load().unwrap_err();
    let found: Vec<_> = error.0.iter().map(|fault| fault.key.as_str()).collect();
    let lines = [2, 3, 7].map(|line| format!("{path}:{line}"));
    assert_eq!(
        found,
        [
            lines[0].as_str(),
            &lines[1],
            &lines[2],
            "RENTAL_AGENT__SERVER__TOKN",
            "policy.sudo"
        ]
    );
    let source = |index: usize| error.0[index].source.clone().unwrap();
    assert_eq!(source(3), format!("{path}, line 4"));
    assert_eq!(source(4), format!("{path}, line 5"));
    assert_eq!(
        error.0[3].remedy,
        "did you mean RENTAL_AGENT__SERVER__TOKEN?"
    );
    assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
}

#[test]
fn f16_an_env_file_that_is_open_or_cannot_be_read_is_refused() {
    let with_mode = |text: &str, mode: u32| {
        let places = Places::new("c.toml", "");
        write(&places.folder.path().join(".env"), text, mode);
        (
            places.folder.path().join(".env").display().to_string(),
            places.load(),
        )
    };
    with_mode("A=b", 0o644).1.unwrap();
    with_mode("AGENT_TOKEN=t", 0o640).1.unwrap();
    let (path, refused) = with_mode("AGENT_TOKEN=t", 0o644);
    assert_eq!(faulty(refused), [path]);
    let (path, refused) = with_mode("A=b", 0o646);
    assert_eq!(faulty(refused), [path]);
    let binary = Places::new("c.toml", "");
    let path = binary.folder.path().join(".env");
    fs::write(&path, [b'A', b'=', 0xff]).unwrap();
    assert_eq!(faulty(binary.load()), [path.to_str().unwrap()]);
    // A folder of that name is somebody else's.
    let folder = Places::new("c.toml", "");
    fs::create_dir(folder.folder.path().join(".env")).unwrap();
    folder.load().unwrap();
}

#[test]
fn show_names_the_source_of_each_value() {
    let text = "[agent]\nlabels = { zone = 'a', rack = '7' }\n[log]\nformat = 'json'";
    let env_file = "RENTAL_AGENT__AGENT__LABELS='{\"zone\": \"b\"}'\n";
    let mut places = Places::new("c.toml", text).env_file(env_file);
    places.flags = vec![("resources.max_instances", "7")];
    let shown = places.show();
    assert!(shown.ok, "{:?}", shown.faults);
    let is = |key: &str, value: serde_json::Value, source: Source, origin: Option<&str>| {
        let expected = Entry {
            key: key.into(),
            value,
            source,
            origin: origin.map(str::to_owned),
        };
        assert_eq!(*entry(&shown, key), expected);
    };
    let file = places.file.display().to_string();
    let line = format!("{}, line 1", places.folder.path().join(".env").display());
    is(
        "agent.id",
        json!("host-1"),
        Source::Environment,
        Some("AGENT_ID"),
    );
    is(
        "agent.labels.zone",
        json!("b"),
        Source::EnvFile,
        Some(&line),
    );
    is("agent.labels.rack", json!("7"), Source::File, Some(&file));
    is("log.format", json!("json"), Source::File, Some(&file));
    is(
        "resources.max_instances",
        json!(7),
        Source::Flag,
        Some("--set"),
    );
    is("resources.pids_limit", json!(4096), Source::Default, None);
    is("network.subnet", json!(null), Source::Default, None);
    is(
        "server.token",
        json!("[redacted]"),
        Source::Environment,
        Some("AGENT_TOKEN"),
    );
    is("resources.ulimits", json!({}), Source::Default, None);
    // Every key is there.
    for key in super::keys(&config::schema(), "").keys() {
        let within = |entry: &Entry| entry.key.starts_with(key.as_str());
        assert!(shown.values.iter().any(within), "{key}");
    }
}

#[test]
fn show_hides_secrets_also_of_what_cannot_be_used() {
    let mut places = Places::new("c.toml", "[server]\ntoken = ['x']")
        .env_file(&format!("AGENT_TOKEN='{CANARY} {CANARY}'"));
    places.env = vec![
        (
            "API_SERVER_URL",
            format!("wss://user:{CANARY}@server.example.com"),
        ),
        ("DOCKER_HOST", format!("tcp://u:{CANARY}@host")),
        ("RENTAL_AGENT__POLICY__SUDO", "perhaps".into()),
    ];
    let shown = places.show();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    assert!(!shown.ok);
    assert_eq!(entry(&shown, "server.url").value, "[redacted]");
    assert_eq!(entry(&shown, "server.token").source, Source::EnvFile);
    // What could not be read at all is a fault and not in force.
    assert_eq!(entry(&shown, "policy.sudo").value, false);
    assert!(shown.faults.iter().any(|fault| fault.key == "policy.sudo"));
}

/// What the dial goes through, with these variables.
fn proxy(url: &str, env: &[(&'static str, &str)], env_file: &str) -> Option<String> {
    let mut places = Places::new("c.toml", "").env_file(env_file);
    places.env[1].1 = url.to_owned();
    places
        .env
        .extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let proxy = places.load().unwrap().server.proxy?;
    let authorized = proxy.authorization.is_some();
    Some(format!(
        "{} {}:{} {authorized}",
        proxy.variable, proxy.host, proxy.port
    ))
}

#[test]
fn the_proxy_is_that_of_the_urls_scheme_in_either_case_of_the_name() {
    const WSS: &str = "wss://s.example.com";
    let all = [
        ("HTTPS_PROXY", "http://a:1"),
        ("https_proxy", "http://b:2"),
        ("HTTP_PROXY", "http://c:3"),
    ];
    let is = |url: &str, env: &[(&'static str, &str)], expected: &str| {
        assert_eq!(proxy(url, env, "").as_deref(), Some(expected), "{env:?}");
    };
    is(WSS, &all, "HTTPS_PROXY a:1 false");
    is(WSS, &all[1..], "https_proxy b:2 false");
    is(WSS, &[("HTTPS_PROXY", ""), all[1]], "https_proxy b:2 false");
    is(WSS, &[("HTTPS_PROXY", "u:p@a")], "HTTPS_PROXY a:80 true");
    assert_eq!(proxy(WSS, &all[2..], ""), None);
    assert_eq!(proxy("https://127.0.0.1", &all, ""), None);
    assert_eq!(proxy("wss://[::1]:7070", &all, ""), None);
    assert_eq!(
        proxy(WSS, &[all[0], ("NO_PROXY", "x,example.com")], ""),
        None
    );
    assert_eq!(proxy(WSS, &[all[0], ("no_proxy", "*")], ""), None);
    // The environment is stronger than .env, whatever the case of the name.
    let line = "HTTPS_PROXY=http://f:6\n";
    assert_eq!(proxy(WSS, &[], line).unwrap(), "HTTPS_PROXY f:6 false");
    assert_eq!(
        proxy(WSS, &all[1..2], line).unwrap(),
        "https_proxy b:2 false"
    );
}

#[test]
fn a_proxy_that_cannot_be_used_is_a_fault_without_its_credentials() {
    for value in [
        format!("https://u:{CANARY}@p:1"),
        format!("socks5://u:{CANARY}@p:1"),
        format!("http://u:{CANARY}@p:99999"),
        format!("http://u:{CANARY}@p/path"),
        format!("u {CANARY}"),
    ] {
        let mut places = Places::new("c.toml", "");
        places.env.push(("https_proxy", value.clone()));
        let error = places.load().unwrap_err();
        assert_eq!(error.0[0].key, "https_proxy", "{value}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error}");
        // One that is not used may be as it likes.
        places.env.push(("no_proxy", "example.com".into()));
        places.load().unwrap();
    }
    let mut places = Places::new("c.toml", "");
    places
        .env
        .push(("HTTPS_PROXY", format!("http://u:{CANARY}@p:1")));
    let shown = places.show();
    assert_eq!(entry(&shown, "HTTPS_PROXY").value, "http://[redacted]@p:1");
    assert!(!format!("{:?}", places.load().unwrap()).contains(CANARY));
}
