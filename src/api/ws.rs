//! `GET /ws`: the whole state, then each change of a rental as it happens. Nothing is read of what a
//! client says but that it lives. One that does not keep up is closed and comes back for the state;
//! so is one whose token has expired (4401).

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures_util::{SinkExt, StreamExt};
use hyper::{
    HeaderMap, StatusCode,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, interval, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as Frame,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    App, Limits, Problem,
    auth::{BEARER_PROTOCOL, Caller},
};
use crate::{
    instance::publish::Event,
    protocol::{
        Error, ErrorCode, MAX_MESSAGE_BYTES, Message, SUBPROTOCOL, encode, message::InstanceMessage,
    },
};

/// As the session's close of a bad token.
const TOKEN_EXPIRED: u16 = 4401;
/// Clients have nothing to say.
const MAX_HEARD_BYTES: usize = 4096;
/// From the answer to the open socket.
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);
/// For the close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Where a request leaves the socket that its connection becomes.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<Mutex<Option<Watching>>>);

impl Slot {
    pub(super) fn take(&self) -> Option<Watching> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, watching: Watching) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(watching);
    }
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A client that watches.
pub(super) struct Watching {
    upgrade: OnUpgrade,
    events: mpsc::Receiver<Event>,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

/// What woke a watching up.
enum Woken {
    Stop,
    Expired,
    Event(Option<Event>),
    Heard(bool),
    Ping,
}

pub(super) async fn watch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(slot): Extension<Slot>,
    mut request: Request,
) -> Result<Response, Problem> {
    let key = key(request.headers()).ok_or_else(Problem::no_websocket)?;
    let accept = derive_accept_key(&key);
    let protocol = protocol(request.headers());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(Problem::no_websocket)?;
    let place = Arc::clone(&app.watchers).try_acquire_owned();
    let place = place.map_err(|_| {
        let message = "as many clients as there is room for watch already";
        Problem::from(Error::new(ErrorCode::NotReady, message))
    })?;
    let events = app.surface.watch(app.limits.events).await?;
    slot.put(Watching {
        upgrade,
        events,
        caller,
        _place: place,
    });
    let accept = HeaderValue::from_str(&accept).map_err(|_| Problem::no_websocket())?;
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// The key of a request that wants a WebSocket.
fn key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let has = |name: HeaderName, word: &str| {
        let texts = headers.get_all(name).into_iter();
        let mut words = texts
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','));
        words.any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    let wanted =
        has(CONNECTION, "upgrade") && has(UPGRADE, "websocket") && has(SEC_WEBSOCKET_VERSION, "13");
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24)?;
    wanted.then(|| key.as_bytes().to_vec())
}

/// Browsers want one of what they offered, and a token is no protocol while there is another.
fn protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = offered.filter_map(|value| value.to_str().ok());
    let names: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).collect();
    let ours = names.iter().find(|name| **name == SUBPROTOCOL);
    let token = names.iter().find(|name| name.starts_with(BEARER_PROTOCOL));
    HeaderValue::from_str(ours.or(token)?).ok()
}

impl Watching {
    /// Tells what happens until the client is gone, does not keep up, or the agent ends.
    pub(super) async fn run(self, limits: &Limits, token: &CancellationToken) {
        let Self {
            upgrade,
            mut events,
            caller,
            _place,
        } = self;
        let Ok(Ok(upgraded)) = timeout(UPGRADE_WITHIN, upgrade).await else {
            return;
        };
        let mut socket = socket(upgraded).await;
        let mut pings = interval(limits.ping);
        let mut heard = Instant::now();
        let mut expired = pin!(expiry(caller.until));
        let (code, reason) = loop {
            let woken = tokio::select! {
                // The end first; then events, since a client that only talks must not delay them.
                biased;
                () = token.cancelled() => Woken::Stop,
                () = &mut expired => Woken::Expired,
                event = events.recv() => Woken::Event(event),
                frame = socket.next() => Woken::Heard(matches!(frame, Some(Ok(_)))),
                _ = pings.tick() => Woken::Ping,
            };
            let told = match woken {
                Woken::Stop => break (CloseCode::Away, "the agent ends"),
                Woken::Expired => {
                    let reason = "the token has expired; come back with a new one";
                    break (CloseCode::Library(TOKEN_EXPIRED), reason);
                }
                Woken::Event(None) => {
                    break (CloseCode::Again, "too slow; come back for the state");
                }
                Woken::Heard(false) => return,
                Woken::Heard(true) => {
                    heard = Instant::now();
                    continue;
                }
                Woken::Ping if heard.elapsed() > limits.silence => return,
                Woken::Ping => {
                    let ping = socket.send(Frame::Ping(Default::default()));
                    timeout(limits.stuck_write, ping)
                        .await
                        .is_ok_and(|sent| sent.is_ok())
                }
                Woken::Event(Some(event)) => tell(&mut socket, event, &caller, limits).await,
            };
            if !told {
                return;
            }
        };
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let _ = timeout(CLOSE_WITHIN, socket.close(Some(frame))).await;
    }
}

async fn socket(upgraded: Upgraded) -> Socket {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_HEARD_BYTES))
        .max_frame_size(Some(MAX_HEARD_BYTES))
        .read_buffer_size(MAX_HEARD_BYTES)
        .max_write_buffer_size(2 * MAX_MESSAGE_BYTES);
    let io = TokioIo::new(upgraded);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// When the token is good no more; never for who needs none.
async fn expiry(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => pending().await,
    }
}

/// Writes what an event says; `false` when the client has not taken it in time.
async fn tell(socket: &mut Socket, event: Event, caller: &Caller, limits: &Limits) -> bool {
    let record = |record: InstanceMessage| {
        Message::Instance(InstanceMessage {
            instance: caller.may_see(record.instance),
            ..record
        })
    };
    let messages = match event {
        Event::Records(records) => records.into_iter().map(record).collect(),
        Event::Synced(synced) => vec![Message::Synced(synced)],
        Event::Record(one) => vec![record(one)],
        Event::Progress(progress) => vec![Message::Progress(progress)],
        Event::Reply(_) | Event::Report => return true,
    };
    for message in messages {
        let sent = timeout(
            limits.stuck_write,
            socket.send(Frame::text(encode(&message))),
        );
        if !sent.await.is_ok_and(|sent| sent.is_ok()) {
            return false;
        }
    }
    true
}
