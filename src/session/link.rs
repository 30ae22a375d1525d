//! The socket as the pump needs it: one place to wait for "something came" and "there is room", both
//! at once and cancellable, so that waiting to write never stops reading.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message as Frame, protocol::CloseFrame},
};

use super::{end::End, tap::Tap};

/// An open WebSocket.
#[derive(Debug)]
pub(super) struct Link<S> {
    socket: WebSocketStream<Tap<S>>,
    /// Something was handed over that the socket has not taken yet.
    writing: bool,
    /// A write has failed. A server that closes with a code hangs up right after it, so the code may
    /// still be unread; and it decides when to come back.
    broken: Option<tungstenite::Error>,
    /// Who goes first, when the peer has sent something and there is room too: in turns.
    write_first: bool,
}

/// What happened on the socket.
#[derive(Debug)]
pub(super) enum Io {
    /// A frame came.
    Received(Frame),
    /// All that was handed over is on its way: there is room for one more.
    Room,
    /// The link is over.
    Over(End),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    pub(super) fn new(socket: WebSocketStream<Tap<S>>) -> Self {
        Self {
            socket,
            writing: false,
            broken: None,
            write_first: false,
        }
    }

    /// Something was handed over that the socket has not taken yet.
    pub(super) fn writing(&self) -> bool {
        self.writing
    }

    /// The stream below, which counts.
    pub(super) fn tap(&self) -> &Tap<S> {
        self.socket.get_ref()
    }

    /// Waits for what happens next. `reading`: whether frames are wanted. `more`: whether the caller
    /// has something to write.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reading: bool, more: bool) -> Poll<Io> {
        if self.broken.is_some() {
            return self.poll_last_words(cx);
        }
        self.write_first = !self.write_first;
        let sides = [self.write_first, !self.write_first];
        for write in sides {
            let step = match write {
                true if self.writing || more => self.poll_write(cx),
                false if reading => self.poll_read(cx),
                true | false => Poll::Pending,
            };
            if step.is_ready() {
                return step;
            }
        }
        Poll::Pending
    }

    /// Hands over one frame. Only after [`Io::Room`] and before the next wait: then the buffer of
    /// the library is empty and takes it.
    pub(super) fn write(&mut self, frame: Frame) {
        self.writing = true;
        self.broken = self.socket.start_send_unpin(frame).err();
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Io> {
        if let Err(error) = ready!(self.socket.poll_flush_unpin(cx)) {
            self.broken = Some(error);
            return self.poll_last_words(cx);
        }
        self.writing = false;
        Poll::Ready(Io::Room)
    }

    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<Io> {
        while let Some(Ok(frame)) = ready!(self.socket.poll_next_unpin(cx)) {
            if let Frame::Close(frame) = frame {
                return Poll::Ready(Io::Over(End::of_close(frame)));
            }
        }
        let failed = self.broken.take();
        Poll::Ready(Io::Over(failed.map_or(End::HungUp, End::Broke)))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Io> {
        self.socket
            .poll_next_unpin(cx)
            .map(|received| match received {
                Some(Ok(Frame::Close(frame))) => Io::Over(End::of_close(frame)),
                Some(Ok(frame)) => {
                    // The library has queued the answer to a ping.
                    self.writing |= frame.is_ping();
                    Io::Received(frame)
                }
                Some(Err(error)) => Io::Over(End::of_receive(error)),
                None => Io::Over(End::HungUp),
            })
    }

    /// Waits until the socket has taken everything.
    pub(super) async fn flush(&mut self) -> Result<(), tungstenite::Error> {
        poll_fn(|cx| self.socket.poll_flush_unpin(cx)).await
    }

    /// Says why, lets the peer answer, and hangs up; within `limit`, whatever the peer does.
    pub(super) async fn close(mut self, frame: Option<CloseFrame>, limit: Duration) {
        // Too late is as good as done: the socket is dropped either way.
        let _ = timeout(limit, self.farewell(frame)).await;
    }

    async fn farewell(&mut self, frame: Option<CloseFrame>) -> Result<(), tungstenite::Error> {
        // What is half written comes first, else the peer could not read the close. After the
        // peer's own close this sends the answer to it.
        self.flush().await?;
        let Some(frame) = frame else {
            return Ok(());
        };
        self.socket.send(Frame::Close(Some(frame))).await?;
        while let Some(Ok(frame)) = self.socket.next().await {
            if frame.is_close() {
                return Ok(());
            }
        }
        // Hanging up with something unread makes the system send a reset, which can overtake the
        // close. What the library refuses to read is read here, until the peer hangs up.
        let mut rest = [0; 4096];
        while self.socket.get_mut().read(&mut rest).await? > 0 {}
        Ok(())
    }
}
