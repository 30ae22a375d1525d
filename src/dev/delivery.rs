//! Duty 1: every command reaches the agent, in order, as often as it takes to get its final reply.
//! Pure.

use std::time::Duration;

use serde_json::json;

use super::state::{Issued, Live, Note, Peer, SessionNo, Turn};
use crate::{
    clock::Now,
    ids::CommandId,
    protocol::{Error, ErrorCode, Instance, Phase},
};

/// Commands that wait for their final reply within one session, at most.
const MAX_IN_FLIGHT: usize = 1_000;
/// A deploy is not sent again when its first sending is longer ago.
const DEPLOY_AGAIN_WITHIN: Duration = Duration::from_secs(600);
/// What may be sent again to another process than it was sent to before.
const AGAIN_TO_A_NEW_EPOCH: &[&str] = &[
    "deploy",
    "terminate",
    "stop",
    "start",
    "extend",
    "pull_image",
    "cancel",
    "drain",
    "resume",
    "set_keys",
];

/// What becomes of a command without a final reply.
enum Next {
    Send,
    /// It is with the agent, or nothing can be said yet.
    Wait,
    /// No reply can be expected any more, but the record shows it done.
    CountDone(Box<Instance>),
    CountFailed(Box<Error>, &'static str),
}

impl Peer {
    /// Duty 1: sends in order what has not been sent in this session and has no final reply.
    pub(super) fn deliver(&mut self, turn: &mut Turn<'_>) {
        let Some(live) = &self.live else { return };
        let (session, epoch) = (live.session, live.epoch.clone());
        let mut in_flight = self.commands.open().filter(|c| is_in(c, session)).count();
        let due: Vec<CommandId> = self
            .commands
            .open()
            .filter(|c| !is_in(c, session))
            .map(|c| c.id.clone())
            .collect();
        for id in due {
            let Some(command) = self.commands.get(&id) else {
                continue;
            };
            match self.next(command, live, turn.now) {
                Next::Wait => {}
                Next::Send if in_flight >= MAX_IN_FLIGHT => return,
                Next::Send => {
                    in_flight += 1;
                    turn.send(session, command.text().to_owned());
                    let (now, epoch) = (turn.now.boot, epoch.clone());
                    self.commands
                        .change(&id, |c| c.was_sent(now, session, epoch));
                }
                Next::CountDone(instance) => {
                    let why = "the record shows it ready";
                    let result = json!({ "instance": *instance });
                    self.commands.change(&id, |c| c.count_done(result));
                    turn.note(Note::Settled { id, why });
                }
                Next::CountFailed(error, why) => {
                    self.commands.change(&id, |c| c.count_failed(*error));
                    turn.note(Note::Settled { id, why });
                }
            }
        }
    }

    /// Decides about a command that has not been sent in this session.
    fn next(&self, command: &Issued, live: &Live, now: Now) -> Next {
        let Some(sent) = &command.sent else {
            return Next::Send;
        };
        if sent.epoch != live.epoch && !AGAIN_TO_A_NEW_EPOCH.contains(&command.op.as_str()) {
            return outcome_unknown("the agent was restarted");
        }
        if command.op != "deploy" {
            return Next::Send;
        }
        let too_late = is_too_late(command, now);
        let stored = command
            .instance
            .as_ref()
            .and_then(|id| self.instances.get(id));
        match stored.and_then(|stored| stored.record.as_ref()) {
            _ if command.dry_run && too_late => outcome_unknown("the reply was lost"),
            _ if command.dry_run => Next::Send,
            // The ack of an ended record promises that its deploy is not sent again.
            Some(record) if record.phase == Phase::Ended => ended_meanwhile(record),
            Some(record) if too_late && record.phase == Phase::Ready => {
                Next::CountDone(Box::new(record.clone()))
            }
            _ if too_late => Next::Wait,
            _ => Next::Send,
        }
    }
}

fn is_in(command: &Issued, session: SessionNo) -> bool {
    command
        .sent
        .as_ref()
        .is_some_and(|sent| sent.session == session)
}

/// Whether a deploy may not be sent again any more.
pub(super) fn is_too_late(deploy: &Issued, now: Now) -> bool {
    let since = |first_at: Duration| now.boot.saturating_sub(first_at);
    deploy
        .sent
        .as_ref()
        .is_some_and(|sent| since(sent.first_at) > DEPLOY_AGAIN_WITHIN)
}

fn outcome_unknown(why: &'static str) -> Next {
    let error = Error::new(ErrorCode::Internal, format!("outcome unknown: {why}"));
    Next::CountFailed(Box::new(error), why)
}

/// A deploy whose reply was lost and whose instance has ended: whether it was ready before tells
/// what that reply was.
fn ended_meanwhile(record: &Instance) -> Next {
    if record.timeline.ready_at.is_some() {
        return Next::CountDone(Box::new(record.clone()));
    }
    let of_record = record.ended.as_ref().and_then(|ended| ended.error.clone());
    let error = of_record.unwrap_or_else(|| {
        Error::new(
            ErrorCode::Cancelled,
            "the instance ended before it was ready",
        )
    });
    Next::CountFailed(Box::new(error), "its instance has ended")
}
