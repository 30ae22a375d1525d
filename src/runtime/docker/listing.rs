//! All that the engine holds, at about one moment.

use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder};
use futures_util::{StreamExt, stream};

use super::{
    NAME_PREFIX,
    classify::Operation,
    connection::{CONTROL, Call, Connection},
    containers, facts, filters,
    holders::{self, ForeignDevices},
    volumes,
};
use crate::ids::ContainerId;
use crate::runtime::{ContainerState, Listing, Observed, RuntimeError, VolumeLabels, translate};

/// Inspects at once: an inspect takes the engine 0.2 ms, so that more would win nothing.
const AT_ONCE: usize = 8;

/// A container that hangs (a frozen shim) is listed without its detail after this, so that one sick
/// container delays a list but never prevents it.
const INSPECT: Duration = Duration::from_secs(5);

/// Three calls at once, then one for each rental that does not run, and one, once ever, for each live
/// container that is no rental. The agent's own has no GPU, whatever it sees.
pub(super) async fn list(
    connection: &Connection,
    foreign: &ForeignDevices,
    own: Option<&ContainerId>,
) -> Result<Listing, RuntimeError> {
    let (containers, volumes, engine_started_at) = tokio::join!(
        containers(connection, &[]),
        volumes(connection),
        facts::started_at(connection),
    );
    let containers = containers?;
    foreign.forget_all_but(&containers);
    let containers = stream::iter(containers)
        .map(|container| completed(connection, foreign, own, container))
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    Ok(Listing {
        containers,
        volumes: readable(connection, volumes),
        engine_started_at: engine_started_at?,
        network_fault: None,
    })
}

/// What runs can be told without the markers, so that a list of containers alone is of use, too.
fn readable(
    connection: &Connection,
    volumes: Result<Vec<VolumeLabels>, RuntimeError>,
) -> Option<Vec<VolumeLabels>> {
    connection.note_markers(volumes.as_ref().err());
    volumes.ok()
}

/// One call: containers in these states, or in every state when none is named.
pub(super) async fn containers(
    connection: &Connection,
    states: &[&str],
) -> Result<Vec<Observed>, RuntimeError> {
    let call = Call {
        operation: Operation::List,
        subject: "containers",
    };
    let mut options = ListContainersOptionsBuilder::default().all(true);
    if !states.is_empty() {
        options = options.filters(&filters([("status", states)]));
    }
    let options = options.build();
    let list = |client: bollard::Docker| async move { client.list_containers(Some(options)).await };
    let summaries = connection.call(call, CONTROL, list).await?;
    let observed = summaries.into_iter().map(translate::observed_from_summary);
    observed
        .collect::<Option<_>>()
        .ok_or_else(|| call.nonsense("id of a container"))
}

/// One call. The engine's filter is a pattern that some versions apply anywhere in the name.
async fn volumes(connection: &Connection) -> Result<Vec<VolumeLabels>, RuntimeError> {
    let call = Call {
        operation: Operation::List,
        subject: "volumes",
    };
    let pattern = format!("^{NAME_PREFIX}");
    let options = ListVolumesOptionsBuilder::default()
        .filters(&filters([("name", &[pattern.as_str()])]))
        .build();
    let list = |client: bollard::Docker| async move { client.list_volumes(Some(options)).await };
    let listed = connection.call(call, CONTROL, list).await?;
    let ours = listed.volumes.unwrap_or_default().into_iter();
    Ok(ours
        .filter(|volume| volume.name.starts_with(NAME_PREFIX))
        .map(volumes::labels)
        .collect())
}

async fn completed(
    connection: &Connection,
    foreign: &ForeignDevices,
    own: Option<&ContainerId>,
    listed: Observed,
) -> Option<Observed> {
    let mut container = with_detail(connection, listed).await?;
    if Some(&container.id) != own {
        container.devices = holders::devices(connection, foreign, &container, INSPECT).await;
    }
    Some(container)
}

/// A rental that does not run, as its inspect shows it, which is newer than the list; nothing when
/// it is gone by now.
async fn with_detail(connection: &Connection, listed: Observed) -> Option<Observed> {
    if !listed.name.starts_with(NAME_PREFIX) || listed.state == ContainerState::Running {
        return Some(listed);
    }
    match containers::inspect_within(connection, listed.id.as_str(), INSPECT).await {
        Ok(inspected) => inspected,
        Err(error) => {
            tracing::warn!(
                container = listed.name,
                error = %error,
                "listed without its detail"
            );
            Some(listed)
        }
    }
}
