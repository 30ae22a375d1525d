//! How long to wait before the next try: one decision per cause, full jitter, never a hot loop and
//! never for ever. Randomness and time come from the caller. Pure.

use std::time::Duration;

use crate::clock::Timestamp;

/// Why a new try is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There was no session: the dial failed, or the link ended before `welcome`.
    Failed,
    /// A session ended.
    Dropped,
    /// The server is restarting or has too much to do: close 1012, 1013 or 4429.
    Restarting,
    /// The server does not want this agent as it is: 401, 403, close 1008, 4401, 4409 or 4426.
    Refused,
    /// The server said how long.
    RetryAfter(Duration),
}

impl Cause {
    /// What a close code of the server says. `welcomed`: whether there was a session to drop.
    pub fn of_close(code: u16, welcomed: bool) -> Self {
        match code {
            1012 | 1013 | 4429 => Self::Restarting,
            1008 | 4401 | 4409 | 4426 => Self::Refused,
            _ => Self::of_drop(welcomed),
        }
    }

    /// What an end without a close code says.
    pub fn of_drop(welcomed: bool) -> Self {
        if welcomed {
            Self::Dropped
        } else {
            Self::Failed
        }
    }
}

/// The numbers of the decision.
#[derive(Debug, Clone)]
pub struct Waits {
    /// The first failure waits up to so long, each further one up to twice as long.
    pub base: Duration,
    /// No failure waits longer.
    pub cap: Duration,
    /// A dropped session is tried again within so long.
    pub first: Duration,
    /// No wait is shorter, so that the luckiest draws make no hot loop either.
    pub floor: Duration,
    /// From and to, after [`Cause::Refused`].
    pub refused: (Duration, Duration),
    /// To these `Retry-After` is clamped.
    pub retry_after: (Duration, Duration),
    /// To these the server's `reconnect_spread_s` is clamped.
    pub spread: (Duration, Duration),
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            first: Duration::from_secs(1),
            floor: Duration::from_millis(20),
            refused: (Duration::from_secs(15), Duration::from_secs(30)),
            retry_after: (Duration::from_secs(1), Duration::from_secs(600)),
            spread: (Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// What is remembered between tries.
#[derive(Debug, Clone)]
pub struct Backoff {
    waits: Waits,
    /// Tries since the last `welcome`.
    tries: u32,
    spread: Duration,
}

impl Backoff {
    /// Before the first try.
    pub fn new(waits: Waits) -> Self {
        let spread = waits.spread.0;
        Self {
            waits,
            tries: 0,
            spread,
        }
    }

    /// `welcome` came, and what it said of `reconnect_spread_s`. Nothing else resets.
    pub fn welcomed(&mut self, spread_s: Option<f64>) {
        let (least, most) = self.waits.spread;
        self.tries = 0;
        self.spread = spread_s.map_or(least, |seconds| clamped(seconds, least, most));
    }

    /// How long to wait now. `random` is uniform in 0 … 1.
    pub fn next(&mut self, cause: Cause, random: f64) -> Duration {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            1.0
        };
        let wait = match cause {
            Cause::Failed => self.exponential().mul_f64(random),
            Cause::Dropped => self.waits.first.mul_f64(random),
            Cause::Restarting => self.restarting().mul_f64(random),
            Cause::Refused => {
                let (from, to) = self.waits.refused;
                from + to.saturating_sub(from).mul_f64(random)
            }
            // Whoever was told the same moment does not come back in the same millisecond.
            Cause::RetryAfter(told) => {
                let (least, most) = self.waits.retry_after;
                (told.clamp(least, most) + self.waits.first.mul_f64(random)).min(most)
            }
        };
        self.tries = self.tries.saturating_add(1);
        wait.max(self.waits.floor)
    }

    /// A server that is too busy even for `welcome`, again and again, is tried less and less.
    fn restarting(&self) -> Duration {
        match self.tries {
            0 => self.spread,
            _ => self.spread.max(self.exponential()),
        }
    }

    fn exponential(&self) -> Duration {
        let doubled = 2u32.saturating_pow(self.tries.min(31));
        self.waits.base.saturating_mul(doubled).min(self.waits.cap)
    }
}

/// `seconds` as a length of time; what is no number is the least.
pub(super) fn clamped(seconds: f64, least: Duration, most: Duration) -> Duration {
    if seconds.is_nan() {
        return least;
    }
    let within = seconds.clamp(least.as_secs_f64(), most.as_secs_f64());
    Duration::try_from_secs_f64(within).unwrap_or(least)
}

/// Reads `Retry-After`: seconds, or a date of HTTP, which counts from the answer's own `Date` where
/// it has one, since the host's clock may be wrong. `None`: neither. Not clamped, but never longer
/// than a year.
pub fn retry_after(value: &str, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let value = value.trim();
    let looks_numeric = value.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if looks_numeric && let Ok(seconds) = value.parse::<f64>() {
        return Some(clamped(seconds, Duration::ZERO, YEAR));
    }
    let at = http_date(value)?;
    let from = date.and_then(http_date).unwrap_or(now);
    Some(at.since(from).min(YEAR))
}

fn http_date(text: &str) -> Option<Timestamp> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    let at = parser.parse_timestamp(text.trim()).ok()?;
    Some(Timestamp::from_millis(at.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use proptest::prelude::*;

    use super::*;

    const CAUSES: [Cause; 4] = [
        Cause::Failed,
        Cause::Dropped,
        Cause::Restarting,
        Cause::Refused,
    ];

    fn backoff() -> Backoff {
        Backoff::new(Waits::default())
    }

    /// A number in 0 … 1 for each agent, the same in every run.
    fn scattered(agent: u32) -> f64 {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(agent);
        f64::from(u32::try_from(hash >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// The longest wait that each of `causes` could get, one after the other.
    fn longest(causes: &[Cause]) -> Vec<f64> {
        let mut backoff = backoff();
        let next = |cause: &Cause| backoff.next(*cause, 1.0).as_secs_f64();
        causes.iter().map(next).collect()
    }

    #[test]
    fn failures_double_up_to_the_cap() {
        assert_eq!(
            longest(&[Cause::Failed; 9]),
            [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
        );
    }

    #[test]
    fn only_a_welcome_resets() {
        let mut backoff = backoff();
        for cause in CAUSES.iter().cycle().take(50) {
            backoff.next(*cause, 0.5);
        }
        assert_eq!(backoff.next(Cause::Failed, 1.0), Duration::from_secs(30));
        backoff.welcomed(None);
        assert_eq!(backoff.next(Cause::Dropped, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.next(Cause::Failed, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.next(Cause::Failed, 1.0), Duration::from_secs(2));
    }

    #[test]
    fn a_restarting_server_gets_the_spread_that_it_asked_for() {
        for (asked, most) in [
            (None, 1.0),
            (Some(20.0), 20.0),
            (Some(1e12), 60.0),
            (Some(0.0), 1.0),
            (Some(-5.0), 1.0),
            (Some(f64::NAN), 1.0),
            (Some(f64::INFINITY), 60.0),
        ] {
            let mut backoff = backoff();
            backoff.welcomed(asked);
            let wait = backoff.next(Cause::Restarting, 1.0).as_secs_f64();
            assert_eq!(wait, most, "{asked:?}");
        }
    }

    #[test]
    fn a_server_that_never_welcomes_is_tried_less_and_less() {
        assert_eq!(
            longest(&[Cause::Restarting; 8]),
            [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        );
    }

    #[test]
    fn close_codes_have_their_causes() {
        for code in [1008, 4401, 4409, 4426] {
            assert_eq!(Cause::of_close(code, true), Cause::Refused, "{code}");
            assert_eq!(Cause::of_close(code, false), Cause::Refused, "{code}");
        }
        for code in [1012, 1013, 4429] {
            assert_eq!(Cause::of_close(code, true), Cause::Restarting, "{code}");
        }
        for code in [1000, 1001, 1002, 1005, 1006, 1011, 3000, 4000, 4999] {
            assert_eq!(Cause::of_close(code, true), Cause::Dropped, "{code}");
            assert_eq!(Cause::of_close(code, false), Cause::Failed, "{code}");
        }
    }

    #[test]
    fn f47_a_thousand_agents_do_not_come_back_at_once() {
        let mut buckets = [0; 61];
        for agent in 0..1000 {
            let mut backoff = backoff();
            backoff.welcomed(Some(60.0));
            let wait = backoff.next(Cause::Restarting, scattered(agent));
            buckets[usize::try_from(wait.as_secs()).unwrap()] += 1;
        }
        let fullest = buckets.iter().max().unwrap();
        assert!(*fullest <= 50, "{fullest} of 1000 within one second");
    }

    #[test]
    fn f43_a_day_of_failures_is_some_thousand_tries_never_a_minute_apart() {
        let (mut backoff, mut passed, mut tries) = (backoff(), Duration::ZERO, 0);
        while passed < Duration::from_secs(24 * 3600) {
            let wait = backoff.next(Cause::Failed, scattered(tries));
            assert!(wait <= Duration::from_secs(30));
            passed += wait;
            tries += 1;
        }
        assert!((5_000..7_000).contains(&tries), "{tries}");
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let date = Some("Sat, 21 Nov 2026 12:00:00 GMT");
        for (value, date, seconds) in [
            ("7", None, Some(7.0)),
            (" 7 ", None, Some(7.0)),
            ("0", None, Some(1.0)),
            ("-5", None, Some(1.0)),
            ("1000000000000", None, Some(600.0)),
            ("1e12", None, Some(600.0)),
            ("1e999", None, Some(600.0)),
            ("Sat, 21 Nov 2026 12:00:30 GMT", None, Some(30.0)),
            ("Sat, 21 Nov 2026 12:00:30 GMT", date, Some(30.0)),
            ("Sat, 21 Nov 1998 12:00:30 GMT", None, Some(1.0)),
            ("Sat, 21 Nov 9998 12:00:30 GMT", None, Some(600.0)),
            ("soon", None, None),
            ("nan", None, None),
            ("inf", None, None),
            ("", None, None),
        ] {
            let wait = retry_after(value, date, now)
                .map(|told| backoff().next(Cause::RetryAfter(told), 0.0).as_secs_f64());
            assert_eq!(wait, seconds, "{value:?}");
        }
    }

    #[test]
    fn a_date_counts_from_the_answers_own_clock() {
        let wrong_clock: Timestamp = "2031-01-01T00:00:00Z".parse().unwrap();
        let told = retry_after(
            "Sat, 21 Nov 2026 12:00:30 GMT",
            Some("Sat, 21 Nov 2026 12:00:00 GMT"),
            wrong_clock,
        );
        assert_eq!(told, Some(Duration::from_secs(30)));
    }

    proptest! {
        #[test]
        fn no_wait_is_zero_and_none_is_longer_than_ten_minutes(
            causes in prop::collection::vec((0usize..5, 0u64..u64::MAX, any::<f64>()), 1..200),
        ) {
            let mut backoff = backoff();
            for (cause, told, random) in causes {
                let told = Cause::RetryAfter(Duration::from_secs(told));
                let cause = CAUSES.get(cause).copied().unwrap_or(told);
                let wait = backoff.next(cause, random);
                prop_assert!(wait >= Duration::from_millis(20));
                let most = match cause {
                    Cause::RetryAfter(_) => 600,
                    Cause::Failed | Cause::Dropped | Cause::Restarting | Cause::Refused => 30,
                };
                prop_assert!(wait <= Duration::from_secs(most), "{cause:?}: {wait:?}");
            }
        }

        #[test]
        fn what_is_refused_waits_fifteen_to_thirty_seconds(random in 0.0..1.0) {
            let wait = backoff().next(Cause::Refused, random).as_secs_f64();
            prop_assert!((15.0..=30.0).contains(&wait));
        }

        #[test]
        fn whatever_a_header_holds_is_no_panic(value in ".*", date in proptest::option::of(".*")) {
            let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
            retry_after(&value, date.as_deref(), now);
        }
    }
}
