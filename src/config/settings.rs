//! Values that come as text: the environment's and the command line's. Each is given the type of its
//! key here; the `config` crate would convert too freely ("yes" into 1, the token 0123 into 123).

use std::collections::BTreeMap;

use config::{Map, Value as Merged, ValueKind};
use serde_json::Value;

use super::{
    env_file::EnvFile,
    fault::{Faults, Source},
    keys::{self, Key, Keys, Kind},
    load::{Layer, Overrides},
};

/// Short names in the environment, weaker than the systematic ones.
const ALIASES: &[(&str, &str)] = &[
    ("AGENT_ID", "agent.id"),
    ("AGENT_TOKEN", "server.token"),
    ("AGENT_TOKEN_FILE", "server.token_file"),
    ("API_SERVER_URL", "server.url"),
    ("DOCKER_HOST", "docker.host"),
];

/// A value as text, with the key it is for and where it comes from.
pub(super) struct Setting {
    key: String,
    /// The key as this source writes it.
    written: String,
    /// What kind of source it is.
    kind: Source,
    /// The name of the variable or flag; of a line in a file, which.
    source: String,
    text: String,
    /// How this source spells a key.
    spelling: fn(&str) -> String,
}

impl Setting {
    /// Whether it sets what nobody may see.
    pub(super) fn is_secret(&self, keys: &Keys) -> bool {
        keys.get(&self.key).is_some_and(|key| key.secret)
    }
}

/// What the environment sets, weaker first.
pub(super) fn from_env(env: &BTreeMap<String, String>) -> Vec<Setting> {
    let variables = env.iter().map(|(name, text)| Setting {
        key: String::new(),
        written: name.clone(),
        kind: Source::Environment,
        source: name.clone(),
        text: text.clone(),
        spelling: keys::env_name,
    });
    of_keys(variables)
}

/// What `.env` sets, weaker first.
pub(super) fn from_env_file(file: &EnvFile) -> Vec<Setting> {
    let path = file.path.display();
    let variables = file.variables.iter().map(|variable| Setting {
        key: String::new(),
        written: variable.name.clone(),
        kind: Source::EnvFile,
        source: format!("{path}, line {}", variable.line),
        text: variable.value.clone(),
        spelling: keys::env_name,
    });
    of_keys(variables)
}

/// The variables that set keys, with these. An empty variable is an unset one: compose files and unit
/// files pass variables on that way.
fn of_keys(variables: impl Iterator<Item = Setting>) -> Vec<Setting> {
    let (mut short, mut systematic) = (Vec::new(), Vec::new());
    for mut setting in variables.filter(|setting| !setting.text.is_empty()) {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == setting.written);
        if let Some((_, key)) = alias {
            setting.key = (*key).to_owned();
            short.push(setting);
        } else if let Some(key) = keys::key_of_env(&setting.written) {
            setting.key = key;
            systematic.push(setting);
        }
    }
    short.append(&mut systematic);
    short
}

/// What the command line sets. Secrets are refused there.
pub(super) fn from_flags(cli: &Overrides, keys: &Keys, faults: &mut Faults) -> Vec<Setting> {
    let mut settings = Vec::new();
    for flag in &cli.settings {
        if keys.get(&flag.key).is_some_and(|key| key.secret) {
            let reason = "is a secret, and every user of this host can read a command line";
            let remedy = format!("put it in a file and set {}_file", flag.key);
            faults.at_source(&flag.key, &flag.name, reason, remedy);
            continue;
        }
        settings.push(Setting {
            key: flag.key.clone(),
            written: flag.key.clone(),
            kind: Source::Flag,
            source: flag.name.clone(),
            text: flag.value.clone(),
            spelling: str::to_owned,
        });
    }
    settings
}

/// Gives each text the type of its key. A layer for each, since their order counts.
pub(super) fn typed(settings: Vec<Setting>, keys: &Keys, faults: &mut Faults) -> Vec<Layer> {
    let set: Vec<String> = settings.iter().map(|setting| setting.key.clone()).collect();
    let mut layers = Vec::new();
    for setting in settings {
        let Some(key) = keys.settable(&setting.key) else {
            // The value is not shown: a misspelt name may well be that of the token.
            let advice = keys.advice(&setting.key, setting.spelling);
            let source = match setting.kind {
                Source::Environment => "the environment",
                Source::Flag => "the command line",
                Source::Default | Source::File | Source::EnvFile => &setting.source,
            };
            faults.at_source(
                &setting.written,
                source,
                "names no key that there is",
                advice,
            );
            continue;
        };
        faults.sources.insert(setting.source.clone(), setting.kind);
        let Some(kind) = parse(&setting.text, key, &setting.source) else {
            // No secret comes here: those are texts, and every text is one.
            faults.origins.insert(setting.key.clone(), setting.source);
            faults.shown(&setting.key, &setting.text, key.mismatch(), key.remedy());
            continue;
        };
        let mut layer = Map::new();
        // A stronger source that sets one of a group takes the others back.
        for rival in keys.rivals(&setting.key) {
            if !set.contains(&rival) {
                layer.insert(rival, Merged::new(None, ValueKind::Nil));
            }
        }
        layer.insert(setting.key, Merged::new(Some(&setting.source), kind));
        layers.push(Layer::new(layer));
    }
    layers
}

fn parse(text: &str, key: &Key, source: &String) -> Option<ValueKind> {
    let from_json = |value| from_json(value, source);
    let json = || serde_json::from_str::<Value>(text).ok();
    match &key.kind {
        Kind::Text | Kind::Choice(_) => Some(ValueKind::String(text.to_owned())),
        Kind::Boolean => text.parse().ok().map(ValueKind::Boolean),
        Kind::Integer => text.parse().ok().map(ValueKind::I64),
        Kind::Number => text.parse().ok().map(ValueKind::Float),
        Kind::List => json().filter(Value::is_array).map(from_json),
        Kind::Table | Kind::Map => json().filter(Value::is_object).map(from_json),
        Kind::Section => None,
    }
}

fn from_json(value: Value, source: &String) -> ValueKind {
    let item = |value| Merged::new(Some(source), from_json(value, source));
    match value {
        Value::Null => ValueKind::Nil,
        Value::Bool(flag) => ValueKind::Boolean(flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => ValueKind::I64(whole),
            (None, Some(float)) => ValueKind::Float(float),
            (None, None) => ValueKind::String(number.to_string()),
        },
        Value::String(text) => ValueKind::String(text),
        Value::Array(items) => ValueKind::Array(items.into_iter().map(item).collect()),
        Value::Object(members) => {
            ValueKind::Table(members.into_iter().map(|(k, v)| (k, item(v))).collect())
        }
    }
}
