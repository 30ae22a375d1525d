//! Whether the link is alive: three verdicts over counters that somebody else reads. Times are those
//! since the session began. Pure.

use std::time::Duration;

use super::limits::Limits;

/// What is known of the link at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// The agent was reading since the last look. While it is not, because the driver is behind,
    /// silence is its own doing and says nothing about the peer.
    pub reading: bool,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// A message has begun and is not complete.
    pub message_open: bool,
    /// Messages completed so far.
    pub messages: u64,
    /// Something waits to be taken by the socket.
    pub writing: bool,
    /// Bytes taken by the socket so far.
    pub sent_bytes: u64,
}

/// Why the link is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing at all came.
    Silent,
    /// The socket takes nothing.
    Stuck,
    /// A message does not become complete.
    Trickle,
}

/// Remembers since when.
#[derive(Debug)]
pub(super) struct Liveness {
    silence: Duration,
    stuck_write: Duration,
    message: Duration,
    /// A running agent looks at least this often.
    longest_gap: Duration,
    looked: Duration,
    signs: Signs,
    /// How long the agent has been running, in all.
    awake: Duration,
    /// On that clock: when the socket last took something while more waited.
    blocked: Option<Duration>,
    /// How long the agent has been reading, in all.
    read_for: Duration,
    /// On that clock: when something came last, and since when a message is open.
    heard: Duration,
    opened: Option<Duration>,
}

impl Liveness {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            silence: limits.silence,
            stuck_write: limits.stuck_write,
            message: limits.message,
            longest_gap: limits.ping + limits.ping / 4,
            looked: Duration::ZERO,
            signs: Signs::default(),
            awake: Duration::ZERO,
            blocked: None,
            read_for: Duration::ZERO,
            heard: Duration::ZERO,
            opened: None,
        }
    }

    /// Looks at the link. The first failure is final: the caller ends the link.
    pub(super) fn look(&mut self, now: Duration, signs: Signs) -> Result<(), Failure> {
        // The pings alone make it look more often than this; a longer gap is a process that was
        // stopped, which says nothing about the peer either.
        let passed = now.saturating_sub(self.looked).min(self.longest_gap);
        self.awake += passed;
        if signs.reading {
            self.read_for += passed;
        }
        if signs.received_bytes != self.signs.received_bytes {
            self.heard = self.read_for;
        }
        let another = signs.messages != self.signs.messages;
        self.opened = match self.opened {
            _ if !signs.message_open => None,
            Some(since) if !another => Some(since),
            Some(_) | None => Some(self.read_for),
        };
        self.blocked = match self.blocked {
            _ if !signs.writing => None,
            Some(since) if signs.sent_bytes == self.signs.sent_bytes => Some(since),
            Some(_) | None => Some(self.awake),
        };
        self.looked = now;
        self.signs = signs;
        self.verdict()
    }

    /// When to look again at the latest, if nothing happens before.
    pub(super) fn next_look(&self) -> Duration {
        let reading = |since, limit: Duration| limit.saturating_sub(self.read_for - since);
        let silence = reading(self.heard, self.silence);
        let message = self.opened.map(|since| reading(since, self.message));
        let write = self
            .blocked
            .map(|since| self.stuck_write.saturating_sub(self.awake - since));
        let left = [message, write].into_iter().flatten();
        self.looked + left.fold(silence, Duration::min)
    }

    fn verdict(&self) -> Result<(), Failure> {
        let blocked = self
            .blocked
            .is_some_and(|since| self.awake >= since + self.stuck_write);
        let open = self
            .opened
            .is_some_and(|since| self.read_for >= since + self.message);
        if blocked {
            Err(Failure::Stuck)
        } else if self.read_for >= self.heard + self.silence {
            Err(Failure::Silent)
        } else if open {
            Err(Failure::Trickle)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: Signs = Signs {
        reading: true,
        received_bytes: 0,
        message_open: false,
        messages: 0,
        writing: false,
        sent_bytes: 0,
    };

    #[test]
    fn a_process_that_was_stopped_does_not_blame_the_peer() {
        let steps = [0, 10, 610, 611].map(|second| (second, READING));
        assert_eq!(run(steps), Ok(()));
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks at the end of each of `steps`, from one second after the other.
    fn run(steps: impl IntoIterator<Item = (u64, Signs)>) -> Result<(), (u64, Failure)> {
        let mut liveness = Liveness::new(&Limits::default());
        for (second, signs) in steps {
            let looked = liveness.look(secs(second), signs);
            looked.map_err(|failure| (second, failure))?;
        }
        Ok(())
    }

    #[test]
    fn silence_ends_the_link_after_thirty_seconds() {
        let silent = run((0..100).map(|second| (second, READING)));
        assert_eq!(silent, Err((30, Failure::Silent)));
        let heard = |second| Signs {
            received_bytes: second / 29,
            ..READING
        };
        assert_eq!(run((0..1000).map(|second| (second, heard(second)))), Ok(()));
    }

    #[test]
    fn what_the_agent_does_not_read_is_no_silence() {
        let deaf = Signs {
            reading: false,
            ..READING
        };
        let steps = (0..20).map(|second| (second, READING));
        let steps = steps.chain((20..500).map(|second| (second, deaf)));
        let steps = steps.chain((500..600).map(|second| (second, READING)));
        // 19 s of silence before, 11 s after.
        assert_eq!(run(steps), Err((510, Failure::Silent)));
    }

    #[test]
    fn a_write_is_stuck_only_when_nothing_is_taken() {
        let writing = |second, sent_bytes| {
            let signs = Signs {
                received_bytes: second,
                writing: true,
                sent_bytes,
                ..READING
            };
            (second, signs)
        };
        assert_eq!(
            run((0..100).map(|s| writing(s, 5))),
            Err((15, Failure::Stuck))
        );
        assert_eq!(run((0..100).map(|s| writing(s, s / 14))), Ok(()));
    }

    #[test]
    fn an_idle_writer_is_not_stuck() {
        let signs = |second| Signs {
            received_bytes: second,
            writing: second % 15 == 0,
            ..READING
        };
        assert_eq!(run((0..200).map(|second| (second, signs(second)))), Ok(()));
    }

    #[test]
    fn a_message_that_trickles_is_given_up_and_many_messages_are_not() {
        let open = |second, messages| {
            let signs = Signs {
                received_bytes: second,
                message_open: true,
                messages,
                ..READING
            };
            (second, signs)
        };
        assert_eq!(
            run((1..100).map(|s| open(s, 0))),
            Err((61, Failure::Trickle))
        );
        assert_eq!(run((1..500).map(|s| open(s, s / 50))), Ok(()));
    }

    #[test]
    fn it_wants_to_look_again_exactly_when_something_is_due() {
        let mut liveness = Liveness::new(&Limits::default());
        liveness.look(secs(3), READING).unwrap();
        assert_eq!(liveness.next_look(), secs(30));
        let busy = Signs {
            received_bytes: 1,
            message_open: true,
            writing: true,
            ..READING
        };
        liveness.look(secs(5), busy).unwrap();
        assert_eq!(liveness.next_look(), secs(20));
        liveness.look(secs(12), busy).unwrap();
        assert_eq!(liveness.next_look(), secs(20));
        assert_eq!(liveness.look(secs(20), busy), Err(Failure::Stuck));
    }
}
