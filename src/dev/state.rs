//! What the reference server knows, and who may speak: sessions, the newest of which counts, and the
//! commands that operators give. Pure: what happens comes in with its time, what is to be sent comes
//! out. The duties themselves are in `duties`.

mod command;
mod note;
mod peer;
mod view;

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use self::{
    command::CommandIds,
    peer::{Live, Peer, Seen, Stored},
};
pub use self::{
    command::{Issued, Sign, Source},
    note::Note,
    view::{AgentView, InstanceView},
};
use super::duties;
use crate::{
    clock::Now,
    ids::{AgentId, CommandId, InstanceId},
    protocol::Message,
};

/// Close code for a peer that does not keep to the protocol.
pub(super) const CLOSE_POLICY: u16 = 1008;

/// Numbers the sockets of one server's life, in the order in which they were opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u64);

/// What the server tells agents in `welcome`.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are those of the wire")]
pub struct Intervals {
    pub heartbeat: Duration,
    pub metrics: Duration,
    pub health: Duration,
    pub reconnect_spread: Duration,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A socket of this agent is open; `hello` has not come yet.
    Opened {
        /// Which socket.
        session: SessionNo,
        /// As the path names it.
        agent: AgentId,
    },
    /// A frame that could be read.
    Frame {
        /// Which socket.
        session: SessionNo,
        /// What it says.
        frame: Box<Frame>,
    },
    /// The socket is gone.
    Closed {
        /// Which socket.
        session: SessionNo,
    },
    /// Time has passed.
    Tick,
}

/// A frame as it was decoded and as it was written. The second tells absent fields from empty ones.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Frame {
    pub message: Message,
    pub written: Value,
}

impl Frame {
    /// Reads a text frame of an agent; `None` when it is no message of version 1.
    pub fn decode(text: &str) -> Option<Self> {
        let written: Value = serde_json::from_str(text).ok()?;
        let message = Message::deserialize(&written).ok()?;
        Some(Self { message, written })
    }
}

/// Something to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a text frame.
    Send {
        /// Where.
        session: SessionNo,
        /// What.
        text: String,
    },
    /// Close the socket.
    Close {
        /// Which.
        session: SessionNo,
        /// The close frame's code.
        code: u16,
        /// The close frame's reason.
        reason: &'static str,
    },
    /// Tell people.
    Note {
        /// Of which agent.
        agent: AgentId,
        /// What happened.
        note: Note,
    },
}

/// How strictly the server watches over what its operator asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Instance ids are used once, ever.
    Owed,
    /// Send what is asked, also what a server should not send. For tests of agents.
    AsTold,
}

/// Why the server does not send a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum Refused {
    #[error("a command is a JSON object with a string `op`")]
    NoCommand,
    #[error("{0}")]
    BadId(#[from] crate::ids::InvalidId),
    #[error("`spec.instance_id` is missing")]
    NoInstanceId,
    #[error("the instance id {0} has been used; ids are used once, ever")]
    Used(InstanceId),
    #[error("the command id {0} has been used")]
    UsedCommand(CommandId),
}

/// The server's whole memory.
#[derive(Debug)]
pub struct State {
    intervals: Intervals,
    default_agent: AgentId,
    ids: CommandIds,
    acks: bool,
    /// Open sockets, superseded ones included.
    sockets: BTreeMap<SessionNo, Socket>,
    peers: BTreeMap<AgentId, Peer>,
}

/// An open socket.
#[derive(Debug)]
struct Socket {
    /// As the path named it.
    agent: AgentId,
    /// It has said `hello`, whatever that led to.
    greeted: bool,
}

/// What a decision is made with and what it leads to.
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) agent: AgentId,
    pub(super) ids: &'a mut CommandIds,
    pub(super) acks: bool,
    pub(super) out: &'a mut Vec<Output>,
}

impl Turn<'_> {
    pub(super) fn send(&mut self, session: SessionNo, text: String) {
        self.out.push(Output::Send { session, text });
    }

    pub(super) fn note(&mut self, note: Note) {
        let agent = self.agent.clone();
        self.out.push(Output::Note { agent, note });
    }

    pub(super) fn close(&mut self, session: SessionNo, code: u16, reason: &'static str) {
        self.out.push(Output::Close {
            session,
            code,
            reason,
        });
    }
}

impl State {
    /// Signs all commands that are given from now on.
    #[must_use]
    pub fn signing(mut self, sign: Sign) -> Self {
        self.ids.sign_with(sign);
        self
    }

    /// An empty memory. `life` is a random name of this server's life: an agent that outlives the
    /// server would take a command id that comes twice for the same command.
    pub fn new(intervals: Intervals, default_agent: AgentId, life: &str) -> Self {
        Self {
            intervals,
            default_agent,
            ids: CommandIds::new(life),
            acks: true,
            sockets: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Takes one input and says what is to be done.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Opened { session, agent } => {
                let greeted = false;
                self.sockets.insert(session, Socket { agent, greeted });
            }
            Input::Frame { session, frame } => self.frame(session, *frame, now, &mut out),
            Input::Closed { session } => self.closed(session, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
        }
        out
    }

    /// Gives a command to an agent: to be sent now if that is connected, else when it comes.
    /// `command` is as on the wire, without `type`, and with an `id` only if it must be that one.
    pub fn submit(
        &mut self,
        agent: Option<&AgentId>,
        command: Value,
        care: Care,
        now: Now,
    ) -> Result<(CommandId, Vec<Output>), Refused> {
        let Value::Object(command) = command else {
            return Err(Refused::NoCommand);
        };
        let agent = self.resolve(agent);
        let issued = Issued::new(&mut self.ids, command, &agent, now)?;
        let id = issued.id.clone();
        let mut out = Vec::new();
        let (peer, mut turn) = self.turn(&agent, now, &mut out);
        peer.admit(&issued, care)?;
        peer.issue(issued);
        peer.deliver(&mut turn);
        Ok((id, out))
    }

    /// Sends a command that was sent before once more, as a server does that is not sure.
    pub fn send_again(
        &mut self,
        agent: Option<&AgentId>,
        id: &CommandId,
        now: Now,
    ) -> Option<Vec<Output>> {
        let agent = self.resolve(agent);
        let mut out = Vec::new();
        let (peer, mut turn) = self.turn(&agent, now, &mut out);
        let session = peer.live.as_ref()?.session;
        let text = peer.command(id)?.text().to_owned();
        turn.send(session, text);
        Some(out)
    }

    /// Takes an instance that this server did not deploy as its own. `false`: it knows none.
    pub fn adopt(&mut self, agent: Option<&AgentId>, id: &InstanceId) -> bool {
        let agent = self.resolve(agent);
        let stored = self
            .peers
            .get_mut(&agent)
            .and_then(|peer| peer.instances.get_mut(id));
        stored.map(|stored| stored.known = true).is_some()
    }

    /// Stops or resumes acknowledging records; what is due is acknowledged at once on resuming.
    pub fn set_acks(&mut self, acks: bool, now: Now) -> Vec<Output> {
        self.acks = acks;
        let mut out = Vec::new();
        for agent in self.peers.keys().cloned().collect::<Vec<_>>() {
            let (peer, mut turn) = self.turn(&agent, now, &mut out);
            peer.acknowledge(&mut turn);
        }
        out
    }

    /// The agent that is meant when none is named: the only one that is known, else the default.
    pub fn resolve(&self, agent: Option<&AgentId>) -> AgentId {
        let mut known = self.peers.keys();
        match (agent, known.next(), known.next()) {
            (Some(agent), _, _) => agent.clone(),
            (None, Some(only), None) => only.clone(),
            (None, _, _) => self.default_agent.clone(),
        }
    }

    /// Whether frames of this socket count: it is its agent's newest and has said `hello`.
    pub fn is_current(&self, session: SessionNo) -> bool {
        self.sockets
            .get(&session)
            .and_then(|socket| self.peers.get(&socket.agent))
            .and_then(|peer| peer.live.as_ref())
            .is_some_and(|live| live.session == session)
    }

    fn turn<'a>(
        &'a mut self,
        agent: &AgentId,
        now: Now,
        out: &'a mut Vec<Output>,
    ) -> (&'a mut Peer, Turn<'a>) {
        let peer = self.peers.entry(agent.clone()).or_default();
        let turn = Turn {
            now,
            agent: agent.clone(),
            ids: &mut self.ids,
            acks: self.acks,
            out,
        };
        (peer, turn)
    }

    fn frame(&mut self, session: SessionNo, frame: Frame, now: Now, out: &mut Vec<Output>) {
        let Some(socket) = self.sockets.get_mut(&session) else {
            return;
        };
        let first = !std::mem::replace(&mut socket.greeted, true);
        let agent = socket.agent.clone();
        let current = self.is_current(session);
        let welcome = self.welcome(session, now);
        let (peer, mut turn) = self.turn(&agent, now, out);
        if !first {
            if current {
                peer.heard(&mut turn, session, frame.message, &frame.written);
            } else {
                turn.note(Note::OldSession { session });
            }
            return;
        }
        let Message::Hello(hello) = frame.message else {
            turn.close(session, CLOSE_POLICY, "hello comes first");
            return;
        };
        if duties::may_begin(&mut turn, peer, session, &hello) {
            peer.greet(&mut turn, session, *hello, welcome);
        }
    }

    fn closed(&mut self, session: SessionNo, now: Now, out: &mut Vec<Output>) {
        let Some(socket) = self.sockets.remove(&session) else {
            return;
        };
        let (peer, mut turn) = self.turn(&socket.agent, now, out);
        let live = peer.live.take_if(|live| live.session == session);
        if live.is_some() {
            turn.note(Note::Disconnected { session });
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        let limit = self.intervals.heartbeat * 3;
        for agent in self.peers.keys().cloned().collect::<Vec<_>>() {
            let (peer, mut turn) = self.turn(&agent, now, out);
            peer.check_reachable(&mut turn, limit);
        }
    }

    fn welcome(&self, session: SessionNo, now: Now) -> String {
        let Intervals {
            heartbeat,
            metrics,
            health,
            reconnect_spread,
        } = &self.intervals;
        json!({
            "type": "welcome",
            "session_id": format!("{}-s{}", self.ids.life(), session.0),
            "server_time": now.wall,
            "heartbeat_interval_s": heartbeat.as_secs_f64(),
            "metrics_interval_s": metrics.as_secs_f64(),
            "health_interval_s": health.as_secs_f64(),
            "reconnect_spread_s": reconnect_spread.as_secs_f64(),
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests;
