//! What may stand in a request to create a container, written down a second time and from the outside:
//! by the JSON that goes to the engine, knowing nothing of the code that makes it. Whatever is not
//! listed here is a violation, so that a new field has to be argued for twice.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::{collections::BTreeSet, ops::RangeInclusive};

use serde_json::{Map, Value, json};

/// What the host, and the spec, have a say in.
#[derive(Debug, Clone)]
pub(crate) struct Rules<'a> {
    /// GPUs that the host has.
    pub(crate) gpus: &'a [&'a str],
    /// Host ports for rentals.
    pub(crate) ports: RangeInclusive<u64>,
    /// Memory of the host.
    pub(crate) memory_bytes: u64,
    /// As on the wire.
    pub(crate) spec: &'a Value,
    /// Who made it, and for whom.
    pub(crate) agent_id: &'a str,
}

const CAPABILITIES: [&str; 9] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETUID",
];

/// Labels with a meaning; all of them are on every container.
const LABELS: [&str; 9] = [
    "rental-agent.accepted-at",
    "rental-agent.agent-id",
    "rental-agent.boot-id",
    "rental-agent.command-id",
    "rental-agent.gpus",
    "rental-agent.instance-id",
    "rental-agent.schema",
    "rental-agent.spec",
    "rental-agent.spec-sha256",
];

/// Names of variables that choose GPUs, load code into programs or steer the engine's clients: by how
/// they begin, in upper case.
const GUARDED: [&str; 9] = [
    "CUDA_VISIBLE_DEVICES",
    "DOCKER_",
    "GLIBC_TUNABLES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "LD_",
    "NVIDIA_",
    "RENTAL_AGENT",
    "ROCR_VISIBLE_DEVICES",
];

/// `0-3,8`.
fn is_processors(value: &Value) -> bool {
    let list = value.as_str().unwrap_or_default();
    let part = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    list.split(',').all(|text| !text.is_empty() && part(text))
}

/// Everything in `body` that is not allowed, in words.
pub(crate) fn violations(body: &Value, rules: &Rules<'_>) -> Vec<String> {
    let mut check = Check {
        rules,
        gpus: requested_gpus(body),
        found: Vec::new(),
    };
    for (key, value) in object(body) {
        match key.as_str() {
            "Cmd" | "Entrypoint" => check.argv(key, value),
            "Env" => check.env(value),
            "ExposedPorts" => check.exposed_ports(value),
            "HostConfig" => check.host_config(value),
            "Image" => check.that(is_image_id(value), key, value),
            "Labels" => check.labels(value),
            "StopTimeout" => check.that(within(value, 0..=600), key, value),
            _ => check.that(false, key, value),
        }
    }
    for key in ["Env", "HostConfig", "Image", "Labels"] {
        check.that(body.get(key).is_some(), key, &Value::Null);
    }
    check.found
}

struct Check<'a> {
    rules: &'a Rules<'a>,
    /// Of the device request.
    gpus: Vec<String>,
    found: Vec<String>,
}

impl Check<'_> {
    fn that(&mut self, holds: bool, key: &str, value: &Value) {
        if !holds {
            self.found.push(format!("{key}: {value}"));
        }
    }

    fn host_config(&mut self, config: &Value) {
        for (key, value) in object(config) {
            let is_fine = match key.as_str() {
                "AutoRemove" | "Privileged" | "PublishAllPorts" => *value == json!(false),
                "CapAdd" => is_set(value, &CAPABILITIES),
                "CapDrop" => *value == json!(["ALL"]),
                "CpusetCpus" => is_processors(value),
                "DeviceRequests" => self.is_device_request(value),
                "Init" => *value == json!(true),
                "IpcMode" => *value == json!("private"),
                "LogConfig" => is_log_config(value),
                "Memory" | "MemorySwap" => {
                    within(value, 1..=self.rules.memory_bytes) && *value == config["Memory"]
                }
                "NanoCpus" => within(value, 1..=4_096_000_000_000),
                "NetworkMode" => *value == json!("rental-agent"),
                "PidsLimit" => within(value, 1..=4096),
                "PortBindings" => self.are_port_bindings(value),
                "RestartPolicy" => *value == json!({ "Name": "no" }),
                "SecurityOpt" => *value == json!(["no-new-privileges"]),
                "ShmSize" => within(value, 1..=config["Memory"].as_u64().unwrap_or(0)),
                // Binds, Mounts, Devices, PidMode, … and whatever the engine learns tomorrow.
                _ => false,
            };
            self.that(is_fine, &format!("HostConfig.{key}"), value);
        }
        // What restrains is restraint only when it is there: the engine's own defaults are wider.
        for key in [
            "CapAdd",
            "CapDrop",
            "Init",
            "IpcMode",
            "LogConfig",
            "Memory",
            "MemorySwap",
            "NanoCpus",
            "NetworkMode",
            "PidsLimit",
            "Privileged",
            "RestartPolicy",
            "SecurityOpt",
            "ShmSize",
        ] {
            self.that(
                config.get(key).is_some(),
                &format!("HostConfig.{key}"),
                &Value::Null,
            );
        }
    }

    /// By UUID, each once, and only what the host has: a count, or no ids, means any.
    fn is_device_request(&self, value: &Value) -> bool {
        let ids: BTreeSet<&String> = self.gpus.iter().collect();
        let known = |id: &String| self.rules.gpus.contains(&id.as_str());
        let request = json!([{ "Driver": "", "DeviceIDs": self.gpus, "Capabilities": [["gpu"]] }]);
        *value == request
            && !self.gpus.is_empty()
            && ids.len() == self.gpus.len()
            && self.gpus.iter().all(known)
    }

    fn are_port_bindings(&self, value: &Value) -> bool {
        let mut hosts = BTreeSet::new();
        let mut is_binding = |binding: &Value| {
            let port = binding["HostPort"]
                .as_str()
                .and_then(|port| port.parse().ok());
            let port: u64 = port.unwrap_or(0);
            *binding == json!({ "HostIp": "", "HostPort": port.to_string() })
                && self.rules.ports.contains(&port)
                && hosts.insert(port)
        };
        object(value).iter().all(|(port, bindings)| {
            is_container_port(port) && bindings.as_array().unwrap().iter().all(&mut is_binding)
        })
    }

    fn exposed_ports(&mut self, value: &Value) {
        for (port, of) in object(value) {
            self.that(
                is_container_port(port) && *of == json!({}),
                "ExposedPorts",
                value,
            );
        }
    }

    fn argv(&mut self, key: &str, value: &Value) {
        let is_fine = |argument: &Value| argument.as_str().is_some_and(|text| !text.contains('\0'));
        let all = value
            .as_array()
            .is_some_and(|list| list.iter().all(is_fine));
        self.that(all, key, value);
    }

    /// Ours first, by which a program sees which GPUs it has; then the tenant's, word by word; then
    /// names without `=`, by which an image's own are unset.
    fn env(&mut self, value: &Value) {
        let entries: Vec<&str> = value
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e.as_str().unwrap())
            .collect();
        let mut expected = vec![match self.gpus.join(",") {
            none if none.is_empty() => "NVIDIA_VISIBLE_DEVICES=void".to_owned(),
            uuids => format!("NVIDIA_VISIBLE_DEVICES={uuids}"),
        }];
        if !self.gpus.is_empty() {
            expected.push("NVIDIA_DRIVER_CAPABILITIES=compute,utility".to_owned());
        }
        for (name, value) in self.rules.spec["env"].as_object().unwrap_or(&Map::new()) {
            self.that(!is_guarded(name), "Env", &json!(name));
            expected.push(format!("{name}={}", value.as_str().unwrap()));
        }
        let (set, unset) = entries.split_at(expected.len().min(entries.len()));
        self.that(set == expected, "Env", value);
        for entry in unset {
            self.that(
                is_guarded(entry) && !entry.contains('='),
                "Env",
                &json!(entry),
            );
        }
    }

    /// Ours with what they have to say; an image's that pretend to be ours, emptied; no others, and
    /// nowhere a secret.
    fn labels(&mut self, value: &Value) {
        for (name, text) in object(value) {
            let pretends = name.starts_with("rental-agent.") && *text == json!("");
            self.that(
                LABELS.contains(&name.as_str()) || pretends,
                "Labels",
                &json!(name),
            );
        }
        for name in LABELS {
            self.that(value[name].is_string(), "Labels", &json!(name));
        }
        self.that(
            value["rental-agent.agent-id"] == self.rules.agent_id,
            "Labels",
            value,
        );
        let id = &self.rules.spec["instance_id"];
        self.that(value["rental-agent.instance-id"] == *id, "Labels", value);
        self.that(
            value["rental-agent.gpus"] == self.gpus.join(","),
            "Labels",
            value,
        );
        let spec = value["rental-agent.spec"].as_str().unwrap_or_default();
        self.that(spec.len() <= 32 * 1024, "Labels", value);
    }
}

fn requested_gpus(body: &Value) -> Vec<String> {
    let ids = body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"].as_array();
    let ids = ids.into_iter().flatten().filter_map(Value::as_str);
    ids.map(str::to_owned).collect()
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

fn within(value: &Value, range: RangeInclusive<u64>) -> bool {
    value.as_u64().is_some_and(|number| range.contains(&number))
}

fn is_set(value: &Value, wanted: &[&str]) -> bool {
    let mut entries: Vec<&str> = value
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    entries.sort_unstable();
    entries == wanted
}

/// A log that ends somewhere: at most 16 files of at most 256 MiB.
fn is_log_config(value: &Value) -> bool {
    let number = |name: &str| {
        value["Config"][name]
            .as_str()
            .and_then(|text| text.parse().ok())
    };
    let files: u64 = number("max-file").unwrap_or(0);
    let bytes: u64 = number("max-size").unwrap_or(0);
    let config = json!({ "max-file": files.to_string(), "max-size": bytes.to_string() });
    *value == json!({ "Type": "json-file", "Config": config })
        && (1..=16).contains(&files)
        && (1..=256 << 20).contains(&bytes)
}

fn is_container_port(text: &str) -> bool {
    let Some((port, protocol)) = text.split_once('/') else {
        return false;
    };
    port.parse::<u16>().is_ok_and(|port| port > 0) && matches!(protocol, "tcp" | "udp")
}

fn is_image_id(value: &Value) -> bool {
    let digest = value.as_str().and_then(|text| text.strip_prefix("sha256:"));
    digest.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_guarded(name: &str) -> bool {
    let upper = name.to_uppercase();
    GUARDED.iter().any(|guarded| upper.starts_with(guarded))
}
