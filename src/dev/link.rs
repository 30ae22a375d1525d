//! One agent's socket: frames in, frames out, each with its limits. It decides nothing.

use std::{sync::Arc, time::Duration};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    shared::Shared,
    state::{Frame, Input, SessionNo},
};
use crate::ids::AgentId;

/// Frames that wait for one agent's socket. A thousand commands may be on their way, each followed by
/// acks; an agent that leaves more than this unread has to come back and is given the rest then.
const QUEUE: usize = 4_096;
/// An agent pings every 10 s; after so long a silence the link is dead.
const SILENCE: Duration = Duration::from_secs(30);
/// A write that takes longer has nobody reading at the other end.
const STUCK_WRITE: Duration = Duration::from_secs(15);
/// From the open socket to `hello`.
const HELLO: Duration = Duration::from_secs(15);
/// How long a closed link waits for the other side's close frame.
const CLOSING: Duration = Duration::from_secs(2);
/// Frames in a minute that are no messages, before the link is closed.
const MAX_UNREADABLE: u32 = 100;

type Socket = WebSocketStream<TcpStream>;

/// What goes to a socket.
#[derive(Debug)]
pub(super) enum Outgoing {
    Text(String),
    Close(u16, &'static str),
}

/// The server's end of a socket's queue.
#[derive(Debug, Clone)]
pub(super) struct Link {
    queue: mpsc::Sender<Outgoing>,
    cut: CancellationToken,
}

impl Link {
    /// Queues a frame; over the bound the link is cut, and the agent comes back for what it missed.
    pub(super) fn send(&self, outgoing: Outgoing) {
        if self.queue.try_send(outgoing).is_err() {
            self.cut();
        }
    }

    /// Drops the connection without a word, as a broken network does.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }
}

/// Serves one agent's socket until it ends.
pub(super) async fn serve(shared: Arc<Shared>, socket: Socket, agent: AgentId) {
    let (queue, queued) = mpsc::channel(QUEUE);
    let cut = CancellationToken::new();
    let link = Link {
        queue,
        cut: cut.clone(),
    };
    let open = Open {
        session: shared.open(agent, link),
        shared: &shared,
    };
    let (sink, stream) = socket.split();
    tokio::select! {
        biased; // A cut link is cut at once, whatever else is ready.
        () = cut.cancelled() => {}
        () = converse(&shared, open.session, stream, sink, queued) => {}
    }
}

/// An open socket. It is closed also when its task is aborted, which is how a server ends.
struct Open<'a> {
    shared: &'a Shared,
    session: SessionNo,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.close(self.session);
    }
}

async fn converse(
    shared: &Shared,
    session: SessionNo,
    stream: SplitStream<Socket>,
    sink: SplitSink<Socket, tungstenite::Message>,
    queued: mpsc::Receiver<Outgoing>,
) {
    let mut reading = std::pin::pin!(read(shared, session, stream));
    let closed = tokio::select! {
        biased; // What has been read is handled before more is said.
        why = &mut reading => {
            tracing::debug!(session = session.0, why, "agent's socket ended");
            return;
        }
        closed = write(sink, queued) => closed,
    };
    if closed {
        // The other side answers a close frame with its own; nothing is owed to one that does not.
        let _ = timeout(CLOSING, reading).await;
    }
}

/// Reads until the socket ends, or what comes is not to be borne; says why.
async fn read(
    shared: &Shared,
    session: SessionNo,
    mut stream: SplitStream<Socket>,
) -> &'static str {
    let mut unreadable = Unreadable::default();
    let mut greeted = false;
    let mut deadline = Instant::now() + HELLO;
    loop {
        let message = match timeout_at(deadline, stream.next()).await {
            Err(_) => return "silence",
            Ok(None) => return "connection lost",
            Ok(Some(Err(error))) => {
                let Some((code, reason)) = fault(&error) else {
                    return "connection lost";
                };
                shared.hang_up(session, code, reason);
                // The close frame ends the link; nothing behind this frame can be read.
                return std::future::pending().await;
            }
            Ok(Some(Ok(message))) => message,
        };
        if greeted {
            deadline = Instant::now() + SILENCE;
        }
        let text = match message {
            tungstenite::Message::Text(text) => text,
            tungstenite::Message::Close(_) => return "closed by the agent",
            tungstenite::Message::Ping(_)
            | tungstenite::Message::Pong(_)
            | tungstenite::Message::Frame(_) => continue,
            tungstenite::Message::Binary(_) => {
                unreadable.count(shared, session);
                continue;
            }
        };
        if !std::mem::replace(&mut greeted, true) {
            deadline = Instant::now() + SILENCE;
        }
        match Frame::decode(&text) {
            Some(frame) => {
                shared.log(session, &frame);
                let frame = Box::new(frame);
                shared.feed(Input::Frame { session, frame });
            }
            None => unreadable.count(shared, session),
        }
    }
}

/// The close frame for what the other side did wrong; `None` when the connection itself is gone.
fn fault(error: &tungstenite::Error) -> Option<(u16, &'static str)> {
    use tungstenite::{Error, error::ProtocolError};
    let reset = ProtocolError::ResetWithoutClosingHandshake;
    if matches!(error, Error::Capacity(_)) {
        Some((1009, "a message above 1 MiB"))
    } else if matches!(error, Error::Utf8(_)) {
        Some((1007, "text that is not UTF-8"))
    } else if matches!(error, Error::Protocol(fault) if *fault != reset) {
        Some((1002, "not by the WebSocket protocol"))
    } else {
        None
    }
}

/// Writes what is queued; `true` once a close frame has been written.
async fn write(
    mut sink: SplitSink<Socket, tungstenite::Message>,
    mut queued: mpsc::Receiver<Outgoing>,
) -> bool {
    while let Some(outgoing) = queued.recv().await {
        let (message, last) = match outgoing {
            Outgoing::Text(text) => (tungstenite::Message::text(text), false),
            Outgoing::Close(code, reason) => {
                let frame = CloseFrame {
                    code: CloseCode::from(code),
                    reason: reason.into(),
                };
                (tungstenite::Message::Close(Some(frame)), true)
            }
        };
        match timeout(STUCK_WRITE, sink.send(message)).await {
            Ok(Ok(())) if last => return true,
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    false
}

/// Counts frames that are no messages, minute by minute.
#[derive(Default)]
struct Unreadable {
    since: Duration,
    count: u32,
}

impl Unreadable {
    fn count(&mut self, shared: &Shared, session: SessionNo) {
        let now = crate::clock::now().boot;
        if now.saturating_sub(self.since) > Duration::from_secs(60) {
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        tracing::warn!(session = session.0, "a frame that is no message ignored");
        if self.count > MAX_UNREADABLE {
            shared.hang_up(session, 1008, "too many unreadable frames");
        }
    }
}
