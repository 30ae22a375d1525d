//! Rentals to deploy: small images that behave in one known way each.

use rental_agent::ids::InstanceId;
use serde_json::{Value, json};

/// In every secret that a test gives the agent. No log, label or message may show it.
pub(crate) const CANARY: &str = "canary-7f3a9c";

/// An `InstanceSpec` in the making, as it is written on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Spec(Value);

impl Spec {
    /// A container that runs `command` of `image`, small enough for hundreds on one machine.
    pub(crate) fn new(id: &InstanceId, image: &str, command: &[impl AsRef<str>]) -> Self {
        let command: Vec<&str> = command.iter().map(AsRef::as_ref).collect();
        Self(json!({
            "instance_id": id,
            "image": image,
            "command": command,
            "cpus": 0.1,
            "memory_bytes": 16 * 1024 * 1024,
            "env": { "TENANT_SECRET": format!("{CANARY}-env") },
            "stop_grace_s": 2,
        }))
    }

    /// A field of the spec.
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0[field] = value.into();
        self
    }

    /// Publishes a port of the container.
    pub(crate) fn port(mut self, name: &str, container: u16) -> Self {
        let port = json!({ "name": name, "container": container });
        match &mut self.0["ports"] {
            Value::Array(ports) => ports.push(port),
            ports => *ports = json!([port]),
        }
        self
    }

    /// So many GPUs.
    pub(crate) fn gpus(self, count: u32) -> Self {
        self.with("gpus", json!({ "count": count }))
    }

    /// These GPUs.
    pub(crate) fn gpu_uuids(self, uuids: &[&str]) -> Self {
        self.with("gpus", json!({ "uuids": uuids }))
    }

    /// Seconds between TERM and KILL.
    pub(crate) fn grace_s(self, seconds: f64) -> Self {
        self.with("stop_grace_s", seconds)
    }

    /// Its instance id.
    pub(crate) fn id(&self) -> InstanceId {
        self.0["instance_id"].as_str().unwrap().parse().unwrap()
    }

    /// As it goes on the wire.
    pub(crate) fn json(&self) -> Value {
        self.0.clone()
    }
}

/// Runs until it is told to end, and then ends at once.
pub(crate) fn sleeps() -> Vec<&'static str> {
    vec!["sleep", "1000000"]
}

/// Serves a page with `hello` on port 80.
pub(crate) fn serves_http() -> Vec<&'static str> {
    vec![
        "sh",
        "-c",
        "mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 80 -h /www",
    ]
}

/// Runs until it is killed, whatever it is told.
pub(crate) fn ignores_term() -> Vec<&'static str> {
    vec!["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
}

/// Says its last words and ends with this code.
pub(crate) fn exits(code: u8) -> Vec<String> {
    let script = format!("echo last words; exit {code}");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

/// Runs until [`World::wake`](super::World::wake) and then does this, in the language of the shell.
pub(crate) fn when_woken(action: &str) -> Vec<String> {
    let script = format!("trap '{action}' USR1; echo {ASLEEP}; while :; do sleep 0.1; done");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

/// Said when a signal finds its trap.
pub(super) const ASLEEP: &str = "asleep";
