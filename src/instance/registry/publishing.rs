//! What leaves the registry: records in order, replies after the records that show their effect,
//! and the snapshot. Pure.

use std::sync::Arc;

use super::{Registry, entry::Entry};
use crate::{
    clock::Now,
    ids::{CommandId, Generation, InstanceId},
    instance::{
        effect::Effect,
        publish::{Event, Snapshot},
    },
    protocol::{
        Error, Instance, Outcome, Phase, Reply,
        message::{InstanceMessage, Synced},
        record::{EngineStatus, Gpu, GpuState, Status},
    },
};

/// More than so much clock offset is worth a reason; more than [`CLOCK_UNFIT_S`] is not rentable.
const CLOCK_SKEW_S: f64 = 5.0;
const CLOCK_UNFIT_S: f64 = 60.0;
/// Deploys are refused at so many final records without an ack.
pub(super) const UNACKED_MAX: usize = 1_000;

/// A final record without an ack is given up after so long.
const UNACKED_FOR: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

impl Registry {
    /// Publishes a record if it changed. What was published as ended is final, whatever still happens
    /// to what is left of it.
    pub(super) fn publish(&mut self, id: &InstanceId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if let Some((_, last)) = &entry.published {
            if last.phase == Phase::Ended {
                entry.record = Instance::clone(last);
            }
            if **last == entry.record {
                return;
            }
        }
        self.generation = self.generation.next();
        let instance = Arc::new(entry.record.clone());
        entry.published = Some((self.generation, Arc::clone(&instance)));
        tracing::info!(instance_id = %id, phase = ?instance.phase, "instance");
        let event = Event::Record(InstanceMessage {
            generation: self.generation,
            instance,
        });
        // A session that waits for the first records gets this record with it.
        self.effects.push(match self.telling && self.connected {
            true => Effect::Emit(event),
            false => Effect::Tell(event),
        });
    }

    /// Sends the whole state to the session that has just begun.
    pub(super) fn sync(&mut self) {
        let ids = self.tell();
        self.emit(Event::Synced(Synced {
            generation: self.generation,
            ids,
        }));
        self.synced = true;
    }

    /// Sends every record that there is; from now on each change is sent, too.
    pub(super) fn tell(&mut self) -> Vec<InstanceId> {
        let ids: Vec<InstanceId> = self.entries.keys().cloned().collect();
        for id in &ids {
            self.publish(id);
        }
        let records = self.records();
        let ids = ids_of(&records);
        self.emit(Event::Records(records));
        self.telling = true;
        ids
    }

    /// The whole state as it is told to who has just come: nothing before the first full list.
    pub fn state(&self) -> Option<(Vec<InstanceMessage>, Synced)> {
        let records = self.engine.listed.then(|| self.records())?;
        let synced = Synced {
            generation: self.generation,
            ids: ids_of(&records),
        };
        Some((records, synced))
    }

    /// Live ones, and ended ones without an ack, in the order of their last changes.
    fn records(&self) -> Vec<InstanceMessage> {
        let mut records: Vec<InstanceMessage> = self
            .entries
            .values()
            .filter(|entry| !entry.acked)
            .filter_map(|entry| entry.published.clone())
            .map(|(generation, instance)| InstanceMessage {
                generation,
                instance,
            })
            .collect();
        records.sort_by_key(|record| record.generation);
        records
    }

    /// Sends a first reply.
    pub(super) fn open(&mut self, id: CommandId, outcome: Outcome) {
        let reply = self.ledger.open(id, outcome);
        self.emit(Event::Reply(reply));
    }

    /// Sends a final reply, unless the command has one.
    pub(super) fn close(
        &mut self,
        command_id: CommandId,
        result: Result<Option<serde_json::Value>, Error>,
    ) {
        let reply = match result {
            Ok(result) => Reply {
                command_id,
                outcome: Outcome::Done,
                error: None,
                result,
            },
            Err(error) => Reply {
                command_id,
                outcome: Outcome::Failed,
                error: Some(error),
                result: None,
            },
        };
        if let Some(reply) = self.ledger.close(reply) {
            self.emit(Event::Reply(reply));
        }
    }

    /// Sends the only reply of a command that is not begun.
    pub(super) fn reject(&mut self, command_id: CommandId, error: Error) {
        tracing::info!(%command_id, code = ?error.code, message = %error.message, "command rejected");
        let reply = Reply {
            command_id,
            outcome: Outcome::Rejected,
            error: Some(error),
            result: None,
        };
        if let Some(reply) = self.ledger.close(reply) {
            self.emit(Event::Reply(reply));
        }
    }

    /// The server has stored all records up to `generation`: ended ones are forgotten.
    pub(super) fn ack(&mut self, generation: Generation, now: Now) {
        let acked: Vec<InstanceId> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.is_over() && !entry.acked)
            .filter(|(_, entry)| {
                entry
                    .published
                    .as_ref()
                    .is_some_and(|(g, _)| *g <= generation)
            })
            .map(|(id, entry)| {
                entry.acked = true;
                id.clone()
            })
            .collect();
        for id in acked {
            self.drive(&id, now);
        }
    }

    /// A final record that no server wants is not kept for ever.
    pub(super) fn give_up_old_records(&mut self, now: Now) {
        // Before the first `welcome` only the host's clock says how old one is, and it may be wrong
        // by years.
        if self.clock.offset_s().is_none() {
            return;
        }
        let at = self.clock.at(now);
        for entry in self.entries.values_mut() {
            let ended_at = entry.record.timeline.ended_at;
            if entry.is_over()
                && !entry.acked
                && ended_at.is_some_and(|ended_at| at.since(ended_at) > UNACKED_FOR)
            {
                entry.acked = true;
                self.records_dropped = self.records_dropped.saturating_add(1);
                tracing::warn!(instance_id = %entry.record.id, "final record dropped: no ack for 7 days");
            }
        }
    }

    /// How many final records wait for an ack.
    pub(super) fn unacked(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.is_over() && !entry.acked)
            .count()
    }

    /// The state for everybody who only reads.
    pub fn snapshot(&self) -> Snapshot {
        let published = |entry: &Entry| entry.published.as_ref().map(|(_, i)| Arc::clone(i));
        Snapshot {
            generation: self.generation,
            host: self.options.host.clone(),
            gpus: self.gpus_with_state(),
            wipes: self.ward.wipes(),
            inventory_complete: self.inventory_complete,
            capacity: self.slots.capacity(self.gpu_view()),
            occupied: self.slots.occupied(),
            status: self.status(),
            instances: self
                .entries
                .values()
                .filter_map(published)
                .collect::<Vec<Arc<Instance>>>(),
        }
    }

    /// Before the first listing nobody knows who holds what.
    fn gpus_with_state(&self) -> Vec<Gpu> {
        let state = |gpu: &Gpu| match self.engine.listed {
            true => self.slots.gpu_state(&gpu.uuid),
            false => GpuState::Unknown,
        };
        self.gpus
            .iter()
            .map(|gpu| Gpu {
                state: state(gpu),
                ..gpu.clone()
            })
            .collect()
    }

    fn status(&self) -> Status {
        let mut reasons = Vec::new();
        let mut rentable = true;
        let mut hindered = |reason: &str| {
            reasons.push(reason.to_owned());
            rentable = false;
        };
        match self.engine.status {
            EngineStatus::Ok => {}
            EngineStatus::Degraded => hindered("engine_degraded"),
            EngineStatus::Unavailable => hindered("engine_unavailable"),
        }
        if self.draining {
            hindered("draining");
        }
        if self.stopping {
            hindered("stopping");
        }
        if self.unacked() >= UNACKED_MAX {
            hindered("unacked_records");
        }
        if self.seccomp_is_off() {
            hindered("seccomp_missing");
        }
        if self.engine.network_fault.is_some() {
            hindered("network_unfit");
        }
        let clock_offset_s = self.clock.offset_s();
        let offset = clock_offset_s.unwrap_or(0.0).abs();
        if offset > CLOCK_UNFIT_S {
            hindered("clock_skew");
        } else if offset > CLOCK_SKEW_S {
            reasons.push("clock_skew".to_owned());
        }
        Status {
            engine: self.engine.status,
            draining: self.draining,
            rentable,
            reasons,
            clock_offset_s,
            records_dropped: self.records_dropped,
        }
    }

    /// A container engine without its system call filter holds no stranger.
    pub(super) fn seccomp_is_off(&self) -> bool {
        self.engine.facts.as_ref().is_some_and(|facts| {
            let seccomp = facts
                .security_options
                .iter()
                .find(|o| o.contains("seccomp"));
            seccomp.is_none_or(|option| option.contains("unconfined"))
        })
    }
}

fn ids_of(records: &[InstanceMessage]) -> Vec<InstanceId> {
    let ids = records.iter().map(|record| record.instance.id.clone());
    ids.collect()
}
