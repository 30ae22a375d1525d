//! Who has which GPU, and which ones a demand gets: all of them or an error that says why not. Pure.

use std::collections::BTreeMap;

use std::collections::BTreeSet;

use serde_json::json;

use super::{GpuView, Slots};
use crate::{
    gpu::{assign, ward::Withheld},
    ids::{GpuUuid, InstanceId},
    instance::spec::GpuDemand,
    protocol::{
        Error, ErrorCode, Retry, Stage,
        record::{Gpu, GpuState, Health},
    },
};

impl Slots {
    /// Replaces which GPUs are given to nobody, and why; whoever has one keeps it.
    pub fn withhold(&mut self, withheld: BTreeMap<GpuUuid, Withheld>) {
        self.withheld = withheld;
    }

    /// Which rental has a GPU.
    pub fn holder_of(&self, gpu: &GpuUuid) -> Option<&InstanceId> {
        let mut held = self.held.iter();
        let found = held.find(|(_, held)| held.gpus.contains(gpu));
        found.map(|(id, _)| id)
    }

    /// Whether others have a GPU, or may have.
    pub fn is_foreign(&self, gpu: &GpuUuid) -> bool {
        self.foreign.unknown_gpus || self.foreign.gpus.contains(gpu)
    }

    /// Who has a GPU.
    pub fn gpu_state(&self, gpu: &GpuUuid) -> GpuState {
        let hindrance = self.hindrance(gpu);
        hindrance.map_or(GpuState::Available, |(state, _)| state)
    }

    /// Why a GPU cannot be given, as what follows its name in a sentence.
    fn hindrance(&self, gpu: &GpuUuid) -> Option<(GpuState, String)> {
        let withheld = self.withheld.get(gpu);
        Some(if self.holder_of(gpu).is_some() {
            (GpuState::Held, "is held by another rental".to_owned())
        } else if let Some(Withheld::Partitioned) = withheld {
            let why = "is partitioned (MIG), and partitions are not rented out: its owner has to \
                       switch that off";
            (GpuState::Quarantined, why.to_owned())
        } else if let Some(Withheld::Quarantined(why)) = withheld {
            let remedy = format!("`rental-agent gpu release {gpu}` on its host ends that");
            (
                GpuState::Quarantined,
                format!("is quarantined ({why}); {remedy}"),
            )
        } else if self.foreign.gpus.contains(gpu) {
            let why = "is used by a container that is not this agent's";
            (GpuState::BusyExternal, why.to_owned())
        } else if let Some(Withheld::Used(user)) = withheld {
            (GpuState::BusyExternal, format!("is used by {user}"))
        } else if self.foreign.unknown_gpus {
            let why = "may be used by a container that cannot be read";
            (GpuState::Unknown, why.to_owned())
        } else if let Some(Withheld::Unseen(why) | Withheld::Unclean(why)) = withheld {
            (GpuState::Unknown, format!("cannot be given now: {why}"))
        } else {
            return None;
        })
    }

    /// Whether a GPU will be given once it has been cleaned, which takes a moment.
    fn is_being_cleaned(&self, gpu: &GpuUuid) -> bool {
        matches!(self.withheld.get(gpu), Some(Withheld::Unclean(_)))
            && self.holder_of(gpu).is_none()
            && !self.is_foreign(gpu)
    }
}

pub(super) fn choose_gpus(
    slots: &Slots,
    wanted: &GpuDemand,
    view: GpuView<'_>,
) -> Result<Vec<GpuUuid>, Error> {
    let chosen = choose_known(slots, wanted, view);
    // One vendor's driver that hangs must not keep the GPUs of another from being rented.
    if chosen.is_err() && !view.complete {
        let message = "the GPUs of this host are not all known yet; try again in a moment";
        let mut error = unavailable(message);
        error.retry = Retry::Here;
        return Err(error);
    }
    chosen
}

fn choose_known(
    slots: &Slots,
    wanted: &GpuDemand,
    view: GpuView<'_>,
) -> Result<Vec<GpuUuid>, Error> {
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
    let (state, why) = match (slots.hindrance(uuid), gpu.health) {
        (Some(hindrance), _) => hindrance,
        (None, Health::Ok | Health::Warning) => return Ok(()),
        (None, Health::Failed) => (GpuState::Quarantined, "is not healthy".to_owned()),
        (None, Health::Unknown) => (GpuState::Unknown, "cannot be seen at the moment".to_owned()),
    };
    if state == GpuState::Quarantined && gpu.health == Health::Failed {
        return Err(about(uuid, unhealthy(gpu, &why)));
    }
    let mut error = unavailable(format!("the GPU {uuid} {why}"));
    if slots.is_being_cleaned(uuid) {
        error.retry = Retry::Here;
    }
    Err(about(uuid, error))
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
    let in_state = |state: GpuState| {
        let gpus = view.gpus.iter();
        gpus.filter(move |gpu| slots.gpu_state(&gpu.uuid) == state)
    };
    let free: Vec<&Gpu> = in_state(GpuState::Available)
        .filter(|gpu| matches!(gpu.health, Health::Ok | Health::Warning))
        .collect();
    if let Some(chosen) = assign::choose(&free, count) {
        return Ok(chosen);
    }
    let unheld = in_state(GpuState::Available).chain(in_state(GpuState::Quarantined));
    let failed = unheld.filter(|gpu| gpu.health == Health::Failed);
    let failed: Vec<&GpuUuid> = failed.map(|gpu| &gpu.uuid).collect();
    let gpus = view.gpus.iter();
    let cleaned = gpus.filter(|gpu| slots.is_being_cleaned(&gpu.uuid)).count();
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
    // In a moment it may be otherwise.
    if free.len() + cleaned >= count {
        error.retry = Retry::Here;
    }
    error.detail = Some(json!({
        "asked": count, "free": free.len(), "total": view.gpus.len(), "failed": failed,
    }));
    Err(error)
}

fn unavailable(message: impl AsRef<str>) -> Error {
    Error::new(ErrorCode::GpuUnavailable, message).at(Stage::Admit)
}

fn unhealthy(gpu: &Gpu, why: &str) -> Error {
    let reasons = gpu.health_reasons.join(", ");
    let message = format!("the GPU {} {why}: {reasons}", gpu.uuid);
    Error::new(ErrorCode::GpuUnhealthy, message).at(Stage::Admit)
}

fn about(uuid: &GpuUuid, mut error: Error) -> Error {
    error.detail = Some(json!({ "uuid": uuid }));
    error
}
