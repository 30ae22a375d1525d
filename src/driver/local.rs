//! The surfaces of this host: what they ask for is decided like the server's commands, and they hear
//! what the session hears. Nobody is waited for: who does not keep up is dropped and comes back for
//! the whole state.

use std::collections::HashMap;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::{
    ids::CommandId,
    instance::{publish::Event, registry::Registry},
    protocol::{Command, Reply},
};

/// What a surface of this host tells the driver. Sent through a bounded channel and awaited.
#[derive(Debug)]
pub enum FromLocal {
    /// A command that could be read.
    Command {
        /// What to do.
        command: Box<Command>,
        /// Where its replies go: at most [`REPLIES`] wait there.
        replies: mpsc::Sender<Reply>,
    },
    /// Somebody wants the whole state and then each change. Its end of `events` is dropped when it is
    /// found full.
    Watch {
        /// Where events go.
        events: mpsc::Sender<Event>,
    },
}

/// A command has a first and a last reply; one that is sent again gets the latest once more.
pub const REPLIES: usize = 4;

/// Who on this host waits for what.
#[derive(Debug, Default)]
pub(super) struct Locals {
    asked: HashMap<CommandId, Asked>,
    watchers: Vec<mpsc::Sender<Event>>,
    /// They came before the first full list.
    early: Vec<mpsc::Sender<Event>>,
}

/// A command that somebody on this host gave, until its final reply.
#[derive(Debug, Default)]
struct Asked {
    replies: Vec<mpsc::Sender<Reply>>,
    /// The server gave it too.
    by_server: bool,
}

impl Locals {
    pub(super) fn ask(&mut self, id: &CommandId, replies: mpsc::Sender<Reply>) {
        let asked = self.asked.entry(id.clone()).or_default();
        asked.replies.retain(|replies| !replies.is_closed());
        asked.replies.push(replies);
    }

    /// A server that gives a command hears its replies.
    pub(super) fn asked_by_server(&mut self, id: &CommandId) {
        if let Some(asked) = self.asked.get_mut(id) {
            asked.by_server = true;
        }
    }

    pub(super) fn watch(&mut self, events: mpsc::Sender<Event>, registry: &Registry) {
        // Where nothing happens, nothing else would notice that one has gone.
        self.early.retain(|watcher| !watcher.is_closed());
        self.watchers.retain(|watcher| !watcher.is_closed());
        self.early.push(events);
        self.greet(registry);
    }

    /// Gives the whole state to those who came before there was one.
    pub(super) fn greet(&mut self, registry: &Registry) {
        if self.early.is_empty() {
            return;
        }
        let Some((records, synced)) = registry.state() else {
            return;
        };
        for events in std::mem::take(&mut self.early) {
            let told = [
                Event::Records(records.clone()),
                Event::Synced(synced.clone()),
            ];
            if told.into_iter().all(|event| events.try_send(event).is_ok()) {
                self.watchers.push(events);
            }
        }
    }

    /// Passes an event on. Returns whether the session hears it too: it does, unless it is the answer
    /// to somebody else.
    pub(super) fn hear(&mut self, event: &Event) -> bool {
        match event {
            Event::Reply(reply) => self.answer(reply),
            Event::Record(_) => {
                self.watchers.retain(|w| w.try_send(event.clone()).is_ok());
                true
            }
            Event::Progress(_) => {
                let open = |sent| !matches!(sent, Err(TrySendError::Closed(_)));
                self.watchers.retain(|w| open(w.try_send(event.clone())));
                true
            }
            Event::Records(_) | Event::Synced(_) | Event::Report => true,
        }
    }

    fn answer(&mut self, reply: &Reply) -> bool {
        let Some(asked) = self.asked.get_mut(&reply.command_id) else {
            return true;
        };
        for replies in &asked.replies {
            // One that has gone away changes nothing.
            let _ = replies.try_send(reply.clone());
        }
        let by_server = asked.by_server;
        if reply.outcome.is_final() {
            self.asked.remove(&reply.command_id);
        }
        by_server
    }
}
