//! What a hostile server or tenant may write into a spec: refused with a reason, or without effect.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rental_agent::{
    config::Policy,
    image::reference::Reference,
    instance::spec::InstanceSpec,
    policy,
    protocol::{Error, ErrorCode, Incoming, Op, Stage, decode},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::hostile::{self, Verdict};

/// S14: no hostile reference gets as far as an engine that would dial.
#[test]
fn hostile_references_are_refused_or_denied() {
    let references: BTreeSet<String> = hostile::references().into_iter().collect();
    assert!(references.len() >= 200, "only {}", references.len());
    let policy = Policy::default();
    let allowed: Vec<&String> = references
        .iter()
        .filter(|text| match text.parse::<Reference>() {
            Ok(reference) => policy::registry_allowed(&reference, &policy).is_ok(),
            Err(_) => false,
        })
        .collect();
    assert!(allowed.is_empty(), "{allowed:?}");
}

/// S14: with a list of registries nothing else is allowed, however it is spelled.
#[test]
fn hostile_references_are_outside_a_list_of_registries() {
    let policy = Policy {
        allowed_registries: Some(vec!["quay.io".into(), "registry.example.com:5000".into()]),
        ..Policy::default()
    };
    for text in hostile::references() {
        if let Ok(reference) = text.parse::<Reference>() {
            let verdict = policy::registry_allowed(&reference, &policy);
            assert!(verdict.is_err(), "{text} was allowed");
        }
    }
}

/// S1, S14 to S16: each hostile spec is refused with its reason, or has nothing of what it tried.
#[test]
fn hostile_specs_are_refused_or_harmless() {
    let specs = hostile::specs();
    assert!(specs.len() >= 200, "only {}", specs.len());
    for hostile in specs {
        match (parse(&hostile.spec), hostile.verdict) {
            (Err(error), Verdict::Refused) => assert_explained(&error),
            (Ok(spec), Verdict::Harmless) => assert_sane(&spec),
            (Ok(_), Verdict::Refused) => panic!("accepted: {}", hostile.what),
            (Err(error), Verdict::Harmless) => panic!("{}: {error}", hostile.what),
        }
    }
}

#[test]
fn a_command_nested_without_end_is_refused() {
    let deep = format!(
        r#"{{"type":"command","id":"c1","op":"deploy","spec":{}{}}}"#,
        r#"{"env":"#.repeat(50_000),
        "}".repeat(50_000)
    );
    assert!(decode(&deep).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_accepted_is_sane(spec in hostile::any_spec()) {
        match parse(&spec) {
            Ok(spec) => assert_sane(&spec),
            Err(error) => assert_explained(&error),
        }
    }
}

fn parse(spec: &Value) -> Result<InstanceSpec, Error> {
    let command = json!({"type": "command", "id": "c1", "op": "deploy", "spec": spec});
    let command = match decode(&command.to_string()).unwrap() {
        Incoming::Command(command) => command,
        Incoming::BadCommand(_, error) | Incoming::Unauthorized(_, error) => return Err(*error),
        Incoming::Welcome(_) | Incoming::Ack(_) | Incoming::Unknown(_) => panic!("no command"),
    };
    let Op::Deploy(deploy) = command.op else {
        panic!("no deploy")
    };
    InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &Policy::default())
}

/// A refusal says where, and what, without control characters and at a bounded length.
fn assert_explained(error: &Error) {
    assert!(
        matches!(
            error.code,
            ErrorCode::InvalidSpec | ErrorCode::PolicyDenied | ErrorCode::Unsupported
        ),
        "{error}"
    );
    assert_eq!(error.stage, Some(Stage::Validate), "{error}");
    let pointer = error
        .detail
        .as_ref()
        .and_then(|detail| detail["pointer"].as_str());
    assert!(
        pointer.is_some_and(|pointer| pointer.starts_with("/spec")),
        "{error:?}"
    );
    assert!(!error.message.is_empty() && error.message.chars().count() <= 1000);
    assert!(!error.message.contains(['\0', '\u{1b}']), "{error:?}");
}

/// The rules of a sane spec, written down a second time.
fn assert_sane(spec: &InstanceSpec) {
    let reserved = [
        "NVIDIA_",
        "LD_",
        "DOCKER_",
        "RENTAL_AGENT",
        "CUDA_VISIBLE_DEVICES",
        "GLIBC_TUNABLES",
    ];
    let mut env_bytes = 0;
    for (name, value) in &spec.env {
        let upper = name.to_uppercase();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty());
        assert!(
            !reserved.iter().any(|word| upper.starts_with(word)),
            "{name}"
        );
        assert!(!value.expose_secret().contains(['\0', '\n']), "{name}");
        env_bytes += name.len() + value.expose_secret().len();
    }
    assert!(env_bytes <= 64 * 1024);
    for argument in spec.entrypoint.iter().chain(&spec.command).flatten() {
        assert!(!argument.contains('\0'));
    }
    for key in spec.labels.keys() {
        assert!(!key.to_lowercase().starts_with("rental-agent."), "{key}");
    }
    let names: BTreeSet<&String> = spec.ports.iter().map(|port| &port.name).collect();
    assert_eq!(names.len(), spec.ports.len());
    assert!(spec.ports.iter().all(|port| port.container > 0));
    assert!(
        spec.memory_bytes
            .is_none_or(|bytes| (6 << 20..1 << 53).contains(&bytes))
    );
    assert!(
        spec.shm_bytes
            .is_none_or(|bytes| (1..=spec.memory_bytes.unwrap_or(1 << 53)).contains(&bytes))
    );
    assert!(
        spec.nano_cpus
            .is_none_or(|nano| (10_000_000..=4_096_000_000_000).contains(&nano))
    );
    assert!(spec.stop_grace.as_secs() <= 600);
    let host = spec.image.registry_host();
    assert!(
        host.contains('.')
            && !host.contains('[')
            && spec.image.registry_port().is_none_or(|port| port == 443)
    );
    let engine = spec.image.for_engine();
    assert!(
        engine.is_ascii() && !engine.contains(char::is_whitespace),
        "{engine}"
    );
    let public = spec.public_json();
    assert!(public.len() <= 32 * 1024);
    assert!(InstanceSpec::from_public_json(&public).is_ok(), "{public}");
}
