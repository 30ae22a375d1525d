//! What a look at a container means for its rental. Pure.

use std::time::Duration;

use super::{Registry, entry::Entry};
use crate::{
    clock::{Now, Timestamp},
    ids::InstanceId,
    instance::{
        lifecycle::{End, Presence},
        marker::{self, ContainerLabels, Marker, MarkerRead, Ownership},
    },
    protocol::{EndReason, Error, ErrorCode, Phase, Stage},
    runtime::{ContainerEvent, ContainerState, Detail, Observed, RESTART_WINDOW, VolumeLabels},
};

/// An administrator's restart is a kill, an exit and a start within a moment: so long after a signal
/// that is not ours an exit is not believed yet.
const SETTLE: Duration = Duration::from_secs(2);
/// The exit code of a process that was killed by KILL.
const KILLED: i64 = 137;
/// A container in a state of which this version knows nothing is looked at again after so long.
const LOOK_LATER: Duration = Duration::from_secs(5);

impl Registry {
    /// Takes in what was seen under the rental's name.
    pub(super) fn observe(&mut self, id: &InstanceId, seen: Option<&Observed>, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let ours = seen.and_then(|seen| {
            let labels = own_labels(seen, entry, &self.options.agent_id)?;
            Some((seen, labels))
        });
        let Some((seen, labels)) = ours else {
            let stranger = seen.is_some();
            return self.absent(id, stranger, now);
        };
        if entry.container() != Some(&seen.id) && entry.facts.end.is_none() {
            self.found(id, seen, &labels, now);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.record.container_id = Some(seen.id.clone());
        entry.facts.verified_absent = false;
        entry.leaving_since = None;
        entry.facts.soiled |= entry.facts.has_gpus && seen.state != ContainerState::Created;
        entry.set_condition("unobservable", None, at);
        let alive = entry.facts.end.is_none();
        let tells_why = !matches!(seen.state, ContainerState::Created | ContainerState::Exited);
        if alive && !tells_why && seen.detail.is_none() {
            // Listed and not inspected: why it does not run is not known, and nothing ends on that.
            entry.facts.presence = Presence::Unknown;
            return;
        }
        let detail = seen.detail.clone().unwrap_or_default();
        match seen.state {
            ContainerState::Running | ContainerState::Paused | ContainerState::Restarting => {
                self.alive(id, seen, now);
            }
            ContainerState::Created if detail.error.is_empty() && detail.exit_code == 0 => {
                entry.facts.presence = Presence::Startable;
            }
            ContainerState::Created => {
                entry.facts.presence = Presence::Finished;
                let error = Error::new(ErrorCode::StartFailed, &detail.error).at(Stage::Start);
                self.fail(id, error, now);
            }
            ContainerState::Exited => self.exited(id, &detail, now),
            ContainerState::Removing | ContainerState::Dead => {
                entry.facts.presence = Presence::Dying;
                if entry.facts.end.is_none() {
                    self.lost(id, "its container is being removed by somebody else", now);
                }
            }
            // A state of a newer engine: nothing is known, nothing is touched.
            ContainerState::Other if alive => {
                entry.facts.presence = Presence::Unknown;
                entry.not_before = Some(now.boot + LOOK_LATER);
            }
            ContainerState::Other => entry.facts.presence = Presence::Live,
        }
    }

    fn absent(&mut self, id: &InstanceId, stranger: bool, now: Now) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let had_container = entry.container().is_some();
        entry.facts.presence = Presence::Absent;
        // One of ours with another spec ends with it; only a look tells it from a stranger's.
        let may_show_up = had_container || stranger || entry.create_unknown.is_some();
        entry.facts.verified_absent = !may_show_up && entry.facts.end.is_none();
        if entry.facts.end.is_some() {
            return;
        }
        // It was on its way out, to be made anew.
        let half_made = entry.facts.replace || (entry.facts.remake && entry.spec.is_some());
        if half_made {
            entry.facts.replace = false;
            entry.facts.remake = false;
            entry.record.container_id = None;
        } else if had_container {
            self.lost(id, "its container is not there any more", now);
        } else if stranger {
            let message = format!("a container named {} exists already", entry.name());
            self.fail(
                id,
                Error::new(ErrorCode::Conflict, message).at(Stage::Create),
                now,
            );
        }
    }

    fn alive(&mut self, id: &InstanceId, seen: &Observed, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.facts.presence = Presence::Live;
        entry.seen_running = Some(at);
        let paused = (seen.state == ContainerState::Paused).then(|| {
            (
                "paused",
                "the host's administrator has paused it".to_owned(),
            )
        });
        entry.set_condition("paused", paused, at);
        let started = seen.detail.as_ref().map(|detail| {
            entry.facts.inspected = true;
            entry.pid = detail.pid;
            detail
                .started_at
                .map_or(at, |wall| self.clock.from_wall(wall))
        });
        if let Some(started) = started {
            entry.record.timeline.running_at.get_or_insert(started);
        }
        if entry.facts.end.is_some() {
            return self.publish(id);
        }
        if entry.record.phase != Phase::Ready {
            entry.record.phase = Phase::Running;
        }
        self.publish(id);
        // A hint that it died is followed before anything is promised.
        let may_be_told = |entry: &Entry| {
            let has_gpus = !entry.facts.has_gpus || entry.facts.gpus_verified;
            entry.facts.marked_ready && has_gpus && !entry.dirty
        };
        if self.entries.get(id).is_some_and(may_be_told) {
            self.ready(id, now);
        }
    }

    fn exited(&mut self, id: &InstanceId, detail: &Detail, now: Now) {
        let at = self.clock.at(now);
        let explained = self.explained_by_restart(id, detail);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if let Some(started) = detail.started_at {
            let running_at = &mut entry.record.timeline.running_at;
            running_at.get_or_insert(self.clock.from_wall(started));
        }
        let seen_before = detail.started_at.is_some() && entry.restart_of == detail.started_at;
        if entry.facts.end.is_some() {
            entry.facts.presence = Presence::Finished;
        } else if entry.facts.is_stopped {
            entry.facts.presence = Presence::Finished;
            entry.enter(Phase::Stopped, at);
            self.publish(id);
        } else if seen_before {
            entry.facts.presence = Presence::Startable;
        } else if explained {
            tracing::info!(instance_id = %id, "ended by a restart of the engine or the host");
            entry.facts.presence = Presence::Startable;
            entry.facts.rechecked = false;
            entry.facts.inspected = false;
            entry.facts.gpus_verified = false;
            entry.restart_of = detail.started_at;
            entry.record.restarts = entry.record.restarts.saturating_add(1);
            entry.enter(Phase::Restarting, at);
            self.publish(id);
        } else if entry
            .foreign_kill
            .is_some_and(|kill| now.boot < kill + SETTLE)
        {
            entry.facts.presence = Presence::Unknown;
            entry.not_before = entry.foreign_kill.map(|kill| kill + SETTLE);
        } else {
            entry.facts.presence = Presence::Finished;
            self.ended_by_itself(id, detail, at);
        }
    }

    fn ended_by_itself(&mut self, id: &InstanceId, detail: &Detail, at: Timestamp) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let oom = detail.exit_code == KILLED && (detail.oom_killed || entry.oom_event);
        let finished = detail.finished_at.map(|wall| self.clock.from_wall(wall));
        let was_ready = was_ready(entry, finished);
        if !was_ready {
            entry.record.timeline.ready_at = None;
        }
        let (reason, error) = match (was_ready, oom) {
            (true, true) => {
                let error = Error::new(ErrorCode::OomKilled, "out of memory").at(Stage::Run);
                (EndReason::OomKilled, Some(error))
            }
            (true, false) => (EndReason::Exited, None),
            (false, true) => {
                let error = Error::new(ErrorCode::OomKilled, "out of memory").at(Stage::Ready);
                (EndReason::Failed, Some(error))
            }
            (false, false) => {
                let message = format!("it ended with code {} before ready", detail.exit_code);
                let error = Error::new(ErrorCode::ExitedEarly, message).at(Stage::Ready);
                (EndReason::Failed, Some(error))
            }
        };
        // Never before it was ready: the two clocks may differ by a moment.
        let ended_at = finished.map(|finished| {
            entry
                .record
                .timeline
                .ready_at
                .map_or(finished, |r| r.max(finished))
        });
        entry.facts.end = Some(End {
            error,
            exit_code: Some(detail.exit_code),
            ended_at,
            ..End::decided(reason, at)
        });
        entry.enter(Phase::Ending, ended_at.map_or(at, |ended| ended.min(at)));
        self.publish(id);
    }

    /// Its container is gone and nobody said why.
    pub(super) fn lost(&mut self, id: &InstanceId, message: &str, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let error = Error::new(ErrorCode::NotFound, message).at(Stage::Run);
        entry.facts.end = Some(End {
            error: Some(error),
            examined: true,
            ..End::decided(EndReason::Lost, at).estimated(entry.last_seen())
        });
        entry.enter(Phase::Ending, at);
        self.publish(id);
    }

    /// Whether the engine's or the host's restart explains an exit, so that it is not the tenant's.
    fn explained_by_restart(&self, id: &InstanceId, detail: &Detail) -> bool {
        let Some(entry) = self.entries.get(id) else {
            return false;
        };
        let (Some(started), Some(finished)) = (detail.started_at, detail.finished_at) else {
            return false;
        };
        let starts = &self.engine.starts;
        let earlier_boot = entry
            .boot_id
            .as_ref()
            .is_some_and(|b| *b != self.options.host.boot_id);
        // The label says when it was made; one that was started again in this boot is this boot's.
        let by_boot = earlier_boot
            && starts
                .back()
                .map_or(entry.record.restarts == 0, |engine| started < *engine);
        let by_engine = starts.iter().any(|engine| detail.ended_by_restart(*engine));
        // One that was only silent took nothing with it: a life that is older than the silence goes on.
        let began_since = |from: Timestamp| {
            let last = starts.back();
            last.is_none_or(|start| self.clock.from_wall(*start) >= from)
        };
        let by_outage = self.engine.outage.is_some_and(|(from, to)| {
            let (started, finished) = (
                self.clock.from_wall(started),
                self.clock.from_wall(finished),
            );
            let in_between = finished.plus(RESTART_WINDOW) >= from && finished <= to;
            began_since(from) && started < from && in_between
        });
        by_boot || by_engine || by_outage
    }

    /// The marker of the first `ready` is in the engine, perhaps from an earlier life. It is ready
    /// when it has been looked at once more.
    pub(super) fn marked_ready(&mut self, id: &InstanceId, labels: &VolumeLabels, now: Now) {
        match Marker::decode(labels, &self.options.agent_id) {
            Some(MarkerRead::Ours {
                marker: Marker::Lease { ready_at, .. },
                ..
            }) => {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.facts.marked_ready = true;
                    entry.marked_ready_at = Some(ready_at);
                    // An earlier look does not count; one that is ready already needs none.
                    entry.facts.inspected = entry.record.phase == Phase::Ready;
                }
            }
            _ => {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.markers.remove(&labels.name);
                }
                let message = format!("volume {} belongs to somebody else", labels.name);
                self.fail(
                    id,
                    Error::new(ErrorCode::Conflict, message).at(Stage::Ready),
                    now,
                );
            }
        }
    }

    /// It is ready: the record first, then the replies.
    pub(super) fn ready(&mut self, id: &InstanceId, now: Now) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if entry.facts.end.is_some() {
            return;
        }
        entry.enter(Phase::Ready, entry.marked_ready_at.unwrap_or(at));
        self.publish(id);
        self.answer_deploys(id);
    }

    /// Something happened to a container: it is looked at, as soon as nothing else is under way.
    pub(super) fn container_event(&mut self, event: &ContainerEvent, now: Now) {
        let Some(id) = marker::instance_of(&event.name) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        match event.action.as_str() {
            "oom" => entry.oom_event = true,
            "kill" if entry.op.is_none() => entry.foreign_kill = Some(now.boot),
            "die" | "destroy" | "pause" | "unpause" | "rename" => {
                if entry.op.is_some() {
                    entry.dirty = true;
                } else if entry.facts.presence == Presence::Live {
                    entry.facts.presence = Presence::Unknown;
                    self.drive(&id, now);
                }
            }
            _ => {}
        }
    }
}

/// What the labels say, if what was seen under the rental's name is the rental's own container.
fn own_labels(
    seen: &Observed,
    entry: &Entry,
    agent: &crate::ids::AgentId,
) -> Option<Box<ContainerLabels>> {
    let Ownership::Ours(labels) = ContainerLabels::read(agent, &seen.name, &seen.labels) else {
        return None;
    };
    // What is to end ends, whatever it is. Where a create or a remake had no answer, it is ours when
    // it is what ours would be.
    let known = entry.container() == Some(&seen.id) || entry.facts.end.is_some();
    let is_awaited = entry.container().is_none() || entry.facts.remake;
    let equal = entry.record.spec_sha256.as_ref() == Some(&labels.spec_sha256);
    let fresh = matches!(
        seen.state,
        ContainerState::Created | ContainerState::Running | ContainerState::Paused
    );
    let belongs = known || (is_awaited && equal && fresh);
    (belongs && labels.instance_id == entry.record.id).then_some(labels)
}

/// Whether it had been ready before it ended. The marker alone does not say so: it is written before
/// the last look, and the agent may have died in between.
fn was_ready(entry: &Entry, finished: Option<Timestamp>) -> bool {
    let Some(ready_at) = entry.record.timeline.ready_at else {
        return false;
    };
    let was_told = matches!(entry.record.phase, Phase::Ready | Phase::Restarting);
    was_told || finished.is_none_or(|finished| finished >= ready_at)
}
