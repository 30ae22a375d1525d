//! What is said of schemas as a whole, beyond what each type says of itself.

use serde_json::{Map, Value, json};

use crate::protocol::limits::MAX_INTEGER;

/// Allows no other properties than those that are listed, at every depth.
pub(super) fn closed(mut schema: Value) -> Value {
    walk(&mut schema, &|object| {
        // `properties` may itself be the name of a property: then it is a schema's member only if
        // the object says that it is an object's schema.
        let is_record = is_object(object) && object.get("properties").is_some_and(Value::is_object);
        if is_record {
            object.insert("additionalProperties".into(), Value::Bool(false));
        }
    });
    schema
}

/// Integers of 64 bits stay below 2^53 where nothing narrower is said.
pub(super) fn exact(mut schema: Value) -> Value {
    walk(&mut schema, &|object| {
        let wide = ["uint64", "int64"].map(Value::from);
        if object
            .get("format")
            .is_some_and(|format| wide.contains(format))
        {
            object.entry("maximum").or_insert(MAX_INTEGER.into());
        }
    });
    schema
}

/// On the wire `null` is absent: whatever may be absent may be null.
pub(super) fn with_nulls(mut schema: Value) -> Value {
    walk(&mut schema, &|object| {
        if !is_object(object) {
            return;
        }
        let required = object.get("required").cloned().unwrap_or_default();
        let required: Vec<&str> = required.as_array().map_or_else(Vec::new, |names| {
            names.iter().filter_map(Value::as_str).collect()
        });
        if let Some(Value::Object(properties)) = object.get_mut("properties") {
            for (name, property) in properties {
                if !required.contains(&name.as_str()) {
                    allow_null(property);
                }
            }
        }
        if let Some(values) = object.get_mut("additionalProperties") {
            allow_null(values);
        }
    });
    schema
}

/// Whether the schema says that it is one of objects.
fn is_object(schema: &Map<String, Value>) -> bool {
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "object"),
        Some(kind) => kind == "object",
        None => false,
    }
}

fn allow_null(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    if let Some(kind) = object.get_mut("type") {
        if let Some(one) = kind.as_str() {
            *kind = json!([one]);
        }
        if let Value::Array(kinds) = kind
            && !kinds.contains(&json!("null"))
        {
            kinds.push("null".into());
        }
    } else if let Some(reference) = object.remove("$ref") {
        object.insert(
            "anyOf".into(),
            json!([{ "$ref": reference }, { "type": "null" }]),
        );
    }
}

/// Does something to every schema within a schema, from the top down.
fn walk(schema: &mut Value, with: &impl Fn(&mut Map<String, Value>)) {
    match schema {
        Value::Object(object) => {
            with(object);
            object.values_mut().for_each(|inner| walk(inner, with));
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| walk(inner, with)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
