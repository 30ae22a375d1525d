//! From [`Raw`] to [`Config`]: what a schema cannot say. Each section is checked whole, whatever is
//! wrong with the others.

mod command_key;
mod gpu;
mod http;
mod network;
mod server;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use url::Host;

use super::{
    Agent, Config, Docker, HostOptions, Log, Policy, ResourceLimits,
    fault::Faults,
    proxy::Variables,
    raw::{self, Raw},
};
use crate::{ids::GpuUuid, protocol::text::printable};

pub(in crate::config) use server::is_loopback;

/// The names that setrlimit knows, as the engine spells them.
pub(super) const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// What NVIDIA's container toolkit knows.
pub(super) const DRIVER_CAPABILITIES: &[&str] = &[
    "all", "compat32", "compute", "display", "graphics", "ngx", "utility", "video",
];

/// Checks what was read. `None` only with a fault.
pub(super) fn validate(raw: Raw, variables: &Variables, faults: &mut Faults) -> Option<Config> {
    let agent = agent(raw.agent, faults);
    let server = server::check(raw.server, variables, faults);
    let docker = docker(raw.docker, faults);
    let network = network::check(raw.network, faults);
    let resources = resources(raw.resources, faults);
    let policy = policy(raw.policy, faults);
    let gpu = gpu::check(raw.gpu, raw.monitoring, faults);
    let host = host(raw.host, faults);
    let http = http::check(raw.http, faults);
    let control = http::control(raw.control, faults);
    let log = log(raw.log, faults);
    Some(Config {
        agent: agent?,
        server: server?,
        docker: docker?,
        network: network?,
        resources: resources?,
        policy: policy?,
        gpu: gpu?,
        host: host?,
        http: http?,
        control: control?,
        log: log?,
    })
}

fn agent(raw: raw::Agent, faults: &mut Faults) -> Option<Agent> {
    const GRAMMAR: &str = "1 to 63 of [a-z0-9-], alphanumeric at both ends";
    let id = match raw.id {
        Some(text) => {
            let id = text.parse().ok();
            if id.is_none() {
                faults.shown(
                    "agent.id",
                    &text,
                    "is no agent id",
                    format!("write {GRAMMAR}"),
                );
            }
            id
        }
        None => {
            let remedy = "give this host the name that the central server knows it by: AGENT_ID, \
                          --agent-id, or `id` under [agent]";
            faults.missing("agent.id", remedy);
            None
        }
    };
    let named = |name: &str| {
        (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b))
    };
    let short = |value: &str| {
        value.chars().count() <= raw::MAX_LABEL_VALUE && !value.chars().any(char::is_control)
    };
    if raw.labels.len() > raw::MAX_LABELS {
        let count = format!("{} labels", raw.labels.len());
        faults.shown(
            "agent.labels",
            &count,
            "are too many",
            format!("keep at most {}", raw::MAX_LABELS),
        );
    }
    for (name, value) in raw
        .labels
        .iter()
        .filter(|(name, value)| !named(name) || !short(value))
    {
        let remedy = "use names of 1 to 63 of [A-Za-z0-9._/-] and values of at most 256 characters";
        faults.shown(
            "agent.labels",
            &format!("{name}={value}"),
            "is no label",
            remedy,
        );
    }
    Some(Agent {
        id: id?,
        labels: raw.labels,
    })
}

fn absolute(key: &str, path: &Path, faults: &mut Faults) -> bool {
    if !path.is_absolute() {
        let shown = path.display().to_string();
        faults.shown(
            key,
            &shown,
            "is no absolute path",
            "write the path from / on",
        );
    }
    path.is_absolute()
}

fn docker(raw: raw::Docker, faults: &mut Faults) -> Option<Docker> {
    let pull_stall = Duration::try_from_secs_f64(raw.pull_stall_s).ok()?;
    if !raw.host.starts_with("unix:///") || raw.host.contains('@') {
        let reason = "is no unix socket (the agent runs on the host whose engine it uses)";
        let remedy = "write unix:///PATH, like unix:///var/run/docker.sock";
        match raw.host.contains('@') {
            true => faults.hidden("docker.host", reason, remedy),
            false => faults.shown("docker.host", &raw.host, reason, remedy),
        }
        return None;
    }
    Some(Docker {
        host: raw.host,
        pull_stall,
    })
}

/// A name as the engine takes it for networks and runtimes.
fn is_engine_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn resources(raw: raw::Resources, faults: &mut Faults) -> Option<ResourceLimits> {
    let mut ulimits = BTreeMap::new();
    for (name, raw::Ulimit { soft, hard }) in raw.ulimits {
        let shown = format!("{name} = {{ soft = {soft}, hard = {hard} }}");
        let above = |a: i64, b: i64| b != -1 && (a == -1 || a > b);
        if !ULIMITS.contains(&name.as_str()) {
            let remedy = format!("use {}", ULIMITS.join(", "));
            faults.shown("resources.ulimits", &shown, "names no limit", remedy);
        } else if soft < -1 || hard < -1 || above(soft, hard) {
            let reason = "is no pair of limits";
            let remedy = "write a soft limit not above the hard one, -1 for none";
            faults.shown("resources.ulimits", &shown, reason, remedy);
        }
        ulimits.insert(name, (soft, hard));
    }
    let gpus = raw.gpus.map(|names| {
        let parsed = names.iter().filter_map(|name| {
            let remedy = "write UUIDs as `rental-agent inventory` lists them";
            let parsed = name.parse::<GpuUuid>();
            parsed
                .inspect_err(|_| faults.shown("resources.gpus", name, "is no GPU UUID", remedy))
                .ok()
        });
        parsed.collect()
    });
    Some(ResourceLimits {
        gpus,
        reserve_cpus: raw.reserve.cpus,
        reserve_memory_bytes: raw.reserve.memory_bytes,
        reserve_disk_bytes: raw.reserve.disk_bytes,
        instances: raw.max_instances,
        default_cpus: raw.default_cpus,
        default_memory_bytes: raw.default_memory_bytes,
        numa: raw.numa,
        pids_limit: raw.pids_limit,
        log_max_bytes: raw.log_max_bytes,
        log_files: raw.log_files,
        ulimits,
    })
}

fn policy(raw: raw::Policy, faults: &mut Faults) -> Option<Policy> {
    for registry in raw.allowed_registries.iter().flatten() {
        if !is_registry(registry) {
            let remedy = "write HOST or HOST:PORT in lower case, like docker.io or localhost:5000";
            faults.shown(
                "policy.allowed_registries",
                registry,
                "is no registry",
                remedy,
            );
        }
    }
    if let Some(runtime) = &raw.runtime
        && !is_engine_name(runtime)
    {
        let remedy = "write the name of a runtime as `docker info` lists it";
        faults.shown("policy.runtime", runtime, "is no name of a runtime", remedy);
    }
    let command_key = command_key::check(&raw, faults);
    Some(Policy {
        command_key,
        allowed_registries: raw.allowed_registries,
        sudo: raw.sudo,
        runtime: raw.runtime,
    })
}

/// `host[:port]`, where the host is a name or an IP address, an IPv6 one in brackets.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    // Parsing puts a host into its normal form; one that was not in it would never match.
    port_fits && Host::parse(host).is_ok_and(|parsed| parsed.to_string() == host)
}

fn host(raw: raw::Host, faults: &mut Faults) -> Option<HostOptions> {
    const KEY: &str = "host.boot_id_file";
    let path = raw.boot_id_file;
    if absolute(KEY, &path, faults) {
        let reason = match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Some("is empty".to_owned()),
            Ok(_) => None,
            Err(error) => Some(format!("cannot be read: {error}")),
        };
        if let Some(reason) = reason {
            let shown = path.display().to_string();
            faults.shown(
                KEY,
                &shown,
                reason,
                "leave it unset, which is right on Linux",
            );
        }
    }
    Some(HostOptions { boot_id_file: path })
}

fn log(raw: raw::Log, faults: &mut Faults) -> Option<Log> {
    const KEY: &str = "log.filter";
    let remedy = "write error, warn, info, debug or trace, or TARGET=LEVEL with commas between";
    // The filter takes a lone word for a target, and with a misspelt level nothing would be logged.
    let misspelt = |part: &&str| !part.contains('=') && part.parse::<LevelFilter>().is_err();
    if let Some(word) = raw.filter.split(',').map(str::trim).find(misspelt) {
        let reason = format!("has `{}`, which is no level", printable(word, 40));
        faults.shown(KEY, &raw.filter, reason, remedy);
    } else if let Err(error) = EnvFilter::builder().parse(&raw.filter) {
        faults.shown(KEY, &raw.filter, format!("is no filter: {error}"), remedy);
    }
    Some(Log {
        filter: raw.filter,
        json: raw.format == raw::LogFormat::Json,
    })
}
