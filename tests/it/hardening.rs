//! S1, S14 to S16: what a hostile spec for a hostile image comes to. Each is refused, or carried
//! through admission, reservation and plan to the request that the engine would get, which is held
//! against a list of all that may stand in one.

#[path = "../support/allow_list.rs"]
mod allow_list;

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};
use rental_agent::{
    clock::{Now, Timestamp},
    config::{Policy, ResourceLimits},
    gpu::{Reading, Sampled},
    instance::{
        effect::{Effect, EngineOp},
        registry::{Input, Options, Registry},
    },
    protocol::{
        Incoming, decode,
        record::{Engine, Gpu, Host, PortRange},
    },
    runtime::{EngineFacts, Hardening, ImageFacts, Listing, translate::create_body},
};
use serde_json::{Value, json};

use self::allow_list::{Rules, violations};
use crate::hostile::{self, Verdict};

const AGENT: &str = "agent-1";
const GPUS: [&str; 2] = ["GPU-0", "GPU-1"];
const PORTS: PortRange = PortRange {
    first: 30_000,
    last: 30_099,
};
const MEMORY: u64 = 1 << 53;
/// In every secret field of every spec that leaves it free.
const CANARY: &str = "canary-3e1b77";

#[test]
fn two_hundred_hostile_specs_are_refused_or_become_a_safe_container() {
    let (mut refused, mut safe) = (0, 0);
    let specs = hostile::specs();
    for hostile in &specs {
        match create_request(&hostile.spec, image()) {
            Some((spec, body)) => {
                assert_eq!(hostile.verdict, Verdict::Harmless, "{}", hostile.what);
                assert_safe(&spec, &body);
                safe += 1;
            }
            None => refused += 1,
        }
    }
    assert!(specs.len() >= 200 && refused + safe == specs.len());
    // Most of what is harmless has to get that far, or nothing was looked at.
    assert!(safe >= 12, "only {safe} became a request");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_becomes_a_request_is_safe(spec in hostile::any_spec(), image in any_image()) {
        if let Some((spec, body)) = create_request(&spec, image) {
            assert_safe(&spec, &body);
        }
    }
}

#[test]
fn the_list_finds_whatever_should_not_be_there() {
    let mut spec = hostile::plain();
    spec["gpus"] = json!({ "count": 2 });
    spec["env"] = json!({ "A": "b" });
    spec["ports"] = json!([{ "name": "web", "container": 80 }]);
    let (spec, good) = create_request(&spec, image()).unwrap();
    assert_safe(&spec, &good);
    for (pointer, value) in forbidden().into_iter().chain(widened()) {
        let mut body = good.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let (parent, key) = (body.pointer_mut(parent).unwrap(), key.replace("~1", "/"));
        if let Value::Array(list) = parent {
            list.push(value.clone());
        } else {
            parent[key] = value.clone();
        }
        assert!(
            !violations(&body, &rules(&spec)).is_empty(),
            "{pointer}: {value}"
        );
    }
    for restraint in [
        "CapDrop",
        "Memory",
        "MemorySwap",
        "NanoCpus",
        "PidsLimit",
        "SecurityOpt",
    ] {
        let mut body = good.clone();
        body["HostConfig"]
            .as_object_mut()
            .unwrap()
            .remove(restraint)
            .unwrap();
        assert!(
            !violations(&body, &rules(&spec)).is_empty(),
            "without {restraint}"
        );
    }
}

/// The host's own, which no rental has a part in. A last part of `-` adds to a list.
fn forbidden() -> Vec<(&'static str, Value)> {
    vec![
        ("/HostConfig/Privileged", json!(true)),
        ("/HostConfig/Binds", json!(["/:/host"])),
        ("/HostConfig/Mounts", json!([])),
        ("/HostConfig/Devices", json!([{ "PathOnHost": "/dev/sda" }])),
        ("/HostConfig/DeviceCgroupRules", json!(["a *:* rwm"])),
        ("/HostConfig/VolumesFrom", json!(["rental-other"])),
        ("/HostConfig/Links", json!(["rental-other:db"])),
        (
            "/HostConfig/Sysctls",
            json!({ "kernel.core_pattern": "|/x" }),
        ),
        ("/HostConfig/PidMode", json!("host")),
        ("/HostConfig/UTSMode", json!("host")),
        ("/HostConfig/UsernsMode", json!("host")),
        ("/HostConfig/CgroupnsMode", json!("host")),
        ("/HostConfig/CgroupParent", json!("/")),
        ("/HostConfig/NetworkMode", json!("host")),
        ("/HostConfig/IpcMode", json!("host")),
        ("/HostConfig/Runtime", json!("other")),
        ("/HostConfig/OomKillDisable", json!(true)),
    ]
}

/// Limits lifted, the wrong GPUs, and what stands outside of the host's part.
fn widened() -> Vec<(&'static str, Value)> {
    vec![
        ("/HostConfig/CapAdd/-", json!("SYS_ADMIN")),
        ("/HostConfig/CapDrop", json!([])),
        ("/HostConfig/SecurityOpt/-", json!("seccomp=unconfined")),
        ("/HostConfig/SecurityOpt", json!([])),
        ("/HostConfig/PidsLimit", json!(0)),
        ("/HostConfig/PidsLimit", json!(-1)),
        ("/HostConfig/PidsLimit", json!(4097)),
        ("/HostConfig/Memory", json!(0)),
        ("/HostConfig/MemorySwap", json!(-1)),
        ("/HostConfig/NanoCpus", json!(0)),
        ("/HostConfig/ShmSize", json!(1_u64 << 54)),
        ("/HostConfig/RestartPolicy", json!({ "Name": "always" })),
        (
            "/HostConfig/LogConfig",
            json!({ "Type": "syslog", "Config": {} }),
        ),
        ("/HostConfig/LogConfig/Config/max-size", json!("-1")),
        ("/HostConfig/DeviceRequests/0/Count", json!(-1)),
        ("/HostConfig/DeviceRequests/0/DeviceIDs", json!([])),
        ("/HostConfig/DeviceRequests/0/DeviceIDs/-", json!("GPU-0")),
        ("/HostConfig/DeviceRequests/0/DeviceIDs/-", json!("all")),
        ("/HostConfig/DeviceRequests/-", json!({ "Count": -1 })),
        (
            "/HostConfig/PortBindings/22~1tcp",
            json!([{ "HostIp": "127.0.0.1", "HostPort": "22" }]),
        ),
        ("/HostConfig/Later", json!(0)),
        ("/Env/-", json!("NVIDIA_VISIBLE_DEVICES=all")),
        ("/Env/-", json!("ld_preload=/tmp/x.so")),
        ("/Env/-", json!("MINE=x")),
        ("/Labels/com.docker.compose.project", json!("x")),
        ("/Labels/rental-agent.record", json!("{}")),
        ("/Labels/rental-agent.instance-id", json!("another")),
        ("/Image", json!("busybox")),
        ("/Volumes", json!({ "/x": {} })),
        ("/User", json!("0")),
        ("/NetworkingConfig", json!({})),
        ("/MacAddress", json!("02:00:00:00:00:01")),
        ("/StopTimeout", json!(-1)),
    ]
}

fn assert_safe(spec: &Value, body: &Value) {
    assert_eq!(
        violations(body, &rules(spec)),
        Vec::<String>::new(),
        "{spec} {body:#}"
    );
    let labels = body["Labels"].to_string();
    assert!(!labels.contains(CANARY), "{labels}");
}

fn rules(spec: &Value) -> Rules<'_> {
    Rules {
        gpus: &GPUS,
        ports: u64::from(PORTS.first)..=u64::from(PORTS.last),
        memory_bytes: MEMORY,
        spec,
        agent_id: AGENT,
    }
}

/// Gives a deploy of `spec` to an agent's core that has all that could be asked for, and follows it
/// until the engine would be called. Gives the spec as it was sent and the request; `None` when it was
/// refused.
fn create_request(spec: &Value, image: ImageFacts) -> Option<(Value, Value)> {
    let mut spec = spec.clone();
    let named = spec.as_object_mut().unwrap();
    named
        .entry("env")
        .or_insert_with(|| json!({ "SECRET": CANARY }));
    named
        .entry("registry_auth")
        .or_insert_with(|| json!({ "username": "renter", "password": CANARY }));
    let command = json!({ "type": "command", "id": "c-1", "op": "deploy", "spec": spec });
    let Ok(Incoming::Command(command)) = decode(&command.to_string()) else {
        return None;
    };
    let mut registry = ready();
    let mut effects = registry.handle(Input::Command(command), now());
    let wanted = effects.iter().find_map(|effect| {
        let Effect::Fetch(id, _) = effect else {
            return None;
        };
        Some(*id)
    });
    effects = registry.handle(Input::Fetched(wanted?, Ok(image)), now());
    let plan = effects.into_iter().find_map(|effect| {
        let Effect::Engine { op, .. } = effect else {
            return None;
        };
        let EngineOp::Create(plan) = op else {
            return None;
        };
        Some(plan)
    });
    let body =
        serde_json::to_value(create_body(&plan.expect("an accepted deploy's container"))).unwrap();
    Some((spec, body))
}

/// A core that is connected, sees an empty engine and two GPUs.
fn ready() -> Registry {
    let mut registry = Registry::new(options());
    let facts = EngineFacts {
        engine: Engine {
            gpu_runtime: true,
            ..Engine::default()
        },
        security_options: vec!["seccomp".to_owned()],
        architecture: "amd64".to_owned(),
        ..EngineFacts::default()
    };
    let up = Input::EngineUp {
        facts: Box::new(facts),
        disks: Vec::new(),
    };
    let list = registry.handle(up, now());
    let [Effect::List(ticket)] = list.as_slice() else {
        panic!("{list:?}")
    };
    let listing = Listing {
        volumes: Some(Vec::new()),
        ..Listing::default()
    };
    registry.handle(Input::Listed(*ticket, Ok(listing)), now());
    let server_time = now().wall;
    registry.handle(Input::Connected { server_time }, now());
    let gpus = GPUS.iter().zip(0..).map(|(uuid, index)| gpu(uuid, index));
    let complete = true;
    registry.handle(
        Input::Gpus {
            gpus: gpus.map(Into::into).collect(),
            complete,
        },
        now(),
    );
    let idle = GPUS.iter().map(|uuid| Reading::of(uuid.parse().unwrap()));
    let sampled = Sampled {
        asked_at: now().boot,
        readings: idle.collect(),
    };
    registry.handle(Input::GpuReadings(sampled.into()), now());
    registry
}

fn options() -> Options {
    Options {
        agent_id: AGENT.parse().unwrap(),
        host: Host {
            cpus: 4096,
            memory_bytes: MEMORY,
            ..Host::default()
        },
        address: "203.0.113.7".to_owned(),
        limits: ResourceLimits {
            gpus: None,
            reserve_cpus: 0.0,
            reserve_memory_bytes: 0,
            reserve_disk_bytes: 0,
            instances: 1,
            default_cpus: 1.0,
            default_memory_bytes: 1 << 30,
            numa: Default::default(),
            pids_limit: 4096,
            log_max_bytes: 10 << 20,
            log_files: 3,
            ulimits: Default::default(),
        },
        policy: Policy::default(),
        hardening: Hardening {
            network: "rental-agent".to_owned(),
            pids_limit: 4096,
            log_max_bytes: 10 << 20,
            log_files: 3,
            sudo: false,
            ulimits: Vec::new(),
            runtime: None,
            driver_capabilities: "compute,utility".to_owned(),
        },
        gpu_rules: Default::default(),
        port_range: PORTS,
        gpus: Default::default(),
    }
}

fn gpu(uuid: &str, index: u32) -> Gpu {
    Gpu {
        index,
        memory_bytes: 1 << 34,
        ..Gpu::bare(uuid.parse().unwrap(), "nvidia")
    }
}

/// An image that would like to see every GPU and to be taken for a rental of its own making.
fn image() -> ImageFacts {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    ImageFacts {
        id: format!("sha256:{}", "0".repeat(64)),
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        env_names: owned(&HOSTILE_NAMES),
        label_names: owned(&HOSTILE_LABELS),
        entrypoint: vec!["/bin/sh".to_owned()],
        ..ImageFacts::default()
    }
}

const HOSTILE_NAMES: [&str; 7] = [
    "PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "NVIDIA_REQUIRE_CUDA",
    "LD_PRELOAD",
    "LD_AUDIT",
    "CUDA_VISIBLE_DEVICES",
];

const HOSTILE_LABELS: [&str; 5] = [
    "maintainer",
    "rental-agent.agent-id",
    "rental-agent.gpus",
    "rental-agent.record",
    "rental-agent.ready-at",
];

fn any_image() -> impl Strategy<Value = ImageFacts> {
    let names = prop_oneof![
        3 => select(HOSTILE_NAMES.to_vec()).prop_map(str::to_owned),
        1 => "[A-Za-z_]{1,20}",
    ];
    let labels = prop_oneof![
        3 => select(HOSTILE_LABELS.to_vec()).prop_map(str::to_owned),
        1 => "[a-z.-]{1,20}",
    ];
    (
        vec(names, 0..6),
        vec(labels, 0..6),
        vec("[ -~]{0,20}", 0..3),
    )
        .prop_map(|(env_names, label_names, entrypoint)| ImageFacts {
            env_names,
            label_names,
            entrypoint,
            ..image()
        })
}

fn now() -> Now {
    Now {
        wall: Timestamp::from_millis(1_800_000_000_000),
        boot: Duration::from_secs(1_000),
    }
}
