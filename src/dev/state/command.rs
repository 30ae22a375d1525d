//! A command from the moment an operator gives it until its final reply.

use std::{fmt, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{Refused, SessionNo};
use crate::{
    clock::{Now, Timestamp},
    ids::{AgentId, CommandId, Epoch, InstanceId},
    protocol::{Error, Outcome, Reply},
};

/// More than an agent has any reason to send; what comes above it is not kept.
const MAX_REPLIES: usize = 100;

/// A signed command may be begun for so long after it was given: no deploy is sent later either.
const SIGNED_FOR: Duration = Duration::from_secs(600);

/// Makes the signature of some bytes, in base64.
type Signature = dyn Fn(&[u8]) -> String + Send + Sync;

/// Signs commands.
pub struct Sign(pub Box<Signature>);

impl fmt::Debug for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sign")
    }
}

/// Makes command ids that no other life of a server has made, and the frames of commands.
#[derive(Debug)]
pub(in crate::dev) struct CommandIds {
    life: String,
    next: u64,
    sign: Option<Sign>,
}

impl CommandIds {
    pub(super) fn new(life: &str) -> Self {
        Self {
            life: life.to_owned(),
            next: 1,
            sign: None,
        }
    }

    pub(super) fn sign_with(&mut self, sign: Sign) {
        self.sign = Some(sign);
    }

    /// The frame of a command, signed for this agent where that is wanted.
    fn frame(
        &self,
        id: &CommandId,
        command: Map<String, Value>,
        agent: &AgentId,
        now: Now,
    ) -> String {
        let Some(Sign(sign)) = &self.sign else {
            return Value::Object(command).to_string();
        };
        let mut command = command;
        command.insert("agent_id".into(), agent.as_str().into());
        command
            .entry("not_after")
            .or_insert_with(|| now.wall.plus(SIGNED_FOR).to_string().into());
        let payload = Value::Object(command).to_string();
        let signed = BASE64_STANDARD.encode(&payload);
        let sig = sign(payload.as_bytes());
        json!({"type": "command", "id": id, "signed": signed, "sig": sig}).to_string()
    }

    pub(super) fn life(&self) -> &str {
        &self.life
    }

    fn make(&mut self) -> Result<CommandId, Refused> {
        let id = format!("{}-{}", self.life, self.next).parse()?;
        self.next += 1;
        Ok(id)
    }
}

/// Who settled a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Its final reply came.
    Agent,
    /// The server counts it so, because that reply cannot be expected any more.
    Server,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::dev) struct Settled {
    pub(in crate::dev) reply: Reply,
    pub(in crate::dev) source: Source,
}

/// When and where a command was sent last, and first.
#[derive(Debug, Clone)]
pub(in crate::dev) struct Sent {
    /// Of the boot-time clock.
    pub(in crate::dev) first_at: Duration,
    pub(in crate::dev) session: SessionNo,
    pub(in crate::dev) epoch: Epoch,
}

/// A command that was given to the server.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Its id.
    pub id: CommandId,
    /// Its `op`.
    pub op: String,
    /// The instance that it is about.
    pub instance: Option<InstanceId>,
    /// A `deploy` that only asks.
    pub dry_run: bool,
    /// Of an `extend`.
    pub(in crate::dev) expires_at: Option<Timestamp>,
    /// The frame, the same at each sending. Not for logs: specs carry secrets.
    text: String,
    pub(in crate::dev) sent: Option<Sent>,
    replies: Vec<Reply>,
    settled: Option<Settled>,
}

impl Issued {
    pub(in crate::dev) fn new(
        ids: &mut CommandIds,
        mut command: Map<String, Value>,
        agent: &AgentId,
        now: Now,
    ) -> Result<Self, Refused> {
        let id = match command.get("id") {
            Some(Value::String(id)) => id.parse()?,
            _ => ids.make()?,
        };
        command.insert("type".into(), "command".into());
        command.insert("id".into(), id.as_str().into());
        let Some(op) = command.get("op").and_then(Value::as_str) else {
            return Err(Refused::NoCommand);
        };
        let text_at = |name: &str| command.get(name).and_then(Value::as_str);
        let within_spec = command
            .get("spec")
            .and_then(|spec| spec.get("instance_id"))
            .and_then(Value::as_str);
        Ok(Self {
            op: op.to_owned(),
            instance: text_at("instance_id")
                .or(within_spec)
                .and_then(|id| id.parse().ok()),
            dry_run: command.get("dry_run") == Some(&Value::Bool(true)),
            expires_at: text_at("expires_at").and_then(|at| at.parse().ok()),
            text: ids.frame(&id, command, agent, now),
            id,
            sent: None,
            replies: Vec::new(),
            settled: None,
        })
    }

    /// The frame as it is sent, each time.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All replies that came, in order, repeated ones included; at most 100.
    pub fn replies(&self) -> &[Reply] {
        &self.replies
    }

    /// The first final reply, and whose it is.
    pub fn final_reply(&self) -> Option<(&Reply, Source)> {
        self.settled
            .as_ref()
            .map(|settled| (&settled.reply, settled.source))
    }

    /// A deploy that would make something.
    pub(in crate::dev) fn deploys(&self) -> bool {
        self.op == "deploy" && !self.dry_run
    }

    /// `true` when the command is settled by this reply: the first final one counts.
    pub(in crate::dev) fn replied(&mut self, reply: Reply) -> bool {
        let settles = reply.outcome.is_final() && self.settled.is_none();
        if settles {
            self.settled = Some(Settled {
                reply: reply.clone(),
                source: Source::Agent,
            });
        }
        if self.replies.len() < MAX_REPLIES {
            self.replies.push(reply);
        }
        settles
    }

    /// Counts the command as done without a reply.
    pub(in crate::dev) fn count_done(&mut self, result: Value) {
        self.count(Outcome::Done, None, Some(result));
    }

    /// Counts the command as failed without a reply.
    pub(in crate::dev) fn count_failed(&mut self, error: Error) {
        self.count(Outcome::Failed, Some(error), None);
    }

    /// Notes a sending; the first one's time stays.
    pub(in crate::dev) fn was_sent(&mut self, now: Duration, session: SessionNo, epoch: Epoch) {
        let first_at = self.sent.as_ref().map_or(now, |sent| sent.first_at);
        self.sent = Some(Sent {
            first_at,
            session,
            epoch,
        });
    }

    fn count(&mut self, outcome: Outcome, error: Option<Error>, result: Option<Value>) {
        let reply = Reply {
            command_id: self.id.clone(),
            outcome,
            error,
            result,
        };
        let source = Source::Server;
        self.settled.get_or_insert(Settled { reply, source });
    }
}
