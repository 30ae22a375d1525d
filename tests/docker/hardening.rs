//! A live rental is what its plan said, nothing of the host reaches into it, and its first process has
//! the rights that are written down and no others.

use rental_agent::ids::InstanceId;
use serde_json::{Map, Value};

#[path = "../support/allow_list.rs"]
mod allow_list;

use crate::{
    fake_nvml::FakeNvml,
    lab::{Engine, Own},
    proxied::Proxied,
    world::{Spec, container_name},
};

use self::allow_list::{Rules, violations};

/// The first GPU of the stand-in.
const GPU: &str = "GPU-00000000-0000-0000-0000-000000000000";

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, NET_BIND_SERVICE and AUDIT_WRITE, by
/// their numbers in capabilities(7).
const CAPABILITIES: [u32; 9] = [0, 1, 3, 4, 5, 6, 7, 10, 29];

#[tokio::test(flavor = "multi_thread")]
async fn a_live_rental_is_what_its_plan_said() {
    let mut stage = Proxied::shared().await;
    stage.world.up().await;
    let spec = stage.world.sleeper().port("web", 80).port("more", 8080);
    check(&stage, &spec, &[]).await;

    let status =
        Engine::shared().docker(&["exec", &container_name(&spec.id()), "cat", "/proc/1/status"]);
    let mask: u64 = CAPABILITIES.iter().map(|number| 1 << number).sum();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, set), format!("{mask:016x}"), "{set}");
    }
    assert_eq!(field(&status, "NoNewPrivs"), "1");
    assert_eq!(field(&status, "Seccomp"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_engine_a_live_rental_with_a_gpu_is_what_its_plan_said() {
    let nvml = FakeNvml::with("gpus 2\n");
    let engine = Engine::own(Own {
        gpus: true,
        ..Own::default()
    });
    let mut stage = Proxied::own(&engine).await;
    let library = nvml.library.display().to_string();
    stage
        .world
        .set_env("RENTAL_AGENT__GPU__NVML_LIBRARY", library);
    stage.world.with_idle_gpus();
    stage.world.up().await;
    let spec = stage.world.sleeper().gpu_uuids(&[GPU]);
    check(&stage, &spec, &[GPU]).await;
}

/// Deploys it, holds the request against the list of what may stand in one, and the container against
/// the request.
async fn check(stage: &Proxied, spec: &Spec, gpus: &[&str]) {
    let (id, _) = stage.world.deploy_ready(spec).await;
    let request = create_request(stage, &id);
    let (spec, first) = (spec.json(), u64::from(stage.world.first_port()));
    let rules = Rules {
        gpus,
        ports: first..=first + 9,
        memory_bytes: 1 << 53,
        spec: &spec,
        agent_id: stage.world.agent_id().as_str(),
    };
    assert_eq!(
        violations(&request, &rules),
        Vec::<String>::new(),
        "{request:#}"
    );

    let inspect = serde_json::to_value(stage.world.running(&id).await.inspect).unwrap();
    assert_eq!(
        differences(&request["HostConfig"], &inspect["HostConfig"]),
        Vec::<String>::new()
    );
    assert_eq!(inspect["Config"]["Labels"], request["Labels"]);
    assert_eq!(inspect["Image"], request["Image"]);
    assert_eq!(inspect["Mounts"], Value::Array(Vec::new()));
    let networks = inspect["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["rental-agent"]);
}

fn create_request(stage: &Proxied, id: &InstanceId) -> Value {
    let name = container_name(id);
    let creates = stage.proxy.changes();
    let create = creates.iter().find(|call| {
        call.path.ends_with("/containers/create") && call.name() == Some(name.as_str())
    });
    create.expect("a create").body.clone()
}

/// Where the engine's account differs from what it was asked: each field that was asked has to be
/// there, and each that was not has to say nothing, or what the engine always says.
fn differences(asked: &Value, told: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let asked = asked.as_object().unwrap();
    for (key, wanted) in asked {
        if !is_covered(wanted, &told[key]) {
            found.push(format!("{key}: {wanted} was asked, {} is told", told[key]));
        }
    }
    for (key, value) in told.as_object().unwrap() {
        if !asked.contains_key(key) && !says_nothing(value) && !is_the_engines_own(key, value) {
            found.push(format!("{key}: {value} was not asked"));
        }
    }
    found
}

fn is_covered(wanted: &Value, told: &Value) -> bool {
    match (wanted, told) {
        (Value::Object(wanted), Value::Object(told)) => {
            let rest = |key: &String| wanted.contains_key(key);
            wanted
                .iter()
                .all(|(key, value)| told.get(key).is_some_and(|told| is_covered(value, told)))
                && told
                    .iter()
                    .all(|(key, value)| rest(key) || says_nothing(value))
        }
        (Value::Array(wanted), Value::Array(told)) => {
            wanted.len() == told.len() && wanted.iter().zip(told).all(|(w, t)| is_covered(w, t))
        }
        (wanted, told) => wanted == told,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.iter().all(says_nothing),
        Value::Object(map) => *map == Map::new(),
    }
}

/// What the engine adds by itself: its runtime, and what it hides of /proc and /sys. Under cgroup v1
/// it knows no other namespace of cgroups than the host's; what is mounted of them is read-only.
fn is_the_engines_own(key: &str, value: &Value) -> bool {
    let has = |path: &str| {
        value
            .as_array()
            .is_some_and(|list| list.iter().any(|v| v == path))
    };
    match key {
        "Runtime" => value == "runc" || value == "io.containerd.runc.v2",
        "CgroupnsMode" => value == "private" || value == "host",
        "MaskedPaths" => has("/proc/kcore") && has("/sys/firmware"),
        "ReadonlyPaths" => has("/proc/sys") && has("/proc/sysrq-trigger"),
        _ => false,
    }
}

/// A line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(key, _)| *key == name);
    found.next().expect("a line of that name").1.trim()
}
