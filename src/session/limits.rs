//! How long the session waits and how much it takes. The defaults are the protocol's numbers; tests
//! pass shorter ones. Pure.

use std::time::Duration;

use super::{backoff::Waits, outbox};

/// Every number of a session that PROTOCOL, "Limits", or this implementation fixes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the token, DNS, TCP, TLS and the upgrade together.
    pub dial: Duration,
    /// After so long without an answer from one address the next one is tried beside it.
    pub stagger: Duration,
    /// Between the upgrade and `welcome`.
    pub welcome: Duration,
    /// Between two pings.
    pub ping: Duration,
    /// Without anything received, while the agent itself reads, the link is dead.
    pub silence: Duration,
    /// Without a byte taken by the socket a write is stuck.
    pub stuck_write: Duration,
    /// A message has to be complete so long after its first byte, whatever trickles in meanwhile.
    pub message: Duration,
    /// To say goodbye, and for the peer to answer a close.
    pub close: Duration,
    /// Frames that cannot be decoded, within a minute.
    pub bad_frames: usize,
    /// Between two log lines while there is no link.
    pub log_interval: Duration,
    /// What may wait for the socket.
    pub outbox: outbox::Bounds,
    /// Between two tries.
    pub waits: Waits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(15),
            stagger: Duration::from_millis(250),
            welcome: Duration::from_secs(60),
            ping: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            stuck_write: Duration::from_secs(15),
            message: Duration::from_secs(60),
            close: Duration::from_secs(2),
            bad_frames: 100,
            log_interval: Duration::from_secs(60),
            outbox: outbox::Bounds::default(),
            waits: Waits::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_protocol() {
        let secs = Duration::from_secs;
        let limits = Limits::default();
        assert_eq!(limits.dial, secs(15));
        assert_eq!(limits.welcome, secs(60));
        assert_eq!(limits.ping, secs(10));
        assert_eq!(limits.silence, secs(30));
        assert_eq!(limits.stuck_write, secs(15));
        assert_eq!(limits.close, secs(2));
        assert_eq!(limits.bad_frames, 100);
        assert_eq!(limits.log_interval, secs(60));
        assert_eq!(limits.outbox.messages, 1024);
        assert_eq!(limits.outbox.bytes, 4 * 1024 * 1024);
        assert_eq!(limits.outbox.output_bytes, 256 * 1024);
        assert_eq!(limits.outbox.progress_interval, Duration::from_millis(250));
        assert_eq!(limits.waits.base, Duration::from_millis(500));
        assert_eq!(limits.waits.cap, secs(30));
        assert_eq!(limits.waits.first, secs(1));
        assert_eq!(limits.waits.refused, (secs(15), secs(30)));
        assert_eq!(limits.waits.retry_after, (secs(1), secs(600)));
        assert_eq!(limits.waits.spread, (secs(1), secs(60)));
    }
}
