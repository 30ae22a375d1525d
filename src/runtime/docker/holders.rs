//! Who has a GPU: every live container of every origin is asked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{NAME_PREFIX, connection::Connection, containers, listing};
use crate::{
    ids::{ContainerId, GpuUuid},
    runtime::{
        ContainerState, Holder, Observed, RuntimeError,
        gpus::{ALL, GpuNames, holds},
        translate::LABEL_GPUS,
    },
};

/// Inspects at once.
const AT_ONCE: usize = 8;

/// Live, by the engine's names. `created` may also have failed; its inspect tells.
const LIVE: [&str; 4] = ["created", "running", "paused", "restarting"];

/// Devices of containers that are not rentals, which only an inspect shows and which never change.
/// As many entries as there were such containers at the last look.
#[derive(Debug, Default)]
pub(super) struct ForeignDevices(Mutex<HashMap<ContainerId, Vec<String>>>);

/// One call when nothing conflicts; one more for each container that may hold one of `gpus`, and
/// once ever for each that is not a rental.
///
/// A container that cannot be inspected and whose devices are not known fails the whole question: a
/// GPU whose holder is unknown is not free. The agent's own container sees all GPUs to watch them, and
/// holds none.
pub(super) async fn holders(
    connection: &Connection,
    foreign: &ForeignDevices,
    gpus: &[GpuNames],
    mine: &str,
    agent: Option<&ContainerId>,
) -> Result<Vec<Holder>, RuntimeError> {
    let mut live = listing::containers(connection, &LIVE).await?;
    live.retain(|container| Some(&container.id) != agent);
    foreign.forget_all_but(&live);
    let (own, others): (Vec<Observed>, Vec<Observed>) = live
        .into_iter()
        .partition(|container| container.name == mine);
    let mut holders = among(connection, foreign, gpus, others).await?;
    if !holders.is_empty() {
        holders.extend(among(connection, foreign, gpus, own).await?);
    }
    Ok(holders)
}

async fn among(
    connection: &Connection,
    foreign: &ForeignDevices,
    gpus: &[GpuNames],
    containers: Vec<Observed>,
) -> Result<Vec<Holder>, RuntimeError> {
    stream::iter(containers)
        .map(|container| holder(connection, foreign, gpus, container))
        .buffered(AT_ONCE)
        .try_filter_map(|holder| std::future::ready(Ok(holder)))
        .try_collect()
        .await
}

async fn holder(
    connection: &Connection,
    foreign: &ForeignDevices,
    gpus: &[GpuNames],
    listed: Observed,
) -> Result<Option<Holder>, RuntimeError> {
    let known = match labelled(&listed) {
        Some(devices) => Some(devices),
        None => foreign.get(&listed.id),
    };
    let held = |devices: &[String]| -> Vec<GpuUuid> {
        gpus.iter()
            .filter(|gpu| holds(devices, gpu))
            .map(|gpu| gpu.uuid.clone())
            .collect()
    };
    if known
        .as_deref()
        .is_some_and(|devices| held(devices).is_empty())
    {
        return Ok(None);
    }
    // The list knows the time of creation to the second only and not whether a start has failed.
    let inspected = match containers::inspect(connection, listed.id.as_str()).await {
        Ok(Some(inspected)) => inspected,
        Ok(None) => return Ok(None),
        Err(error) => match known {
            Some(devices) => return Ok(Some(as_holder(&listed, held(&devices)))),
            None => return Err(error),
        },
    };
    let devices = known.unwrap_or_else(|| foreign.learn(&inspected));
    let gpus = held(&devices);
    let holds_some = !gpus.is_empty() && inspected.is_live();
    Ok(holds_some.then(|| as_holder(&inspected, gpus)))
}

/// GPUs that a container of a list holds beside those that its labels name: those of one that is no
/// rental. One call, once ever for each. `all` where that cannot be told: what is not known to be free
/// is not.
pub(super) async fn devices(
    connection: &Connection,
    foreign: &ForeignDevices,
    listed: &Observed,
    limit: Duration,
) -> Vec<String> {
    if labelled(listed).is_some() || !listed.is_live() {
        return Vec::new();
    }
    if let Some(known) = foreign.get(&listed.id) {
        return known;
    }
    match containers::inspect_within(connection, listed.id.as_str(), limit).await {
        Ok(Some(inspected)) => foreign.learn(&inspected),
        Ok(None) => Vec::new(),
        Err(error) => {
            let container = &listed.name;
            tracing::warn!(container, %error, "nobody knows its GPUs: it may hold any");
            vec![ALL.to_owned()]
        }
    }
}

/// What a rental of any agent says of itself. Others are not believed: an image may carry the label.
fn labelled(container: &Observed) -> Option<Vec<String>> {
    let label = container.labels.get(LABEL_GPUS)?;
    let rental = container.name.starts_with(NAME_PREFIX);
    let uuids = label.split(',').filter(|uuid| !uuid.is_empty());
    rental.then(|| uuids.map(str::to_owned).collect())
}

fn as_holder(container: &Observed, gpus: Vec<GpuUuid>) -> Holder {
    Holder {
        id: container.id.clone(),
        name: container.name.clone(),
        created_at: container.created_at,
        runs: container.state != ContainerState::Created,
        gpus,
    }
}

impl ForeignDevices {
    fn get(&self, id: &ContainerId) -> Option<Vec<String>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).cloned()
    }

    fn learn(&self, inspected: &Observed) -> Vec<String> {
        let detail = inspected.detail.clone().unwrap_or_default();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(inspected.id.clone(), detail.device_ids.clone());
        detail.device_ids
    }

    pub(super) fn forget_all_but(&self, live: &[Observed]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|id, _| live.iter().any(|container| container.id == *id));
    }
}
