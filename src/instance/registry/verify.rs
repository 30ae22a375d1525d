//! Whether a rental really has its GPUs: seen before it is ready, and looked at again afterwards.
//! What the means are, and what contradicts what, is said in `runtime::gpus`. Pure.

use std::time::Duration;

use super::{Registry, entry::Entry};
use crate::{
    clock::{Now, Timestamp},
    config::Verify,
    ids::InstanceId,
    instance::{
        effect::{Effect, EngineOp},
        lifecycle::Presence,
    },
    protocol::{Error, ErrorCode, Phase, Stage},
    runtime::gpus::{Evidence, Listed, Means, judge},
};

/// A container that was not seen to run is looked at after so long.
const LOOK_LATER: Duration = Duration::from_millis(250);

/// Conditions of a record.
const VERIFIED: &str = "gpus_verified";
const LOST: &str = "gpu_lost";
const MISSING: &str = "gpus_missing";
/// Why they are lost: the container does not see them. What the driver has lost has another reason,
/// and that is not for this module to clear.
const NOT_VISIBLE: &str = "not_visible";

/// What mostly is behind it.
const REMEDY: &str = "where systemd keeps the engine's control groups, a `systemctl daemon-reload` \
                      takes devices from containers that run; CDI or the cgroupfs driver keeps them";

impl Registry {
    /// Nothing is asked where the configuration says so.
    pub(super) fn skip_verification(&mut self, id: &InstanceId) {
        let is_off = self.options.gpu_rules.verify == Verify::Off;
        let entry = self.entries.get_mut(id).filter(|_| is_off);
        if let Some(entry) = entry.filter(|entry| !entry.facts.gpus_verified) {
            entry.facts.gpus_verified = true;
            entry.facts.inspected = false;
        }
    }

    /// What was seen of a rental's GPUs before it is ready.
    pub(super) fn gpus_seen(&mut self, id: &InstanceId, seen: Option<&Evidence>, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let names = self.names(&entry.record.gpus);
        let is_strict = self.options.gpu_rules.verify == Verify::Strict;
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(seen) = seen.filter(|seen| is_of(entry, seen)) else {
            // It has ended, or was replaced: whichever it is shows in a look.
            entry.facts.presence = Presence::Unknown;
            entry.not_before = Some(now.boot + LOOK_LATER);
            return;
        };
        let refusal = match judge(&names, seen) {
            Ok(Means::Inspect) if is_strict => {
                "the GPUs of the container cannot be seen by any means but the engine's own words; \
                 gpu.verify = \"best_effort\" takes those"
                    .to_owned()
            }
            Ok(means) => {
                entry.facts.gpus_verified = true;
                // The last look comes after this one.
                entry.facts.inspected = false;
                note_verified(entry, means, at);
                return self.publish(id);
            }
            Err(contradiction) => contradiction,
        };
        let error = Error::new(ErrorCode::GpuUnavailable, refusal).at(Stage::Ready);
        self.fail(id, error, now);
    }

    /// With each full list: rentals whose GPUs were seen by more than the engine's words, or by nobody
    /// in this life, are looked at again. One look at a time each, beside whatever else is done.
    pub(super) fn look_at_gpus(&mut self) {
        if self.options.gpu_rules.verify == Verify::Off || self.stopping {
            return;
        }
        let due: Vec<(InstanceId, bool)> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_due(entry))
            .map(|(id, entry)| {
                let asks = entry
                    .gpu_means
                    .is_none_or(|means| means == Means::NvidiaSmi);
                (id.clone(), asks && self.are_nvidias(&entry.record.gpus))
            })
            .collect();
        for (id, inside) in due {
            let op = self.next_op_id();
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            entry.gpu_op = Some(op);
            let name = entry.name();
            self.effects.push(Effect::Engine {
                id: op,
                instance: id,
                op: EngineOp::SeeGpus { name, inside },
            });
        }
    }

    /// What a later look has shown. Nothing ends by it: what is missing is told, until it is back.
    pub(super) fn gpus_seen_again(&mut self, id: &InstanceId, seen: Option<&Evidence>, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let names = self.names(&entry.record.gpus);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(seen) = seen.filter(|seen| is_of(entry, seen) && is_watched(entry)) else {
            return;
        };
        let missing = match judge(&names, seen) {
            Err(contradiction) => Some(contradiction),
            Ok(means) => match &seen.listed {
                // It worked before: a reload of the host's services has taken the devices away.
                Listed::Failed(said) if entry.gpu_means == Some(Means::NvidiaSmi) => Some(format!(
                    "nvidia-smi inside the container says: {said}; {REMEDY}"
                )),
                // It was not asked, or did not answer in time: what it said before stays.
                Listed::Unasked if entry.gpu_means == Some(Means::NvidiaSmi) => return,
                Listed::Failed(_) | Listed::Unasked | Listed::Gpus(_) => {
                    note_verified(entry, means, at);
                    None
                }
            },
        };
        let told = entry.record.conditions.iter().find(|c| c.kind == LOST);
        let is_mine = told.is_none_or(|told| told.reason == NOT_VISIBLE);
        if is_mine {
            entry.set_condition(LOST, missing.map(|message| (NOT_VISIBLE, message)), at);
        }
        self.publish(id);
    }
}

/// The rental asked for GPUs and runs without.
pub(super) fn note_missing(entry: &mut Entry, at: Timestamp) {
    let message = "the host's container engine has no GPU runtime; it runs without GPUs, as its spec \
                   allows";
    let holds = ("gpu_runtime_missing", message.to_owned());
    entry.set_condition(MISSING, Some(holds), at);
}

fn note_verified(entry: &mut Entry, means: Means, at: Timestamp) {
    let message = match means {
        Means::Inspect => "the engine was asked for exactly its GPUs; nothing else could be seen",
        Means::Devices => "the container has the device files of exactly its GPUs",
        Means::NvidiaSmi => "nvidia-smi inside the container lists exactly its GPUs",
    };
    entry.gpu_means = Some(means);
    entry.set_condition(VERIFIED, Some((means.name(), message.to_owned())), at);
}

fn is_of(entry: &Entry, seen: &Evidence) -> bool {
    seen.runs && Some(&seen.container) == entry.container()
}

fn is_due(entry: &Entry) -> bool {
    is_watched(entry) && entry.gpu_op.is_none() && entry.gpu_means != Some(Means::Inspect)
}

fn is_watched(entry: &Entry) -> bool {
    let is_ready = entry.record.phase == Phase::Ready && entry.facts.presence == Presence::Live;
    is_ready && entry.facts.has_gpus && entry.facts.end.is_none()
}
