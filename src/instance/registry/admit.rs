//! Whether a deploy may be taken: everything that can be said before the engine is touched. Pure.

use super::{
    Registry,
    entry::Entry,
    publishing::UNACKED_MAX,
    slots::{Allocation, Demand, GpuView},
};
use crate::{
    clock::Now,
    instance::spec::{self as spec_rules, InstanceSpec},
    protocol::{
        Error, ErrorCode, Stage,
        command::Deploy,
        record::{EngineStatus, PublishedPort},
    },
};

impl Registry {
    /// Checks a deploy against the grammar, the host's policy, the engine and what is free, and
    /// reserves what it needs. Nothing is reserved on an error.
    pub(super) fn admit(
        &mut self,
        deploy: Deploy,
        now: Now,
    ) -> Result<(InstanceSpec, Allocation), Error> {
        let mut spec = InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &self.options.policy)?;
        self.admit_now().map_err(|error| error.at(Stage::Admit))?;
        let view = GpuView {
            gpus: &self.gpus,
            complete: self.inventory_complete,
        };
        let demand = Demand::of(&spec);
        let mut allocation = self
            .slots
            .reserve(&spec.instance_id, &demand, view, now.boot)?;
        if let Some(error) = self.cannot_hand_over(&allocation.gpus) {
            self.slots.forgo(&spec.instance_id);
            if error.code != ErrorCode::GpuRuntimeMissing || !self.may_go_without(&spec) {
                return Err(error);
            }
            let without = Demand {
                gpus: None,
                ..demand
            };
            let view = GpuView {
                gpus: &self.gpus,
                complete: self.inventory_complete,
            };
            allocation = self
                .slots
                .reserve(&spec.instance_id, &without, view, now.boot)?;
        }
        spec.settle(allocation.nano_cpus, allocation.memory_bytes);
        Ok((spec, allocation))
    }

    /// Whether any deploy may be taken at present.
    fn admit_now(&self) -> Result<(), Error> {
        let refusal = if self.draining {
            (
                ErrorCode::Draining,
                "the host is draining; it takes no new rentals".to_owned(),
            )
        } else if self.stopping {
            (ErrorCode::NotReady, "the agent is stopping".to_owned())
        } else if self.engine.status != EngineStatus::Ok {
            (
                ErrorCode::EngineUnavailable,
                "the container engine does not answer".to_owned(),
            )
        } else if self.seccomp_is_off() {
            let message = "the container engine runs without seccomp; the host's owner has to start \
                           it without `--seccomp-profile unconfined`";
            (ErrorCode::PolicyDenied, message.to_owned())
        } else if let Some(fault) = &self.engine.network_fault {
            (ErrorCode::PolicyDenied, fault.clone())
        } else if self.unacked() >= UNACKED_MAX {
            let message = format!("{UNACKED_MAX} final records wait for the server's ack");
            (ErrorCode::InsufficientResources, message)
        } else {
            return Ok(());
        };
        Err(Error::new(refusal.0, refusal.1))
    }

    /// Writes what was asked and what was reserved into the record.
    pub(super) fn fill_record(
        &self,
        entry: &mut Entry,
        spec: &InstanceSpec,
        allocation: &Allocation,
    ) {
        let record = &mut entry.record;
        record.image = Some(spec.image.to_string());
        record.spec_sha256 = Some(spec.hash.clone());
        record.labels = spec.labels.clone();
        record.gpus = allocation.gpus.clone();
        record.cpus = spec_rules::cores(allocation.nano_cpus);
        record.memory_bytes = allocation.memory_bytes;
        record.ports = spec
            .ports
            .iter()
            .zip(&allocation.ports)
            .map(|(port, host)| PublishedPort {
                name: port.name.clone(),
                container: port.container,
                host: *host,
                protocol: port.protocol,
                address: self.options.address.clone(),
            })
            .collect();
    }
}
