//! The body of a create request. Everything that a rental is allowed is said here, in one place.

use std::{collections::HashMap, time::Duration};

use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, DeviceMapping, DeviceRequest,
    HostConfig, HostConfigLogConfig, PortBinding, PortMap, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use secrecy::ExposeSecret;

use super::LABEL_PREFIX;
use crate::{
    protocol::record::PortProtocol,
    runtime::{
        ContainerPlan, Hardening, HostPort,
        gpus::{Handing, cdi_name},
    },
};

/// Enough for package managers, su-like programs, web servers and an sshd's sessions; raw sockets,
/// devices, modules, mounts and tracing are not in it.
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "SETUID",
    "SETGID",
    "KILL",
    "NET_BIND_SERVICE",
    "AUDIT_WRITE",
];

/// Which GPUs a container sees is decided by these too, so they are ours alone.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";
const DRIVER_CAPABILITIES: &str = "NVIDIA_DRIVER_CAPABILITIES";

/// What the engine is asked to make of `plan`.
pub fn create_body(plan: &ContainerPlan) -> ContainerCreateBody {
    let (entrypoint, cmd) = argv(plan);
    ContainerCreateBody {
        image: Some(plan.image.id.clone()),
        entrypoint,
        cmd,
        env: Some(environment(plan)),
        labels: Some(labels(plan)),
        exposed_ports: Some(plan.ports.iter().map(container_port).collect()),
        stop_timeout: Some(whole_seconds(plan.stop_grace)),
        host_config: Some(host_config(plan)),
        ..ContainerCreateBody::default()
    }
}

/// The same container once more, from what its own inspect says. Names and ids that the engine gave
/// to the old one are left out, so that the new one gets its own.
pub fn remake_body(inspect: &ContainerInspectResponse) -> Option<ContainerCreateBody> {
    let config: ContainerConfig = inspect.config.clone()?;
    let given_hostname = |name: &String| {
        let id = inspect.id.as_deref().unwrap_or_default();
        !id.starts_with(name.as_str())
    };
    Some(ContainerCreateBody {
        hostname: config.hostname.filter(given_hostname),
        domainname: config.domainname,
        user: config.user,
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: config.exposed_ports,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: config.env,
        cmd: config.cmd,
        healthcheck: config.healthcheck,
        args_escaped: config.args_escaped,
        image: Some(inspect.image.clone()?),
        volumes: config.volumes,
        working_dir: config.working_dir,
        entrypoint: config.entrypoint,
        network_disabled: config.network_disabled,
        on_build: config.on_build,
        labels: config.labels,
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        shell: config.shell,
        host_config: Some(inspect.host_config.clone()?),
        networking_config: None,
    })
}

/// Entrypoint and command as the engine has to be told them. `None` leaves the image's in place, but
/// the engine also puts the image's command back for an empty one whenever the entrypoint is empty
/// or absent; naming the entrypoint (`[""]` means none) is what keeps an empty command empty.
fn argv(plan: &ContainerPlan) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let clears_command = plan.command.as_ref().is_some_and(Vec::is_empty);
    if !clears_command {
        return (plan.entrypoint.clone(), plan.command.clone());
    }
    let entrypoint = plan.entrypoint.as_ref().unwrap_or(&plan.image.entrypoint);
    let entrypoint = if entrypoint.is_empty() {
        vec![String::new()]
    } else {
        entrypoint.clone()
    };
    (Some(entrypoint), Some(Vec::new()))
}

/// The plan's variables between ours. Ours come first because a program sees the first of two equal
/// names; an entry without `=` removes what the image sets.
fn environment(plan: &ContainerPlan) -> Vec<String> {
    let mut env = Vec::new();
    // Whatever else hands them over, NVIDIA's runtime must not add what it thinks is meant.
    let by_runtime = !plan.gpus.is_empty() && plan.handing == Handing::Request;
    if by_runtime {
        let uuids: Vec<&str> = plan.gpus.iter().map(|gpu| gpu.as_str()).collect();
        env.push(format!("{VISIBLE_DEVICES}={}", uuids.join(",")));
        let capabilities = &plan.hardening.driver_capabilities;
        env.push(format!("{DRIVER_CAPABILITIES}={capabilities}"));
    } else {
        env.push(format!("{VISIBLE_DEVICES}=void"));
    }
    let ours = |name: &str| name == VISIBLE_DEVICES || (name == DRIVER_CAPABILITIES && by_runtime);
    let from_plan = plan.env.iter().filter(|(name, _)| !is_guarded(name));
    env.extend(from_plan.map(|(name, value)| format!("{name}={}", value.expose_secret())));
    let from_image = plan.image.env_names.iter();
    env.extend(
        from_image
            .filter(|name| is_guarded(name) && !ours(name))
            .cloned(),
    );
    env
}

/// Variables that choose GPUs or load code into every program, hooks of the runtime included, or
/// speak for the agent: neither an image nor a tenant sets them. `LD_LIBRARY_PATH` an image keeps:
/// without theirs most images for CUDA would not find their libraries.
fn is_guarded(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let by_beginning = ["NVIDIA_", "LD_", "DOCKER_RESOURCE_", "RENTAL_AGENT"];
    let by_beginning = by_beginning.iter().any(|start| name.starts_with(start));
    (by_beginning && name != "LD_LIBRARY_PATH")
        || matches!(
            name.as_str(),
            "GLIBC_TUNABLES"
                | "CUDA_VISIBLE_DEVICES"
                | "ROCR_VISIBLE_DEVICES"
                | "HIP_VISIBLE_DEVICES"
                | "GPU_DEVICE_ORDINAL"
                | "AMD_VISIBLE_DEVICES"
                | "ASCEND_VISIBLE_DEVICES"
                | "HABANA_VISIBLE_DEVICES"
        )
}

/// The plan's labels, and each name of ours that the image uses, emptied: the engine merges an
/// image's labels into the container's, and nothing but us may speak under that prefix.
fn labels(plan: &ContainerPlan) -> HashMap<String, String> {
    let image = plan.image.label_names.iter();
    let emptied = image
        .filter(|name| name.starts_with(LABEL_PREFIX))
        .map(|name| (name.clone(), String::new()));
    let ours = plan.labels.iter();
    emptied
        .chain(ours.map(|(name, value)| (name.clone(), value.clone())))
        .collect()
}

fn host_config(plan: &ContainerPlan) -> HostConfig {
    let hardening = &plan.hardening;
    let no_new_privileges = || vec!["no-new-privileges".to_owned()];
    HostConfig {
        init: Some(true),
        privileged: Some(false),
        memory: Some(plan.memory_bytes),
        // Equal to the memory: no swap on top.
        memory_swap: Some(plan.memory_bytes),
        nano_cpus: Some(plan.nano_cpus),
        // Memory stays free to come from other nodes: near is better, out of memory is worse.
        cpuset_cpus: plan.cpuset.clone(),
        pids_limit: Some(hardening.pids_limit),
        shm_size: Some(plan.shm_bytes),
        ulimits: (!hardening.ulimits.is_empty()).then(|| ulimits(hardening)),
        log_config: Some(log_config(hardening)),
        security_opt: (!hardening.sudo).then(no_new_privileges),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        auto_remove: Some(false),
        network_mode: Some(hardening.network.clone()),
        ipc_mode: Some("private".to_owned()),
        publish_all_ports: Some(false),
        port_bindings: Some(port_bindings(&plan.ports)),
        device_requests: device_request(plan).map(|request| vec![request]),
        devices: device_files(plan),
        runtime: hardening.runtime.clone(),
        ..HostConfig::default()
    }
}

/// By UUID, never by number: a number would mean "any", and "any" includes those of others.
fn device_request(plan: &ContainerPlan) -> Option<DeviceRequest> {
    let gpus = Some(plan.gpus.iter()).filter(|_| !plan.gpus.is_empty())?;
    match plan.handing {
        Handing::Request => Some(DeviceRequest {
            driver: Some(String::new()),
            device_ids: Some(gpus.map(ToString::to_string).collect()),
            capabilities: Some(vec![vec!["gpu".to_owned()]]),
            count: None,
            options: None,
        }),
        // The engine refuses a number or capabilities beside the names.
        Handing::Cdi => Some(DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(gpus.map(cdi_name).collect()),
            ..DeviceRequest::default()
        }),
        Handing::Files(_) => None,
    }
}

/// To be read and written; to make more of them is nobody's right.
fn device_files(plan: &ContainerPlan) -> Option<Vec<DeviceMapping>> {
    let mapping = |path: &String| DeviceMapping {
        path_on_host: Some(path.clone()),
        path_in_container: Some(path.clone()),
        cgroup_permissions: Some("rw".to_owned()),
    };
    match &plan.handing {
        Handing::Files(paths) => Some(paths.iter().map(mapping).collect()),
        Handing::Request | Handing::Cdi => None,
    }
}

fn log_config(hardening: &Hardening) -> HostConfigLogConfig {
    let options = [
        ("max-size", hardening.log_max_bytes.to_string()),
        ("max-file", hardening.log_files.to_string()),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value));
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(HashMap::from(options)),
    }
}

fn ulimits(hardening: &Hardening) -> Vec<ResourcesUlimits> {
    let limit = |(name, soft, hard): &(String, i64, i64)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(*soft),
        hard: Some(*hard),
    };
    hardening.ulimits.iter().map(limit).collect()
}

fn port_bindings(ports: &[HostPort]) -> PortMap {
    let mut map = PortMap::new();
    for port in ports {
        // Without an address: on all that the host has, of either family.
        let binding = PortBinding {
            host_ip: Some(String::new()),
            host_port: Some(port.host.to_string()),
        };
        let bindings = map.entry(container_port(port)).or_default();
        bindings.get_or_insert_default().push(binding);
    }
    map
}

fn container_port(port: &HostPort) -> String {
    let protocol = match port.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
    };
    format!("{}/{protocol}", port.container)
}

/// The engine counts in whole seconds; a part of one is rounded up, so that no grace is cut short.
fn whole_seconds(time: Duration) -> i64 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
