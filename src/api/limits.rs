//! How much of everything a client gets.

use std::time::Duration;

/// The protocol's limits, and what this agent adds to them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// A request's head, in bytes.
    pub head_bytes: usize,
    /// A request's body, in bytes.
    pub body_bytes: usize,
    /// To send a head, and then a body.
    pub send: Duration,
    /// A write that nobody reads.
    pub stuck_write: Duration,
    /// For the effect of a command. It goes on after that.
    pub answer: Duration,
    /// Clients of `/ws` at once, so that they leave connections to others.
    pub watchers: usize,
    /// Events that wait for one client of `/ws`.
    pub events: usize,
    /// Pings go out this often.
    pub ping: Duration,
    /// A client of `/ws` that says nothing for so long is gone.
    pub silence: Duration,
    /// Tokens that were used and have not expired. Above it no new one is taken.
    pub remembered_tokens: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            head_bytes: 16 * 1024,
            body_bytes: 256 * 1024,
            send: Duration::from_secs(30),
            stuck_write: Duration::from_secs(15),
            answer: Duration::from_secs(3600),
            watchers: 32,
            events: 1024,
            ping: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            remembered_tokens: 100_000,
        }
    }
}
