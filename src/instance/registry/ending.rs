//! From the decision to end to the removal of the last marker. Pure.
//!
//! The order is the promise: decision written, container stopped, final record written, container
//! removed, verified gone, GPUs released, `ended` published, terminates answered, ack awaited, markers
//! removed, `.ended` as the last.

use std::time::Duration;

use super::{Registry, entry::Entry};
use crate::{
    clock::{Now, Timestamp},
    ids::InstanceId,
    instance::{
        effect::{Effect, EngineOp},
        lifecycle::{DecisionMarker, End, Presence},
        marker::{Marker, MarkerKind, MarkerRead},
    },
    protocol::{
        EndReason, ErrorCode, Instance, Phase,
        record::{Ended, Usage},
    },
    runtime::{Class, ContainerState, Observed, RuntimeError, VolumeLabels},
};

/// While a removal is under way it is looked at after so long, at first and at last.
const REMOVAL_LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Something of it is left, or its markers cannot be removed: tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// So long after TERM has had its time a container is called stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(15);

impl Registry {
    /// The decision to end is in the engine, or cannot be brought there.
    pub(super) fn decision_written(
        &mut self,
        id: &InstanceId,
        result: Result<crate::instance::effect::OpOutput, RuntimeError>,
        now: Now,
    ) {
        use crate::instance::effect::OpOutput;
        let agent = self.options.agent_id.clone();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(end) = entry.facts.end.as_mut() else {
            return;
        };
        if end.marker != DecisionMarker::Wanted {
            return;
        }
        match result {
            Ok(OpOutput::Marked(labels)) => {
                // An earlier life's decision was the first: it gives the reason. It may not have
                // known of the deploy.
                if let Some(MarkerRead::Ours {
                    marker: Marker::Ending { reason, .. },
                    ..
                }) = Marker::decode(&labels, &agent)
                {
                    if !(entry.known && reason == EndReason::Cancelled) {
                        end.reason = reason;
                    }
                } else {
                    entry.markers.remove(&labels.name);
                    tracing::warn!(instance_id = %id, volume = %labels.name,
                        "a marker's name is taken; the decision is kept in memory");
                }
                end.marker = DecisionMarker::Written;
            }
            Err(error) if matches!(error.class, Class::Unknown | Class::Unreachable) => {
                tracing::warn!(instance_id = %id, %error, "the decision to end is not written yet");
                entry.unknowns = entry.unknowns.saturating_add(1);
                entry.not_before = Some(now.boot + Duration::from_secs(1));
            }
            Ok(_) | Err(_) => {
                // A full disk must not keep a rental from ending.
                tracing::warn!(instance_id = %id, "the decision to end is kept in memory only");
                end.marker = DecisionMarker::Written;
            }
        }
        self.accept_terminates(id);
    }

    /// Exit code and the last of its output, or that it runs after all.
    pub(super) fn examined(
        &mut self,
        id: &InstanceId,
        seen: Option<&Observed>,
        log_tail: Option<String>,
        now: Now,
    ) {
        self.observe(id, seen, now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let Some(end) = entry.facts.end.as_mut() else {
            return;
        };
        if entry.facts.presence == Presence::Live {
            return;
        }
        end.examined = true;
        end.log_tail = log_tail.filter(|tail| !tail.is_empty());
        let detail = seen
            .filter(|s| s.state == ContainerState::Exited)
            .and_then(|s| s.detail.as_ref());
        end.exit_code = end.exit_code.or(detail.map(|detail| detail.exit_code));
    }

    /// The final record is in the engine, perhaps from an earlier life: then that one is final.
    pub(super) fn marked_ended(&mut self, id: &InstanceId, labels: &VolumeLabels, now: Now) {
        let at = self.clock.at(now);
        let agent = self.options.agent_id.clone();
        let read = Marker::decode(labels, &agent);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if let Some(MarkerRead::Ours {
            marker: Marker::Ended { record },
            ..
        }) = read
        {
            // What is in the engine is what a restart will tell: the time of its writing is final.
            let written = record.as_ref().and_then(|record| record.timeline.ended_at);
            let at = written.unwrap_or(at);
            let own = Marker::Ended {
                record: Some(Box::new(final_record(entry, at))),
            };
            let is_own = own.encode(&agent, id).labels == labels.labels;
            match (record, entry.facts.end.as_mut()) {
                (Some(record), Some(end)) if !is_own => end.recorded = Some(record),
                _ => self.recorded(id, at),
            }
            return;
        }
        entry.markers.remove(&labels.name);
        tracing::warn!(instance_id = %id, volume = %labels.name,
            "a marker's name is taken; the final record is kept in memory only");
        self.recorded(id, at);
    }

    /// The end is final from here on.
    pub(super) fn recorded(&mut self, id: &InstanceId, at: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let record = final_record(entry, at);
        if let Some(end) = entry.facts.end.as_mut() {
            end.recorded = Some(Box::new(record));
        }
    }

    /// The engine knows nothing of the container any more; a process of it may be left all the same.
    pub(super) fn verified(&mut self, id: &InstanceId, process_left: bool, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // A stranger under its name is not it.
        let still_there = entry.facts.presence != Presence::Absent;
        if process_left {
            let message = "a process of its container is left; its GPUs stay reserved";
            entry.set_condition("stuck_stopping", Some(("process_left", message.into())), at);
            entry.not_before = Some(now.boot + TRY_AGAIN);
            self.publish(id);
        } else if still_there {
            // The engine says "in progress" for as long as a removal hangs.
            let since = at.since(entry.end().map_or(at, |end| end.kill_at));
            let (least, most) = REMOVAL_LOOK;
            entry.not_before = Some(now.boot + (since / 4).clamp(least, most));
            if since > STUCK_AFTER {
                let message = "the engine does not remove it; its GPUs stay reserved";
                entry.set_condition("stuck_stopping", Some(("not_removed", message.into())), at);
                self.publish(id);
            }
        } else {
            entry.facts.verified_absent = true;
        }
    }

    /// Nothing of it is left: reservations go, the record is final, whoever waits is answered; and
    /// once the server has stored it, its markers go.
    pub(super) fn finish(&mut self, id: &InstanceId, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.is_over() {
            return self.forget(id);
        }
        let Some(record) = entry.end().and_then(|end| end.recorded.clone()) else {
            return;
        };
        let error = record.ended.as_ref().and_then(|ended| ended.error.clone());
        let known = entry.known;
        entry.record = *record;
        entry
            .record
            .conditions
            .retain(|condition| condition.kind != "stuck_stopping");
        entry.spec = None;
        let deploys = std::mem::take(&mut entry.deploys);
        let terminates = std::mem::take(&mut entry.terminates);
        self.slots.release(id, now.boot);
        self.publish(id);
        for command in deploys {
            let message = "the rental ended before it was ready";
            let error = error
                .clone()
                .unwrap_or_else(|| crate::protocol::Error::new(ErrorCode::Cancelled, message));
            self.close(command, Err(error));
        }
        for (command, accepted) in terminates {
            if !accepted {
                self.open(command.clone(), crate::protocol::Outcome::Accepted);
            }
            self.close(command, Ok(Some(serde_json::json!({ "known": known }))));
        }
    }

    /// Removes the markers of an acked end. Not before a create without an answer would have shown
    /// up, of this life or of the one before: the markers keep it from being adopted.
    fn forget(&mut self, id: &InstanceId) {
        let ready = self.can_see() && self.settled();
        let op = self.next_op_id();
        let touched = self.touch();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let busy = entry.forget_op.is_some() || entry.decision_op.is_some();
        if !entry.acked || !ready || busy || entry.create_unknown.is_some() {
            return;
        }
        entry.forget_op = Some(op);
        entry.touched = touched;
        // `.ended` as the last; only if it is ours: the name may be another agent's volume.
        let ended = MarkerKind::Ended.volume_name(id);
        let (last, first): (Vec<String>, Vec<String>) = entry
            .markers
            .iter()
            .cloned()
            .partition(|name| *name == ended);
        let body = EngineOp::RemoveMarkers(first.into_iter().chain(last).collect());
        self.effects.push(Effect::Engine {
            id: op,
            instance: id.clone(),
            op: body,
        });
    }

    pub(super) fn markers_removed(&mut self, id: &InstanceId, removed: bool, now: Now) {
        let touched = self.touch();
        if removed {
            self.entries.remove(id);
            self.forgotten.insert(id.clone(), touched);
        } else if let Some(entry) = self.entries.get_mut(id) {
            entry.not_before = Some(now.boot + TRY_AGAIN);
        }
    }
}

/// The record of an end, as it will be published and as `.ended` keeps it.
pub(super) fn final_record(entry: &Entry, at: Timestamp) -> Instance {
    let mut record = entry.record.clone();
    let Some(end) = entry.end() else {
        return record;
    };
    let ended_at = end.ended_at.unwrap_or(at);
    record.phase = Phase::Ended;
    record.timeline.ending_at.get_or_insert(end.decided_at);
    record.timeline.ended_at = Some(ended_at);
    record.usage = record.timeline.ready_at.map(|ready_at| Usage {
        used_s: ended_at.since(ready_at).as_secs_f64(),
        estimated: end.is_estimated.then_some(true),
    });
    record.ended = Some(Ended {
        reason: end.reason,
        exit_code: end.exit_code,
        error: end.error.clone(),
        log_tail: end.log_tail.clone(),
    });
    record
}

/// An end that is found in the engine without its record: what can be said of it all the same.
pub(super) fn bare_end(entry: &Entry, at: Timestamp) -> End {
    End {
        marker: DecisionMarker::Written,
        ..End::decided(EndReason::Interrupted, at).estimated(entry.last_seen())
    }
}
