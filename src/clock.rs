//! Points in time as the core sees them. The core is handed `Now` and never looks at a clock.
//!
//! Three clocks, kept apart: the host's wall clock (may step), the boot-time clock (never steps,
//! counts suspend) and the server's clock, which is the boot-time clock anchored at the last
//! `welcome`. Deadlines are in server time, so a step of the host's clock changes nothing.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in UTC. On the wire RFC 3339 with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The moment `ms` milliseconds after 1970-01-01T00:00:00Z, clamped to what can be written.
    pub fn from_millis(ms: i64) -> Self {
        let (low, high) = (
            jiff::Timestamp::MIN.as_millisecond(),
            jiff::Timestamp::MAX.as_millisecond(),
        );
        Self(jiff::Timestamp::from_millisecond(ms.clamp(low, high)).unwrap_or_default())
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// This moment and `later`; saturates.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        let ms = i64::try_from(later.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.as_millis().saturating_add(ms))
    }

    /// From `earlier` to this moment; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.as_millis().saturating_sub(earlier.as_millis());
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = jiff::Timestamp::from_millisecond(self.as_millis()).unwrap_or_default();
        write!(f, "{ms:.3}")
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            serde::de::Error::custom("expected a time as RFC 3339, like 2026-01-31T12:00:00.000Z")
        })
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "maxLength": 40 })
    }
}

/// What the shell tells the core about time, at each input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The host's wall clock.
    pub wall: Timestamp,
    /// Time since boot, suspend included. Only differences mean anything.
    pub boot: Duration,
}

/// The server's time: its last `server_time` plus the boot-time clock since; before the first
/// `welcome` the host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerClock {
    anchor: Option<(Timestamp, Duration)>,
    offset_ms: i64,
}

impl ServerClock {
    /// Anchors the clock at a `welcome`.
    pub fn set(&mut self, server_time: Timestamp, now: Now) {
        self.anchor = Some((server_time, now.boot));
        self.offset_ms = server_time.as_millis().saturating_sub(now.wall.as_millis());
    }

    /// The server's time at `now`.
    pub fn at(&self, now: Now) -> Timestamp {
        match self.anchor {
            Some((server_time, boot)) => server_time.plus(now.boot.saturating_sub(boot)),
            None => now.wall,
        }
    }

    /// A moment that the host's wall clock showed (an engine's time stamp), in server time.
    pub fn from_wall(&self, wall: Timestamp) -> Timestamp {
        Timestamp::from_millis(wall.as_millis().saturating_add(self.offset_ms))
    }

    /// Server time minus host time at the last `welcome`, in seconds; `None` before the first.
    pub fn offset_s(&self) -> Option<f64> {
        self.anchor?;
        let clamped = self.offset_ms.clamp(-31_536_000_000, 31_536_000_000);
        i32::try_from(clamped / 1000).ok().map(|whole| {
            let millis = i32::try_from(clamped % 1000).unwrap_or(0);
            f64::from(whole) + f64::from(millis) / 1000.0
        })
    }
}

/// When something that goes on and on is worth saying: at once, and then at most once a minute.
#[derive(Debug, Default)]
pub struct Seldom {
    said_at: Option<Duration>,
}

impl Seldom {
    const BETWEEN: Duration = Duration::from_secs(60);

    /// It goes on, at this time of the boot-time clock; whether to say so.
    pub fn goes_on(&mut self, boot: Duration) -> bool {
        let soon = |at| boot.saturating_sub(at) < Self::BETWEEN;
        let say = !self.said_at.is_some_and(soon);
        if say {
            self.said_at = Some(boot);
        }
        say
    }

    /// It is over: the next time is worth saying at once.
    pub fn over(&mut self) {
        self.said_at = None;
    }
}

/// Reads the clocks. For the shell only.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that reads the wall clock"
)]
pub fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Now {
        wall: Timestamp(jiff::Timestamp::now()),
        boot: Duration::new(
            u64::try_from(boot.tv_sec).unwrap_or(0),
            u32::try_from(boot.tv_nsec).unwrap_or(0),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_milliseconds() {
        let time: Timestamp = "2026-11-21T02:50:00Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-21T02:50:00.000Z");
        let time: Timestamp = "2026-11-21T04:50:00.123456+02:00".parse().unwrap();
        assert_eq!(
            serde_json::to_string(&time).unwrap(),
            "\"2026-11-21T02:50:00.123Z\""
        );
    }

    #[test]
    fn what_goes_on_is_said_at_once_and_then_once_a_minute() {
        let mut seldom = Seldom::default();
        let said = |seldom: &mut Seldom, seconds: std::ops::Range<u64>| {
            seconds
                .filter(|&second| seldom.goes_on(Duration::from_secs(second)))
                .collect::<Vec<_>>()
        };
        assert_eq!(said(&mut seldom, 5..130), [5, 65, 125]);
        seldom.over();
        assert_eq!(said(&mut seldom, 130..140), [130]);
    }

    #[test]
    fn a_step_of_the_host_clock_does_not_move_server_time() {
        let mut clock = ServerClock::default();
        let wall = Timestamp::from_millis(1_000_000);
        let server = Timestamp::from_millis(5_000_000);
        clock.set(
            server,
            Now {
                wall,
                boot: Duration::from_secs(10),
            },
        );
        let stepped = Now {
            wall: wall.plus(Duration::from_secs(3600)),
            boot: Duration::from_secs(12),
        };
        assert_eq!(clock.at(stepped), server.plus(Duration::from_secs(2)));
        assert_eq!(clock.offset_s(), Some(4000.0));
    }
}
