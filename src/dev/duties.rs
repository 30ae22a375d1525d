//! What a server owes its agents, by the numbers of PROTOCOL's list. Pure.
//!
//! 1. Every command without a final reply is sent again, unchanged and in order: [`Peer::deliver`].
//! 2. Instance ids are used once: `Peer::admit`.
//! 3. Only the newest session counts: [`may_begin`].
//! 4. What `synced` does not name is gone; what has ended stays ended: [`Peer::heard`].
//! 5. Silence is never an end, and a wanted drain is wanted until it shows: [`Peer::want_drain`].
//! 6. Every stored record is acknowledged: [`Peer::acknowledge`].

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    delivery,
    records::{self, Kept},
    state::{CLOSE_POLICY, Issued, Live, Note, Peer, SessionNo, Stored, Turn},
};
use crate::{
    ids::{CommandId, InstanceId},
    protocol::{
        Error, ErrorCode, Message, Reply,
        message::{Heartbeat, Hello, InstanceMessage, Inventory, Progress, Synced},
    },
};

/// Close code for a session that another one of the same agent id excludes.
const CLOSE_OTHER_SESSION: u16 = 4409;

/// Duty 3: the newest session of an id counts, unless it comes from another boot while the old one
/// lives: then there are two machines of one name, and the one that was first stays.
pub(super) fn may_begin(
    turn: &mut Turn<'_>,
    peer: &mut Peer,
    session: SessionNo,
    hello: &Hello,
) -> bool {
    if hello.agent.id != turn.agent {
        turn.close(
            session,
            CLOSE_POLICY,
            "hello names another agent than the path",
        );
        return false;
    }
    if peer.newest.is_some_and(|newest| session < newest) {
        turn.close(
            session,
            CLOSE_OTHER_SESSION,
            "a newer session of this agent began",
        );
        return false;
    }
    let Some(old) = peer.live.as_ref().map(|live| live.session) else {
        return true;
    };
    if peer.boot_id() == Some(hello.host.boot_id.as_str()) {
        turn.close(old, CLOSE_OTHER_SESSION, "superseded by a newer session");
        turn.note(Note::Superseded { session: old });
        return true;
    }
    turn.close(
        session,
        CLOSE_OTHER_SESSION,
        "another machine uses this agent id",
    );
    turn.note(Note::ClonedMachine { session });
    false
}

impl Peer {
    /// A session begins to count.
    pub(super) fn greet(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionNo,
        hello: Hello,
        welcome: String,
    ) {
        let epoch = hello.agent.epoch.clone();
        let before = self.hello.as_ref().map(|hello| &hello.agent.epoch);
        turn.note(Note::Connected {
            session,
            restarted: before.is_some_and(|before| *before != epoch),
            epoch: epoch.clone(),
        });
        self.live = Some(Live {
            session,
            epoch,
            synced: false,
            received: None,
            acked: None,
        });
        self.newest = Some(session);
        self.hello = Some(hello);
        turn.send(session, welcome);
        self.beat(turn);
        self.deliver(turn);
        self.want_drain(turn);
    }

    /// A frame of the session that counts.
    pub(super) fn heard(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionNo,
        message: Message,
        written: &Value,
    ) {
        match message {
            Message::Instance(record) => self.store(turn, &record, written),
            Message::Synced(synced) => self.synced(turn, session, &synced),
            Message::Reply(reply) => self.replied(turn, reply),
            Message::Heartbeat(heartbeat) => self.heartbeat(turn, heartbeat),
            Message::Inventory(inventory) => self.inventory(*inventory),
            Message::Progress(progress) => self.progressed(progress),
            Message::Metrics(metrics) => self.metrics = Some(metrics),
            Message::Health(health) => self.health = Some(health),
            Message::Goodbye(goodbye) => turn.note(Note::Goodbye {
                reason: goodbye.reason,
            }),
            Message::Hello(_) => turn.note(Note::SecondHello { session }),
            // Output belongs to whoever reads along; nothing of it is state.
            Message::Output(_) => {}
        }
    }

    /// Takes a command of the operator, and remembers what is wanted by it.
    pub(super) fn issue(&mut self, command: Issued) {
        match command.op.as_str() {
            "drain" => self.desired_draining = Some(true),
            "resume" => self.desired_draining = Some(false),
            _ => {}
        }
        if let Some(id) = &command.instance
            && (command.deploys() || command.op == "terminate")
        {
            let stored = self.instances.entry(id.clone()).or_default();
            stored.known = true;
            stored.terminate_wanted |= command.op == "terminate";
        }
        self.commands.push(command);
    }

    /// Stores a record and does what it calls for. Duty 4: an instance that is not known is only
    /// pointed out.
    fn store(&mut self, turn: &mut Turn<'_>, message: &InstanceMessage, written: &Value) {
        let Some(live) = &mut self.live else { return };
        live.received = live.received.max(Some(message.generation));
        let instance = &*message.instance;
        let written = written.get("instance").unwrap_or(&Value::Null);
        let stored = self.instances.entry(instance.id.clone()).or_default();
        let first_seen = stored.seen.is_none();
        match records::keep(stored, live, message.generation, instance, written) {
            Kept::Stale => turn.note(Note::StaleRecord {
                id: instance.id.clone(),
            }),
            Kept::Newest if first_seen && !stored.known => turn.note(Note::Unadopted {
                id: instance.id.clone(),
            }),
            Kept::Newest | Kept::AfterTheEnd => {}
        }
        if live.synced {
            self.insist(turn, &instance.id);
            self.deliver(turn);
            self.acknowledge(turn);
        }
    }

    /// Duty 4: an instance that was not sent is gone, unless its deploy is still to be done.
    fn synced(&mut self, turn: &mut Turn<'_>, session: SessionNo, synced: &Synced) {
        let Some(live) = &mut self.live else { return };
        live.synced = true;
        turn.note(Note::Synced {
            session,
            instances: synced.ids.len(),
        });
        let named: BTreeSet<&InstanceId> = synced.ids.iter().collect();
        let newer = |stored: &Stored| {
            let newer = |(epoch, generation): &(_, _)| {
                *epoch == live.epoch && *generation > synced.generation
            };
            stored.at.as_ref().is_some_and(newer)
        };
        let gone = |(id, stored): &(&InstanceId, &Stored)| !named.contains(id) && !newer(stored);
        let gone = self.instances.iter().filter(gone);
        let gone: Vec<InstanceId> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.missing(turn, &id);
        }
        for id in &synced.ids {
            self.insist(turn, id);
        }
        self.deliver(turn);
        self.acknowledge(turn);
    }

    /// An instance that the agent does not have.
    fn missing(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let session = self.live.as_ref().map(|live| live.session);
        let deploy = self
            .commands
            .open()
            .find(|c| c.deploys() && c.instance.as_ref() == Some(id));
        if let Some(deploy) = deploy {
            let with_the_agent = deploy.sent.as_ref().map(|sent| sent.session) == session;
            if with_the_agent || !delivery::is_too_late(deploy, turn.now) {
                return;
            }
            let why = "not begun within ten minutes";
            let command = deploy.id.clone();
            let error = Error::new(ErrorCode::DeadlineExceeded, why);
            self.commands.change(&command, |c| c.count_failed(error));
            turn.note(Note::Settled { id: command, why });
        }
        if let Some(stored) = self.instances.get_mut(id)
            && stored.record.is_some()
            && !stored.has_ended()
        {
            records::lose(stored, turn.now.wall);
            turn.note(Note::Lost { id: id.clone() });
        }
    }

    /// Duty 4: what has ended here and lives there is terminated again, and a confirmed extension
    /// that the lease does not show is sent again; each once a session, so that an agent that cannot
    /// do it is not driven in circles.
    fn insist(&mut self, turn: &mut Turn<'_>, id: &InstanceId) {
        let Some(live) = &self.live else { return };
        let session = live.session;
        let Some(stored) = self.instances.get_mut(id) else {
            return;
        };
        let Some(seen) = stored.seen.as_ref().filter(|seen| seen.session == session) else {
            return;
        };
        if !seen.alive || stored.insisted_in == Some(session) {
            return;
        }
        let (op, command, note) = if stored.has_ended() || stored.terminate_wanted {
            let command = json!({"op": "terminate", "instance_id": id, "reason": "has ended"});
            (
                "terminate",
                command,
                Note::TerminatedAgain { id: id.clone() },
            )
        } else if let Some(until) = stored.extended_to
            && seen.expires_at.is_none_or(|shown| shown < until)
        {
            let command = json!({"op": "extend", "instance_id": id, "expires_at": until});
            ("extend", command, Note::ExtendedAgain { id: id.clone() })
        } else {
            return;
        };
        if self.commands.waits(&[op], Some(id)) {
            return;
        }
        stored.insisted_in = Some(session);
        turn.note(note);
        self.issue_again(turn, command);
    }

    fn replied(&mut self, turn: &mut Turn<'_>, reply: Reply) {
        let id = reply.command_id.clone();
        let done = reply.outcome == crate::protocol::Outcome::Done;
        match self.commands.change(&id, |c| c.replied(reply)) {
            None => turn.note(Note::UnknownCommand { id }),
            Some(false) => {}
            Some(true) => {
                self.progress.remove(&id);
                if done {
                    self.confirmed(&id);
                }
                self.deliver(turn);
            }
        }
    }

    /// An extension that was `done` is durable, and has to show from now on.
    fn confirmed(&mut self, id: &CommandId) {
        let Some(command) = self.commands.get(id).filter(|c| c.op == "extend") else {
            return;
        };
        let stored = command.instance.as_ref();
        if let Some(stored) = stored.and_then(|id| self.instances.get_mut(id)) {
            stored.extended_to = stored.extended_to.max(command.expires_at);
        }
    }

    fn heartbeat(&mut self, turn: &mut Turn<'_>, heartbeat: Heartbeat) {
        if let Some(hello) = &mut self.hello {
            hello.status = heartbeat.status;
            hello.occupied = heartbeat.occupied;
        }
        self.beat(turn);
        self.want_drain(turn);
    }

    fn inventory(&mut self, inventory: Inventory) {
        let Some(hello) = &mut self.hello else { return };
        if let Some(host) = inventory.host {
            hello.host = host;
        }
        if let Some(gpus) = inventory.gpus {
            hello.gpus = gpus;
        }
        if let Some(complete) = inventory.inventory_complete {
            hello.inventory_complete = complete;
        }
        if let Some(capacity) = inventory.capacity {
            hello.capacity = capacity;
        }
    }

    fn progressed(&mut self, progress: Progress) {
        if let Some(id) = &progress.instance_id {
            if let Some(stored) = self.instances.get_mut(id)
                && !stored.has_ended()
            {
                stored.progress = Some(progress);
            }
        } else if let Some(id) = progress.command_id.clone()
            && self.commands.open().any(|c| c.id == id)
        {
            self.progress.insert(id, progress);
        }
    }

    /// Duty 5: what the operator wants of new deploys is said again when the agent shows otherwise.
    fn want_drain(&mut self, turn: &mut Turn<'_>) {
        let shown = self.hello.as_ref().map(|hello| hello.status.draining);
        let (Some(wanted), Some(shown)) = (self.desired_draining, shown) else {
            return;
        };
        if wanted == shown || self.commands.waits(&["drain", "resume"], None) {
            return;
        }
        turn.note(Note::DrainSent { draining: wanted });
        let op = if wanted { "drain" } else { "resume" };
        self.issue_again(turn, json!({ "op": op }));
    }

    /// Gives a command of the server's own.
    fn issue_again(&mut self, turn: &mut Turn<'_>, command: Value) {
        let Value::Object(command) = command else {
            return;
        };
        // The server's own commands have an op, and get a fresh id.
        if let Ok(command) = Issued::new(turn.ids, command, &turn.agent, turn.now) {
            self.issue(command);
            self.deliver(turn);
        }
    }

    /// Duty 6. Before `synced` records may come in any order of their generations: an ack of one
    /// would speak for others that have not come yet.
    pub(super) fn acknowledge(&mut self, turn: &mut Turn<'_>) {
        let Some(live) = self.live.as_mut().filter(|live| live.synced) else {
            return;
        };
        if !turn.acks || live.received <= live.acked {
            return;
        }
        live.acked = live.received;
        let ack = json!({"type": "ack", "epoch": live.epoch, "generation": live.received});
        let session = live.session;
        turn.send(session, ack.to_string());
    }

    fn beat(&mut self, turn: &mut Turn<'_>) {
        if self.last_beat.is_some() && !self.reachable {
            turn.note(Note::Reachable);
        }
        self.last_beat = Some(turn.now.boot);
        self.reachable = true;
    }

    /// Duty 5: said, and nothing else; silence never ends a rental.
    pub(super) fn check_reachable(&mut self, turn: &mut Turn<'_>, limit: Duration) {
        let silent = |at: Duration| turn.now.boot.saturating_sub(at) > limit;
        if self.reachable && self.last_beat.is_some_and(silent) {
            self.reachable = false;
            turn.note(Note::Unreachable);
        }
    }
}
