//! What is in force and where it was read: every key with its value, secrets out.

use std::collections::BTreeMap;

use config::{Value as Merged, ValueKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Proxy,
    extract::to_json,
    fault::{Fault, Faults, Source},
    keys::{Key, Keys, Kind},
    load::{Overrides, gather},
    proxy::Variables,
};

/// Stands for a value that nobody may see.
const REDACTED: &str = "[redacted]";

/// The configuration as it is in force.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Whether the agent would start with it.
    pub ok: bool,
    /// By key.
    pub values: Vec<Entry>,
    /// All that is wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// One value.
#[derive(Debug, PartialEq, Serialize)]
pub struct Entry {
    /// `section.key`; of a table with names of the operator's choice `section.key.name`.
    pub key: String,
    /// Null when it is unset; `[redacted]` for a secret, and for what may hold one.
    pub value: Value,
    /// What kind of place it is from.
    pub source: Source,
    /// Which: the file, the line, the variable, the flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

/// Reads everything as [`super::load`] does, and says what came of it, also when it cannot be used.
pub fn show(cli: &Overrides, env: &BTreeMap<String, String>) -> Shown {
    let gathered = gather(cli, env);
    let keys = Keys::of(&super::schema());
    let (merged, config, faults, proxies) = gathered.checked();
    let root = merged.unwrap_or_else(|| Merged::new(None, ValueKind::Nil));
    let mut values = Vec::new();
    for (name, key) in keys.iter() {
        match key.kind {
            Kind::Section | Kind::Table => {}
            Kind::Map => members(name, key, at(&root, name), &faults, &mut values),
            Kind::List
            | Kind::Text
            | Kind::Choice(_)
            | Kind::Boolean
            | Kind::Integer
            | Kind::Number => values.push(entry(name, key, at(&root, name), &faults)),
        }
    }
    let proxy = config
        .as_ref()
        .and_then(|config| config.server.proxy.as_ref());
    values.extend(proxy.and_then(|proxy| in_force(proxy, &proxies)));
    let list = faults.or(config).err().map(|error| error.0);
    Shown {
        ok: list.is_none(),
        values,
        faults: list.unwrap_or_default(),
    }
}

/// The proxy is no key; it is shown by its variable, and without its credentials.
fn in_force(proxy: &Proxy, proxies: &Variables) -> Option<Entry> {
    let (source, origin) = proxies.place(proxy.variable)?;
    let credentials = match proxy.authorization {
        Some(_) => format!("{REDACTED}@"),
        None => String::new(),
    };
    Some(Entry {
        key: proxy.variable.to_owned(),
        value: format!("http://{credentials}{}:{}", proxy.host, proxy.port).into(),
        source,
        origin: Some(origin.to_owned()),
    })
}

/// What is set at a dotted name.
fn at<'a>(root: &'a Merged, name: &str) -> Option<&'a Merged> {
    let step = |value: &'a Merged, part| members_of(value)?.get(part);
    let found = name.split('.').try_fold(root, step)?;
    (!matches!(found.kind, ValueKind::Nil)).then_some(found)
}

fn members_of(value: &Merged) -> Option<&config::Map<String, Merged>> {
    if let ValueKind::Table(table) = &value.kind {
        Some(table)
    } else {
        None
    }
}

/// Each name of such a table may be from somewhere else.
fn members(name: &str, key: &Key, set: Option<&Merged>, faults: &Faults, values: &mut Vec<Entry>) {
    match set.and_then(members_of) {
        Some(table) if !table.is_empty() => {
            let sorted: BTreeMap<_, _> = table.iter().collect();
            for (member, value) in sorted {
                let mut entry = entry(name, key, Some(value), faults);
                entry.key = format!("{name}.{member}");
                values.push(entry);
            }
        }
        Some(_) | None => values.push(entry(name, key, set, faults)),
    }
}

fn entry(name: &str, key: &Key, set: Option<&Merged>, faults: &Faults) -> Entry {
    let Some(set) = set else {
        return Entry {
            key: name.to_owned(),
            value: match key.kind == Kind::Map {
                true => json!({}),
                false => key.default.clone(),
            },
            source: Source::Default,
            origin: None,
        };
    };
    let origin = origin(set);
    let kind = origin.as_ref().and_then(|text| faults.sources.get(text));
    // What a fault does not show may hold a secret, like a URL with a password.
    let unsaid = |fault: &Fault| fault.key == name && fault.value.is_none();
    let hidden = key.secret || faults.list().iter().any(unsaid);
    Entry {
        key: name.to_owned(),
        value: match hidden {
            true => json!(REDACTED),
            false => to_json(set.kind.clone()),
        },
        source: kind.copied().unwrap_or(Source::Default),
        origin,
    }
}

/// A table that was merged has none of its own.
fn origin(value: &Merged) -> Option<String> {
    if let Some(origin) = value.origin() {
        return Some(origin.to_owned());
    }
    members_of(value)?.values().find_map(origin)
}
