//! Which GPUs a demand gets: all of them or an error that says why not. Pure.

use std::collections::BTreeSet;

use serde_json::json;

use super::{GpuView, Slots};
use crate::{
    gpu::assign,
    ids::GpuUuid,
    instance::spec::GpuDemand,
    protocol::{
        Error, ErrorCode, Retry, Stage,
        record::{Gpu, GpuState, Health},
    },
};

pub(super) fn choose_gpus(
    slots: &Slots,
    wanted: &GpuDemand,
    view: GpuView<'_>,
) -> Result<Vec<GpuUuid>, Error> {
    if !view.complete {
        let message = "the GPUs of this host are not known yet; try again in a moment";
        let mut error = unavailable(message);
        error.retry = Retry::Here;
        return Err(error);
    }
    match wanted {
        GpuDemand::Uuids(uuids) => {
            for uuid in uuids {
                check_one(slots, uuid, view)?;
            }
            check_vendor(uuids, view)?;
            Ok(uuids.clone())
        }
        GpuDemand::Count(count) => {
            let count = usize::try_from(count.get()).unwrap_or(usize::MAX);
            choose_count(slots, count, view)
        }
    }
}

fn check_one(slots: &Slots, uuid: &GpuUuid, view: GpuView<'_>) -> Result<(), Error> {
    let Some(gpu) = view.gpus.iter().find(|gpu| gpu.uuid == *uuid) else {
        return Err(about(
            uuid,
            unavailable(format!("this host has no GPU {uuid}")),
        ));
    };
    let why = match slots.gpu_state(uuid) {
        GpuState::Available => match gpu.health {
            Health::Ok | Health::Warning => return Ok(()),
            Health::Failed => return Err(about(uuid, unhealthy(gpu))),
            Health::Unknown => "cannot be seen at the moment",
        },
        GpuState::Held => "is held by another rental",
        GpuState::BusyExternal => "is used by something that is not this agent's",
        GpuState::Quarantined => "is quarantined",
        GpuState::Unknown => "may be used by a container that cannot be read",
    };
    Err(about(uuid, unavailable(format!("the GPU {uuid} {why}"))))
}

/// A container gets the driver of one vendor.
fn check_vendor(uuids: &[GpuUuid], view: GpuView<'_>) -> Result<(), Error> {
    let asked = view.gpus.iter().filter(|gpu| uuids.contains(&gpu.uuid));
    let vendors: BTreeSet<&str> = asked.map(|gpu| gpu.vendor.as_str()).collect();
    if vendors.len() <= 1 {
        return Ok(());
    }
    let vendors: Vec<&str> = vendors.into_iter().collect();
    let message = format!(
        "the GPUs asked for are of {}; all GPUs of a rental have to be of one vendor",
        vendors.join(" and ")
    );
    Err(Error {
        retry: Retry::Never,
        ..unavailable(message)
    })
}

fn choose_count(slots: &Slots, count: usize, view: GpuView<'_>) -> Result<Vec<GpuUuid>, Error> {
    let unheld: Vec<&Gpu> = view
        .gpus
        .iter()
        .filter(|gpu| slots.gpu_state(&gpu.uuid) == GpuState::Available)
        .collect();
    let free: Vec<&Gpu> = unheld
        .iter()
        .copied()
        .filter(|gpu| matches!(gpu.health, Health::Ok | Health::Warning))
        .collect();
    if let Some(chosen) = assign::choose(&free, count) {
        return Ok(chosen);
    }
    let failed = unheld.iter().filter(|gpu| gpu.health == Health::Failed);
    let failed: Vec<&GpuUuid> = failed.map(|gpu| &gpu.uuid).collect();
    let message = format!(
        "{count} GPUs of one vendor are asked, {} of {} are free and healthy",
        free.len(),
        view.gpus.len()
    );
    // Where only sick GPUs are in the way, that is what the provider has to hear.
    let mut error = if free.len() + failed.len() >= count {
        Error::new(ErrorCode::GpuUnhealthy, message).at(Stage::Admit)
    } else {
        unavailable(message)
    };
    error.detail = Some(json!({
        "asked": count, "free": free.len(), "total": view.gpus.len(), "failed": failed,
    }));
    Err(error)
}

fn unavailable(message: impl AsRef<str>) -> Error {
    Error::new(ErrorCode::GpuUnavailable, message).at(Stage::Admit)
}

fn unhealthy(gpu: &Gpu) -> Error {
    let reasons = gpu.health_reasons.join(", ");
    let message = format!("the GPU {} is not healthy: {reasons}", gpu.uuid);
    Error::new(ErrorCode::GpuUnhealthy, message).at(Stage::Admit)
}

fn about(uuid: &GpuUuid, mut error: Error) -> Error {
    error.detail = Some(json!({ "uuid": uuid }));
    error
}
