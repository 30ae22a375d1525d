//! Rentals of an earlier life are taken up where they were left: what a container and its markers
//! tell becomes facts. Pure.

use super::{Registry, ending::bare_end, entry::Entry, slots::Allocation, verify::note_missing};
use crate::{
    clock::Now,
    ids::{CommandId, InstanceId},
    instance::{
        effect::Waiter,
        lifecycle::{End, Presence},
        marker::ContainerLabels,
        reconcile::{self, Ending, Holdings, Markers, Readable},
        spec::{PortRequest, cores},
    },
    protocol::{
        EndReason, Error, ErrorCode, Instance, Outcome, Phase, Reply, record::PublishedPort,
    },
    runtime::{ContainerState, Listing, Observed},
};

impl Registry {
    /// What the containers alone tell of a rental of an earlier life, while the markers cannot be
    /// read: what runs is running, and nothing is decided about anything.
    pub(super) fn take_running(&mut self, listing: Listing, now: Now) {
        let sorted = reconcile::sort(listing, &self.options.agent_id);
        for (id, holdings) in sorted.ours {
            let Some(Readable { seen, labels }) = holdings.container else {
                continue;
            };
            let live = matches!(
                seen.state,
                ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
            );
            if !live || self.entries.contains_key(&id) {
                continue;
            }
            let mut entry = self.earlier(&id);
            entry.is_provisional = true;
            // What runs has what it has, so that this refuses nothing.
            if self.read_labels(&mut entry, &seen, &labels).is_ok() {
                self.entries.insert(id.clone(), entry);
                self.observe(&id, Some(&seen), now);
            }
        }
        if self.connected && !self.telling {
            self.tell();
        }
    }

    fn earlier(&mut self, id: &InstanceId) -> Entry {
        let touched = self.touch();
        let mut entry = Entry::new(id.clone(), touched);
        entry.record.recovered = true;
        entry.facts.verified_absent = false;
        entry
    }

    /// A rental of an earlier life.
    pub(super) fn adopt(&mut self, id: InstanceId, holdings: Holdings, now: Now) {
        let mut entry = self.earlier(&id);
        let provisional = self.entries.remove(&id);
        entry.published = provisional.and_then(|entry| entry.published);
        entry.markers.clone_from(&holdings.markers.names);
        let readable = holdings.container.as_ref();
        let refused = readable.and_then(|readable| {
            let Readable { seen, labels } = readable;
            self.read_labels(&mut entry, seen, labels).err()
        });
        entry.facts.is_stopped = holdings.markers.is_stopped;
        if let Some(lease) = &holdings.markers.lease {
            entry.facts.marked_ready = true;
            // Seen by an earlier life; what is missing by now a later look tells.
            entry.facts.gpus_verified = true;
            entry.marked_ready_at = Some(lease.ready_at);
            entry.record.timeline.ready_at = Some(lease.ready_at);
        }
        let at = self.clock.at(now);
        entry.facts.end = self.recorded_end(&mut entry, &holdings.markers, at);
        self.entries.insert(id.clone(), entry);
        let container = holdings.container.as_ref().map(|readable| &readable.seen);
        match container {
            Some(_) => self.observe(&id, container, now),
            None => self.adopt_without_container(&id, now),
        }
        if let Some(error) = refused {
            self.fail(&id, error, now);
        }
        tracing::info!(instance_id = %id, container = container.is_some(), "adopted");
        self.remember_commands(&id, &holdings.markers);
        self.finish_if_over(&id);
        self.publish(&id);
    }

    /// A create whose answer was lost has been done, perhaps by an earlier life with another
    /// reservation: what its labels say holds.
    pub(super) fn found(
        &mut self,
        id: &InstanceId,
        seen: &Observed,
        labels: &ContainerLabels,
        now: Now,
    ) {
        let Some(mut entry) = self.entries.remove(id) else {
            return;
        };
        let before = entry.record.clone();
        let reserved = self.slots.allocation(id).cloned();
        let taken = self.read_labels(&mut entry, seen, labels);
        entry.record.phase = before.phase;
        entry.facts.rechecked = false;
        entry.facts.inspected = false;
        entry.facts.remake = false;
        let error = match (taken, reserved.filter(|_| entry.spec.is_some())) {
            (Err(_), Some(reserved)) => {
                // It never ran: one with what is reserved now is made in its place.
                entry.record = before;
                entry.facts.has_gpus = !reserved.gpus.is_empty();
                entry.facts.replace = true;
                self.slots.adopt(id, reserved);
                None
            }
            (taken, _) => taken.err(),
        };
        let fetch = entry.fetch.take_if(|_| !entry.facts.replace);
        self.entries.insert(id.clone(), entry);
        if let Some(fetch) = fetch {
            // It needs no image any more, and must not fail for one.
            self.leave_fetch(fetch, &Waiter::Instance(id.clone()));
        }
        if let Some(error) = error {
            self.fail(id, error, now);
        }
    }

    /// Reads what a container has. One that does not run, and whose GPUs or ports were given to
    /// another rental before it showed up, has none of them, and cannot be started.
    fn read_labels(
        &mut self,
        entry: &mut Entry,
        seen: &Observed,
        labels: &ContainerLabels,
    ) -> Result<(), Error> {
        let spec = &labels.spec;
        let record = &mut entry.record;
        record.container_id = Some(seen.id.clone());
        record.spec_sha256 = Some(labels.spec_sha256.clone());
        record.command_id = labels.command_id.clone();
        record.timeline.accepted_at = Some(labels.accepted_at);
        record.gpus = labels.gpus.clone();
        record.image = Some(spec.image.to_string());
        record.labels = spec.labels.clone();
        record.cpus = cores(spec.nano_cpus.unwrap_or(0));
        record.memory_bytes = spec.memory_bytes.unwrap_or(0);
        let host_port = |port: &PortRequest| {
            let same = |p: &&crate::runtime::HostPort| {
                p.container == port.container && p.protocol == port.protocol
            };
            seen.ports.iter().find(same).map(|found| PublishedPort {
                name: port.name.clone(),
                container: port.container,
                host: found.host,
                protocol: port.protocol,
                address: self.options.address.clone(),
            })
        };
        record.ports = spec.ports.iter().filter_map(host_port).collect();
        record.phase = Phase::Starting;
        entry.stop_grace = spec.stop_grace;
        entry.facts.has_gpus = !labels.gpus.is_empty();
        entry.boot_id = Some(labels.boot_id.clone()).filter(|boot_id| !boot_id.is_empty());
        let mut allocation = Allocation {
            gpus: labels.gpus.clone(),
            ports: seen.ports.iter().map(|port| port.host).collect(),
            nano_cpus: spec.nano_cpus.unwrap_or(0),
            memory_bytes: spec.memory_bytes.unwrap_or(0),
        };
        let taken = self.slots.held_by_others(&entry.record.id, &allocation);
        let taken = taken.filter(|_| !runs(seen));
        if taken.is_some() {
            allocation.gpus.clear();
            allocation.ports.clear();
            entry.record.gpus.clear();
            entry.record.ports.clear();
            entry.facts.has_gpus = false;
        }
        if spec.wants_gpus && labels.gpus.is_empty() {
            note_missing(entry, labels.accepted_at);
        }
        self.slots.adopt(&entry.record.id, allocation);
        taken.map_or(Ok(()), Err)
    }

    /// The end that the markers tell of.
    fn recorded_end(
        &self,
        entry: &mut Entry,
        markers: &Markers,
        at: crate::clock::Timestamp,
    ) -> Option<End> {
        // Who terminated an unknown id did not see the deploy that is found here.
        let was_deployed = entry.container().is_some() || entry.facts.marked_ready;
        let decided = |ending: &Ending| {
            let bare = bare_end(entry, at);
            // A decision whose labels are lost says nothing of when it ended.
            let bare = match ending.decided_at {
                Some(_) => bare.estimated(None),
                None => bare,
            };
            End {
                reason: if was_deployed && ending.reason == EndReason::Cancelled {
                    EndReason::Terminated
                } else {
                    ending.reason
                },
                command_id: ending.command_id.clone(),
                decided_at: ending.decided_at.unwrap_or(at),
                kill_at: ending.kill_at.unwrap_or(at),
                ..bare
            }
        };
        let mut end = markers.ending.as_ref().map(decided);
        if let Some(ended) = &markers.ended {
            let end = end.get_or_insert_with(|| bare_end(entry, at));
            if let Some(record) = &ended.0 {
                entry.record = Instance {
                    recovered: true,
                    ..(**record).clone()
                };
                end.reason = record
                    .ended
                    .as_ref()
                    .map_or(end.reason, |ended| ended.reason);
                end.recorded = Some(Box::new(entry.record.clone()));
            }
        }
        if end.is_some() {
            entry.record.phase = Phase::Ending;
            entry.known = end
                .as_ref()
                .is_some_and(|end| end.reason != EndReason::Cancelled);
        }
        end
    }

    fn adopt_without_container(&mut self, id: &InstanceId, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.facts.presence = Presence::Absent;
        match entry.end() {
            // A final record without a container: it is over.
            Some(end) if end.recorded.is_some() => entry.facts.verified_absent = true,
            Some(_) => {}
            // It was ready once, and nobody decided its end.
            None => self.lost(id, "its container vanished while no agent ran", now),
        }
    }

    fn finish_if_over(&mut self, id: &InstanceId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let is_over = entry.facts.presence == Presence::Absent && entry.facts.verified_absent;
        if let Some(record) = entry
            .facts
            .end
            .as_ref()
            .and_then(|end| end.recorded.clone())
            && is_over
        {
            entry.record = *record;
        }
    }

    /// The commands that Docker knows: they are answered as if this process had taken them.
    fn remember_commands(&mut self, id: &InstanceId, markers: &Markers) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // A final record is what was told; a lease marker beside it may be one that nobody knew of.
        let was_ready = entry.record.timeline.ready_at.is_some();
        let is_over =
            entry.end().is_some_and(|end| end.recorded.is_some()) && entry.facts.verified_absent;
        // One that waited too long for the first listing was rejected: that stays.
        let open = |id: &CommandId| self.ledger.reply(id).is_none_or(|r| !r.outcome.is_final());
        let deploy = entry.record.command_id.clone();
        let deploy = deploy.filter(|id| entry.known && open(id));
        let terminate = markers
            .ending
            .as_ref()
            .and_then(|ending| ending.command_id.clone())
            .filter(open);
        let known = entry.known;
        let record = entry.record.clone();
        if let Some(terminate) = terminate {
            if is_over {
                self.ledger
                    .close(done(terminate, serde_json::json!({ "known": known })));
            } else {
                entry.terminates.push((terminate.clone(), true));
                self.ledger.open(terminate, Outcome::Accepted);
            }
        }
        let Some(deploy) = deploy else { return };
        if was_ready {
            self.ledger
                .close(done(deploy, serde_json::json!({ "instance": record })));
        } else if is_over {
            let message = "the rental ended before it was ready";
            let error = record.ended.and_then(|ended| ended.error);
            let error = error.unwrap_or_else(|| Error::new(ErrorCode::Cancelled, message));
            self.ledger.close(Reply {
                command_id: deploy,
                outcome: Outcome::Failed,
                error: Some(error),
                result: None,
            });
        } else if let Some(entry) = self.entries.get_mut(id) {
            entry.deploys.push(deploy.clone());
            self.ledger.open(deploy, Outcome::Accepted);
        }
    }
}

/// Whether a container has its GPUs and ports whatever anybody thinks.
pub(super) fn runs(seen: &Observed) -> bool {
    !matches!(
        seen.state,
        ContainerState::Created | ContainerState::Exited | ContainerState::Dead
    )
}

fn done(command_id: CommandId, result: serde_json::Value) -> Reply {
    Reply {
        command_id,
        outcome: Outcome::Done,
        error: None,
        result: Some(result),
    }
}
