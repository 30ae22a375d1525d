//! Drives a running server from the same process: what tests give it to do, wait for and look at.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    shared::Shared,
    state::{AgentView, Care, InstanceView, Issued, Output, Refused, SessionNo, Source},
};
use crate::{
    clock,
    ids::{AgentId, CommandId, InstanceId},
    protocol::{Instance, Reply},
};

/// A frame that came from an agent.
#[derive(Debug, Clone)]
pub struct LoggedFrame {
    /// In which session.
    pub session: SessionNo,
    /// That session counted then (or began with this frame).
    pub current: bool,
    /// As it was written.
    pub frame: Value,
}

/// A command that was given to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandTicket {
    /// Its id on the wire.
    pub id: CommandId,
}

/// What was waited for did not happen in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {limit:?} for {what}; last seen: {last}")]
pub struct WaitError {
    what: String,
    limit: Duration,
    last: String,
}

/// Drives a running server. Methods speak of one agent: the one that [`ServerHandle::agent`] named,
/// else the only one that the server knows, else its default.
#[derive(Debug, Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    agent: Option<AgentId>,
}

impl ServerHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let agent = None;
        Self { shared, agent }
    }

    /// The same server, for this agent.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            agent: Some(id),
        }
    }

    /// Deploys `spec` (an `InstanceSpec` as on the wire) as a server should: an id is used once.
    pub fn deploy(&self, spec: Value) -> Result<CommandTicket, Refused> {
        self.submit(json!({"op": "deploy", "spec": spec}), Care::Owed)
    }

    /// Ends an instance.
    pub fn terminate(&self, id: &InstanceId) -> Result<CommandTicket, Refused> {
        self.command(json!({"op": "terminate", "instance_id": id}))
    }

    /// Sends any command (`op` and its fields; `id` where it must be that one), also one that a
    /// server should not send.
    pub fn command(&self, command: Value) -> Result<CommandTicket, Refused> {
        self.submit(command, Care::AsTold)
    }

    /// Sends a command once more, unchanged. `false`: it is not known, or nobody is connected.
    pub fn send_again(&self, ticket: &CommandTicket) -> bool {
        self.shared.change(|state| {
            let outputs = state.send_again(self.agent.as_ref(), &ticket.id, clock::now());
            (outputs.is_some(), outputs.unwrap_or_default())
        })
    }

    /// Sends any text in the session that counts. `false`: there is none.
    pub fn send_text(&self, text: impl Into<String>) -> bool {
        let Some(session) = self.session() else {
            return false;
        };
        let text = text.into();
        self.shared
            .change(|_| (true, vec![Output::Send { session, text }]))
    }

    /// Takes an instance that the server did not deploy as its own.
    pub fn adopt(&self, id: &InstanceId) -> bool {
        self.shared.adopt(self.agent.as_ref(), id)
    }

    /// The first final reply to a command.
    pub async fn wait_final(
        &self,
        ticket: &CommandTicket,
        limit: Duration,
    ) -> Result<Reply, WaitError> {
        let settled = || self.with_command(ticket, |c| c.final_reply().map(|(r, _)| r.clone()));
        let last = || format!("{:?}", self.replies(ticket));
        let what = format!("the final reply to {}", ticket.id);
        self.wait(&what, limit, || settled().flatten(), last).await
    }

    /// Any reply to a command, `accepted` included.
    pub async fn wait_reply(
        &self,
        ticket: &CommandTicket,
        limit: Duration,
    ) -> Result<Reply, WaitError> {
        let what = format!("a reply to {}", ticket.id);
        let first = || self.replies(ticket).into_iter().next();
        self.wait(&what, limit, first, || "none".into()).await
    }

    /// The record of an instance once it is as wanted.
    pub async fn wait_instance(
        &self,
        id: &InstanceId,
        wanted: impl Fn(&Instance) -> bool,
        limit: Duration,
    ) -> Result<Instance, WaitError> {
        let what = format!("a certain record of {id}");
        let look = || self.instance(id).filter(&wanted);
        let last = || format!("{:?}", self.instance(id));
        self.wait(&what, limit, look, last).await
    }

    /// The agent, once it is as wanted.
    pub async fn wait_agent(
        &self,
        what: &str,
        wanted: impl Fn(&AgentView) -> bool,
        limit: Duration,
    ) -> Result<AgentView, WaitError> {
        let look = || self.agent_view().filter(&wanted);
        let last = || format!("{:?}", self.agent_view());
        self.wait(what, limit, look, last).await
    }

    /// A session in which the whole state has been sent.
    pub async fn wait_synced(&self, limit: Duration) -> Result<SessionNo, WaitError> {
        let view = self.wait_agent("a synced session", |a| a.synced, limit);
        // A view that is synced has a session.
        Ok(view.await?.session.unwrap_or(SessionNo(0)))
    }

    /// The first frame in the log that `found` makes something of.
    pub async fn wait_frame<T>(
        &self,
        what: &str,
        found: impl Fn(&LoggedFrame) -> Option<T>,
        limit: Duration,
    ) -> Result<T, WaitError> {
        let look = || self.shared.frames(|all| all.iter().find_map(&found));
        let last = || self.shared.frames(|all| format!("{:?}", all.back()));
        self.wait(what, limit, look, last).await
    }

    /// All replies that came to a command, repeated ones included.
    pub fn replies(&self, ticket: &CommandTicket) -> Vec<Reply> {
        self.with_command(ticket, |c| c.replies().to_vec())
            .unwrap_or_default()
    }

    /// Who settled a command, once it is settled.
    pub fn settled_by(&self, ticket: &CommandTicket) -> Option<Source> {
        self.with_command(ticket, |c| c.final_reply().map(|(_, source)| source))?
    }

    /// The stored record of an instance.
    pub fn instance(&self, id: &InstanceId) -> Option<Instance> {
        self.instance_view(id)?.record
    }

    /// All that is stored about an instance.
    pub fn instance_view(&self, id: &InstanceId) -> Option<InstanceView> {
        self.shared.read(|s| s.instance(self.agent.as_ref(), id))
    }

    /// All that is stored about the agent.
    pub fn agent_view(&self) -> Option<AgentView> {
        self.shared.read(|s| s.agent(self.agent.as_ref()))
    }

    /// The session that counts.
    pub fn session(&self) -> Option<SessionNo> {
        self.agent_view()?.session
    }

    /// Whether the agent has a session.
    pub fn connected(&self) -> bool {
        self.session().is_some()
    }

    /// The last frames of all agents, in the order in which they came; how many are kept is
    /// `Options::frames_kept`.
    pub fn frames(&self) -> Vec<LoggedFrame> {
        self.shared.frames(|all| all.iter().cloned().collect())
    }

    /// Drops the agent's connection without a close frame.
    pub fn drop_connection(&self) {
        if let Some(session) = self.session() {
            self.shared.cut(session);
        }
    }

    /// Closes the agent's connection with a close frame.
    pub fn close_connection(&self, code: u16, reason: &'static str) {
        if let Some(session) = self.session() {
            self.shared.hang_up(session, code, reason);
        }
    }

    /// From now on new connections are dropped as soon as they are made.
    pub fn pause_accepting(&self) {
        self.shared.accepting.send_replace(false);
    }

    /// The end of [`ServerHandle::pause_accepting`].
    pub fn resume_accepting(&self) {
        self.shared.accepting.send_replace(true);
    }

    /// Whether records are acknowledged.
    pub fn set_ack(&self, acks: bool) {
        self.shared
            .change(|state| ((), state.set_acks(acks, clock::now())));
    }

    fn submit(&self, command: Value, care: Care) -> Result<CommandTicket, Refused> {
        let id = self.shared.submit(self.agent.as_ref(), command, care)?;
        Ok(CommandTicket { id })
    }

    fn with_command<T>(
        &self,
        ticket: &CommandTicket,
        look: impl FnOnce(&Issued) -> T,
    ) -> Option<T> {
        self.shared
            .read(|s| s.command(self.agent.as_ref(), &ticket.id).map(look))
    }

    /// Looks after each change until there is something to see.
    async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn() -> Option<T>,
        last: impl Fn() -> String,
    ) -> Result<T, WaitError> {
        let mut changed = self.shared.subscribe();
        let seen = async {
            loop {
                changed.mark_unchanged();
                if let Some(seen) = look() {
                    return Some(seen);
                }
                // The sender lives as long as this handle.
                changed.changed().await.ok()?;
            }
        };
        let seen = tokio::time::timeout(limit, seen).await;
        seen.ok().flatten().ok_or_else(|| WaitError {
            what: what.to_owned(),
            limit,
            last: last(),
        })
    }
}
