//! How a rental's GPUs are handed to its container, and what becomes of a rental whose GPUs cannot
//! be. Pure.

use std::collections::BTreeSet;

use super::{Registry, slots::ForeignClaims};
use crate::{
    clock::Now,
    config::OnMissingRuntime,
    ids::{GpuUuid, InstanceId},
    instance::{lifecycle, spec::InstanceSpec},
    protocol::{Error, ErrorCode, Stage, record::Gpu},
    runtime::{
        Class, RuntimeError,
        gpus::{GpuNames, Handing, cdi_name, holds},
    },
};

/// The vendor whose GPUs the engine hands out by a runtime of theirs, or by CDI.
const NVIDIA: &str = "nvidia";

/// Through this file all of AMD's GPUs are asked to compute; which, their own files say.
const KFD: &str = "/dev/kfd";

impl Registry {
    /// The names that these GPUs go by at present.
    pub(super) fn names(&self, gpus: &[GpuUuid]) -> Vec<GpuNames> {
        let name = |uuid: &GpuUuid| {
            let known = self.gpus.iter().find(|gpu| gpu.uuid == *uuid);
            GpuNames {
                uuid: uuid.clone(),
                index: known.map(|gpu| gpu.index),
                nodes: self.nodes.get(uuid).cloned().unwrap_or_default(),
            }
        };
        gpus.iter().map(name).collect()
    }

    /// What others hold, in their own words, becomes GPUs of this host; again whenever a GPU turns up.
    pub(super) fn apply_claims(&mut self, now: Now) {
        let uuids: Vec<GpuUuid> = self.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let names = self.names(&uuids);
        let held = names.into_iter();
        let held = held.filter(|gpu| holds(&self.claims.devices, gpu));
        let gpus = held.map(|gpu| gpu.uuid);
        let gpus: BTreeSet<GpuUuid> = gpus.chain(self.claims.gpus.iter().cloned()).collect();
        for gpu in &gpus {
            self.ward.soil(gpu, now.boot);
        }
        self.slots.set_foreign(ForeignClaims {
            gpus,
            ..self.claims.clone()
        });
    }

    /// How the engine is to be asked for these GPUs, all of which are of one vendor.
    pub(super) fn handing(&self, gpus: &[GpuUuid], without_cdi: bool) -> Handing {
        if !self.are_nvidias(gpus) {
            let names = self.names(gpus);
            let of_amd = self.vendor_of(gpus) == Some("amd");
            let shared = of_amd.then(|| KFD.to_owned()).into_iter();
            let mut files: Vec<String> = shared
                .chain(names.into_iter().flat_map(|gpu| gpu.nodes))
                .collect();
            files.sort();
            files.dedup();
            return Handing::Files(files);
        }
        let facts = self.engine.facts.as_ref().filter(|_| !without_cdi);
        let offered = |gpu| facts.is_some_and(|facts| facts.cdi_devices.contains(&cdi_name(gpu)));
        match gpus.iter().all(offered) && !gpus.is_empty() {
            true => Handing::Cdi,
            false => Handing::Request,
        }
    }

    /// Whether NVIDIA's programs inside can be asked about them. A GPU that nobody knows any more is
    /// taken for one of theirs, as the most are.
    pub(super) fn are_nvidias(&self, gpus: &[GpuUuid]) -> bool {
        self.vendor_of(gpus).is_none_or(|vendor| vendor == NVIDIA)
    }

    fn vendor_of(&self, gpus: &[GpuUuid]) -> Option<&str> {
        let first = gpus.first()?;
        let known = self.gpus.iter().find(|gpu| gpu.uuid == *first);
        known.map(|gpu: &Gpu| gpu.vendor.as_str())
    }

    /// Why this engine cannot hand out these GPUs, as far as that is known before it is tried.
    pub(super) fn cannot_hand_over(&self, gpus: &[GpuUuid]) -> Option<Error> {
        match self.handing(gpus, false) {
            Handing::Request if !gpus.is_empty() => {
                let why = self.engine.gpu_runtime_missing.as_ref()?;
                let error = RuntimeError::new("start", "any rental", Class::GpuRuntime, why);
                Some(lifecycle::failure(Stage::Admit, &error))
            }
            Handing::Files(files) if files.iter().all(|file| file == KFD) => {
                let message =
                    "the device files of the GPUs are not known, so no rental can have them";
                Some(Error::new(ErrorCode::GpuUnavailable, message).at(Stage::Admit))
            }
            Handing::Request | Handing::Cdi | Handing::Files(_) => None,
        }
    }

    /// Whether a rental may run without GPUs where the engine can hand out none.
    pub(super) fn may_go_without(&self, spec: &InstanceSpec) -> bool {
        spec.gpus_optional && self.options.gpu_rules.on_missing_runtime == OnMissingRuntime::Cpu
    }

    /// The engine could not hand over the rental's GPUs. Whether there is another way, which needs
    /// another container: not for one that has run and may hold its tenant's data.
    pub(super) fn hand_over_anew(&mut self, id: &InstanceId, error: &RuntimeError) -> bool {
        if error.lacks_gpu_runtime() {
            self.engine.gpu_runtime_missing = Some(error.message.clone());
        }
        let Some(entry) = self.entries.get(id) else {
            return false;
        };
        let spec = entry.spec.as_ref().filter(|_| entry.record.restarts == 0);
        let Some(spec) = spec else { return false };
        let by_cdi = entry.by_cdi && !entry.without_cdi;
        let goes_without = error.lacks_gpu_runtime() && self.may_go_without(spec);
        if !by_cdi && !goes_without {
            return false;
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return false;
        };
        entry.facts.replace = true;
        if by_cdi {
            tracing::warn!(instance_id = %id, "CDI failed; the GPUs are asked for by UUID");
            entry.without_cdi = true;
        } else {
            // Cores and memory stay: the spec's label says them already.
            entry.record.gpus.clear();
            entry.facts.has_gpus = false;
            self.slots.give_back_gpus(id);
        }
        true
    }
}
