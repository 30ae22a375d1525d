//! What the engine says of itself.

use std::collections::BTreeSet;

use bollard::models::{SystemInfo, SystemVersion};

use super::{
    cdi,
    classify::Operation,
    connection::{CONTROL, Call, Connection},
    containers::found,
};
use crate::{
    clock::Timestamp,
    protocol::{record::Engine, text::printable},
    runtime::{EngineFacts, RuntimeError},
};

/// Three calls at once.
pub(super) async fn engine(connection: &Connection) -> Result<EngineFacts, RuntimeError> {
    let (version, info, started_at) = tokio::join!(
        version(connection),
        info(connection),
        started_at(connection)
    );
    let info = info?;
    let cdi_devices = cdi::devices(&info).await;
    Ok(facts(version?, info, started_at?, cdi_devices))
}

/// One call.
pub(super) async fn ping(connection: &Connection) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Ping,
        subject: "engine",
    };
    let ping = |client: bollard::Docker| async move { client.ping().await };
    connection.call(call, CONTROL, ping).await.map(|_| ())
}

/// Start of the engine's present life: when it made its default network.
///
/// The engine tells its start nowhere. The process behind the socket is pid 1 under socket
/// activation, and out of sight from inside a container. But at each start that finds no container
/// running the engine removes its network `bridge` and makes it anew; a start with live-restore that
/// finds some leaves it alone, and then nothing has ended by the restart. Seen on 20.10: 0.4 s after
/// the process began, after a SIGKILL with containers running 11 s (it stops them first), and
/// unchanged by restarts under live-restore. One call. `None` where the network is switched off.
pub(super) async fn started_at(connection: &Connection) -> Result<Option<Timestamp>, RuntimeError> {
    let call = Call {
        operation: Operation::Network,
        subject: "bridge",
    };
    let inspect =
        |client: bollard::Docker| async move { client.inspect_network("bridge", None).await };
    let network = found(connection.call(call, CONTROL, inspect).await)?;
    let created = network.and_then(|network| network.created);
    Ok(created.and_then(|time| time.parse().ok()))
}

async fn version(connection: &Connection) -> Result<SystemVersion, RuntimeError> {
    let call = Call {
        operation: Operation::Version,
        subject: "engine",
    };
    let version = |client: bollard::Docker| async move { client.version().await };
    connection.call(call, CONTROL, version).await
}

async fn info(connection: &Connection) -> Result<SystemInfo, RuntimeError> {
    let call = Call {
        operation: Operation::Info,
        subject: "engine",
    };
    let info = |client: bollard::Docker| async move { client.info().await };
    connection.call(call, CONTROL, info).await
}

fn facts(
    version: SystemVersion,
    info: SystemInfo,
    started_at: Option<Timestamp>,
    cdi_devices: BTreeSet<String>,
) -> EngineFacts {
    let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
    runtimes.sort();
    // Folders are named even where none has a device.
    let cdi = info.cdi_spec_dirs.is_some_and(|dirs| !dirs.is_empty());
    EngineFacts {
        engine: Engine {
            name: "docker".to_owned(),
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            storage_driver: info.driver.unwrap_or_default(),
            cgroup_version: info
                .cgroup_version
                .map(|v| v.to_string())
                .unwrap_or_default(),
            gpu_runtime: cdi_devices.iter().any(|name| name.contains("/gpu="))
                || runtimes.iter().any(|name| name == "nvidia"),
            runtimes,
            cdi,
        },
        started_at,
        cdi_devices,
        security_options: info
            .security_options
            .unwrap_or_default()
            .iter()
            .map(|o| security_option(o))
            .collect(),
        architecture: version.arch.unwrap_or_default(),
        root_dir: info.docker_root_dir.unwrap_or_default(),
        hostname: printable(&info.name.unwrap_or_default(), 255),
        os: printable(&info.operating_system.unwrap_or_default(), 100),
    }
}

/// `name=seccomp,profile=default` is `seccomp`; with any profile named `unconfined` it is that.
fn security_option(option: &str) -> String {
    let field = |name: &str| {
        let mut pairs = option.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    match field("profile") {
        Some("unconfined") => "unconfined".to_owned(),
        Some(_) | None => field("name").unwrap_or(option).to_owned(),
    }
}

#[cfg(test)]
mod tests;
