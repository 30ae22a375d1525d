//! The next operation on the engine for a rental. Pure.

use super::{Registry, ending::final_record};
use crate::{
    clock::Now,
    config::Numa,
    gpu::affinity,
    ids::{GpuUuid, InstanceId},
    instance::{
        effect::{Effect, EngineOp, OpId, Waiter},
        lifecycle::{self, DecisionMarker, Step},
        marker::{self, ContainerFacts, Marker},
        spec::InstanceSpec,
    },
    protocol::{Phase, record::Gpu},
    runtime::{ContainerPlan, HostPort, gpus::Handing},
};

/// `/dev/shm` where nobody says anything, as the engine has it.
const SHM_DEFAULT: u64 = 64 * 1024 * 1024;

impl Registry {
    pub(super) fn drive_all(&mut self, now: Now) {
        let ids: Vec<InstanceId> = self.entries.keys().cloned().collect();
        for id in ids {
            self.drive(&id, now);
        }
    }

    /// Begins what comes next for a rental, if nothing is under way and the engine answers.
    pub(super) fn drive(&mut self, id: &InstanceId, now: Now) {
        self.write_decision(id, now);
        self.skip_verification(id);
        let can_judge = self.can_judge();
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let waits = entry.not_before.is_some_and(|at| at > now.boot);
        if entry.op.is_some() || waits || self.stopping {
            return;
        }
        let step = lifecycle::next(&entry.facts);
        match step {
            Step::Live | Step::AwaitDecision => {}
            Step::AwaitImage => self.want_image(id),
            Step::Clean => self.leave_gpus(id, now),
            Step::Over => self.finish(id, now),
            _ if !can_judge => {}
            Step::LookUp
            | Step::Create
            | Step::Recheck
            | Step::Remake
            | Step::Start
            | Step::VerifyGpus
            | Step::Replace
            | Step::Inspect
            | Step::MarkReady
            | Step::Stop
            | Step::Examine
            | Step::MarkEnded
            | Step::Remove
            | Step::Verify => self.begin(id, step, now),
        }
    }

    fn begin(&mut self, id: &InstanceId, step: Step, now: Now) {
        self.show_phase(id, step, now);
        let Some(op) = self.operation(id, step, now) else {
            return;
        };
        let op_id = self.next_op_id();
        let touched = self.touch();
        if let Some(entry) = self.entries.get_mut(id) {
            entry.op = Some((op_id, step));
            entry.touched = touched;
            entry.dirty = false;
            entry.facts.soiled |=
                entry.facts.has_gpus && matches!(step, Step::Start | Step::Remake);
        }
        self.effects.push(Effect::Engine {
            id: op_id,
            instance: id.clone(),
            op,
        });
    }

    fn show_phase(&mut self, id: &InstanceId, step: Step, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let phase = match step {
            Step::Create => Phase::Creating,
            Step::Recheck | Step::Start | Step::Remake => Phase::Starting,
            Step::AwaitImage
            | Step::AwaitDecision
            | Step::LookUp
            | Step::VerifyGpus
            | Step::Replace
            | Step::Inspect
            | Step::MarkReady
            | Step::Live
            | Step::Stop
            | Step::Examine
            | Step::MarkEnded
            | Step::Remove
            | Step::Verify
            | Step::Clean
            | Step::Over => return,
        };
        if entry.record.phase == Phase::Restarting {
            return;
        }
        entry.enter(phase, at);
        self.publish(id);
    }

    fn operation(&mut self, id: &InstanceId, step: Step, now: Now) -> Option<EngineOp> {
        let at = self.clock.at(now);
        let agent = self.options.agent_id.clone();
        let entry = self.entries.get(id)?;
        let gpus = self.names(&entry.record.gpus);
        let inside = self.are_nvidias(&entry.record.gpus);
        let entry = self.entries.get_mut(id)?;
        let name = entry.name();
        Some(match step {
            Step::LookUp | Step::Inspect => EngineOp::Inspect { name },
            Step::Create => {
                let plan = self.plan(id)?;
                self.entries.get_mut(id)?.by_cdi = plan.handing == Handing::Cdi;
                EngineOp::Create(Box::new(plan))
            }
            Step::Recheck => EngineOp::Holders { name, gpus },
            Step::VerifyGpus => EngineOp::SeeGpus { name, inside },
            Step::Remake => EngineOp::Remake { name },
            Step::Start => EngineOp::Start { name },
            Step::Replace | Step::Remove => EngineOp::Remove { name },
            Step::MarkReady => {
                let lease = Marker::Lease {
                    n: 1,
                    ready_at: entry.record.timeline.ready_at.unwrap_or(at),
                    expires_at: None,
                    command_ids: Vec::new(),
                };
                entry.put_marker(lease.encode(&agent, id))
            }
            Step::Stop => {
                // Another life's clock may have been another: never longer than it was meant.
                let grace = entry.end().map(|end| {
                    let meant = end.kill_at.since(end.decided_at);
                    end.kill_at.since(at).min(meant)
                });
                EngineOp::Stop {
                    name,
                    grace: grace.unwrap_or_default(),
                }
            }
            Step::Examine => EngineOp::Examine { name },
            Step::MarkEnded => {
                let record = final_record(entry, at);
                let marker = Marker::Ended {
                    record: Some(Box::new(record)),
                };
                entry.put_marker(marker.encode(&agent, id))
            }
            Step::Verify => EngineOp::Verify {
                name,
                container: entry.container().cloned(),
                pid: entry.pid,
            },
            Step::AwaitImage | Step::AwaitDecision | Step::Live | Step::Clean | Step::Over => {
                return None;
            }
        })
    }

    pub(super) fn next_op_id(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// The container that the spec, the reservation and the image make.
    fn plan(&self, id: &InstanceId) -> Option<ContainerPlan> {
        let entry = self.entries.get(id)?;
        let spec = entry.spec.as_ref()?;
        let record = &entry.record;
        let allocation = self.slots.allocation(id)?;
        let labels = marker::labels_for(&ContainerFacts {
            agent_id: &self.options.agent_id,
            instance_id: id,
            spec: &spec.public_json(),
            spec_sha256: &spec.hash,
            command_id: record.command_id.as_ref(),
            accepted_at: record.timeline.accepted_at?,
            gpus: &record.gpus,
            boot_id: &self.options.host.boot_id,
        });
        let ports = record.ports.iter().map(|port| HostPort {
            container: port.container,
            host: port.host,
            protocol: port.protocol,
        });
        Some(ContainerPlan {
            name: entry.name(),
            image: entry.facts.image.clone()?,
            entrypoint: spec.entrypoint.clone(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            labels,
            ports: ports.collect(),
            gpus: record.gpus.clone(),
            handing: self.handing(&record.gpus, entry.without_cdi),
            nano_cpus: i64::try_from(allocation.nano_cpus).unwrap_or(i64::MAX),
            cpuset: self.cpuset(spec, &record.gpus),
            memory_bytes: i64::try_from(allocation.memory_bytes).unwrap_or(i64::MAX),
            shm_bytes: shm_bytes(spec.shm_bytes, allocation.memory_bytes, record.gpus.len()),
            hardening: self.options.hardening.clone(),
            stop_grace: spec.stop_grace,
        })
    }

    /// The processors near its GPUs, for one that asks for whole cores.
    fn cpuset(&self, spec: &InstanceSpec, gpus: &[GpuUuid]) -> Option<String> {
        let wanted = self.options.limits.numa == Numa::Prefer;
        let cores = spec.whole_cores.filter(|_| wanted)?;
        let known = self.gpus.iter().filter(|gpu| gpus.contains(&gpu.uuid));
        let known: Vec<&Gpu> = known.collect();
        affinity::near(&known, cores.get(), self.options.host.cpus)
    }

    fn want_image(&mut self, id: &InstanceId) {
        let Some(entry) = self.entries.get(id) else {
            return;
        };
        let Some(spec) = entry.spec.as_ref().filter(|_| entry.fetch.is_none()) else {
            return;
        };
        let (image, pull, auth) = (spec.image.clone(), spec.pull, spec.auth.clone());
        let fetch = self.fetch(&image, pull, auth, Waiter::Instance(id.clone()));
        if let Some(entry) = self.entries.get_mut(id) {
            entry.fetch = Some(fetch);
        }
    }

    /// The decision to end is written at once, also while another operation is in flight.
    fn write_decision(&mut self, id: &InstanceId, now: Now) {
        let can_see = self.can_see();
        let agent = self.options.agent_id.clone();
        let op = self.next_op_id();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(end) = entry.facts.end.as_ref() else {
            return;
        };
        let waits = entry.not_before.is_some_and(|at| at > now.boot);
        let under_way = entry.decision_op.is_some() || end.marker != DecisionMarker::Wanted;
        if !can_see || waits || under_way {
            return;
        }
        let marker = Marker::Ending {
            reason: end.reason,
            command_id: end.command_id.clone(),
            decided_at: end.decided_at,
            kill_at: end.kill_at,
        };
        entry.decision_op = Some(op);
        let op_body = entry.put_marker(marker.encode(&agent, id));
        self.effects.push(Effect::Engine {
            id: op,
            instance: id.clone(),
            op: op_body,
        });
    }
}

/// `/dev/shm`: as asked, never more than the memory; several GPUs talk through it, so they get half
/// of the memory.
fn shm_bytes(asked: Option<u64>, memory: u64, gpus: usize) -> i64 {
    let default = if gpus > 1 { memory / 2 } else { SHM_DEFAULT };
    i64::try_from(asked.unwrap_or(default).min(memory)).unwrap_or(i64::MAX)
}
