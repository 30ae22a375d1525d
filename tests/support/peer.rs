//! A central server that does what a test says, over real sockets: WebSocket by tokio-tungstenite
//! where it behaves, bare bytes where it does not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    missing_docs,
    reason = "test support: a peer that cannot do its part fails the test"
)]

use std::{future::Future, net::Ipv4Addr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message as Frame,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderMap, HeaderValue},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// No step of a test takes longer, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `what`, but not for ever.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what)
        .await
        .expect("nothing happened within the test's patience")
}

/// Listens on loopback.
pub struct Peer {
    listener: TcpListener,
}

/// What an agent asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or("")
    }
}

impl Peer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self { listener }
    }

    /// One that takes as little as possible into its system's buffers.
    pub fn with_small_buffers() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        Self { listener }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// `scheme://host:port/path` of this listener.
    pub fn url(&self, scheme: &str, path: &str) -> url::Url {
        let url = format!("{scheme}://127.0.0.1:{}{path}", self.port());
        url.parse().unwrap()
    }

    /// The next connection, and nothing more.
    pub async fn tcp(&self) -> TcpStream {
        let stream = soon(self.listener.accept()).await.unwrap().0;
        // As servers of WebSockets do: a small frame does not wait for the answer to the one before.
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Whether somebody dials within `limit`.
    pub async fn dialled_within(&self, limit: Duration) -> bool {
        timeout(limit, self.listener.accept()).await.is_ok()
    }

    /// The next connection, upgraded as the protocol says.
    pub async fn accept(&self) -> Connection<TcpStream> {
        Connection::upgrade(self.tcp().await, Some("rental-agent.v1")).await
    }

    /// The next connection, upgraded, greeted and welcomed.
    pub async fn session(&self) -> Connection<TcpStream> {
        let mut connection = self.accept().await;
        connection.expect("hello").await;
        connection.send(welcome()).await;
        connection
    }

    /// The next connection, answered with `answer` after its request.
    pub async fn answer(&self, answer: &str) -> (String, TcpStream) {
        let mut stream = self.tcp().await;
        let request = read_request(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        (request, stream)
    }
}

/// Reads the head of an HTTP request.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The plainest one.
pub fn welcome() -> Value {
    json!({
        "type": "welcome",
        "session_id": "s-1",
        "server_time": "2026-11-21T12:00:00.000Z",
    })
}

/// An upgraded connection.
pub struct Connection<S> {
    pub socket: WebSocketStream<S>,
    pub asked: Asked,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Upgrades `stream`, selecting `subprotocol`.
    pub async fn upgrade(stream: S, subprotocol: Option<&str>) -> Self {
        let mut asked = None;
        #[allow(clippy::result_large_err, reason = "the library's type")]
        let select = |request: &Request, mut response: Response| {
            asked = Some(Asked {
                path: request.uri().to_string(),
                headers: request.headers().clone(),
            });
            if let Some(subprotocol) = subprotocol {
                let value = HeaderValue::from_str(subprotocol).unwrap();
                response
                    .headers_mut()
                    .insert("Sec-WebSocket-Protocol", value);
            }
            Ok::<Response, ErrorResponse>(response)
        };
        let socket = soon(accept_hdr_async(stream, select)).await.unwrap();
        let asked = asked.unwrap();
        Self { socket, asked }
    }

    /// The next frame, pings and pongs included; `None` when the agent has hung up.
    pub async fn frame(&mut self) -> Option<Frame> {
        soon(self.socket.next()).await.and_then(Result::ok)
    }

    /// The next message.
    pub async fn message(&mut self) -> Value {
        loop {
            match self.frame().await.expect("the agent has hung up") {
                Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("not a message: {other:?}"),
            }
        }
    }

    /// The next message, which has to be of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let message = self.message().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// The next message of this type; others are passed over.
    pub async fn find(&mut self, kind: &str) -> Value {
        loop {
            let message = self.message().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    pub async fn send(&mut self, message: Value) {
        self.text(&message.to_string()).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.write(Frame::text(text)).await;
    }

    pub async fn write(&mut self, frame: Frame) {
        soon(self.socket.send(frame)).await.unwrap();
    }

    /// Bytes below WebSocket.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        soon(self.socket.get_mut().write_all(bytes)).await.unwrap();
    }

    /// Closes with a code and hangs up.
    pub async fn close(mut self, code: u16) {
        let reason = "as the test says".into();
        let code = CloseCode::from(code);
        let frame = Frame::Close(Some(CloseFrame { code, reason }));
        self.write(frame).await;
    }

    /// Reads until the agent closes; the code that it gave, or `None` when it just hung up.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match self.frame().await? {
                Frame::Close(frame) => return frame.map(|frame| frame.code.into()),
                Frame::Text(_)
                | Frame::Binary(_)
                | Frame::Ping(_)
                | Frame::Pong(_)
                | Frame::Frame(_) => {}
            }
        }
    }
}
