//! A session between a scripted server and the test, which plays the driver.

use std::{sync::Arc, time::Duration};

use rental_agent::{
    clock::Timestamp,
    config::{Server, Token},
    driver::{FromServer, Identity, SessionNo},
    ids::Generation,
    instance::publish::{Event, Snapshot},
    protocol::{
        Instance,
        message::{HealthReport, InstanceMessage, Metrics},
    },
    session::{Feeds, Limits, LinkState, Session, backoff::Waits},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::peer::{Peer, soon};

/// As a real token looks; searched for where it must not be.
pub const TOKEN: &str = "canary-5e55-10n-70ken";

pub const EPOCH: &str = "e-1";

/// A running session and all that it is connected to.
pub struct Rig {
    pub peer: Peer,
    pub inputs: mpsc::Receiver<FromServer>,
    /// As the driver keeps it: without it the session ends.
    pub events: Option<mpsc::Sender<Event>>,
    pub snapshot: watch::Sender<Arc<Snapshot>>,
    pub metrics: watch::Sender<Arc<Metrics>>,
    pub health: watch::Sender<Arc<HealthReport>>,
    pub state: watch::Receiver<LinkState>,
    pub token: CancellationToken,
    pub tasks: JoinSet<anyhow::Result<()>>,
}

/// The protocol's limits, but what is lost is tried again at once.
pub fn quick() -> Limits {
    let ms = Duration::from_millis;
    Limits {
        waits: Waits {
            base: ms(1),
            cap: ms(5),
            first: ms(5),
            floor: ms(1),
            refused: (ms(1), ms(5)),
            retry_after: (ms(1), ms(5)),
            spread: (ms(1), ms(5)),
        },
        ..Limits::default()
    }
}

impl Rig {
    pub async fn start(limits: Limits) -> Self {
        let peer = Peer::start().await;
        Self::with(peer, limits, |_| {})
    }

    /// With a server configuration that `change` has changed.
    pub fn with(peer: Peer, limits: Limits, change: impl FnOnce(&mut Server)) -> Self {
        Self::prepared(peer, limits, change, |session| session)
    }

    /// With a session that `prepare` has changed, too.
    pub fn prepared(
        peer: Peer,
        limits: Limits,
        change: impl FnOnce(&mut Server),
        prepare: impl FnOnce(Session) -> Session,
    ) -> Self {
        let mut server = server(&peer);
        change(&mut server);
        let (input_sender, inputs) = mpsc::channel(4);
        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::default()));
        let (metrics, metrics_reader) = watch::channel(Arc::new(samples(0)));
        let (health, health_reader) = watch::channel(Arc::new(verdicts(0)));
        let feeds = Feeds {
            snapshot: snapshots,
            metrics: metrics_reader,
            health: health_reader,
        };
        let session = prepare(Session::new(
            server,
            identity(),
            input_sender,
            feeds,
            limits,
        ));
        let (state, token) = (session.state(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(session.run(token.clone()));
        Self {
            peer,
            inputs,
            events: None,
            snapshot,
            metrics,
            health,
            state,
            token,
            tasks,
        }
    }

    /// The next thing that the driver is told.
    pub async fn input(&mut self) -> FromServer {
        soon(self.inputs.recv()).await.expect("the session is over")
    }

    /// That there is a session, and where its events go.
    pub async fn connected(&mut self) -> (SessionNo, mpsc::Sender<Event>) {
        match self.input().await {
            FromServer::Connected {
                session, events, ..
            } => {
                self.events = Some(events.clone());
                (session, events)
            }
            other => panic!("not connected: {other:?}"),
        }
    }

    /// That the session is over.
    pub async fn disconnected(&mut self) -> SessionNo {
        match self.input().await {
            FromServer::Disconnected { session } => session,
            other => panic!("not disconnected: {other:?}"),
        }
    }

    /// Why there is no link, and how long the session will wait.
    pub async fn down(&mut self) -> (String, Duration) {
        let waiting = |state: &LinkState| matches!(state, LinkState::Waiting { .. });
        let state = soon(self.state.wait_for(waiting)).await.unwrap().clone();
        match state {
            LinkState::Waiting { reason, retry_in } => (reason, retry_in),
            other => panic!("not down: {other:?}"),
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot
            .send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// Asks it to end, and waits for that.
    pub async fn stopped(mut self) -> anyhow::Result<()> {
        self.token.cancel();
        soon(self.tasks.join_next()).await.unwrap().unwrap()
    }
}

pub fn server(peer: &Peer) -> Server {
    Server {
        url: peer.url("ws", ""),
        token: Token::Static(TOKEN.into()),
        ca_file: None,
        proxy: None,
    }
}

pub fn identity() -> Identity {
    Identity {
        agent_id: "host-7".parse().unwrap(),
        epoch: EPOCH.parse().unwrap(),
        started_at: Timestamp::from_millis(1_700_000_000_000),
        labels: [("rack".to_owned(), "b4".to_owned())].into(),
    }
}

pub fn samples(used: u64) -> Metrics {
    let metrics = json!({
        "at": "2026-11-21T12:00:00.000Z",
        "host": {"memory_used_bytes": used},
        "gpus": [],
        "instances": [],
    });
    serde_json::from_value(metrics).unwrap()
}

pub fn verdicts(at: i64) -> HealthReport {
    HealthReport {
        at: Timestamp::from_millis(at),
        checks: Vec::new(),
    }
}

/// A record, with its number in its id.
pub fn record(generation: u64) -> InstanceMessage {
    let instance = json!({
        "id": format!("r-{generation}"),
        "phase": "ready",
        "image": "registry.example/some/image:tag",
        "timeline": {"accepted_at": "2026-11-21T12:00:00.000Z"},
    });
    let instance: Instance = serde_json::from_value(instance).unwrap();
    InstanceMessage {
        generation: Generation(generation),
        instance: Arc::new(instance),
    }
}
