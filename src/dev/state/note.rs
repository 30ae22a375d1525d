//! What the server tells people: one line for each thing that it noticed or decided.

use std::fmt;

use super::SessionNo;
use crate::{
    ids::{CommandId, Epoch, InstanceId},
    protocol::message::GoodbyeReason,
};

/// Something that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts are the documentation")]
pub enum Note {
    Connected {
        session: SessionNo,
        epoch: Epoch,
        restarted: bool,
    },
    Synced {
        session: SessionNo,
        instances: usize,
    },
    Disconnected {
        session: SessionNo,
    },
    Goodbye {
        reason: GoodbyeReason,
    },
    Superseded {
        session: SessionNo,
    },
    ClonedMachine {
        session: SessionNo,
    },
    OldSession {
        session: SessionNo,
    },
    SecondHello {
        session: SessionNo,
    },
    Unreachable,
    Reachable,
    StaleRecord {
        id: InstanceId,
    },
    Unadopted {
        id: InstanceId,
    },
    Lost {
        id: InstanceId,
    },
    TerminatedAgain {
        id: InstanceId,
    },
    ExtendedAgain {
        id: InstanceId,
    },
    DrainSent {
        draining: bool,
    },
    Settled {
        id: CommandId,
        why: &'static str,
    },
    UnknownCommand {
        id: CommandId,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected {
                session,
                epoch,
                restarted,
            } => {
                let again = if *restarted { ", restarted" } else { "" };
                write!(f, "connected: session {}, epoch {epoch}{again}", session.0)
            }
            Self::Synced { session, instances } => {
                write!(
                    f,
                    "session {} has sent its state: {instances} instances",
                    session.0
                )
            }
            Self::Disconnected { session } => write!(f, "session {} is over", session.0),
            Self::Goodbye { reason } => write!(f, "says goodbye: {reason:?}"),
            Self::Superseded { session } => {
                write!(f, "session {} is superseded by a newer one", session.0)
            }
            Self::ClonedMachine { session } => write!(
                f,
                "session {} refused: another machine with this agent id is connected",
                session.0
            ),
            Self::OldSession { session } => {
                write!(
                    f,
                    "a frame of session {} dropped: not the newest",
                    session.0
                )
            }
            Self::SecondHello { session } => {
                write!(f, "a second hello in session {} ignored", session.0)
            }
            Self::Unreachable => f.write_str("unreachable: three heartbeats missed"),
            Self::Reachable => f.write_str("reachable again"),
            Self::StaleRecord { id } => write!(f, "an older record of {id} ignored"),
            Self::Unadopted { id } => write!(
                f,
                "{id} is not known here: unadopted until it is adopted or terminated"
            ),
            Self::Lost { id } => write!(f, "{id} is gone without a record of its end: lost"),
            Self::TerminatedAgain { id } => {
                write!(f, "{id} has ended and shows up again: terminated again")
            }
            Self::ExtendedAgain { id } => {
                write!(f, "{id} does not show its extended lease: extended again")
            }
            Self::DrainSent { draining: true } => f.write_str("not draining as wanted: drain sent"),
            Self::DrainSent { draining: false } => f.write_str("draining unasked: resume sent"),
            Self::Settled { id, why } => write!(f, "command {id} settled here: {why}"),
            Self::UnknownCommand { id } => write!(f, "a reply to the unknown command {id}"),
        }
    }
}
