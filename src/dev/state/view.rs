//! What is known, for whoever asks: clients, tests, people.

use super::{Issued, Peer, SessionNo, Source, State};
use crate::{
    ids::{AgentId, CommandId, Generation, InstanceId},
    protocol::{
        Error, Instance, Outcome,
        message::{HealthReport, Hello, Metrics, Progress},
    },
};

/// An agent, for whoever asks.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct AgentView {
    pub id: AgentId,
    /// The session that counts; `None` while there is none.
    pub session: Option<SessionNo>,
    /// It has sent its whole state in that session.
    pub synced: bool,
    /// Fewer than three heartbeats have been missed.
    pub reachable: bool,
    /// The last `hello`, kept up to date by heartbeats and inventories.
    pub hello: Option<Hello>,
    pub metrics: Option<Metrics>,
    pub health: Option<HealthReport>,
    pub desired_draining: Option<bool>,
    /// Commands without a final reply.
    pub open_commands: usize,
}

/// An instance, for whoever asks.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct InstanceView {
    pub id: InstanceId,
    pub agent: AgentId,
    /// `None`: it was deployed or terminated, and the agent has not said anything of it.
    pub record: Option<Instance>,
    /// Why there will never be a record: its deploy was rejected.
    pub refused: Option<Error>,
    pub generation: Option<Generation>,
    /// This server did not deploy it, and nobody has adopted it.
    pub unadopted: bool,
    /// Who says that it has ended.
    pub ended_by: Option<Source>,
    /// The newest, until it has ended.
    pub progress: Option<Progress>,
}

impl State {
    /// The agents that have connected or have been given commands.
    pub fn agents(&self) -> Vec<AgentView> {
        self.peers
            .iter()
            .map(|(id, peer)| peer.view(id.clone()))
            .collect()
    }

    /// What is known of one agent.
    pub fn agent(&self, agent: Option<&AgentId>) -> Option<AgentView> {
        let id = self.resolve(agent);
        self.peers.get(&id).map(|peer| peer.view(id.clone()))
    }

    /// What is known of one instance.
    pub fn instance(&self, agent: Option<&AgentId>, id: &InstanceId) -> Option<InstanceView> {
        let agent = self.resolve(agent);
        let peer = self.peers.get(&agent)?;
        peer.instance_view(&agent, id)
    }

    /// What is known of all instances of all agents.
    pub fn instances(&self) -> Vec<InstanceView> {
        let of = |(agent, peer): (&AgentId, &Peer)| -> Vec<InstanceView> {
            let ids = peer.instances.keys();
            ids.filter_map(|id| peer.instance_view(agent, id)).collect()
        };
        self.peers.iter().flat_map(of).collect()
    }

    /// A command that was given to an agent.
    pub fn command(&self, agent: Option<&AgentId>, id: &CommandId) -> Option<&Issued> {
        self.peers.get(&self.resolve(agent))?.command(id)
    }
}

impl Peer {
    fn view(&self, id: AgentId) -> AgentView {
        AgentView {
            id,
            session: self.live.as_ref().map(|live| live.session),
            synced: self.live.as_ref().is_some_and(|live| live.synced),
            reachable: self.reachable,
            hello: self.hello.clone(),
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            desired_draining: self.desired_draining,
            open_commands: self.commands.open().count(),
        }
    }

    fn refused(&self, id: &InstanceId) -> Option<Error> {
        let deploy = |c: &&Issued| c.deploys() && c.instance.as_ref() == Some(id);
        let (reply, _) = self.commands.all().find(deploy)?.final_reply()?;
        let rejected = reply.outcome == Outcome::Rejected;
        reply.error.clone().filter(|_| rejected)
    }

    fn instance_view(&self, agent: &AgentId, id: &InstanceId) -> Option<InstanceView> {
        let stored = self.instances.get(id)?;
        let ended_by = match (stored.has_ended(), stored.ended_here) {
            (false, _) => None,
            (true, true) => Some(Source::Server),
            (true, false) => Some(Source::Agent),
        };
        Some(InstanceView {
            id: id.clone(),
            agent: agent.clone(),
            record: stored.record.clone(),
            refused: self.refused(id),
            generation: stored.at.as_ref().map(|(_, generation)| *generation),
            unadopted: !stored.known,
            ended_by,
            progress: stored.progress.clone(),
        })
    }
}
