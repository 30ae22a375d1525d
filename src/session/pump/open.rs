//! What a link has once `welcome` has come: the driver's events, and what is sent at intervals.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use crate::{
    clock,
    instance::publish::{Event, Snapshot},
    protocol::{Message, command::Welcome, message::Heartbeat},
    session::{
        Feeds,
        backoff::clamped,
        outbox::{Outbox, Overflow},
        told,
    },
};

/// As many as the outbox holds: what the driver says in one go always fits, and what does not fit
/// there would end the session anyway.
const EVENTS: usize = 1024;

/// After `welcome`.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) events: mpsc::Receiver<Event>,
    spread_s: Option<f64>,
    heartbeat: Tick,
    metrics: Tick,
    health: Tick,
}

/// Something that is due again and again.
#[derive(Debug)]
struct Tick {
    every: Duration,
    next: Duration,
}

impl Tick {
    fn new(every_s: Option<f64>, default_s: u64, first: Duration) -> Self {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(3600));
        let default = Duration::from_secs(default_s);
        let every = every_s.map_or(default, |seconds| clamped(seconds, least, most));
        Self { every, next: first }
    }

    /// Whether it is due. What was missed is not made up for.
    fn due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + self.every;
        }
        due
    }
}

impl Open {
    /// As the server wishes, from `now` on; and the end of the events that goes to the driver.
    pub(super) fn new(welcome: &Welcome, now: Duration) -> (Self, mpsc::Sender<Event>) {
        let (sender, events) = mpsc::channel(EVENTS);
        let mut heartbeat = Tick::new(welcome.heartbeat_interval_s, 30, now);
        // `hello` has just been one.
        heartbeat.next = now + heartbeat.every;
        let open = Self {
            events,
            spread_s: welcome.reconnect_spread_s,
            heartbeat,
            metrics: Tick::new(welcome.metrics_interval_s, 10, now),
            health: Tick::new(welcome.health_interval_s, 60, now),
        };
        (open, sender)
    }

    /// What `welcome` said of reconnects.
    pub(super) fn spread_s(&self) -> Option<f64> {
        self.spread_s
    }

    /// Puts out what is due.
    pub(super) fn tick(&mut self, now: Duration, feeds: &Feeds, outbox: &mut Outbox) {
        if self.heartbeat.due(now) {
            outbox.heartbeat(heartbeat(&feeds.snapshot.borrow()));
        }
        if self.metrics.due(now) {
            outbox.metrics(Arc::clone(&feeds.metrics.borrow()));
        }
        if self.health.due(now) {
            outbox.health(Arc::clone(&feeds.health.borrow()));
        }
    }

    /// When something is due again.
    pub(super) fn next_tick(&self) -> Duration {
        self.heartbeat
            .next
            .min(self.metrics.next)
            .min(self.health.next)
    }
}

/// A sign of life, now.
pub(super) fn heartbeat(snapshot: &Snapshot) -> Heartbeat {
    told::heartbeat(snapshot, clock::now().wall)
}

/// What the driver says goes where it belongs.
pub(super) fn put(
    event: Event,
    outbox: &mut Outbox,
    feeds: &Feeds,
    now: Duration,
) -> Result<(), Overflow> {
    match event {
        Event::Records(records) => outbox.sync(records),
        Event::Synced(synced) => outbox.synced(synced),
        Event::Record(record) => outbox.push(Message::Instance(record))?,
        Event::Reply(reply) => outbox.push(Message::Reply(reply))?,
        Event::Progress(progress) => outbox.progress(progress, now),
        Event::Report => {
            let inventory = told::inventory(&feeds.snapshot.borrow());
            outbox.push(Message::Inventory(Box::new(inventory)))?;
            let metrics = Arc::clone(&feeds.metrics.borrow());
            outbox.push(Message::Metrics(Arc::unwrap_or_clone(metrics)))?;
            let health = Arc::clone(&feeds.health.borrow());
            outbox.push(Message::Health(Arc::unwrap_or_clone(health)))?;
        }
    }
    Ok(())
}
