//! Why a dial failed, and what that means for the next one.

use std::{fmt, io, net::SocketAddr, time::Duration};

use tokio_tungstenite::tungstenite::{
    self,
    error::{ProtocolError, SubProtocolError},
    handshake::client::Response,
    http::{HeaderName, StatusCode, header},
};
use url::Url;

use super::proxy::ProxyError;
use crate::{
    clock,
    config::TokenError,
    protocol::{SUBPROTOCOL, text::printable},
    session::{
        backoff::{Cause, retry_after},
        tls::TrustError,
    },
};

/// The step that a dial had come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Stage {
    Token,
    Proxy,
    Dns,
    Tcp,
    Tls,
    Upgrade,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "reading the token",
            Self::Proxy => "reaching the server through the proxy",
            Self::Dns => "resolving the server's name",
            Self::Tcp => "connecting",
            Self::Tls => "the TLS handshake",
            Self::Upgrade => "the WebSocket upgrade",
        })
    }
}

/// Why there is no link. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No scheme, host or port that could be dialled.
    #[error("{0} is no URL of a server")]
    Url(Url),
    /// There is none that could be sent.
    #[error("there is no token to send")]
    Token(#[source] TokenError),
    /// The resolver's answer.
    #[error("the name {host} cannot be resolved")]
    Dns {
        /// Which name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The resolver knows the name and no address.
    #[error("the name {host} has no address")]
    NoAddress {
        /// Which name.
        host: String,
    },
    /// The last of the server's addresses that was tried.
    #[error("{address} takes no connection")]
    Tcp {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// HTTPS_PROXY or HTTP_PROXY names one, and it is no way to the server.
    #[error("the proxy {proxy} is of no use")]
    Proxy {
        /// Its host and port.
        proxy: String,
        /// Why.
        source: ProxyError,
    },
    /// A fresh socket that takes no option.
    #[error("the connection broke at once")]
    Socket(#[source] io::Error),
    /// Whom to trust is not known.
    #[error("no certificate can be verified")]
    Trust(#[source] TrustError),
    /// The peer speaks no TLS, or cannot prove who it is.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The server answered the upgrade with an error.
    #[error("the server answered {status}{}", advice(status))]
    Status {
        /// Of HTTP.
        status: StatusCode,
        /// As the server said, not clamped.
        retry_after: Option<Duration>,
    },
    /// Refused: the token goes to nobody else than to whom the operator named.
    #[error("the server answered {status}, a redirect to {location}; redirects are refused")]
    Redirect {
        /// Of HTTP.
        status: StatusCode,
        /// Whereto.
        location: String,
    },
    /// Something else answers there: a captive portal, a proxy, another service.
    #[error("whoever answered is no WebSocket server: {0}")]
    NotWebSocket(String),
    /// The server does not speak this protocol.
    #[error("the server did not select the subprotocol {SUBPROTOCOL}")]
    Subprotocol,
    /// The connection ended during the upgrade.
    #[error("the connection broke during the upgrade")]
    Upgrade(#[source] tungstenite::Error),
    /// All of it took too long.
    #[error("no link within {limit:?}; it was still {stage}")]
    Timeout {
        /// How far it had come.
        stage: Stage,
        /// Of the whole dial.
        limit: Duration,
    },
    /// The system has no thread to read files on.
    #[error("no thread to read the token or the certificates on")]
    Thread(#[source] io::Error),
    /// The file system does not answer.
    #[error("the token or the certificates could not be read within {0:?}")]
    Silent(Duration),
    /// Reading files broke off.
    #[error("the dial was aborted")]
    Aborted,
}

impl DialError {
    /// What it means for the next try.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Status {
                status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN,
                ..
            } => Cause::Refused,
            Self::Status {
                retry_after: Some(told),
                ..
            } => Cause::RetryAfter(*told),
            Self::Status { .. }
            | Self::Url(_)
            | Self::Token(_)
            | Self::Dns { .. }
            | Self::NoAddress { .. }
            | Self::Tcp { .. }
            | Self::Proxy { .. }
            | Self::Socket(_)
            | Self::Trust(_)
            | Self::Tls(_)
            | Self::Redirect { .. }
            | Self::NotWebSocket(_)
            | Self::Subprotocol
            | Self::Upgrade(_)
            | Self::Timeout { .. }
            | Self::Thread(_)
            | Self::Silent(_)
            | Self::Aborted => Cause::Failed,
        }
    }
}

fn advice(status: &StatusCode) -> &'static str {
    match *status {
        StatusCode::UNAUTHORIZED => ": it does not take the token",
        StatusCode::FORBIDDEN => ": the token is not for this agent id",
        StatusCode::NOT_FOUND => ": server.url may have a wrong path",
        _ => "",
    }
}

/// What the library says of an upgrade.
pub(super) fn of_upgrade(error: tungstenite::Error) -> DialError {
    use tungstenite::Error as E;
    match error {
        E::Http(response) => of_response(&response),
        E::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol
            | SubProtocolError::InvalidSubProtocol
            | SubProtocolError::ServerSentSubProtocolNoneRequested,
        )) => DialError::Subprotocol,
        E::Protocol(ProtocolError::HandshakeIncomplete) | E::Io(_) => DialError::Upgrade(error),
        E::Protocol(_)
        | E::Capacity(_)
        | E::Utf8(_)
        | E::AttackAttempt
        | E::HttpFormat(_)
        | E::Url(_)
        | E::Tls(_)
        | E::ConnectionClosed
        | E::AlreadyClosed
        | E::WriteBufferFull(_) => DialError::NotWebSocket(printable(&error.to_string(), 200)),
    }
}

fn of_response(response: &Response) -> DialError {
    let status = response.status();
    let text = |name: HeaderName| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    if status.is_redirection() {
        let location = text(header::LOCATION).unwrap_or("nowhere");
        return DialError::Redirect {
            status,
            location: printable(location, 200),
        };
    }
    if status.is_success() || status.is_informational() {
        let kind = printable(text(header::CONTENT_TYPE).unwrap_or("something"), 80);
        return DialError::NotWebSocket(format!("it answered {status} with {kind}"));
    }
    let retry_after = text(header::RETRY_AFTER)
        .and_then(|value| retry_after(value, text(header::DATE), clock::now().wall));
    DialError::Status {
        status,
        retry_after,
    }
}
