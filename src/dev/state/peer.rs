//! An agent as the server knows it: what it said last, its instances, its commands. Reading only;
//! what the server decides about it is in `duties`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{Care, Issued, Refused, SessionNo};
use crate::{
    clock::Timestamp,
    ids::{CommandId, Epoch, Generation, InstanceId},
    protocol::{
        Instance, Phase,
        message::{HealthReport, Hello, Metrics, Progress},
    },
};

/// What is known of one agent id.
#[derive(Debug, Default)]
pub(in crate::dev) struct Peer {
    /// The session that counts, while its socket is open.
    pub(in crate::dev) live: Option<Live>,
    /// The last session that counted.
    pub(in crate::dev) newest: Option<SessionNo>,
    /// The last `hello`, kept up to date by what came after it.
    pub(in crate::dev) hello: Option<Hello>,
    pub(in crate::dev) metrics: Option<Metrics>,
    pub(in crate::dev) health: Option<HealthReport>,
    /// When the last `hello` or `heartbeat` came, by the boot-time clock.
    pub(in crate::dev) last_beat: Option<Duration>,
    /// Fewer than three heartbeats have been missed.
    pub(in crate::dev) reachable: bool,
    /// What the operator wants; unset until a drain or a resume.
    pub(in crate::dev) desired_draining: Option<bool>,
    pub(in crate::dev) instances: BTreeMap<InstanceId, Stored>,
    pub(in crate::dev) commands: Commands,
    /// Of commands that are about no instance.
    pub(in crate::dev) progress: BTreeMap<CommandId, Progress>,
}

/// What exists only while a session counts.
#[derive(Debug)]
pub(in crate::dev) struct Live {
    pub(in crate::dev) session: SessionNo,
    pub(in crate::dev) epoch: Epoch,
    /// The whole state has come.
    pub(in crate::dev) synced: bool,
    /// Highest generation of a record that came in this session.
    pub(in crate::dev) received: Option<Generation>,
    /// Highest generation that was acknowledged in this session.
    pub(in crate::dev) acked: Option<Generation>,
}

/// What is kept of one instance id, from its first mention for ever.
#[derive(Debug, Default)]
pub(in crate::dev) struct Stored {
    /// This server deployed, terminated or adopted it.
    pub(in crate::dev) known: bool,
    /// All that was ever said of it, newest wins, as written.
    pub(in crate::dev) merged: Map<String, Value>,
    pub(in crate::dev) record: Option<Instance>,
    /// The state that `record` shows.
    pub(in crate::dev) at: Option<(Epoch, Generation)>,
    /// The server counts it as ended; the agent did not say so.
    pub(in crate::dev) ended_here: bool,
    pub(in crate::dev) terminate_wanted: bool,
    /// The latest end that an `extend` was confirmed for.
    pub(in crate::dev) extended_to: Option<Timestamp>,
    pub(in crate::dev) seen: Option<Seen>,
    /// The session in which a terminate or an extend was last sent again.
    pub(in crate::dev) insisted_in: Option<SessionNo>,
    pub(in crate::dev) progress: Option<Progress>,
}

/// What the last record said, whatever was made of it.
#[derive(Debug)]
pub(in crate::dev) struct Seen {
    pub(in crate::dev) session: SessionNo,
    pub(in crate::dev) alive: bool,
    pub(in crate::dev) expires_at: Option<Timestamp>,
}

impl Stored {
    pub(in crate::dev) fn phase(&self) -> Option<Phase> {
        self.record.as_ref().map(|record| record.phase)
    }

    pub(in crate::dev) fn has_ended(&self) -> bool {
        self.phase() == Some(Phase::Ended)
    }
}

/// Commands in the order in which they were given.
#[derive(Debug, Default)]
pub(in crate::dev) struct Commands {
    all: Vec<Issued>,
    by_id: BTreeMap<CommandId, usize>,
    /// Those without a final reply.
    open: BTreeSet<usize>,
}

impl Commands {
    pub(in crate::dev) fn push(&mut self, command: Issued) {
        let number = self.all.len();
        self.by_id.insert(command.id.clone(), number);
        self.open.insert(number);
        self.all.push(command);
    }

    pub(in crate::dev) fn get(&self, id: &CommandId) -> Option<&Issued> {
        self.all.get(*self.by_id.get(id)?)
    }

    /// Changes a command, and drops it from the open ones when it has been settled by that.
    pub(in crate::dev) fn change<T>(
        &mut self,
        id: &CommandId,
        change: impl FnOnce(&mut Issued) -> T,
    ) -> Option<T> {
        let number = *self.by_id.get(id)?;
        let command = self.all.get_mut(number)?;
        let outcome = change(command);
        if command.final_reply().is_some() {
            self.open.remove(&number);
        }
        Some(outcome)
    }

    /// All of them, in order.
    pub(in crate::dev) fn all(&self) -> impl Iterator<Item = &Issued> {
        self.all.iter()
    }

    /// Commands without a final reply, in order.
    pub(in crate::dev) fn open(&self) -> impl Iterator<Item = &Issued> {
        self.open.iter().filter_map(|number| self.all.get(*number))
    }

    /// Whether a command of one of these ops about `instance` has no final reply.
    pub(in crate::dev) fn waits(&self, ops: &[&str], instance: Option<&InstanceId>) -> bool {
        self.open()
            .any(|c| ops.contains(&c.op.as_str()) && c.instance.as_ref() == instance)
    }
}

impl Peer {
    /// Of the machine that the last counted session came from.
    pub(in crate::dev) fn boot_id(&self) -> Option<&str> {
        self.hello.as_ref().map(|hello| hello.host.boot_id.as_str())
    }

    pub(super) fn command(&self, id: &CommandId) -> Option<&Issued> {
        self.commands.get(id)
    }

    /// Duty 2, and that a command id is one command.
    pub(super) fn admit(&self, command: &Issued, care: Care) -> Result<(), Refused> {
        if self.commands.get(&command.id).is_some() {
            return Err(Refused::UsedCommand(command.id.clone()));
        }
        if care == Care::AsTold || !command.deploys() {
            return Ok(());
        }
        match &command.instance {
            None => Err(Refused::NoInstanceId),
            Some(id) if self.instances.contains_key(id) => Err(Refused::Used(id.clone())),
            Some(_) => Ok(()),
        }
    }
}
