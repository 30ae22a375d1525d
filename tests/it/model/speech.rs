//! What has to hold of everything that the registry tells the server.

use std::{sync::Arc, time::Duration};

use rental_agent::{
    instance::publish::Event,
    protocol::{
        ErrorCode, Instance, Outcome, Phase, Reply,
        message::{InstanceMessage, Synced},
    },
};

use super::{
    rules::{Around, Cause, Check, Heard, Rules, name, rule},
    server::{About, MayReject, Sent},
};

/// Before the first listing a command waits at most so long for its first reply.
const HOLD: Duration = Duration::from_secs(5);

impl Rules {
    pub(crate) fn connected(&mut self) {
        self.session += 1;
        self.connected = true;
        self.telling = false;
        self.synced = false;
        self.view.clear();
        self.unanswered.clear();
    }

    pub(crate) fn disconnected(&mut self) {
        self.connected = false;
        self.telling = false;
        self.synced = false;
        self.unanswered.clear();
    }

    /// A command is about to be handed to the registry.
    pub(crate) fn hear(&mut self, sent: &Sent, clock: Duration) {
        let again = self.heard.contains_key(&sent.id);
        if !again {
            let in_earlier_life = self.heard_before.contains(&sent.id);
            let session = self.session;
            let heard = Heard {
                session,
                in_earlier_life,
            };
            self.heard.insert(sent.id.clone(), heard);
        }
        if self.connected && !self.replies.contains_key(&sent.id) {
            self.unanswered.entry(sent.id.clone()).or_insert(clock);
        }
        if let About::Terminate(id, may_reject) = &sent.about {
            self.ever_doomed.insert(id.clone());
            // Before the first listing commands wait, in order.
            if *may_reject == MayReject::Never && self.listed {
                self.doom(id, *may_reject);
            }
        }
    }

    /// A command has been handed over: what came of it at once?
    pub(crate) fn answered(&mut self, sent: &Sent, known: bool, replies: &[Reply]) -> Check {
        let mine: Vec<&Reply> = replies.iter().filter(|r| r.command_id == sent.id).collect();
        if self.connected && known {
            rule!(
                mine.len() == 1,
                name::VERBATIM,
                "{} was answered {mine:?}",
                sent.id
            );
            self.see("a command that is known again");
        }
        Ok(())
    }

    /// Nobody waits too long for the first reply.
    pub(crate) fn waited(&self, around: Around<'_>) -> Check {
        for (id, since) in &self.unanswered {
            let is_terminate = around
                .server
                .find(id)
                .is_some_and(|sent| matches!(sent.about, About::Terminate(..)));
            // A terminate waits for its decision to be written, as long as the engine answers.
            let may_wait = match (self.listed, is_terminate) {
                (false, _) => around.clock.saturating_sub(*since) <= HOLD,
                (true, terminate) => terminate && self.visible,
            };
            rule!(
                may_wait,
                name::ANSWERED,
                "{id} waits since {since:?} at {:?}",
                around.clock
            );
        }
        Ok(())
    }

    /// The registry tells the server something.
    pub(crate) fn tell(&mut self, event: &Event, cause: &Cause, around: Around<'_>) -> Check {
        match event {
            Event::Records(records) => self.tell_all(records),
            Event::Synced(synced) => self.tell_synced(synced),
            Event::Record(record) => {
                rule!(
                    self.telling,
                    name::WHOLE,
                    "a change before the state: {record:?}"
                );
                let grows = record.generation.0 > self.generation;
                rule!(
                    grows,
                    name::GENERATION,
                    "{} after {}",
                    record.generation.0,
                    self.generation
                );
                self.generation = record.generation.0;
                self.tell_record(record)
            }
            Event::Reply(reply) => self.tell_reply(reply, cause, around),
            Event::Progress(progress) => {
                let subject = progress.instance_id.is_some() != progress.command_id.is_some();
                rule!(subject, name::WHOLE, "progress of nothing: {progress:?}");
                Ok(())
            }
            Event::Report => Ok(()),
        }
    }

    fn tell_all(&mut self, records: &[InstanceMessage]) -> Check {
        rule!(
            !self.synced && (self.listed || self.half_listed),
            name::WHOLE,
            "a state that is not asked for"
        );
        self.telling = true;
        let mut last = 0;
        for record in records {
            let sorted = record.generation.0 > last;
            rule!(
                sorted,
                name::GENERATION,
                "the state is not in order: {last}"
            );
            last = record.generation.0;
            self.tell_record(record)?;
        }
        self.generation = self.generation.max(last);
        Ok(())
    }

    fn tell_synced(&mut self, synced: &Synced) -> Check {
        rule!(self.listed, name::WHOLE, "synced before it is known");
        let known: Vec<_> = self.view.keys().cloned().collect();
        let mut ids = synced.ids.clone();
        ids.sort();
        rule!(ids == known, name::WHOLE, "synced {ids:?}, sent {known:?}");
        let highest = synced.generation.0 >= self.generation;
        rule!(
            highest,
            name::GENERATION,
            "synced at {:?}",
            synced.generation
        );
        self.generation = synced.generation.0;
        self.synced = true;
        Ok(())
    }

    fn tell_record(&mut self, message: &InstanceMessage) -> Check {
        let InstanceMessage {
            generation,
            instance,
        } = message;
        let id = &instance.id;
        if let Some((before, last)) = self.told.get(id) {
            let again = generation.0 == *before;
            let equal = again == (last == instance);
            rule!(
                equal,
                name::GENERATION,
                "{id}: {before} {last:?}, {generation:?} {instance:?}"
            );
            rule!(
                generation.0 >= *before,
                name::GENERATION,
                "{id}: {generation:?} after {before}"
            );
            let forgotten = !self.records.contains_key(id);
            let changed = last.phase == Phase::Ended && last != instance && !forgotten;
            rule!(!changed, name::ENDED, "{id}: {last:?} became {instance:?}");
        }
        if instance.phase == Phase::Ended {
            self.ever_ended.insert(id.clone());
        }
        if instance.timeline.ready_at.is_some() {
            self.ever_ready.insert(id.clone());
        }
        self.told
            .insert(id.clone(), (generation.0, Arc::clone(instance)));
        self.view.insert(id.clone(), Arc::clone(instance));
        Ok(())
    }

    fn tell_reply(&mut self, reply: &Reply, cause: &Cause, around: Around<'_>) -> Check {
        let id = &reply.command_id;
        let Some(sent) = around.server.find(id) else {
            rule!(false, name::ONE_FINAL, "a reply to nothing: {reply:?}");
            return Ok(());
        };
        self.unanswered.remove(id);
        let again = *cause == Cause::Command(id.clone());
        match self.replies.get(id) {
            Some(last) if last == reply => {
                rule!(
                    again,
                    name::ONE_FINAL,
                    "{id}: {reply:?} was said again, unasked"
                );
                return Ok(());
            }
            Some(last) => {
                let over = last.outcome.is_final();
                rule!(!over, name::ONE_FINAL, "{id}: {last:?}, then {reply:?}");
                let next = matches!(reply.outcome, Outcome::Done | Outcome::Failed);
                rule!(next, name::ONE_FINAL, "{id}: {last:?}, then {reply:?}");
            }
            None if matches!(reply.outcome, Outcome::Done | Outcome::Failed) => {
                let heard = self.heard.get(id);
                let from_before =
                    heard.is_none_or(|h| h.in_earlier_life) && self.heard_before.contains(id);
                let meanwhile = heard.is_some_and(|h| h.session < self.session);
                rule!(
                    from_before || meanwhile,
                    name::FIRST_REPLY,
                    "{id}: {reply:?} came first"
                );
            }
            None => {}
        }
        self.replies.insert(id.clone(), reply.clone());
        let failed = matches!(reply.outcome, Outcome::Failed | Outcome::Rejected);
        rule!(
            failed == reply.error.is_some(),
            name::ONE_FINAL,
            "{id}: {reply:?}"
        );
        let sent = sent.clone();
        self.tell_outcome(&sent, reply, around)
    }

    /// What a reply says has been shown before, and is what the state allows.
    fn tell_outcome(&mut self, sent: &Sent, reply: &Reply, around: Around<'_>) -> Check {
        let shown = |rules: &Self, id| rules.told.get(id).map(|(_, record)| Arc::clone(record));
        match (&sent.about, reply.outcome) {
            (About::Deploy(id), Outcome::Rejected) => self.rejected(sent, id, reply, around),
            (About::Deploy(id), Outcome::Accepted | Outcome::Already) => {
                let record = shown(self, id);
                rule!(
                    record.is_some(),
                    name::RECORD_FIRST,
                    "{id} is {:?} unseen",
                    reply.outcome
                );
                if reply.outcome == Outcome::Accepted {
                    self.specs.insert(id.clone(), sent.body["spec"].clone());
                    self.see("a deploy accepted");
                } else {
                    self.see("an equal deploy");
                }
                self.accepted_as(sent, id, reply)
            }
            (About::Deploy(id), Outcome::Done) => {
                let ready = shown(self, id).is_some_and(|r| r.timeline.ready_at.is_some());
                rule!(
                    ready,
                    name::RECORD_FIRST,
                    "{id}: {reply:?} before its ready"
                );
                let result = reply
                    .result
                    .as_ref()
                    .map(|r| &r["instance"]["timeline"]["ready_at"]);
                let said = result.is_some_and(serde_json::Value::is_string);
                rule!(said, name::RECORD_FIRST, "{id}: {reply:?} shows no ready");
                self.see("a deploy done");
                Ok(())
            }
            (About::Deploy(id), Outcome::Failed) => {
                let over = shown(self, id)
                    .is_some_and(|r| matches!(r.phase, Phase::Ending | Phase::Ended));
                rule!(
                    over,
                    name::RECORD_FIRST,
                    "{id}: {reply:?} while it is not ending"
                );
                self.see("a deploy failed");
                Ok(())
            }
            (About::Terminate(id, may_reject), Outcome::Rejected) => {
                let code = reply.error.as_ref().map(|error| error.code);
                let entitled = match may_reject {
                    MayReject::Never => false,
                    MayReject::BadGrace => code == Some(ErrorCode::InvalidSpec),
                    MayReject::Late => code == Some(ErrorCode::DeadlineExceeded),
                };
                rule!(entitled, name::NOT_REFUSED, "{id}: {reply:?}");
                self.see("a terminate refused for its own faults");
                Ok(())
            }
            (About::Terminate(id, _), Outcome::Done) => {
                let over = shown(self, id).is_some_and(|r| r.phase == Phase::Ended);
                rule!(over, name::RECORD_FIRST, "{id}: {reply:?} before its end");
                let known = reply
                    .result
                    .as_ref()
                    .and_then(|result| result["known"].as_bool());
                rule!(known.is_some(), name::RECORD_FIRST, "{id}: {reply:?}");
                self.see(if known == Some(true) {
                    "a terminate done"
                } else {
                    "an unknown id ended"
                });
                Ok(())
            }
            (About::Terminate(id, may_reject), outcome) => {
                rule!(
                    outcome == Outcome::Accepted,
                    name::NOT_REFUSED,
                    "{id}: {reply:?}"
                );
                self.doom(id, *may_reject);
                Ok(())
            }
            (About::Unreadable, outcome) => {
                let refused = outcome == Outcome::Rejected;
                rule!(
                    refused,
                    name::ONE_FINAL,
                    "{reply:?} to nothing that can be read"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The code of a rejected deploy is true.
    fn rejected(
        &mut self,
        sent: &Sent,
        id: &rental_agent::ids::InstanceId,
        reply: &Reply,
        around: Around<'_>,
    ) -> Check {
        let code = reply.error.as_ref().map(|error| error.code);
        let known: Option<&Arc<Instance>> = self.records.get(id);
        let conflict = code == Some(ErrorCode::Conflict);
        // One that was decided on while no session was there was decided on in another state.
        let now = self
            .heard
            .get(&sent.id)
            .is_some_and(|heard| heard.session == self.session);
        let Some(record) = known.filter(|_| now) else {
            let admission = matches!(
                code,
                Some(
                    ErrorCode::Draining
                        | ErrorCode::EngineUnavailable
                        | ErrorCode::InsufficientResources
                        | ErrorCode::GpuUnavailable
                        | ErrorCode::GpuUnhealthy
                        | ErrorCode::PortUnavailable
                        | ErrorCode::DeadlineExceeded
                        | ErrorCode::NotReady
                )
            );
            // Before the first listing nothing is known of ids, so held commands may meet any.
            rule!(admission || conflict, name::ADMISSION, "{id}: {reply:?}");
            self.see("a deploy refused");
            return Ok(());
        };
        let over = matches!(record.phase, Phase::Ending | Phase::Ended);
        let first = record
            .command_id
            .as_ref()
            .and_then(|id| around.server.find(id));
        let other = first.is_some_and(|first| first.body["spec"] != sent.body["spec"]);
        rule!(
            conflict && (over || other),
            name::ADMISSION,
            "{id}: {reply:?}, {record:?}"
        );
        self.see(if over {
            "a deploy of an ended id"
        } else {
            "a deploy with another spec"
        });
        Ok(())
    }

    /// A deploy was taken: nothing spoke against it.
    fn accepted_as(
        &mut self,
        sent: &Sent,
        id: &rental_agent::ids::InstanceId,
        reply: &Reply,
    ) -> Check {
        let again = reply.outcome == Outcome::Already;
        let heard = self.heard.get(&sent.id);
        // A deploy that an earlier life took is known by the container's label: sent again, it gets its
        // `accepted` again, and then the `failed` of what a terminate has overtaken.
        let taken_before = !again
            && self.doomed_late.contains(id)
            && heard.is_some_and(|heard| heard.in_earlier_life);
        rule!(
            !self.doomed.contains(id) || taken_before,
            name::WINS,
            "{id}: {reply:?} after a terminate"
        );
        let now = heard.is_some_and(|h| h.session == self.session && !h.in_earlier_life);
        if again || !now {
            return Ok(());
        }
        rule!(
            !self.draining,
            name::ADMISSION,
            "{id} was taken while draining"
        );
        rule!(
            self.visible,
            name::BLIND,
            "{id} was taken while the engine is not seen"
        );
        let Some((_, record)) = self.told.get(id) else {
            return Ok(());
        };
        for gpu in &record.gpus {
            let claimed = self.claimed_gpus.contains(gpu.as_str());
            rule!(!claimed, name::FOREIGN_CLAIM, "{id} got {gpu}");
        }
        for port in &record.ports {
            let claimed = self.claimed_ports.contains(&port.host);
            rule!(!claimed, name::FOREIGN_CLAIM, "{id} got port {}", port.host);
        }
        let wanted = &sent.body["spec"]["gpus"];
        let count = wanted["count"]
            .as_u64()
            .or(wanted["uuids"].as_array().map(|u| u.len() as u64));
        let got = record.gpus.len() as u64;
        rule!(
            got == count.unwrap_or(0),
            name::MATCHES,
            "{id} wanted {wanted}, got {got}"
        );
        Ok(())
    }
}
