//! How a session ends, what the peer is told, and what it means for the next one.

use std::time::Duration;

use tokio_tungstenite::tungstenite::{
    self,
    error::CapacityError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{backoff::Cause, liveness::Failure, outbox::Overflow};
use crate::protocol::text::printable;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the agent is shutting down")]
    Shutdown,
    #[error("the rest of the agent is gone")]
    Orphaned,
    #[error("the server closed it with {code}{reason}")]
    Closed { code: u16, reason: String },
    #[error("the server hung up without a close")]
    HungUp,
    #[error("the connection broke")]
    Broke(#[source] tungstenite::Error),
    #[error("nothing was received for {0:?}")]
    Silent(Duration),
    #[error("the socket took nothing for {0:?}")]
    Stuck(Duration),
    #[error("a message was not complete {0:?} after it began")]
    Trickle(Duration),
    #[error("no welcome within {0:?}")]
    NoWelcome(Duration),
    #[error("a message was too big")]
    TooBig(#[source] tungstenite::Error),
    #[error("a message was not UTF-8")]
    NotUtf8,
    #[error("the server broke the rules of WebSocket")]
    Violation(#[source] tungstenite::Error),
    #[error("more than {0} frames within a minute could not be read")]
    Garbage(usize),
    #[error("the server reads too slowly")]
    Behind,
}

impl End {
    /// What the library's error on receiving means.
    pub(super) fn of_receive(error: tungstenite::Error) -> Self {
        use tungstenite::{Error as E, error::ProtocolError as P};
        match error {
            E::Capacity(CapacityError::MessageTooLong { .. }) => Self::TooBig(error),
            E::Utf8(_) => Self::NotUtf8,
            E::Protocol(P::ResetWithoutClosingHandshake) => Self::HungUp,
            E::Protocol(_) | E::Capacity(_) => Self::Violation(error),
            E::ConnectionClosed
            | E::AlreadyClosed
            | E::Io(_)
            | E::Tls(_)
            | E::WriteBufferFull(_)
            | E::AttackAttempt
            | E::Url(_)
            | E::Http(_)
            | E::HttpFormat(_) => Self::Broke(error),
        }
    }

    /// The server's close frame.
    pub(super) fn of_close(frame: Option<CloseFrame>) -> Self {
        // 1005 stands for a close without a code.
        let (code, reason) = match frame {
            Some(frame) => (frame.code.into(), printable(&frame.reason, 123)),
            None => (1005, String::new()),
        };
        let reason = match reason.as_str() {
            "" => reason,
            said => format!(": {said}"),
        };
        Self::Closed { code, reason }
    }

    /// What the peer is told; `None`: there is nobody to tell, or it has been told.
    pub(super) fn close_frame(&self) -> Option<CloseFrame> {
        let code = match self {
            Self::Shutdown => CloseCode::Away,
            Self::Orphaned => CloseCode::Error,
            Self::NotUtf8 => CloseCode::Invalid,
            Self::TooBig(_) => CloseCode::Size,
            Self::Garbage(_) | Self::Trickle(_) => CloseCode::Policy,
            Self::Violation(_) | Self::NoWelcome(_) => CloseCode::Protocol,
            Self::Behind => CloseCode::Again,
            Self::Closed { .. }
            | Self::HungUp
            | Self::Broke(_)
            | Self::Silent(_)
            | Self::Stuck(_) => return None,
        };
        // A control frame holds 125 bytes, two of them the code; each text above is shorter.
        let reason = printable(&self.to_string(), 120);
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }

    /// What it means for the next try.
    pub(super) fn cause(&self, welcomed: bool) -> Cause {
        match self {
            Self::Closed { code, .. } => Cause::of_close(*code, welcomed),
            Self::Shutdown
            | Self::Orphaned
            | Self::HungUp
            | Self::Broke(_)
            | Self::Silent(_)
            | Self::Stuck(_)
            | Self::Trickle(_)
            | Self::NoWelcome(_)
            | Self::TooBig(_)
            | Self::NotUtf8
            | Self::Violation(_)
            | Self::Garbage(_)
            | Self::Behind => Cause::of_drop(welcomed),
        }
    }
}

impl From<Overflow> for End {
    fn from(Overflow: Overflow) -> Self {
        Self::Behind
    }
}

impl End {
    /// With the limit that was passed.
    pub(super) fn of_failure(failure: Failure, limits: &super::Limits) -> Self {
        match failure {
            Failure::Silent => Self::Silent(limits.silence),
            Failure::Stuck => Self::Stuck(limits.stuck_write),
            Failure::Trickle => Self::Trickle(limits.message),
        }
    }
}
