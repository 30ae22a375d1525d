//! The wire, version 1: the types that are written and read, and nothing else. Every JSON Schema
//! under `schemas/` comes from here. Pure.

pub mod command;
pub mod error;
pub mod limits;
pub mod message;
pub mod record;
pub mod signed;
pub mod spec;
pub mod text;

pub use command::{Command, Incoming, Op, decode};
pub use error::{Error, ErrorCode, Retry, Stage};
pub use message::{Message, Outcome, Reply};
pub use record::{EndReason, Instance, Phase};

/// The subprotocol that both sides have to name.
pub const SUBPROTOCOL: &str = "rental-agent.v1";

/// No message in either direction is longer, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Writes one message as the text of its frame.
pub fn encode(message: &Message) -> String {
    // The types have no map with keys that are not strings, which is all that can fail here.
    serde_json::to_string(message).unwrap_or_default()
}
