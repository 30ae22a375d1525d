//! The examples under `docs/`: each is right as it is, shows every key, and shows defaults that are
//! the defaults.

use std::{collections::BTreeSet, fs, path::Path};

use rental_agent::config::{self, Config, ConfigError, Overrides};
use serde_json::json;

use super::{ED25519_PUBLIC_KEY, http_files, keys, load_file, write};

/// The text of an example, with files in place of those that it names.
fn example(name: &str, folder: &Path) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    let text = fs::read_to_string(path).unwrap();
    let (token, ca) = (folder.join("token"), folder.join("ca.pem"));
    write(&token, "t", 0o600);
    write(&ca, "-----BEGIN CERTIFICATE-----", 0o644);
    let key = folder.join("commands.pub");
    write(&key, ED25519_PUBLIC_KEY, 0o644);
    let text = text
        .replace("/etc/rental-agent/token", token.to_str().unwrap())
        .replace("/etc/rental-agent/ca.pem", ca.to_str().unwrap())
        .replace("/etc/rental-agent/commands.pub", key.to_str().unwrap());
    let files = http_files(folder);
    let in_place = [
        ("http-key.pub", "http.auth.public_key_file"),
        ("http.pem", "http.tls.cert_file"),
        ("http.key", "http.tls.key_file"),
    ];
    in_place.iter().fold(text, |text, (name, key)| {
        let path = files[key].to_str().unwrap();
        text.replace(&format!("/etc/rental-agent/{name}"), path)
    })
}

/// The lines that are commented out put in force: all of them, and those that show a default.
struct Variants {
    everything: String,
    defaults: String,
    shown: BTreeSet<String>,
}

/// `key_of` reads the dotted name off a bare line, if it sets one.
fn variants(example: &str, mut key_of: impl FnMut(&str) -> Option<String>) -> Variants {
    let all = keys(&config::schema(), "");
    let mut variants = Variants {
        everything: String::new(),
        defaults: String::new(),
        shown: BTreeSet::new(),
    };
    for line in example.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let bare = match rest.strip_prefix('#') {
            Some(text) if !text.starts_with(' ') => format!("{indent}{text}"),
            Some(_) | None => line.to_owned(),
        };
        let key = key_of(&bare);
        let has_default = key.as_ref().is_some_and(|key| {
            let default = &all[key]["default"];
            !default.is_null() && *default != json!({})
        });
        variants.everything.push_str(&format!("{bare}\n"));
        let line = if has_default { bare.as_str() } else { line };
        variants.defaults.push_str(&format!("{line}\n"));
        variants.shown.extend(key);
    }
    variants
}

fn is_right(name: &str, key_of: impl FnMut(&str) -> Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let example = example(name, folder.path());
    let load = |text: &str| -> Result<Config, ConfigError> {
        let path = folder.path().join(name);
        write(&path, text, 0o600);
        load_file(path, &[], &[])
    };
    let plain = load(&example).unwrap();
    let variants = variants(&example, key_of);
    let with_defaults = load(&variants.defaults).unwrap();
    assert_eq!(format!("{with_defaults:?}"), format!("{plain:?}"));
    let everything = load(&variants.everything).unwrap();
    assert_ne!(format!("{everything:?}"), format!("{plain:?}"));
    // Tables, and what may not be set beside what is shown.
    let unseen = [
        "http.auth",
        "http.auth.hs256_secret_file",
        "http.auth.jwks_file",
        "http.tls",
        "monitoring.gpu_thresholds",
        "resources.reserve",
        "server.jwt_key_file",
        "server.token",
    ];
    let all = keys(&config::schema(), "");
    let missing = |key: &&String| !variants.shown.contains(*key) && !unseen.contains(&key.as_str());
    let missing: Vec<_> = all.keys().filter(missing).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

#[test]
fn the_toml_example_is_right_and_shows_every_key_with_its_default() {
    let mut section = String::new();
    is_right("config.example.toml", |line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        }
        let (name, _) = line.split_once(" = ").filter(|_| !line.starts_with('#'))?;
        Some(format!("{section}.{name}"))
    });
}

#[test]
fn the_yaml_example_is_right_and_shows_every_key_with_its_default() {
    let mut path: Vec<String> = Vec::new();
    is_right("config.example.yaml", |line| {
        let bare = line.trim_start();
        let (name, value) = bare.split_once(':').filter(|_| !bare.starts_with('#'))?;
        path.truncate((line.len() - bare.len()) / 2);
        path.push(name.to_owned());
        (!value.is_empty()).then(|| path.join("."))
    });
}

#[test]
fn the_env_example_is_right_and_names_real_variables() {
    let folder = tempfile::tempdir().unwrap();
    let text = example("example.env", folder.path());
    let path = folder.path().join(".env");
    let load = |text: &str| {
        write(&path, text, 0o600);
        let overrides = Overrides {
            file: Some("/dev/null".into()),
            env_file: Some(path.clone()),
            ..Overrides::default()
        };
        config::load(&overrides, [].into())
    };
    let plain = load(&text).unwrap();
    assert_eq!(plain.agent.id.as_str(), "gpu-host-1");
    let everything: Vec<_> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            Some(_) | None => line,
        })
        .collect();
    let everything = load(&everything.join("\n")).unwrap();
    assert_eq!(everything.policy.allowed_registries.unwrap().len(), 2);
}
