//! What each command does. Checked in this order: command id, instance id, `not_after`, admission.
//! Pure.

use std::time::Duration;

use super::{HELD_MAX, HOLD, Registry, entry::Entry};
use crate::{
    clock::{Now, Timestamp},
    ids::{CommandId, InstanceId},
    image::reference::Reference,
    instance::{
        effect::Waiter,
        lifecycle::{DecisionMarker, End, Presence},
        publish::Event,
        spec,
    },
    protocol::{
        Command, EndReason, Error, ErrorCode, Op, Outcome, Phase, Stage,
        command::{PullImage, Terminate},
        spec::PullPolicy,
        text::printable,
    },
    runtime::Credentials,
};

/// So many `pull_image` at once.
const PULLS_MAX: usize = 64;

impl Registry {
    /// A command came: it is answered from memory, held until the first listing, or done.
    pub(super) fn receive(&mut self, command: Box<Command>, now: Now) {
        if let Some(reply) = self.ledger.reply(&command.id) {
            self.emit(Event::Reply(reply));
            return;
        }
        if self.engine.listed {
            self.execute(*command, now);
        } else if let Op::Terminate(Terminate { grace_s, .. }) = &command.op
            && let Err(error) = spec::parse_grace(*grace_s)
        {
            // What is wrong in itself need not wait.
            self.reject(command.id, error);
        } else if self.held.iter().any(|(held, _)| held.id == command.id) {
            // Its first reply comes when it is released.
        } else if self.held.len() >= HELD_MAX {
            let message = "too many commands wait for the container engine's first answer";
            self.reject(
                command.id,
                Error::new(ErrorCode::NotReady, message).at(Stage::Admit),
            );
        } else {
            self.held.push_back((command, now.boot + HOLD));
        }
    }

    /// A command of which only the id could be read.
    pub(super) fn refuse_unread(&mut self, id: CommandId, error: Error) {
        match self.ledger.reply(&id) {
            Some(reply) => self.emit(Event::Reply(reply)),
            None => self.reject(id, error),
        }
    }

    /// Lets go what waited for the first listing: all of it once that is there, and what has waited
    /// too long. A terminate is never refused: it is accepted and goes on waiting.
    pub(super) fn release_held(&mut self, now: Now) {
        if self.engine.listed {
            return self.release_all(now);
        }
        for (command, until) in std::mem::take(&mut self.held) {
            let is_terminate = matches!(command.op, Op::Terminate(_));
            if until > now.boot || self.ledger.is_running(&command.id) {
                self.held.push_back((command, until));
            } else if is_terminate {
                self.open(command.id.clone(), Outcome::Accepted);
                self.held.push_back((command, Duration::MAX));
            } else {
                self.execute(*command, now);
            }
        }
    }

    /// The first listing may have shown that an earlier life took some of the commands: these are
    /// answered, before the others are done, which may give them their final replies.
    fn release_all(&mut self, now: Now) {
        let mut unknown = Vec::new();
        for (command, until) in std::mem::take(&mut self.held) {
            let accepted_while_held = until == Duration::MAX;
            match self.ledger.reply(&command.id) {
                Some(reply) if reply.outcome.is_final() || !accepted_while_held => {
                    self.emit(Event::Reply(reply));
                }
                Some(_) | None => unknown.push(command),
            }
        }
        for command in unknown {
            self.execute(*command, now);
        }
    }

    fn execute(&mut self, command: Command, now: Now) {
        let Command { id, not_after, op } = command;
        if let Op::Deploy(deploy) = op {
            return self.deploy(id, not_after, *deploy, now);
        }
        if !matches!(op, Op::Terminate(_)) && self.refuse_late(&id, not_after, now) {
            return;
        }
        match op {
            Op::Deploy(_) => {}
            Op::Terminate(terminate) => self.terminate(id, not_after, &terminate, now),
            Op::Cancel(cancel) => self.cancel(id, &cancel.command_id),
            Op::PullImage(pull) => self.pull_image(id, pull),
            Op::QuarantineGpu(wanted) => self.quarantine_gpu(id, &wanted, now),
            Op::ReleaseGpu(wanted) => self.release_gpu(id, &wanted, now),
            Op::Report => {
                self.open(id.clone(), Outcome::Accepted);
                self.emit(Event::Report);
                self.close(id, Ok(None));
            }
            Op::Drain => self.set_draining(id, true),
            Op::Resume => self.set_draining(id, false),
        }
    }

    pub(super) fn refuse_late(
        &mut self,
        id: &CommandId,
        not_after: Option<Timestamp>,
        now: Now,
    ) -> bool {
        let at = self.clock.at(now);
        let Some(limit) = not_after.filter(|limit| *limit < at) else {
            return false;
        };
        let message = format!("the command was not to be begun after {limit}; it is {at}");
        self.reject(
            id.clone(),
            Error::new(ErrorCode::DeadlineExceeded, message).at(Stage::Admit),
        );
        true
    }

    fn set_draining(&mut self, id: CommandId, draining: bool) {
        self.open(id.clone(), Outcome::Accepted);
        self.draining = draining;
        self.close(id, Ok(None));
    }

    fn terminate(
        &mut self,
        id: CommandId,
        not_after: Option<Timestamp>,
        terminate: &Terminate,
        now: Now,
    ) {
        let instance = &terminate.instance_id;
        let accepted = self.ledger.is_running(&id);
        let grace = match spec::parse_grace(terminate.grace_s) {
            Ok(grace) => grace,
            Err(error) if !accepted => return self.reject(id, error),
            Err(_) => None,
        };
        if !self.entries.contains_key(instance) {
            if !accepted && self.refuse_late(&id, not_after, now) {
                return;
            }
            self.remember_unseen(instance, &id);
        }
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        if entry.is_over() {
            let known = entry.known;
            if !accepted {
                self.open(id.clone(), Outcome::Accepted);
            }
            return self.close(id, Ok(Some(serde_json::json!({ "known": known }))));
        }
        // Sent again before its first reply, or known from the engine's marker: it waits already.
        if entry.terminates.iter().any(|(waiting, _)| *waiting == id) {
            return;
        }
        entry.terminates.push((id.clone(), accepted));
        if entry.facts.end.is_none() {
            let reason = if entry.known {
                EndReason::Terminated
            } else {
                EndReason::Cancelled
            };
            let reason_given = terminate.reason.as_deref().map(|r| printable(r, 200));
            tracing::info!(instance_id = %instance, command_id = %id, reason = reason_given,
                "terminate");
            self.decide_end(instance, reason, Some(id), grace, now);
        }
        self.drive(instance, now);
        self.accept_terminates(instance);
    }

    /// An id that was never deployed becomes a record that ended before it began, so that a deploy
    /// that comes late is refused.
    fn remember_unseen(&mut self, instance: &InstanceId, command: &CommandId) {
        let touched = self.touch();
        let mut entry = Entry::new(instance.clone(), touched);
        entry.known = false;
        entry.record.phase = Phase::Ending;
        entry.record.command_id = Some(command.clone());
        // A create of an earlier life may still be under way: the engine is asked.
        entry.facts.presence = Presence::Unknown;
        entry.facts.verified_absent = false;
        self.entries.insert(instance.clone(), entry);
    }

    /// Decides that a rental ends, from outside. The decision is written before anything is touched.
    fn decide_end(
        &mut self,
        instance: &InstanceId,
        reason: EndReason,
        command_id: Option<CommandId>,
        grace: Option<Duration>,
        now: Now,
    ) {
        let at = self.clock.at(now);
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        let grace = grace.unwrap_or(entry.stop_grace);
        entry.facts.end = Some(End {
            command_id,
            kill_at: at.plus(grace),
            marker: DecisionMarker::Wanted,
            ..End::decided(reason, at)
        });
        entry.not_before = None;
        entry.enter(Phase::Ending, at);
        if let Some(fetch) = entry.fetch.take() {
            self.leave_fetch(fetch, &Waiter::Instance(instance.clone()));
        }
        self.publish(instance);
    }

    /// Accepts the terminates of a rental whose decision is in the engine, or cannot be brought
    /// there now, and fails the deploys that they overtake.
    pub(super) fn accept_terminates(&mut self, instance: &InstanceId) {
        let can_see = self.can_see();
        let Some(entry) = self.entries.get_mut(instance) else {
            return;
        };
        let wanted = entry
            .end()
            .is_some_and(|end| end.marker == DecisionMarker::Wanted);
        if entry.end().is_none() || (wanted && can_see) {
            return;
        }
        let accepted: Vec<CommandId> = entry
            .terminates
            .iter_mut()
            .filter(|(_, accepted)| !accepted)
            .map(|(id, accepted)| {
                *accepted = true;
                id.clone()
            })
            .collect();
        let overtaken = match entry.end().map(|end| end.reason) {
            Some(EndReason::Terminated) => std::mem::take(&mut entry.deploys),
            _ => Vec::new(),
        };
        for id in accepted {
            self.open(id, Outcome::Accepted);
        }
        for id in overtaken {
            let error = Error::new(ErrorCode::Cancelled, "a terminate overtook the deploy");
            self.close(id, Err(error));
        }
    }

    /// The engine went away: what it cannot be told now, it is told when it answers.
    pub(super) fn accept_pending_terminates(&mut self) {
        let ids: Vec<InstanceId> = self.entries.keys().cloned().collect();
        for id in ids {
            self.accept_terminates(&id);
        }
    }

    fn pull_image(&mut self, id: CommandId, pull: PullImage) {
        let refused = if !self.can_see() {
            Some(Error::new(
                ErrorCode::EngineUnavailable,
                "the container engine does not answer",
            ))
        } else if self.fetches.commands() >= PULLS_MAX {
            let message = format!("{PULLS_MAX} pull_image are running already");
            Some(Error::new(ErrorCode::InsufficientResources, message))
        } else {
            None
        };
        let read = match refused {
            Some(error) => Err(error),
            None => self.read_pull(pull),
        };
        match read {
            Ok((image, auth)) => {
                self.open(id.clone(), Outcome::Accepted);
                self.fetch(&image, PullPolicy::Always, auth, Waiter::Command(id));
            }
            Err(error) => self.reject(id, error.at(Stage::Admit)),
        }
    }

    fn read_pull(&self, pull: PullImage) -> Result<(Reference, Option<Credentials>), Error> {
        let image = spec::parse_image(&pull.image, &self.options.policy, "/image")?;
        let auth = spec::parse_credentials(pull.registry_auth, "/registry_auth")?;
        Ok((image, auth))
    }

    fn cancel(&mut self, id: CommandId, target: &CommandId) {
        if !self.ledger.is_running(target) {
            self.open(id.clone(), Outcome::Accepted);
            return self.close(id, Ok(Some(serde_json::json!({ "known": false }))));
        }
        let Some(fetch) = self.fetches.of_command(target) else {
            let message = "only exec, logs and pull_image can be cancelled; a deploy is terminated";
            let error = Error::new(ErrorCode::Unsupported, message).pointing("/command_id");
            return self.reject(id, error.at(Stage::Admit));
        };
        self.open(id.clone(), Outcome::Accepted);
        self.leave_fetch(fetch, &Waiter::Command(target.clone()));
        let error = Error::new(ErrorCode::Cancelled, format!("cancelled by command {id}"));
        self.close(target.clone(), Err(error));
        self.close(id, Ok(Some(serde_json::json!({ "known": true }))));
    }
}
