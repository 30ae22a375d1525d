//! From the merged values to [`Raw`]: unknown keys, numbers out of range and wrong types are faults,
//! all of them, and what is left over is deserialised.

use std::collections::BTreeMap;

use config::{Value as Merged, ValueKind};
use serde_json::Value;

use super::{
    fault::Faults,
    keys::{Keys, Kind, join},
    raw::Raw,
};

/// Reads the merged values.
pub(super) fn extract(merged: Merged, keys: &Keys, faults: &mut Faults) -> Raw {
    match known(merged, "", keys, faults) {
        Some(tree) => deserialize(tree, keys, faults),
        None => Raw::default(),
    }
}

/// The merged values as JSON, without unknown keys and numbers out of range, which are faults. Notes
/// where each key came from.
fn known(merged: Merged, path: &str, keys: &Keys, faults: &mut Faults) -> Option<Value> {
    if let Some(origin) = merged.origin() {
        faults.origins.insert(path.to_owned(), origin.to_owned());
    }
    let key = keys.get(path);
    let closed = key.is_none_or(|key| matches!(key.kind, Kind::Section | Kind::Table));
    if closed && let ValueKind::Table(table) = merged.kind {
        return Some(Value::Object(members(table, path, keys, faults)));
    }
    let value = to_json(merged.kind);
    if value.is_null() {
        return None;
    }
    if let (Some(key), Some(number)) = (key, value.as_f64())
        && matches!(key.kind, Kind::Integer | Kind::Number)
        && !key.admits(number)
    {
        faults.shown(path, &value.to_string(), key.mismatch(), key.remedy());
        return None;
    }
    Some(value)
}

fn members(
    table: config::Map<String, Merged>,
    path: &str,
    keys: &Keys,
    faults: &mut Faults,
) -> serde_json::Map<String, Value> {
    let mut members = serde_json::Map::new();
    // The crate's map has no order of its own; the faults shall have one.
    for (name, value) in table.into_iter().collect::<BTreeMap<_, _>>() {
        let inner = join(path, &name);
        if keys.get(&inner).is_none() {
            // The value is not shown: a misspelt key may well be that of the token.
            let source = value.origin().unwrap_or(path);
            let advice = keys.advice(&inner, str::to_owned);
            faults.at_source(&inner, source, "is no key that there is", advice);
        } else if let Some(value) = known(value, &inner, keys, faults) {
            members.insert(name, value);
        }
    }
    members
}

pub(super) fn to_json(kind: ValueKind) -> Value {
    match kind {
        ValueKind::Nil => Value::Null,
        ValueKind::Boolean(flag) => flag.into(),
        ValueKind::I64(number) => number.into(),
        ValueKind::U64(number) => number.into(),
        // JSON has no such number; as a text it is of the wrong type wherever it stands.
        ValueKind::I128(number) => number.to_string().into(),
        ValueKind::U128(number) => number.to_string().into(),
        ValueKind::Float(number) if !number.is_finite() => number.to_string().into(),
        ValueKind::Float(number) => number.into(),
        ValueKind::String(text) => text.into(),
        ValueKind::Array(items) => items.into_iter().map(|item| to_json(item.kind)).collect(),
        ValueKind::Table(table) => {
            let member = |(name, value): (String, Merged)| (name, to_json(value.kind));
            Value::Object(table.into_iter().map(member).collect())
        }
    }
}

/// Deserialises; what is of the wrong type is a fault and is cut out, until the rest fits.
fn deserialize(mut tree: Value, keys: &Keys, faults: &mut Faults) -> Raw {
    loop {
        let error = match serde_path_to_error::deserialize::<_, Raw>(&tree) {
            Ok(raw) => return raw,
            Err(error) => error,
        };
        let at = error.path().to_string();
        let removed = keys
            .enclosing(&at)
            .and_then(|(name, key)| Some((name, key, remove(&mut tree, name)?)));
        let Some((name, key, value)) = removed else {
            faults.hidden(
                &at,
                "cannot be read",
                "compare it with the example configuration",
            );
            return Raw::default();
        };
        let within = matches!(key.kind, Kind::Map | Kind::List) && !value.is_string();
        let (reason, remedy) = if within {
            // Serde's words say more. They may quote a value, and may: no secret is a map or a list.
            let reason = format!("is wrong at {at}: {}", error.inner());
            (reason, format!("see `{name}` in the example configuration"))
        } else {
            (key.mismatch(), key.remedy())
        };
        if key.secret || key.kind == Kind::Section {
            faults.hidden(name, reason, remedy);
        } else {
            let shown = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            faults.shown(name, &shown, reason, remedy);
        }
    }
}

fn remove(tree: &mut Value, name: &str) -> Option<Value> {
    let (parent, last) = match name.rsplit_once('.') {
        Some((parent, last)) => (
            tree.pointer_mut(&format!("/{}", parent.replace('.', "/")))?,
            last,
        ),
        None => (tree, name),
    };
    parent.as_object_mut()?.remove(last)
}
