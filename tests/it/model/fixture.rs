//! The host that the model runs on, and the commands that are sent to it. Commands are written as
//! JSON and read by the wire's own decoder, as they would come from a server.

use std::time::Duration;

use rental_agent::{
    clock::Timestamp,
    config::{Policy, ResourceLimits},
    gpu::{Reading, Sampled},
    ids::{CommandId, InstanceId},
    instance::registry::{Input, Options},
    protocol::{
        Incoming, decode,
        record::{Engine, Gpu, Host, PortRange, View},
    },
    runtime::{EngineFacts, Hardening, ImageFacts},
};
use serde_json::{Value, json};

/// Who the agent is, as the labels have to say it.
pub(crate) const AGENT: &str = "agent-1";
/// Somebody else on the same engine.
pub(crate) const STRANGER: &str = "agent-2";
/// So many GPUs the host has.
pub(crate) const GPUS: usize = 4;
/// So many host ports.
pub(crate) const PORTS: u16 = 24;
/// The first of them.
pub(crate) const FIRST_PORT: u16 = 30_000;
/// Of the host, all of it for rentals.
pub(crate) const MEMORY: u64 = 64 << 30;
/// Of the host, all of them for rentals.
pub(crate) const CPUS: u32 = 32;
/// The names of the images that specs name.
pub(crate) const IMAGES: [&str; 3] = ["alpha", "beta:1", "docker.io/acme/gamma:2"];
/// In the environment of every rental; nothing that leaves the registry may show it.
pub(crate) const CANARY: &str = "canary-6f1d2c";

/// The host's wall clock when a case begins.
pub(crate) fn epoch_start() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

/// The n-th GPU's name.
pub(crate) fn gpu_uuid(n: usize) -> String {
    format!("GPU-{n:08x}")
}

/// All GPUs as they are seen while nobody is on them.
pub(crate) fn idle_gpus(asked_at: Duration) -> Sampled {
    let idle = |n| Reading {
        processes: Some(Vec::new()),
        ..Reading::of(gpu_uuid(n).parse().unwrap())
    };
    Sampled {
        asked_at,
        readings: (0..GPUS).map(idle).collect(),
    }
}

/// The n-th GPU.
pub(crate) fn gpu(n: usize) -> Gpu {
    Gpu {
        index: u32::try_from(n).unwrap(),
        memory_bytes: 24 << 30,
        pci_bus_id: format!("00000000:{n:02x}:00.0"),
        ..Gpu::bare(gpu_uuid(n).parse().unwrap(), "nvidia")
    }
}

/// What the registry is told of its host.
pub(crate) fn options(boot_id: &str) -> Options {
    let range = PortRange {
        first: FIRST_PORT,
        last: FIRST_PORT + PORTS - 1,
    };
    Options {
        agent_id: AGENT.parse().unwrap(),
        host: Host {
            hostname: "host".to_owned(),
            cpus: CPUS,
            memory_bytes: MEMORY,
            boot_id: boot_id.to_owned(),
            view: View::Host,
            port_range: Some(range),
            ..Host::default()
        },
        address: "203.0.113.7".to_owned(),
        limits: ResourceLimits {
            gpus: None,
            reserve_cpus: 0.0,
            reserve_memory_bytes: 0,
            reserve_disk_bytes: 0,
            instances: 6,
            default_cpus: 1.0,
            default_memory_bytes: 1 << 30,
            numa: Default::default(),
            pids_limit: 512,
            log_max_bytes: 1 << 20,
            log_files: 2,
            ulimits: Default::default(),
        },
        policy: Policy::default(),
        hardening: Hardening {
            network: "rental-agent".to_owned(),
            pids_limit: 512,
            log_max_bytes: 1 << 20,
            log_files: 2,
            sudo: false,
            ulimits: Vec::new(),
            runtime: None,
            driver_capabilities: "compute,utility".to_owned(),
        },
        gpu_rules: Default::default(),
        port_range: range,
        gpus: rental_agent::gpu::ward::Policy {
            wipe: true,
            ..Default::default()
        },
    }
}

/// What the engine says of itself.
pub(crate) fn engine_facts(started_at: Option<Timestamp>) -> EngineFacts {
    EngineFacts {
        engine: Engine {
            name: "docker".to_owned(),
            version: "28.0".to_owned(),
            gpu_runtime: true,
            ..Engine::default()
        },
        started_at,
        cdi_devices: Default::default(),
        security_options: vec!["name=seccomp,profile=builtin".to_owned()],
        architecture: "amd64".to_owned(),
        root_dir: "/var/lib/docker".to_owned(),
        hostname: String::new(),
        os: String::new(),
    }
}

/// What the engine says of an image that it has.
pub(crate) fn image_facts(reference: &str) -> ImageFacts {
    ImageFacts {
        id: format!("sha256:{reference}"),
        repo_digests: vec![format!("{reference}@sha256:{}", "0".repeat(64))],
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        size_bytes: 1 << 20,
        ..ImageFacts::default()
    }
}

/// A spec: `shape` picks what of the host it wants, so that some fit beside each other and some do
/// not. Equal shapes of equal ids are equal specs.
pub(crate) fn spec(instance: &InstanceId, shape: u8) -> Value {
    let mut spec = json!({
        "instance_id": instance.as_str(),
        "image": IMAGES[usize::from(shape) % IMAGES.len()],
        "env": { "SECRET": CANARY },
        "labels": { "shape": shape.to_string() },
        "stop_grace_s": 3,
        "memory_bytes": (1u64 << 30) * u64::from(1 + shape % 3),
    });
    match shape % 6 {
        0 => {}
        1 => spec["gpus"] = json!({ "count": 1 }),
        2 => spec["gpus"] = json!({ "count": 2 }),
        3 => spec["gpus"] = json!({ "uuids": [gpu_uuid(usize::from(shape) % GPUS)] }),
        4 => spec["gpus"] = json!({ "uuids": [gpu_uuid(0), gpu_uuid(GPUS - 1)] }),
        _ => spec["memory_bytes"] = json!(MEMORY / 2),
    }
    spec["ports"] = match shape % 4 {
        0 => json!([]),
        1 => json!([{ "name": "web", "container": 80 }]),
        2 => json!([{ "name": "dns", "container": 53, "protocol": "udp" },
                    { "name": "tcp", "container": 53 }]),
        _ => json!([{ "name": "a", "container": 1 }, { "name": "b", "container": 2 },
                    { "name": "c", "container": 3 }]),
    };
    if shape.is_multiple_of(5) {
        spec["pull"] = json!("always");
    }
    spec
}

/// A command as the decoder reads it.
pub(crate) fn command(id: &CommandId, body: &Value) -> Input {
    let mut text = body.clone();
    text["type"] = json!("command");
    text["id"] = json!(id.as_str());
    match decode(&text.to_string()) {
        Ok(Incoming::Command(command)) => Input::Command(command),
        Ok(Incoming::BadCommand(id, error)) => Input::BadCommand(id, error),
        other => panic!("the model wrote what is no command: {other:?}"),
    }
}
