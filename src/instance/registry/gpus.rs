//! What is known of the GPUs and what follows for rentals: which may be given, which a rental that has
//! ended still holds until they are clean, and what ails those that a rental has. Pure.

use std::{collections::BTreeMap, time::Duration};

use super::{Registry, entry::Entry};
use crate::{
    clock::{Now, Timestamp},
    gpu::{
        Sampled, Xid,
        ward::{Holder, Wiped},
        xid::Action,
    },
    ids::{CommandId, GpuUuid, InstanceId},
    instance::{
        effect::Effect,
        lifecycle::{self, Step},
    },
    protocol::{
        Error, ErrorCode, Outcome, Stage,
        command::{QuarantineGpu, ReleaseGpu},
        record::Health,
        text::printable,
    },
};

/// GPUs that are not clean yet are looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A rental that has ended waits so long for a driver that is silent.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Cleaning takes a moment; after so long it is worth a word.
const UNCLEAN_AFTER: Duration = Duration::from_secs(2);

impl Registry {
    /// A look at the GPUs.
    pub(super) fn take_readings(&mut self, sampled: &Sampled, now: Now) {
        let holder = self.holders();
        self.ward.read(sampled, holder);
        self.clean_gpus(now);
    }

    /// A GPU reported an error: whoever has it is told what it means.
    pub(super) fn take_xid(&mut self, xid: &Xid, now: Now) {
        let at = self.clock.at(now);
        let (action, words) = self.ward.xid(xid, now.boot);
        tracing::warn!(gpu = %xid.uuid, xid = xid.code, ?action, "a GPU reported an error");
        let told = match action {
            Action::Ignore => None,
            Action::RestartApp => Some(("restart_app", "what ran on it has to be started anew")),
            Action::Drain => Some(("drain", "it may go on; the GPU gets no other tenant")),
            Action::Reset => Some(("reset", "nothing on it can be relied on until it is reset")),
            Action::Replace => Some(("replace", "somebody has to look at the hardware")),
        };
        let holder = self.alive_with(&xid.uuid);
        if let (Some((reason, advice)), Some(id)) = (told, holder) {
            if let Some(entry) = self.entries.get_mut(&id) {
                let message = format!("{}: {words}; {advice}", xid.uuid);
                entry.set_condition("gpu_xid", Some((reason, message)), at);
            }
            self.publish(&id);
        }
        self.gpus_changed(now);
    }

    /// A wipe is over.
    pub(super) fn gpu_wiped(&mut self, uuid: &GpuUuid, wiped: Wiped, now: Now) {
        match &wiped {
            Wiped::Done {
                wiped_bytes,
                total_bytes,
            } => tracing::info!(gpu = %uuid, wiped_bytes, total_bytes, "a GPU's memory was wiped"),
            Wiped::Impossible(why) => {
                tracing::warn!(gpu = %uuid, why, "a GPU's memory cannot be wiped on this host");
            }
            Wiped::Failed(why) => {
                tracing::error!(gpu = %uuid, why, "a GPU's memory could not be wiped; quarantined");
            }
        }
        self.ward.wiped(uuid, wiped, now.boot);
        self.gpus_changed(now);
        self.settle_leaving(now);
    }

    /// A rental's container is verified gone: it holds its GPUs until a look that was asked for after
    /// that shows them idle, and they are wiped.
    pub(super) fn leave_gpus(&mut self, id: &InstanceId, now: Now) {
        let gpus = self.gpus_of(id);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.leaving_since.is_none() {
            entry.leaving_since = Some(now.boot);
            for gpu in &gpus {
                self.ward.soil(gpu, now.boot);
            }
        }
        let settled = self.unsettled(id, now).is_empty();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if settled {
            entry.facts.soiled = false;
            return self.finish(id, now);
        }
        entry.not_before = Some(now.boot + LOOK_AGAIN);
        self.effects.push(Effect::LookAtGpus);
        self.tell_unclean(id, now);
    }

    /// Begins to clean what is idle and dirty, and lets go what has become clean.
    fn clean_gpus(&mut self, now: Now) {
        if !self.stopping {
            let holder = self.holders();
            let to_wipe = self.ward.clean(now.boot, holder);
            let wipes = to_wipe.into_iter().map(Effect::WipeGpu);
            self.effects.extend(wipes);
        }
        self.gpus_changed(now);
        self.settle_leaving(now);
    }

    /// Goes on with the rentals that wait for their GPUs to be clean.
    pub(super) fn settle_leaving(&mut self, now: Now) {
        let leaving = self.entries.iter().filter(|(_, entry)| is_leaving(entry));
        let leaving: Vec<InstanceId> = leaving.map(|(id, _)| id.clone()).collect();
        for id in leaving {
            if self.unsettled(&id, now).is_empty() {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.not_before = None;
                }
                self.drive(&id, now);
            } else {
                self.tell_unclean(&id, now);
            }
        }
    }

    /// Says what a rental that has ended still waits for, where that takes long.
    fn tell_unclean(&mut self, id: &InstanceId, now: Now) {
        let at = self.clock.at(now);
        let unsettled = self.unsettled(id, now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let late = entry
            .leaving_since
            .is_some_and(|since| now.boot >= since + UNCLEAN_AFTER);
        if late && !unsettled.is_empty() {
            let message = format!("{}; its GPUs stay reserved", unsettled.join("; "));
            entry.set_condition("gpu_unclean", Some(("not_clean", message)), at);
            self.publish(id);
        }
    }

    /// Why a rental still holds its GPUs after its container is gone. For a driver that says nothing it
    /// waits only so long: such a GPU is dirty and given to nobody, whoever holds it.
    fn unsettled(&self, id: &InstanceId, now: Now) -> Vec<String> {
        let since = self.entries.get(id).and_then(|entry| entry.leaving_since);
        let gives_up = since.is_some_and(|since| now.boot >= since + SILENT_MAX);
        let why = |gpu: &GpuUuid| match self.ward.knows(gpu) {
            true if gives_up && self.ward.is_silent(gpu) => None,
            true => self.ward.unsettled(gpu),
            // All that there is has been listed: what it had is not there any more.
            false if self.inventory_complete || gives_up => None,
            false => Some("it has not been listed yet".to_owned()),
        };
        let gpus = self.gpus_of(id);
        gpus.iter()
            .filter_map(|gpu| Some(format!("{gpu}: {}", why(gpu)?)))
            .collect()
    }

    fn gpus_of(&self, id: &InstanceId) -> Vec<GpuUuid> {
        let allocation = self.slots.allocation(id);
        allocation.map_or_else(Vec::new, |allocation| allocation.gpus.clone())
    }

    /// What the ward says becomes what everybody sees: records of GPUs, the offer, conditions.
    pub(super) fn gpus_changed(&mut self, now: Now) {
        let mut withheld = BTreeMap::new();
        for gpu in &mut self.gpus {
            if let Some(verdict) = self.ward.verdict(&gpu.uuid) {
                gpu.health = verdict.health;
                gpu.health_reasons = verdict.reasons;
            }
            if let Some(why) = self.ward.withheld(&gpu.uuid) {
                withheld.insert(gpu.uuid.clone(), why);
            }
        }
        self.slots.withhold(withheld);
        let at = self.clock.at(now);
        let alive = self.entries.iter().filter(|(_, entry)| is_alive(entry));
        let alive: Vec<InstanceId> = alive.map(|(id, _)| id.clone()).collect();
        for id in alive {
            self.tell_ailing(&id, at);
        }
    }

    /// Raises or clears what is to be said of a rental's GPUs. Silence does neither.
    fn tell_ailing(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let (mut lost, mut failed, mut silent) = (Vec::new(), Vec::new(), false);
        for gpu in &entry.record.gpus {
            let Some(verdict) = self.ward.verdict(gpu) else {
                continue;
            };
            let words = || format!("{gpu}: {}", verdict.reasons.join("; "));
            match verdict.health {
                _ if self.ward.is_silent(gpu) => silent = true,
                Health::Failed if self.ward.is_lost(gpu) => lost.push(words()),
                Health::Failed => failed.push(words()),
                Health::Ok | Health::Warning | Health::Unknown => {}
            }
        }
        let told =
            |words: Vec<String>| (!words.is_empty()).then(|| printable(&words.join("; "), 500));
        let lost = told(lost).map(|words| (LOST_BY_DRIVER, words));
        let is_ours = |reason: &str| reason == LOST_BY_DRIVER;
        let conditions = &entry.record.conditions;
        let others = conditions
            .iter()
            .any(|c| c.kind == "gpu_lost" && !is_ours(&c.reason));
        // What a look into the container has shown is not for the driver to take back.
        if lost.is_some() || !(others || silent) {
            entry.set_condition("gpu_lost", lost, at);
        }
        let failed = told(failed).map(|words| ("failed", words));
        if failed.is_some() || !silent {
            entry.set_condition("gpu_failed", failed, at);
        }
        self.publish(id);
    }

    /// Its owner keeps a GPU back.
    pub(super) fn quarantine_gpu(&mut self, id: CommandId, wanted: &QuarantineGpu, now: Now) {
        let why = wanted.reason.as_deref().unwrap_or_default();
        let why = printable(&why.replace(['\n', '\t'], " "), 200);
        tracing::info!(gpu = %wanted.uuid, command_id = %id, why, "quarantine");
        if !self.ward.keep(&wanted.uuid, why) {
            return self.reject(id, no_such_gpu(&wanted.uuid));
        }
        self.open(id.clone(), Outcome::Accepted);
        self.gpus_changed(now);
        self.settle_leaving(now);
        self.close(id, Ok(None));
    }

    /// Its owner wants a GPU back in the offer.
    pub(super) fn release_gpu(&mut self, id: CommandId, wanted: &ReleaseGpu, now: Now) {
        let Some(was_kept) = self.ward.release(&wanted.uuid) else {
            return self.reject(id, no_such_gpu(&wanted.uuid));
        };
        tracing::info!(gpu = %wanted.uuid, command_id = %id, was_kept, "released");
        self.open(id.clone(), Outcome::Accepted);
        self.gpus_changed(now);
        // What may have been on it since is looked for at once.
        self.effects.push(Effect::LookAtGpus);
        let result = serde_json::json!({ "was_quarantined": was_kept });
        self.close(id, Ok(Some(result)));
    }

    /// Who has which GPU now.
    fn holders(&self) -> impl Fn(&GpuUuid) -> Holder + use<> {
        let who = |gpu: &GpuUuid| match self.slots.holder_of(gpu) {
            Some(id) if self.entries.get(id).is_some_and(is_leaving) => Holder::Leaving,
            Some(_) => Holder::Rental,
            // Before the first listing nobody knows who holds what.
            None if !self.engine.listed || self.slots.is_foreign(gpu) => Holder::Stranger,
            None => Holder::Nobody,
        };
        let gpus = self.gpus.iter();
        let holders: BTreeMap<GpuUuid, Holder> =
            gpus.map(|gpu| (gpu.uuid.clone(), who(&gpu.uuid))).collect();
        move |gpu| holders.get(gpu).copied().unwrap_or(Holder::Stranger)
    }

    fn alive_with(&self, uuid: &GpuUuid) -> Option<InstanceId> {
        let mut alive = self.entries.iter().filter(|(_, entry)| is_alive(entry));
        let found = alive.find(|(_, entry)| entry.record.gpus.contains(uuid));
        found.map(|(id, _)| id.clone())
    }
}

/// The reason of a `gpu_lost` that the driver gave.
const LOST_BY_DRIVER: &str = "lost_by_driver";

fn is_alive(entry: &Entry) -> bool {
    entry.facts.end.is_none() && !entry.record.gpus.is_empty()
}

/// Its container is gone, and its GPUs are not clean yet.
fn is_leaving(entry: &Entry) -> bool {
    entry.leaving_since.is_some() && lifecycle::next(&entry.facts) == Step::Clean
}

fn no_such_gpu(uuid: &GpuUuid) -> Error {
    let message = format!("this host has no GPU {uuid}; `rental-agent inventory` lists them");
    let error = Error::new(ErrorCode::NotFound, message).at(Stage::Admit);
    error.pointing("/uuid")
}

#[cfg(test)]
mod tests;
