//! The other end of the operators' endpoint: one request, and the events that answer it.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message},
};

use super::operator::{Event, PULSE, Request};

/// The server is on this machine.
const CONNECT: Duration = Duration::from_secs(5);
/// The server says something every [`PULSE`].
const SILENCE: Duration = Duration::from_secs(3 * PULSE.as_secs());

/// A request on its way.
#[derive(Debug)]
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages are the documentation")]
pub enum ClientError {
    #[error("no reference server answers at {server}; start one with `rental-agent dev`")]
    Unreachable {
        server: String,
        #[source]
        source: Option<Box<tungstenite::Error>>,
    },
    #[error("the connection to the reference server was lost")]
    Lost(#[source] Option<Box<tungstenite::Error>>),
    #[error("the reference server's answer cannot be read")]
    Unreadable(#[from] serde_json::Error),
}

impl Client {
    /// Asks the server at `server` (`ws://host:port`).
    pub async fn ask(server: &str, request: &Request) -> Result<Self, ClientError> {
        let unreachable = |source| ClientError::Unreachable {
            server: server.to_owned(),
            source,
        };
        let url = format!("{}/operator", server.trim_end_matches('/'));
        let connected = timeout(CONNECT, connect_async(url)).await;
        let (mut socket, _) = connected
            .map_err(|_| unreachable(None))?
            .map_err(|error| unreachable(Some(Box::new(error))))?;
        let text = serde_json::to_string(request)?;
        let sent = timeout(CONNECT, socket.send(Message::text(text))).await;
        match sent {
            Ok(Ok(())) => Ok(Self { socket }),
            Ok(Err(error)) => Err(ClientError::Lost(Some(Box::new(error)))),
            Err(_) => Err(ClientError::Lost(None)),
        }
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let heard = timeout(SILENCE, self.socket.next()).await;
            match heard.map_err(|_| ClientError::Lost(None))? {
                Some(Ok(Message::Text(text))) => return Ok(Some(serde_json::from_str(&text)?)),
                Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(
                    Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_),
                )) => {}
                Some(Err(error)) => return Err(ClientError::Lost(Some(Box::new(error)))),
                None => return Err(ClientError::Lost(None)),
            }
        }
    }
}
