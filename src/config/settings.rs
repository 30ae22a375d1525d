//! Values that come as text: the environment's and the command line's. Each is given the type of its
//! key here; the `config` crate would convert too freely ("yes" into 1, the token 0123 into 123).

use std::collections::BTreeMap;

use config::{Map, Value as Merged, ValueKind};
use serde_json::Value;

use super::{
    fault::Faults,
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
    origin: &'static str,
    /// The name of the variable or flag.
    source: String,
    text: String,
    /// How this source spells a key.
    spelling: fn(&str) -> String,
}

/// What the environment sets, weaker first. An empty variable is an unset one: compose files and
/// unit files pass variables on that way.
pub(super) fn from_env(env: BTreeMap<String, String>) -> Vec<Setting> {
    let setting = |key: String, (source, text): (String, String)| Setting {
        key,
        written: source.clone(),
        origin: "the environment",
        source,
        text,
        spelling: keys::env_name,
    };
    let (mut short, mut systematic) = (Vec::new(), Vec::new());
    for (name, text) in env.into_iter().filter(|(_, text)| !text.is_empty()) {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        if let Some((_, key)) = alias {
            short.push(setting((*key).to_owned(), (name, text)));
        } else if let Some(key) = keys::key_of_env(&name) {
            systematic.push(setting(key, (name, text)));
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
            origin: "the command line",
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
            let (name, source) = (&setting.written, setting.origin);
            faults.at_source(name, source, "names no key that there is", advice);
            continue;
        };
        let Some(kind) = parse(&setting.text, key) else {
            // No secret comes here: those are texts, and every text is one.
            faults.origins.insert(setting.key.clone(), setting.source);
            faults.shown(&setting.key, &setting.text, key.mismatch(), key.remedy());
            continue;
        };
        let mut layer = Map::new();
        // A stronger source that sets one of a pair takes the other one back.
        if let Some(rival) = keys
            .rival(&setting.key)
            .filter(|rival| !set.contains(rival))
        {
            layer.insert(rival, Merged::new(None, ValueKind::Nil));
        }
        layer.insert(setting.key, Merged::new(Some(&setting.source), kind));
        layers.push(Layer::new(layer));
    }
    layers
}

fn parse(text: &str, key: &Key) -> Option<ValueKind> {
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

fn from_json(value: Value) -> ValueKind {
    let item = |value| Merged::new(None, from_json(value));
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
