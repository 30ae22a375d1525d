//! Which of the link's ups and downs are worth a line in the log: one when it is lost, one when it
//! is back, and at most one a minute in between. Pure: times are those since the process began.

use std::time::Duration;

/// Remembers what has been said.
#[derive(Debug)]
pub(super) struct Journal {
    interval: Duration,
    /// `None` while there is a link.
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    since: Duration,
    /// `None` before the first failure of the process.
    said: Option<Duration>,
    failures: u64,
}

/// What to say, if anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The link was lost, or could not be had the first time.
    Lost,
    /// It still is.
    StillDown {
        /// Since then.
        failures: u64,
        /// For so long.
        down_for: Duration,
    },
    /// There is a link.
    Up {
        /// Before it.
        failures: u64,
        /// How long there was none.
        down_for: Duration,
    },
    /// Nothing at the level that operators read.
    Nothing,
}

impl Journal {
    /// There is no link yet.
    pub(super) fn new(interval: Duration, now: Duration) -> Self {
        Self {
            interval,
            down: Some(Down {
                since: now,
                said: None,
                failures: 0,
            }),
        }
    }

    /// A dial failed, or a link ended.
    pub(super) fn failed(&mut self, now: Duration) -> Line {
        let Some(down) = &mut self.down else {
            self.down = Some(Down {
                since: now,
                said: Some(now),
                failures: 1,
            });
            return Line::Lost;
        };
        down.failures = down.failures.saturating_add(1);
        let down_for = now.saturating_sub(down.since);
        match down.said {
            None => {
                down.said = Some(now);
                Line::Lost
            }
            Some(said) if now.saturating_sub(said) >= self.interval => {
                down.said = Some(now);
                Line::StillDown {
                    failures: down.failures,
                    down_for,
                }
            }
            Some(_) => Line::Nothing,
        }
    }

    /// `welcome` came.
    pub(super) fn up(&mut self, now: Duration) -> Line {
        match self.down.take() {
            None => Line::Nothing,
            Some(down) => Line::Up {
                failures: down.failures,
                down_for: now.saturating_sub(down.since),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_hours_is_at_most_one_line_a_minute() {
        let secs = Duration::from_secs;
        let mut journal = Journal::new(secs(60), secs(0));
        journal.up(secs(1));
        assert_eq!(journal.failed(secs(10)), Line::Lost);
        let lines = (11..10 + 7200).filter(|&second| journal.failed(secs(second)) != Line::Nothing);
        assert_eq!(lines.count(), 119);
        let back = Line::Up {
            failures: 7200,
            down_for: secs(7200),
        };
        assert_eq!(journal.up(secs(7210)), back);
        assert_eq!(journal.failed(secs(7211)), Line::Lost);
    }

    #[test]
    fn the_first_failure_of_the_process_is_said() {
        let mut journal = Journal::new(Duration::from_secs(60), Duration::ZERO);
        assert_eq!(journal.failed(Duration::from_secs(1)), Line::Lost);
        assert_eq!(journal.failed(Duration::from_secs(2)), Line::Nothing);
    }
}
