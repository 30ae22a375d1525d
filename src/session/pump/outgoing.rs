//! What goes to the server, frame by frame.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::{
    End, Pump,
    open::{heartbeat, put},
};
use crate::{
    ids::Generation,
    protocol::{
        self, MAX_MESSAGE_BYTES, Message, Reply,
        message::{Goodbye, GoodbyeReason},
    },
};

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<'_, S> {
    /// What the snapshot says that the server does not know yet.
    pub(super) fn tell_news(&mut self) {
        let snapshot = Arc::clone(&self.around.feeds.snapshot.borrow_and_update());
        let news = self.told.news(Arc::clone(&snapshot));
        if let Some(inventory) = news.inventory {
            self.outbox.inventory(inventory);
        }
        if news.status {
            self.outbox.heartbeat(heartbeat(&snapshot));
        }
    }

    /// There is room for one frame.
    pub(super) fn write(&mut self) {
        let now = self.now();
        if now >= self.next_ping {
            self.next_ping = now + self.around.limits.ping;
            self.link.write(Frame::Ping(Default::default()));
        } else if let Some(message) = self.outbox.next(now) {
            self.write_message(&message);
        }
    }

    fn write_message(&mut self, message: &Message) {
        let Some(text) = text(message) else {
            return;
        };
        self.sent = self.sent.max(generation(message));
        self.link.write(Frame::text(text));
    }

    /// What is there to be said, and that it was the last.
    pub(super) async fn goodbye(&mut self) -> Result<(), End> {
        let now = self.now();
        while let Some(Ok(event)) = self.open.as_mut().map(|open| open.events.try_recv()) {
            if put(event, &mut self.outbox, &self.around.feeds, now).is_err() {
                break;
            }
        }
        let reason = GoodbyeReason::Shutdown;
        let goodbye = Message::Goodbye(Goodbye { reason });
        while self.outbox.waits_in_order() {
            self.link.flush().await.map_err(End::Broke)?;
            self.write();
        }
        self.link.flush().await.map_err(End::Broke)?;
        self.write_message(&goodbye);
        Ok(())
    }
}

/// The message as it is sent. The server would close the link for one that is too big, again and
/// again; so a reply goes without its result, since a command has to end, and anything else not.
fn text(message: &Message) -> Option<String> {
    let text = protocol::encode(message);
    if text.len() <= MAX_MESSAGE_BYTES {
        return Some(text);
    }
    tracing::error!(bytes = text.len(), "a message is too big to be sent");
    let Message::Reply(reply) = message else {
        return None;
    };
    let mut reply = Reply {
        result: None,
        ..reply.clone()
    };
    if let Some(error) = &mut reply.error {
        error.detail = None;
    }
    Some(protocol::encode(&Message::Reply(reply)))
}

/// Up to where the server knows the state once it has read this.
fn generation(message: &Message) -> Option<Generation> {
    if let Message::Instance(record) = message {
        Some(record.generation)
    } else if let Message::Synced(synced) = message {
        Some(synced.generation)
    } else {
        None
    }
}
