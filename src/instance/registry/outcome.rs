//! What came of an operation on the engine. Pure.
//!
//! An outcome that is not known is never guessed: the container is looked up, after a while that
//! grows.

use std::time::Duration;

use super::{Registry, ending::STUCK_AFTER, verify::note_missing};
use crate::{
    clock::Now,
    ids::InstanceId,
    instance::{
        effect::{OpDone, OpOutput},
        lifecycle::{self, End, Presence, Step},
    },
    protocol::{EndReason, Error, ErrorCode, Phase, Stage},
    runtime::{Class, Holder, RuntimeError},
};

/// After operations of which nothing is known, up to so long passes before the next look.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);
/// So many other ports are tried where the host's are taken by strangers.
const PORT_TRIES: u32 = 5;
/// Others that were made with the same GPU, and after, are waited for so long and looked at so often.
const CONTENDED: Duration = Duration::from_secs(10);
const CONTENDED_LOOK: Duration = Duration::from_millis(100);
/// Whoever has the rental's name is looked at after so long.
const NAME_TAKEN: Duration = Duration::from_millis(250);
/// And so often: some engines keep the name of a container that they have lost.
const NAME_TRIES: u32 = 120;

impl Registry {
    pub(super) fn operation_done(&mut self, done: OpDone, now: Now) {
        let touched = self.touch();
        let id = done.instance;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.gpu_op.take_if(|op| *op == done.id).is_some() {
            // It has only looked.
            if let Ok(OpOutput::GpusSeen(seen)) = done.result {
                self.gpus_seen_again(&id, seen.as_deref(), now);
            }
            return;
        }
        entry.touched = touched;
        if entry.decision_op == Some(done.id) {
            entry.decision_op = None;
            self.decision_written(&id, done.result, now);
        } else if entry.forget_op == Some(done.id) {
            entry.forget_op = None;
            self.markers_removed(&id, done.result.is_ok(), now);
        } else if let Some((_, step)) = entry.op.take_if(|(op, _)| *op == done.id) {
            match done.result {
                Ok(output) => self.succeeded(&id, step, output, now),
                Err(error) => self.failed(&id, step, &error, now),
            }
            self.look_if_dirty(&id);
        }
        self.drive(&id, now);
    }

    /// Something happened to its container while an operation was in flight: it is looked at again.
    fn look_if_dirty(&mut self, id: &InstanceId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if std::mem::take(&mut entry.dirty) && entry.facts.presence == Presence::Live {
            entry.facts.presence = Presence::Unknown;
        }
    }

    fn succeeded(&mut self, id: &InstanceId, step: Step, output: OpOutput, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.unknowns = 0;
        match output {
            OpOutput::Created(container) => {
                entry.record.container_id = Some(container);
                entry.facts.presence = Presence::Startable;
                entry.facts.verified_absent = false;
                entry.facts.rechecked = false;
                entry.facts.remake = false;
                self.publish(id);
            }
            OpOutput::Holders(holders) => self.rechecked(id, &holders, now),
            OpOutput::Started => {
                entry.facts.presence = Presence::Live;
                entry.facts.inspected = false;
                entry.facts.gpus_verified = false;
            }
            OpOutput::GpusSeen(seen) => self.gpus_seen(id, seen.as_deref(), now),
            OpOutput::Stopped => entry.facts.presence = Presence::Finished,
            OpOutput::Removed => {
                entry.facts.presence = Presence::Absent;
                entry.facts.verified_absent = false;
                if step == Step::Replace {
                    entry.facts.replace = false;
                    entry.record.container_id = None;
                }
            }
            OpOutput::Inspected(seen) => self.observe(id, seen.as_deref(), now),
            OpOutput::Verified(seen, process_left) => {
                self.observe(id, seen.as_deref(), now);
                self.verified(id, process_left, now);
            }
            OpOutput::Examined(seen, log_tail) => {
                self.examined(id, seen.as_deref(), log_tail, now);
            }
            OpOutput::Marked(labels) if step == Step::MarkReady => {
                self.marked_ready(id, &labels, now);
            }
            OpOutput::Marked(labels) => self.marked_ended(id, &labels, now),
            OpOutput::MarkersRemoved => {}
        }
    }

    fn failed(&mut self, id: &InstanceId, step: Step, error: &RuntimeError, now: Now) {
        tracing::warn!(instance_id = %id, %error, class = ?error.class, ?step, "engine operation");
        if matches!(error.class, Class::Unknown | Class::Unreachable) {
            return self.outcome_unknown(id, step, now);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        match (step, error.class) {
            (Step::Create, Class::NameTaken) if entry.tries.name < NAME_TRIES => {
                entry.tries.name += 1;
                entry.facts.presence = Presence::Unknown;
                // The name is taken from the beginning of a create, the container shows at its end.
                entry.not_before = Some(now.boot + NAME_TAKEN);
            }
            // The image was removed between pull and create: once more.
            (Step::Create, Class::NotFound) if entry.tries.fetch == 0 => {
                entry.tries.fetch += 1;
                entry.facts.image = None;
            }
            (Step::Create, _) => {
                entry.facts.verified_absent = entry.create_unknown.is_none();
                self.fail(id, lifecycle::failure(Stage::Create, error), now);
            }
            (Step::Start, _) => self.start_failed(id, error, now),
            (Step::Remake, _) => {
                entry.facts.presence = Presence::Unknown;
                self.fail(id, lifecycle::failure(Stage::Start, error), now);
            }
            // No space for a marker must not keep a rental from starting or from ending.
            (Step::MarkReady, _) => {
                entry.facts.marked_ready = true;
                entry.facts.inspected = entry.record.phase == Phase::Ready;
            }
            (Step::MarkEnded, _) => {
                let at = self.clock.at(now);
                self.recorded(id, at);
            }
            _ => self.outcome_unknown(id, step, now),
        }
    }

    /// Whether it was done is not known: it is looked up, after a while that grows.
    fn outcome_unknown(&mut self, id: &InstanceId, step: Step, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.unknowns = entry.unknowns.saturating_add(1);
        let wait = Duration::from_millis(250 << entry.unknowns.min(7)).min(UNKNOWN_MAX);
        entry.not_before = Some(now.boot + wait);
        if matches!(step, Step::Create | Step::Remake) {
            entry.create_unknown = Some(now.boot);
        }
        let of_container = !matches!(step, Step::MarkReady | Step::MarkEnded | Step::Recheck);
        if of_container {
            entry.facts.presence = Presence::Unknown;
        }
        let stuck = entry
            .end()
            .is_some_and(|end| at.since(end.kill_at) > STUCK_AFTER);
        if stuck && of_container {
            let message = "the engine cannot stop it or look at it; its GPUs stay reserved";
            entry.set_condition(
                "stuck_stopping",
                Some(("engine_silent", message.into())),
                at,
            );
        } else if entry.end().is_none() && entry.unknowns >= 2 {
            let message = "the engine does not answer for this container";
            entry.set_condition("unobservable", Some(("engine_silent", message.into())), at);
        }
        self.publish(id);
    }

    fn start_failed(&mut self, id: &InstanceId, error: &RuntimeError, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // Other ports mean another container: not for one that has run and may hold its tenant's data.
        let can_move = entry.spec.is_some() && entry.record.restarts == 0;
        // A container whose start failed holds no GPU in the eyes of others.
        entry.facts.rechecked = false;
        if error.class == Class::GpuRuntime && self.hand_over_anew(id, error) {
            return self.went_without(id, now);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        match error.class {
            Class::NotFound => entry.facts.presence = Presence::Unknown,
            Class::PortTaken if can_move && entry.tries.ports < PORT_TRIES => {
                entry.tries.ports += 1;
                self.other_ports(id, error, now);
            }
            Class::Unstartable | Class::Failed if entry.tries.remake == 0 => {
                if error.class == Class::Failed && entry.tries.start == 0 {
                    entry.tries.start += 1;
                    entry.not_before = Some(now.boot + Duration::from_secs(1));
                } else {
                    entry.tries.remake += 1;
                    entry.facts.remake = true;
                }
            }
            // What is left fails the same way again.
            Class::Unknown
            | Class::Unreachable
            | Class::NameTaken
            | Class::PortTaken
            | Class::GpuRuntime
            | Class::DiskFull
            | Class::Unstartable
            | Class::Refused
            | Class::ImageNotFound
            | Class::RegistryAuth
            | Class::RateLimited
            | Class::RegistryFailed
            | Class::ImageUnsupported
            | Class::ImageCorrupt
            | Class::Stalled
            | Class::InUse
            | Class::Failed => self.fail(id, lifecycle::failure(Stage::Start, error), now),
        }
    }

    fn went_without(&mut self, id: &InstanceId, now: Now) {
        let at = self.clock.at(now);
        if let Some(entry) = self.entries.get_mut(id).filter(|e| !e.facts.has_gpus) {
            note_missing(entry, at);
        }
        self.publish(id);
    }

    /// A stranger has one of the ports: the container is made anew with others.
    fn other_ports(&mut self, id: &InstanceId, error: &RuntimeError, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        // The engine names the port; where it does not, any of them may be it.
        let named = |port: &u16| error.message.contains(&format!(":{port}"));
        let any_named = entry.record.ports.iter().any(|port| named(&port.host));
        for port in &mut entry.record.ports {
            if any_named && !named(&port.host) {
                continue;
            }
            match self.slots.swap_port(id, port.host, now.boot) {
                Ok(other) => port.host = other,
                Err(_) => return self.fail(id, lifecycle::failure(Stage::Start, error), now),
            }
        }
        entry.facts.replace = true;
        self.publish(id);
    }

    /// Of all live containers with one of its GPUs, the one that runs has it, else the one that was
    /// made first. That one waits until the others have gone or run: they were seen before it was, so
    /// they may have looked before they could see it.
    fn rechecked(&mut self, id: &InstanceId, holders: &[Holder], now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let mine = holders.iter().find(|h| Some(&h.id) == entry.container());
        let others = || holders.iter().filter(|h| Some(&h.id) != entry.container());
        // One that ended in a restart is not live, so whoever is has the GPU by now.
        let before_mine = |h: &&Holder| {
            mine.is_none_or(|mine| (h.created_at, &h.id) < (mine.created_at, &mine.id))
        };
        let until = entry.contended_until.unwrap_or(now.boot + CONTENDED);
        let has_it = |h: &&Holder| h.runs || before_mine(h) || until <= now.boot;
        match others().find(has_it) {
            Some(other) => {
                let message = format!("container {} has the same GPU already", other.name);
                let error = Error::new(ErrorCode::GpuUnavailable, message).at(Stage::Start);
                self.fail(id, error, now);
            }
            None if others().next().is_some() => {
                entry.contended_until = Some(until);
                entry.not_before = Some(now.boot + CONTENDED_LOOK);
            }
            None => {
                entry.contended_until = None;
                entry.facts.rechecked = true;
            }
        }
    }

    /// The rental cannot be brought up. What ran before has been interrupted, and so has what a kill
    /// of the engine left unstartable; what never ran failed, in whichever life of the agent.
    pub(super) fn fail(&mut self, id: &InstanceId, error: Error, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.facts.end.is_some() {
            return;
        }
        let was_ready = entry.record.timeline.ready_at.is_some();
        let left_unstartable = entry.record.recovered && entry.tries.remake > 0;
        let was_restarted = entry.record.restarts > 0 || left_unstartable;
        let reason = if was_ready || was_restarted {
            EndReason::Interrupted
        } else {
            EndReason::Failed
        };
        let seen = was_ready.then(|| entry.last_seen()).flatten();
        entry.facts.end = Some(End {
            error: Some(error),
            ..End::decided(reason, at).estimated(seen)
        });
        entry.enter(Phase::Ending, at);
        self.publish(id);
    }
}
