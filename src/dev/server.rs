//! The listener: lets agents and operators in, each by its own rules, and owns every task of the
//! server. Dropping the [`Server`] ends them all.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use tokio_tungstenite::{
    accept_hdr_async_with_config,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header},
        protocol::WebSocketConfig,
    },
};

use super::{
    handle::ServerHandle,
    link, operator,
    shared::Shared,
    signer::Signer,
    state::{Input, Intervals, Sign, State},
};
use crate::{
    ids::AgentId,
    protocol::{MAX_MESSAGE_BYTES, SUBPROTOCOL},
};

/// Connections at once: far above what a test or a developer opens, far below what hurts.
const MAX_CONNECTIONS: usize = 256;
/// For a peer to send its upgrade request.
const UPGRADE: Duration = Duration::from_secs(15);
/// How often time is looked at; heartbeats are counted in seconds.
const TICK: Duration = Duration::from_millis(200);

/// How the reference server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bearer token that agents have to show; unset: any will do.
    pub token: Option<SecretString>,
    /// What agents are told in `welcome`.
    pub intervals: Intervals,
    /// The agent that is meant when none is named and none, or several, are known.
    pub default_agent: AgentId,
    /// Signs all commands; unset: they are sent as they are.
    pub signer: Option<Arc<Signer>>,
    /// Frames kept for [`ServerHandle::frames`].
    pub frames_kept: usize,
}

impl Options {
    /// A server on a free port of loopback, without a token, for the agent id `default_agent`.
    pub fn new(default_agent: AgentId) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token: None,
            intervals: Intervals {
                heartbeat: Duration::from_secs(30),
                metrics: Duration::from_secs(10),
                health: Duration::from_secs(60),
                reconnect_spread: Duration::from_secs(1),
            },
            default_agent,
            signer: None,
            frames_kept: 10_000,
        }
    }
}

/// A running reference server, for development and tests.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    handle: ServerHandle,
    tasks: JoinSet<()>,
}

impl Server {
    /// Starts listening.
    pub async fn bind(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        // Random, so that an agent that outlives this server never meets a command id twice.
        let life = uuid::Uuid::new_v4().simple().to_string();
        let life = format!("dev-{}", life.get(..8).unwrap_or_default());
        let mut state = State::new(options.intervals, options.default_agent, &life);
        if let Some(signer) = options.signer {
            state = state.signing(Sign(Box::new(move |message| signer.sign(message))));
        }
        let shared = Arc::new(Shared::new(state, options.frames_kept));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(Arc::clone(&shared), listener, options.token));
        tasks.spawn(tick(Arc::clone(&shared)));
        let handle = ServerHandle::new(shared);
        Ok(Self {
            addr,
            handle,
            tasks,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What an agent is given as `server.url`.
    pub fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    /// Drives it; stays usable, and finds nobody, after the server is gone.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Runs until one of its tasks ends, which none does by itself.
    pub async fn run(mut self) {
        self.tasks.join_next().await;
    }
}

async fn tick(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.feed(Input::Tick);
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, token: Option<SecretString>) {
    let token = Arc::new(token);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased; // Ended connections make room for new ones.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, most likely: one that is given back is worth waiting for.
            tokio::time::sleep(TICK).await;
            continue;
        };
        if !*shared.accepting.borrow() {
            continue;
        }
        connections.spawn(connect(
            Arc::clone(&shared),
            stream,
            peer,
            Arc::clone(&token),
        ));
    }
}

/// Who knocks.
enum Route {
    Agent(AgentId),
    Operator,
}

async fn connect(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    token: Arc<Option<SecretString>>,
) {
    // Small frames both ways, each of which somebody waits for.
    let _ = stream.set_nodelay(true);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .max_write_buffer_size(2 * MAX_MESSAGE_BYTES);
    let mut route = None;
    #[allow(
        clippy::result_large_err,
        reason = "the callback's type is tungstenite's"
    )]
    let upgrade = |request: &Request, response: Response| match admit(request, peer, &token) {
        Ok(admitted) => {
            let response = accepted(&admitted, response);
            route = Some(admitted);
            Ok(response)
        }
        Err((status, why)) => Err(refusal(status, why)),
    };
    let upgraded = accept_hdr_async_with_config(stream, upgrade, Some(config));
    let Ok(Ok(socket)) = timeout(UPGRADE, upgraded).await else {
        tracing::debug!(%peer, "no session came of a connection");
        return;
    };
    match route {
        Some(Route::Agent(agent)) => link::serve(shared, socket, agent).await,
        Some(Route::Operator) => operator::serve(shared, socket).await,
        None => {}
    }
}

fn admit(
    request: &Request,
    peer: SocketAddr,
    token: &Option<SecretString>,
) -> Result<Route, (StatusCode, &'static str)> {
    let path = request.uri().path();
    if path == "/operator" {
        // A web page that the developer visits could open a WebSocket to loopback too; browsers say
        // so by `Origin`, the client commands do not send one.
        if !peer.ip().is_loopback() || request.headers().contains_key(header::ORIGIN) {
            return Err((
                StatusCode::FORBIDDEN,
                "operators come from this machine only",
            ));
        }
        return Ok(Route::Operator);
    }
    let agent = path
        .strip_prefix("/agents/")
        .and_then(|rest| rest.strip_suffix("/session"))
        .and_then(|id| id.parse().ok())
        .ok_or((StatusCode::NOT_FOUND, "no such endpoint"))?;
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    match token {
        Some(token) if bearer != Some(token.expose_secret()) => {
            return Err((StatusCode::UNAUTHORIZED, "wrong or missing bearer token"));
        }
        Some(_) | None => {}
    }
    if !offers_subprotocol(request) {
        return Err((
            StatusCode::BAD_REQUEST,
            "subprotocol rental-agent.v1 required",
        ));
    }
    Ok(Route::Agent(agent))
}

fn offers_subprotocol(request: &Request) -> bool {
    request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offered| offered.trim() == SUBPROTOCOL)
}

fn accepted(route: &Route, mut response: Response) -> Response {
    if let Route::Agent(_) = route {
        let selected = HeaderValue::from_static(SUBPROTOCOL);
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
    }
    response
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(format!("{why}\n")));
    *response.status_mut() = status;
    response
}
