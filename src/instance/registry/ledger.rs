//! Commands that are known: the same id gets the latest reply verbatim, never a second execution.
//! Pure.
//!
//! Running commands are bounded by what they belong to (rentals, fetches). Of finished ones the last
//! [`REMEMBERED`] are kept; their replies are kept as text, which is a fifth of the size of a tree.

use std::collections::{HashMap, VecDeque};

use crate::{
    ids::CommandId,
    protocol::{Outcome, Reply},
};

/// So many finished commands are remembered.
pub(super) const REMEMBERED: usize = 10_000;

/// The commands of this epoch.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    known: HashMap<CommandId, Latest>,
    finished: VecDeque<CommandId>,
}

#[derive(Debug)]
enum Latest {
    Running(Outcome),
    Final(Box<str>),
}

impl Ledger {
    /// The latest reply to a command that is known.
    pub(super) fn reply(&self, id: &CommandId) -> Option<Reply> {
        match self.known.get(id)? {
            Latest::Running(outcome) => Some(first(id, *outcome)),
            Latest::Final(text) => serde_json::from_str(text).ok(),
        }
    }

    /// Whether a command is known and has no final reply.
    pub(super) fn is_running(&self, id: &CommandId) -> bool {
        matches!(self.known.get(id), Some(Latest::Running(_)))
    }

    /// Remembers a first reply: `accepted` or `already`. A final reply stays: a command that was
    /// refused while the engine was away is not taken up when the engine shows what it had begun.
    pub(super) fn open(&mut self, id: CommandId, outcome: Outcome) -> Reply {
        let reply = first(&id, outcome);
        self.known
            .entry(id)
            .and_modify(|latest| {
                if let Latest::Running(latest) = latest {
                    *latest = outcome;
                }
            })
            .or_insert(Latest::Running(outcome));
        reply
    }

    /// Remembers a final reply. The first final reply stays: a second one is not taken.
    pub(super) fn close(&mut self, reply: Reply) -> Option<Reply> {
        if let Some(Latest::Final(_)) = self.known.get(&reply.command_id) {
            return None;
        }
        // A reply has no map with keys that are not strings, which is all that can fail here.
        let text = serde_json::to_string(&reply).unwrap_or_default();
        self.known
            .insert(reply.command_id.clone(), Latest::Final(text.into()));
        self.finished.push_back(reply.command_id.clone());
        if self.finished.len() > REMEMBERED
            && let Some(oldest) = self.finished.pop_front()
        {
            self.known.remove(&oldest);
        }
        Some(reply)
    }
}

fn first(id: &CommandId, outcome: Outcome) -> Reply {
    Reply {
        command_id: id.clone(),
        outcome,
        error: None,
        result: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> CommandId {
        format!("c{n}").parse().unwrap()
    }

    fn done(n: usize) -> Reply {
        Reply {
            outcome: Outcome::Done,
            ..first(&id(n), Outcome::Done)
        }
    }

    #[test]
    fn a_final_reply_is_final() {
        let mut ledger = Ledger::default();
        ledger.open(id(1), Outcome::Accepted);
        assert!(ledger.close(done(1)).is_some());
        assert!(
            ledger
                .close(Reply {
                    outcome: Outcome::Failed,
                    ..done(1)
                })
                .is_none()
        );
        assert_eq!(ledger.reply(&id(1)).unwrap().outcome, Outcome::Done);
    }

    #[test]
    fn a_command_with_a_final_reply_is_not_opened_again() {
        let mut ledger = Ledger::default();
        let rejected = Reply {
            outcome: Outcome::Rejected,
            ..done(1)
        };
        ledger.close(rejected.clone());
        ledger.open(id(1), Outcome::Accepted);
        assert!(!ledger.is_running(&id(1)));
        assert!(ledger.close(done(1)).is_none());
        assert_eq!(ledger.reply(&id(1)), Some(rejected));
    }

    #[test]
    fn the_oldest_finished_commands_are_forgotten_and_running_ones_never() {
        let mut ledger = Ledger::default();
        ledger.open(id(0), Outcome::Accepted);
        for n in 1..=REMEMBERED + 5 {
            ledger.close(done(n));
        }
        assert!(ledger.reply(&id(5)).is_none() && ledger.reply(&id(6)).is_some());
        assert!(ledger.is_running(&id(0)));
    }
}
