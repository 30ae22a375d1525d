//! What the engine shows, in the agent's words.

use std::collections::BTreeSet;

use bollard::models::{
    ContainerInspectResponse, ContainerState as State, ContainerStateStatusEnum as Status,
    ContainerSummary, ContainerSummaryStateEnum as SummaryState, DeviceRequest, HostConfig,
    ImageInspect, PortMap, PortSummary, PortSummaryTypeEnum as PortType,
};

use crate::{
    clock::Timestamp,
    ids::ContainerId,
    protocol::record::PortProtocol,
    runtime::{ContainerState, Detail, HostPort, ImageFacts, Observed, gpus::ALL},
};

/// As many words about GPUs of one container count; more than any host has GPUs.
const MAX_WORDS: usize = 256;

/// What NVIDIA's runtime goes by.
const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES=";

/// One line of the list. `None` when it has no id that can be read.
pub fn observed_from_summary(summary: ContainerSummary) -> Option<Observed> {
    let id: ContainerId = summary.id?.parse().ok()?;
    let names = summary.names.unwrap_or_default();
    let ports = summary.ports.unwrap_or_default();
    let ports: BTreeSet<HostPort> = ports.iter().filter_map(listed_port).collect();
    Some(Observed {
        name: own_name(&names).unwrap_or_else(|| id.to_string()),
        id,
        created_at: Timestamp::from_millis(summary.created.unwrap_or(0).saturating_mul(1000)),
        state: summary.state.map_or(ContainerState::Other, summary_state),
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
        ports: ports.into_iter().collect(),
        devices: Vec::new(),
        detail: None,
    })
}

/// One container, whole. `None` when what makes a container is missing from it.
pub fn observed_from_inspect(inspect: ContainerInspectResponse) -> Option<Observed> {
    let id: ContainerId = inspect.id?.parse().ok()?;
    let state = inspect.state.unwrap_or_default();
    let host = inspect.host_config.unwrap_or_default();
    let kind = state.status.map_or(ContainerState::Other, inspect_state);
    let published = inspect.network_settings.and_then(|settings| settings.ports);
    let ports = match published {
        // Only a container that runs has these.
        Some(map) if !map.is_empty() => bound_ports(&map),
        Some(_) | None => bound_ports(&host.port_bindings.clone().unwrap_or_default()),
    };
    let config = inspect.config.unwrap_or_default();
    let env = config.env.unwrap_or_default();
    Some(Observed {
        name: inspect.name?.trim_start_matches('/').to_owned(),
        id,
        created_at: inspect.created?.parse().ok()?,
        state: kind,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        ports,
        devices: Vec::new(),
        detail: Some(detail(state, &host, &env)),
    })
}

/// `NVIDIA_VISIBLE_DEVICES` in an environment: the first, which is what a program sees.
pub(in crate::runtime) fn first_visible(env: &[String]) -> Option<&str> {
    let mut values = env.iter().filter_map(|entry| entry.strip_prefix(VISIBLE));
    values.next()
}

/// What an image's inspect says.
pub fn image_facts(inspect: ImageInspect) -> Option<ImageFacts> {
    let config = inspect.config.unwrap_or_default();
    let env = config.env.unwrap_or_default();
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let mut label_names: Vec<String> = config.labels.unwrap_or_default().into_keys().collect();
    label_names.sort();
    Some(ImageFacts {
        id: inspect.id?,
        repo_digests: inspect.repo_digests.unwrap_or_default(),
        architecture: inspect.architecture.unwrap_or_default(),
        os: inspect.os.unwrap_or_default(),
        size_bytes: u64::try_from(inspect.size.unwrap_or(0)).unwrap_or(0),
        env_names: env.iter().map(name).collect(),
        label_names,
        entrypoint: config.entrypoint.unwrap_or_default(),
    })
}

/// The name without its slash; names with a second one are aliases that links made.
fn own_name(names: &[String]) -> Option<String> {
    let mut names = names.iter().map(|name| name.trim_start_matches('/'));
    names.find(|name| !name.contains('/')).map(str::to_owned)
}

fn summary_state(state: SummaryState) -> ContainerState {
    match state {
        SummaryState::CREATED => ContainerState::Created,
        // Until it has stopped it runs.
        SummaryState::RUNNING | SummaryState::STOPPING => ContainerState::Running,
        SummaryState::PAUSED => ContainerState::Paused,
        SummaryState::RESTARTING => ContainerState::Restarting,
        SummaryState::REMOVING => ContainerState::Removing,
        SummaryState::EXITED => ContainerState::Exited,
        SummaryState::DEAD => ContainerState::Dead,
        SummaryState::EMPTY => ContainerState::Other,
    }
}

fn inspect_state(state: Status) -> ContainerState {
    match state {
        Status::CREATED => ContainerState::Created,
        Status::RUNNING | Status::STOPPING => ContainerState::Running,
        Status::PAUSED => ContainerState::Paused,
        Status::RESTARTING => ContainerState::Restarting,
        Status::REMOVING => ContainerState::Removing,
        Status::EXITED => ContainerState::Exited,
        Status::DEAD => ContainerState::Dead,
        Status::EMPTY => ContainerState::Other,
    }
}

fn detail(state: State, host: &HostConfig, env: &[String]) -> Detail {
    Detail {
        exit_code: state.exit_code.unwrap_or(0),
        error: state.error.unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or(false),
        started_at: state.started_at.as_deref().and_then(moment),
        finished_at: state.finished_at.as_deref().and_then(moment),
        pid: u32::try_from(state.pid.unwrap_or(0)).unwrap_or(0),
        device_ids: device_ids(host, env),
    }
}

/// The engine writes the year 1 for "never".
fn moment(text: &str) -> Option<Timestamp> {
    let never = text.is_empty() || text.starts_with("0001-");
    (!never).then(|| text.parse().ok()).flatten()
}

/// What a container says of GPUs, each word once, by whichever way it says it.
fn device_ids(host: &HostConfig, env: &[String]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for request in host.device_requests.iter().flatten() {
        ids.extend(requested(request));
    }
    let files = host.devices.iter().flatten();
    let files = files.filter_map(|device| device.path_on_host.clone());
    ids.extend(files.filter(|path| is_of_gpus(path)));
    // The engine names its default runtime here, too.
    if host
        .runtime
        .as_deref()
        .is_some_and(|name| name.starts_with("nvidia"))
    {
        let visible = first_visible(env).unwrap_or_default();
        let none = ["", "void", "none"].contains(&visible);
        ids.extend(visible.split(',').filter(|_| !none).map(str::to_owned));
    }
    let mut seen = BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    if ids.len() > MAX_WORDS {
        return vec![ALL.to_owned()];
    }
    ids
}

fn requested(request: &DeviceRequest) -> Vec<String> {
    match request.device_ids.as_deref().unwrap_or_default() {
        [] if request.count.unwrap_or(0) != 0 => vec![ALL.to_owned()],
        named => named.to_vec(),
    }
}

/// Device files, and folders of them, that GPUs and their like are behind.
fn is_of_gpus(path: &str) -> bool {
    [
        "/dev/nvidia",
        "/dev/dri",
        "/dev/accel",
        "/dev/vfio",
        "/dev/kfd",
    ]
    .iter()
    .any(|start| path.starts_with(start))
}

fn listed_port(port: &PortSummary) -> Option<HostPort> {
    let protocol = match port.typ {
        Some(PortType::TCP) => PortProtocol::Tcp,
        Some(PortType::UDP) => PortProtocol::Udp,
        Some(PortType::SCTP | PortType::EMPTY) | None => return None,
    };
    Some(HostPort {
        container: port.private_port,
        host: port.public_port?,
        protocol,
    })
}

/// Bindings whose host port is left to the engine bind nothing yet and are left out.
fn bound_ports(map: &PortMap) -> Vec<HostPort> {
    let mut ports = BTreeSet::new();
    for (key, bindings) in map {
        let Some((container, protocol)) = container_port(key) else {
            continue;
        };
        for binding in bindings.iter().flatten() {
            let host = binding.host_port.as_deref().unwrap_or_default();
            if let Ok(host @ 1..) = host.parse() {
                ports.insert(HostPort {
                    container,
                    host,
                    protocol,
                });
            }
        }
    }
    ports.into_iter().collect()
}

/// `80/tcp`.
fn container_port(key: &str) -> Option<(u16, PortProtocol)> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let protocol = match protocol {
        "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, protocol))
}

#[cfg(test)]
mod tests;
