//! What a schema refuses the decoder refuses, and the reverse: on the examples, changed in one place
//! each, with values at and beside the limits.
//!
//! Not compared is what no schema can say and `InstanceSpec`'s own description lists: sums over
//! several fields, and names that have to differ. Where the host's rules speak, which a schema does
//! not know, either answer will do.

use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::{prelude::*, sample::Index};
use rental_agent::{
    cli::schema::schemas,
    config::Policy,
    image::reference::Reference,
    instance::spec::{InstanceSpec, parse_credentials, parse_grace, parse_image},
    protocol::{
        Command, Error, ErrorCode, Incoming, Op,
        command::decode,
        limits::{
            MAX_ARGUMENTS, MAX_CPUS, MAX_ENV, MAX_GPUS, MAX_GRACE_S, MAX_INTEGER,
            MAX_LABEL_KEY_BYTES, MAX_LABEL_VALUE_BYTES, MAX_LABELS, MAX_PORT_NAME_BYTES, MAX_PORTS,
            MAX_REFERENCE_BYTES, MAX_SECRET_BYTES, MAX_USERNAME_BYTES, MIN_CPUS, MIN_MEMORY_BYTES,
        },
    },
};
use serde_json::{Value, json};

use super::examples;

/// What the server sends, by the name of the schema.
const NAMES: [&str; 3] = ["server/command", "server/welcome", "server/ack"];

static STAGE: LazyLock<Vec<(Validator, Value)>> = LazyLock::new(|| {
    let all = schemas();
    let validator = |name: &str| {
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&all[name]).unwrap()
    };
    let examples = examples().into_iter();
    examples
        .filter(|(of, _, _)| NAMES.contains(&of.as_str()))
        .map(|(of, _, example)| (validator(&of), example))
        .collect()
});

/// One thing to do to one place.
#[derive(Debug, Clone)]
enum Change {
    Put(Value),
    Remove,
    Add(String, Value),
    /// So many entries like the first one, each different from the others.
    Many(usize),
    /// The name of a member.
    Rename(String),
}

fn beside(limits: &[usize]) -> Vec<usize> {
    limits.iter().flat_map(|&n| [n - 1, n, n + 1]).collect()
}

/// Texts at and beside every limit of length, and odd ones.
fn texts() -> Vec<String> {
    let lengths = beside(&[
        1,
        64,
        128,
        MAX_PORT_NAME_BYTES,
        MAX_LABEL_KEY_BYTES,
        MAX_LABEL_VALUE_BYTES,
        MAX_REFERENCE_BYTES,
        MAX_USERNAME_BYTES,
        MAX_SECRET_BYTES,
    ]);
    let odd = [
        "",
        "a",
        "A",
        "-a",
        "a-",
        "a.b",
        "a:b",
        "a b",
        "a\0",
        "a\n",
        "a\u{1b}",
        "a\u{9f}",
        "ä",
        "_1",
        "1a",
        "a/b",
        "busybox",
        "missing",
        "tcp",
        "udp",
        "deploy",
        "rental-agent.x",
        "Rental-Agent.x",
        "2026-11-21T12:00:00.000Z",
        "null",
    ];
    let long = lengths.into_iter().map(|length| "a".repeat(length));
    long.chain(odd.map(str::to_owned)).collect()
}

fn numbers() -> Vec<Value> {
    // Integers are written without a fraction, which a schema does not mind.
    let whole = [
        0,
        1,
        600,
        4096,
        65_535,
        65_536,
        u64::try_from(MAX_GPUS).unwrap(),
        u64::try_from(MAX_GPUS + 1).unwrap(),
        MIN_MEMORY_BYTES - 1,
        MIN_MEMORY_BYTES,
        MAX_INTEGER,
        MAX_INTEGER + 1,
    ];
    let broken = [0.005, MIN_CPUS, 1.5, MAX_GRACE_S + 0.5, MAX_CPUS + 0.5];
    let whole = whole.into_iter().map(Value::from);
    whole
        .chain([json!(-1)])
        .chain(broken.map(Value::from))
        .collect()
}

/// Everything that is done to every place.
fn table() -> Vec<Change> {
    let mut values: Vec<Value> = texts().into_iter().map(Value::from).collect();
    values.extend(numbers());
    values.extend([
        json!(null),
        json!(true),
        json!([]),
        json!([null]),
        json!({}),
    ]);
    let counts = beside(&[1, MAX_GPUS, MAX_PORTS, MAX_LABELS, MAX_ARGUMENTS, MAX_ENV]);
    let names = texts().into_iter();
    let put = values.into_iter().map(Change::Put);
    put.chain([Change::Remove])
        .chain(counts.into_iter().map(Change::Many))
        .chain(names.clone().map(Change::Rename))
        .chain(names.map(|name| Change::Add(name, json!("x"))))
        .collect()
}

/// More of the same, by chance.
fn change() -> impl Strategy<Value = Change> {
    let text = "[a-zA-Z0-9._:/@-]{0,20}|\\PC{0,4}";
    prop_oneof![
        2 => prop::sample::select(table()),
        1 => text.prop_map(|text| Change::Put(text.into())),
        1 => any::<f64>().prop_filter("integers", |n| n.fract() != 0.0).prop_map(|n| Change::Put(n.into())),
        1 => any::<u64>().prop_map(|n| Change::Put(n.into())),
        1 => (text, text).prop_map(|(name, value)| Change::Add(name, value.into())),
        1 => text.prop_map(Change::Rename),
    ]
}

/// Pointers to every value within.
fn places(value: &Value, at: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let members: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(items) => (0..)
            .zip(items)
            .map(|(n, v): (usize, _)| (n.to_string(), v))
            .collect(),
        _ => Vec::new(),
    };
    for (name, inner) in members {
        let escaped = name.replace('~', "~0").replace('/', "~1");
        found.push((at.to_owned(), name));
        found.extend(places(inner, &format!("{at}/{escaped}")));
    }
    found
}

/// The example with the change, or nothing where the change does not fit the place.
fn changed(example: &Value, (parent, name): &(String, String), change: &Change) -> Option<Value> {
    let mut changed = example.clone();
    let parent = changed.pointer_mut(parent)?;
    let number = name.parse::<usize>().ok();
    match change {
        Change::Remove => match parent {
            Value::Object(object) => drop(object.remove(name)),
            other => drop(other.as_array_mut()?.remove(number?)),
        },
        Change::Rename(to) => {
            let object = parent.as_object_mut()?;
            let value = object.remove(name)?;
            object.insert(to.clone(), value);
        }
        Change::Put(value) => *member(parent, name)? = value.clone(),
        // A null is absent, whatever its name; a schema still looks at the name.
        Change::Add(_, Value::Null) => return None,
        Change::Add(name_of_new, value) => {
            let object = member(parent, name)?.as_object_mut()?;
            object.insert(name_of_new.clone(), value.clone());
        }
        Change::Many(count) => match member(parent, name)? {
            Value::Array(items) => {
                let first = items.first()?.clone();
                *items = (0..*count).map(|n| another(&first, n)).collect();
            }
            Value::Object(object) if ["env", "labels"].contains(&name.as_str()) => {
                *object = (0..*count).map(|n| (format!("k{n}"), json!("v"))).collect();
            }
            _ => return None,
        },
    }
    Some(changed)
}

fn member<'v>(parent: &'v mut Value, name: &str) -> Option<&'v mut Value> {
    match parent {
        Value::Array(items) => items.get_mut(name.parse::<usize>().ok()?),
        other => other.get_mut(name),
    }
}

/// An entry like this one that differs in what has to differ.
fn another(like: &Value, n: usize) -> Value {
    match like {
        Value::String(_) => json!(format!("e{n}")),
        Value::Object(port) => {
            let mut port = port.clone();
            port.insert("name".into(), json!(format!("p{n}")));
            port.insert("container".into(), json!(n + 1));
            Value::Object(port)
        }
        other => other.clone(),
    }
}

/// Whether the agent would take it, as far as it looks before it asks what the host has.
fn decoded(message: &Value) -> Result<(), Option<Error>> {
    match decode(&message.to_string()) {
        Ok(Incoming::Welcome(_) | Incoming::Ack(_)) => Ok(()),
        Ok(Incoming::Command(command)) => admissible(*command).map_err(Some),
        Ok(Incoming::BadCommand(_, error)) => Err(Some(*error)),
        Ok(Incoming::Unauthorized(_, error)) => Err(Some(*error)),
        Ok(Incoming::Unknown(_)) | Err(_) => Err(None),
    }
}

fn admissible(command: Command) -> Result<(), Error> {
    // The registries of the examples; whatever is changed into another one is the policy's to refuse.
    let allowed = ["docker.io", "registry.example.com:5000", "ghcr.io"].map(str::to_owned);
    let policy = Policy {
        allowed_registries: Some(allowed.into()),
        ..Policy::default()
    };
    match command.op {
        Op::Deploy(deploy) => {
            InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &policy).map(drop)
        }
        Op::Terminate(terminate) => parse_grace(terminate.grace_s).map(drop),
        Op::PullImage(pull) => {
            parse_image(&pull.image, &policy, "/image")?;
            parse_credentials(pull.registry_auth, "/registry_auth").map(drop)
        }
        Op::Cancel(_)
        | Op::QuarantineGpu(_)
        | Op::ReleaseGpu(_)
        | Op::Report
        | Op::Drain
        | Op::Resume => Ok(()),
    }
}

/// What no schema can say: sums over several fields, and what has to differ.
fn is_beyond_schemas(error: &Error) -> bool {
    let message = error.message.as_str();
    let beyond = [
        "bytes in all",
        "bytes as JSON",
        "`entrypoint` and `command` have",
        "it is a part of `memory_bytes`",
        "names have to differ",
        "once each",
        "registry and repository have more than",
        "the registry's port has to be a number",
    ];
    error.code == ErrorCode::PolicyDenied || beyond.iter().any(|words| message.contains(words))
}

fn agree(validator: &Validator, message: &Value) -> Result<(), TestCaseError> {
    let by_schema = validator.is_valid(message);
    match decoded(message) {
        Ok(()) => {
            let faults: Vec<_> = validator
                .iter_errors(message)
                .map(|e| e.to_string())
                .collect();
            prop_assert!(
                by_schema,
                "only the schema refuses {message:.2000}: {faults:?}"
            );
        }
        Err(Some(error)) if is_beyond_schemas(&error) => {}
        Err(error) => {
            prop_assert!(
                !by_schema,
                "only the decoder refuses {message:.2000}: {error:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_examples_are_taken_by_both() {
    assert!(STAGE.len() > 8, "the examples were not found");
    for (validator, example) in STAGE.iter() {
        assert!(validator.is_valid(example), "{example}");
        assert_eq!(decoded(example), Ok(()), "{example}");
    }
}

#[test]
fn schema_and_decoder_agree_at_and_beside_every_limit() {
    let table = table();
    let mut compared = 0;
    for (validator, example) in STAGE.iter() {
        for place in places(example, "") {
            for change in &table {
                if let Some(message) = changed(example, &place, change) {
                    agree(validator, &message).unwrap_or_else(|e| panic!("{place:?}: {e}"));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 2_000, "{compared}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn schema_and_decoder_agree_on_changed_examples(
        which: Index, at: Index, change in change(),
    ) {
        let (validator, example) = which.get(&STAGE);
        if let Some(message) = changed(example, at.get(&places(example, "")), &change) {
            agree(validator, &message)?;
        }
    }

    #[test]
    fn schema_and_decoder_agree_on_image_references(
        image in "([a-zA-Z0-9.-]{1,6}(:[0-9]{1,4})?/){0,2}[a-z0-9._-]{1,8}(:[a-zA-Z0-9._-]{0,5})?(@sha256:[0-9a-f]{3})?",
    ) {
        let pull = json!({ "type": "command", "id": "c", "op": "pull_image", "image": image });
        let (validator, _) = STAGE.iter().find(|(_, example)| example["type"] == "command").unwrap();
        let by_decoder = image.parse::<Reference>().is_ok();
        prop_assert_eq!(validator.is_valid(&pull), by_decoder, "{}", image);
    }
}
