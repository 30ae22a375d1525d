//! Does one operation on the engine and says what came of it. Nothing is decided here but how a
//! marker is written.

use std::collections::BTreeMap;

use crate::{
    ids::ContainerId,
    instance::effect::{EngineOp, OpOutput},
    protocol::limits::MAX_LOG_TAIL_BYTES,
    runtime::{ContainerRuntime, Listing, RuntimeError, VolumeLabels},
};

pub(super) async fn operate<R: ContainerRuntime>(
    runtime: &R,
    op: EngineOp,
) -> Result<OpOutput, RuntimeError> {
    Ok(match op {
        EngineOp::Create(plan) => OpOutput::Created(runtime.create(&plan).await?),
        EngineOp::Holders { name, gpus } => OpOutput::Holders(runtime.holders(&gpus, &name).await?),
        EngineOp::Start { name } => {
            runtime.start(&name).await?;
            OpOutput::Started
        }
        EngineOp::SeeGpus { name, inside } => {
            OpOutput::GpusSeen(runtime.evidence(&name, inside).await?.map(Box::new))
        }
        EngineOp::Inspect { name } => {
            OpOutput::Inspected(runtime.inspect(&name).await?.map(Box::new))
        }
        EngineOp::Remake { name } => OpOutput::Created(runtime.remake(&name).await?),
        EngineOp::Stop { name, grace } => {
            runtime.stop(&name, grace).await?;
            OpOutput::Stopped
        }
        EngineOp::Examine { name } => {
            let seen = runtime.inspect(&name).await?;
            let tail = match &seen {
                // A log that cannot be had keeps nothing from ending.
                Some(_) => runtime.log_tail(&name, MAX_LOG_TAIL_BYTES).await.ok(),
                None => None,
            };
            OpOutput::Examined(seen.map(Box::new), tail)
        }
        EngineOp::Remove { name } => {
            runtime.remove(&name).await?;
            OpOutput::Removed
        }
        EngineOp::Verify {
            name,
            container,
            pid,
        } => {
            let seen = runtime.inspect(&name).await?;
            let left = match container.filter(|id| seen.is_none() && process_is_left(id, pid)) {
                // Renamed, it is somebody else's, and the engine looks after it as before.
                Some(id) => runtime.inspect(id.as_str()).await?.is_none(),
                None => false,
            };
            OpOutput::Verified(seen.map(Box::new), left)
        }
        EngineOp::PutMarker(marker) => OpOutput::Marked(put_marker(runtime, &marker).await?),
        EngineOp::RemoveMarkers(names) => {
            for name in names {
                runtime.remove_volume(&name).await?;
            }
            OpOutput::MarkersRemoved
        }
    })
}

/// All that the engine holds. The rentals' network is looked at with it, and made where somebody has
/// removed it: one that cannot be seen to be as it should be is a fault.
pub(super) async fn list<R: ContainerRuntime>(runtime: &R) -> Result<Listing, RuntimeError> {
    let (listing, network) = tokio::join!(runtime.list(), runtime.ensure_network());
    Ok(Listing {
        network_fault: network.err().map(|error| error.message),
        ..listing?
    })
}

/// Writes a marker. A volume create is no compare-and-set: what is there already keeps its labels,
/// and a killed engine leaves volumes without any. Those are deleted and made again.
pub(super) async fn put_marker<R: ContainerRuntime>(
    runtime: &R,
    marker: &VolumeLabels,
) -> Result<VolumeLabels, RuntimeError> {
    let there = runtime.put_volume(marker).await?;
    if there.labels != BTreeMap::new() {
        return Ok(there);
    }
    runtime.remove_volume(&marker.name).await?;
    runtime.put_volume(marker).await
}

/// Whether the container's first process is still there: a killed shim leaves it behind, and the
/// engine then knows nothing of it. Where the host's processes cannot be seen, it counts as gone.
fn process_is_left(container: &ContainerId, pid: u32) -> bool {
    // The process number may be another process's by now; its control group names the container.
    pid > 0
        && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(container.as_str()))
}
