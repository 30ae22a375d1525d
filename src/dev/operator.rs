//! The operators' endpoint: one request per connection, answered by events until it is settled. An
//! operator that goes away changes nothing of what it asked for.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite};

use super::{
    shared::Shared,
    state::{AgentView, Care, InstanceView, Source, State},
};
use crate::{
    ids::{AgentId, CommandId, InstanceId},
    protocol::{
        Error, Instance, Reply,
        message::Progress,
        record::{Gpu, Host, Resources, Status},
    },
};

/// For a client to say what it wants.
const REQUEST: Duration = Duration::from_secs(15);
/// A client that does not take what it is told within this is gone.
const STUCK_WRITE: Duration = Duration::from_secs(15);
/// So often a client hears something, so that it can tell a quiet server from a dead one.
pub(super) const PULSE: Duration = Duration::from_secs(10);

/// What an operator asks: the only text frame of its connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Request {
    /// Answered by `sent`, then `link`, `progress`, `record` and `reply`, up to the final reply.
    Deploy {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
        /// As on the wire.
        spec: Value,
    },
    /// Answered as a deploy is.
    Terminate {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
        instance_id: InstanceId,
    },
    /// Takes an instance that the server did not deploy as its own. Answered by `list`.
    Adopt {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<AgentId>,
        instance_id: InstanceId,
    },
    /// Answered by `list`.
    Ps,
}

/// What an operator is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Event {
    /// The server does not do it. The last event.
    Refused { message: String },
    /// The command is on its way, or waits for its agent.
    Sent {
        agent: AgentId,
        command_id: CommandId,
    },
    /// Whether the agent has a session now.
    Link { connected: bool },
    /// How far it is; newest wins.
    Progress { progress: Progress },
    /// The record, at each change.
    Record { instance: Box<Instance> },
    /// A reply. The final one is the last event.
    Reply {
        reply: Reply,
        /// The server counts it so; the agent's own reply was lost.
        counted: bool,
    },
    /// All that is known. The last event.
    List {
        agents: Vec<AgentRow>,
        instances: Vec<InstanceRow>,
    },
}

/// An agent in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct AgentRow {
    pub id: AgentId,
    /// It has a session.
    pub connected: bool,
    /// Fewer than three heartbeats have been missed.
    pub reachable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(default)]
    pub gpus: Vec<Gpu>,
    #[serde(default)]
    pub capacity: Resources,
    #[serde(default)]
    pub occupied: Resources,
    /// Commands without a final reply.
    pub open_commands: usize,
}

/// An instance in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct InstanceRow {
    pub id: InstanceId,
    pub agent: AgentId,
    /// This server did not deploy it, and nobody has adopted it.
    pub unadopted: bool,
    /// The server counts it as ended; the agent did not say so.
    pub ended_here: bool,
    /// Why there will never be a record: its deploy was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Error>,
    /// Absent until the agent has said something of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Instance>,
}

impl From<AgentView> for AgentRow {
    fn from(view: AgentView) -> Self {
        let (connected, reachable) = (view.session.is_some(), view.reachable);
        let hello = view.hello;
        Self {
            id: view.id,
            connected,
            reachable,
            version: hello.as_ref().map(|hello| hello.agent.version.clone()),
            host: hello.as_ref().map(|hello| hello.host.clone()),
            status: hello.as_ref().map(|hello| hello.status.clone()),
            capacity: hello
                .as_ref()
                .map(|hello| hello.capacity.clone())
                .unwrap_or_default(),
            occupied: hello
                .as_ref()
                .map(|hello| hello.occupied.clone())
                .unwrap_or_default(),
            gpus: hello.map(|hello| hello.gpus).unwrap_or_default(),
            open_commands: view.open_commands,
        }
    }
}

impl From<InstanceView> for InstanceRow {
    fn from(view: InstanceView) -> Self {
        Self {
            id: view.id,
            agent: view.agent,
            unadopted: view.unadopted,
            ended_here: view.ended_by == Some(Source::Server),
            refused: view.refused,
            record: view.record,
        }
    }
}

type Socket = WebSocketStream<TcpStream>;

/// Serves one operator.
pub(super) async fn serve(shared: Arc<Shared>, mut socket: Socket) {
    let request = match timeout(REQUEST, socket.next()).await {
        Ok(Some(Ok(tungstenite::Message::Text(text)))) => serde_json::from_str::<Request>(&text),
        Ok(_) | Err(_) => return,
    };
    let answered = match request {
        Err(error) => {
            let message = format!("not a request: {error}");
            tell(&mut socket, &Event::Refused { message }).await
        }
        Ok(request) => answer(&shared, &mut socket, request).await,
    };
    if answered.is_some() {
        // The client has all it asked for; whether it also says goodbye does not matter.
        let _ = timeout(STUCK_WRITE, socket.close(None)).await;
    }
}

/// Does what is asked; `None` when the client went away.
async fn answer(shared: &Shared, socket: &mut Socket, request: Request) -> Option<()> {
    let (agent, instance, command) = match request {
        Request::Deploy { agent, spec } => {
            let named = spec.get("instance_id").and_then(Value::as_str);
            let instance = named.and_then(|id| id.parse().ok());
            (agent, instance, json!({"op": "deploy", "spec": spec}))
        }
        Request::Terminate { agent, instance_id } => {
            let command = json!({"op": "terminate", "instance_id": instance_id});
            (agent, Some(instance_id), command)
        }
        Request::Adopt { agent, instance_id } => {
            if shared.adopt(agent.as_ref(), &instance_id) {
                return tell(socket, &list(shared)).await;
            }
            let message = format!("no instance {instance_id} is known");
            return tell(socket, &Event::Refused { message }).await;
        }
        Request::Ps => return tell(socket, &list(shared)).await,
    };
    let agent = shared.read(|state| state.resolve(agent.as_ref()));
    match shared.submit(Some(&agent), command, Care::Owed) {
        Err(refused) => {
            let message = refused.to_string();
            tell(socket, &Event::Refused { message }).await
        }
        Ok(command_id) => {
            let sent = Event::Sent {
                agent: agent.clone(),
                command_id: command_id.clone(),
            };
            tell(socket, &sent).await?;
            let follow = Follow::new(agent, command_id, instance);
            follow.run(shared, socket).await
        }
    }
}

fn list(shared: &Shared) -> Event {
    shared.read(|state| Event::List {
        agents: state.agents().into_iter().map(AgentRow::from).collect(),
        instances: state
            .instances()
            .into_iter()
            .map(InstanceRow::from)
            .collect(),
    })
}

async fn tell(socket: &mut Socket, event: &Event) -> Option<()> {
    // The types have no map with keys that are not strings, which is all that can fail here.
    let text = serde_json::to_string(event).unwrap_or_default();
    let written = timeout(STUCK_WRITE, socket.send(tungstenite::Message::text(text))).await;
    written.ok()?.ok()
}

/// Tells what changes about one command, by comparing what is with what has been told.
struct Follow {
    agent: AgentId,
    command: CommandId,
    instance: Option<InstanceId>,
    told_connected: Option<bool>,
    told_record: Option<Instance>,
    told_progress: Option<Progress>,
    told_replies: usize,
}

impl Follow {
    fn new(agent: AgentId, command: CommandId, instance: Option<InstanceId>) -> Self {
        Self {
            agent,
            command,
            instance,
            told_connected: None,
            told_record: None,
            told_progress: None,
            told_replies: 0,
        }
    }

    async fn run(mut self, shared: &Shared, socket: &mut Socket) -> Option<()> {
        let mut changed = shared.subscribe();
        loop {
            changed.mark_unchanged();
            let (events, settled) = shared.read(|state| self.news(state));
            for event in &events {
                tell(socket, event).await?;
            }
            if settled {
                return Some(());
            }
            tokio::select! {
                biased; // A client that is gone needs no news.
                heard = socket.next() => match heard {
                    Some(Ok(tungstenite::Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                },
                more = changed.changed() => more.ok()?,
                () = tokio::time::sleep(PULSE) => {
                    let ping = tungstenite::Message::Ping(Vec::new().into());
                    timeout(STUCK_WRITE, socket.send(ping)).await.ok()?.ok()?;
                }
            }
        }
    }

    /// What has not been told yet, and whether the command is settled by now.
    fn news(&mut self, state: &State) -> (Vec<Event>, bool) {
        let mut events = Vec::new();
        let agent = Some(&self.agent);
        let connected = state
            .agent(agent)
            .is_some_and(|view| view.session.is_some());
        if self.told_connected.replace(connected) != Some(connected) {
            events.push(Event::Link { connected });
        }
        let view = self
            .instance
            .as_ref()
            .and_then(|id| state.instance(agent, id));
        let (record, progress) = view.map_or((None, None), |v| (v.record, v.progress));
        // Progress first: it belongs to the phase that the record then leaves behind.
        if let Some(progress) = progress
            && self.told_progress.as_ref() != Some(&progress)
        {
            self.told_progress = Some(progress.clone());
            events.push(Event::Progress { progress });
        }
        if let Some(record) = record
            && self.told_record.as_ref() != Some(&record)
        {
            self.told_record = Some(record.clone());
            let instance = Box::new(record);
            events.push(Event::Record { instance });
        }
        let Some(command) = state.command(agent, &self.command) else {
            return (events, false);
        };
        let untold = command.replies().iter().skip(self.told_replies);
        let untold = untold.filter(|reply| !reply.outcome.is_final());
        events.extend(untold.cloned().map(|reply| Event::Reply {
            reply,
            counted: false,
        }));
        self.told_replies = command.replies().len();
        let settled = command.final_reply().map(|(reply, source)| Event::Reply {
            reply: reply.clone(),
            counted: source == Source::Server,
        });
        let is_settled = settled.is_some();
        events.extend(settled);
        (events, is_settled)
    }
}
