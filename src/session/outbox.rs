//! What waits for the socket: three classes, so that a slow server costs freshness and never memory.
//!
//! 1. **Ordered**: records and replies, in the order of their making. Bounded; over the bound the
//!    session ends, and the next one begins with the whole state. The records of the first sync are
//!    in this order too, but do not count: they exist anyway, and there may be any number of them.
//! 2. **Newest wins**, per key: heartbeat, inventory, metrics, health, and progress per subject.
//! 3. **Output** of exec and logs: after everything else, bounded per command, the excess dropped
//!    and counted.
//!
//! An outbox lives as long as its session: nothing is kept across a drop. Nothing is serialised
//! before the socket takes it. Pure: times are those since the session began.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Write},
    sync::Arc,
    time::Duration,
    vec,
};

use crate::{
    ids::{CommandId, InstanceId},
    protocol::{
        Message, Reply,
        message::{
            HealthReport, Heartbeat, Hello, InstanceMessage, Inventory, Metrics, Output, Progress,
            Synced,
        },
    },
};

/// How much may wait.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Records and replies: as many as a burst over all rentals of the largest host makes.
    pub messages: usize,
    /// Their bytes on the wire, in all.
    pub bytes: usize,
    /// Output of one command: some seconds of a busy terminal.
    pub output_bytes: usize,
    /// Between two messages of progress about one subject.
    pub progress_interval: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            messages: 1024,
            bytes: 4 * 1024 * 1024,
            output_bytes: 256 * 1024,
            progress_interval: Duration::from_millis(250),
        }
    }
}

/// More records and replies wait than may: the server is too slow for this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more records and replies wait for the socket than may")]
pub struct Overflow;

/// What waits.
#[derive(Debug)]
pub struct Outbox {
    bounds: Bounds,
    ordered: VecDeque<Ordered>,
    messages: usize,
    bytes: usize,
    heartbeat: Option<Heartbeat>,
    inventory: Option<Inventory>,
    metrics: Option<Arc<Metrics>>,
    health: Option<Arc<HealthReport>>,
    progress: BTreeMap<Subject, Waiting>,
    output: VecDeque<Output>,
    output_of: BTreeMap<CommandId, OutputOf>,
}

#[derive(Debug)]
enum Ordered {
    /// Counted, with its size.
    One(Box<Message>, usize),
    /// The state at the beginning: not counted, taken one by one.
    Sync(vec::IntoIter<InstanceMessage>),
    /// What frames the state: one of each in a session.
    Uncounted(Box<Message>),
}

/// What progress is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Instance(InstanceId),
    Command(CommandId),
    Neither,
}

/// The newest progress of a subject, and when the next may go.
#[derive(Debug)]
struct Waiting {
    newest: Option<Progress>,
    not_before: Duration,
}

#[derive(Debug, Default)]
struct OutputOf {
    waiting_bytes: usize,
    dropped_bytes: u64,
}

impl Outbox {
    /// Nothing waits.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ordered: VecDeque::new(),
            messages: 0,
            bytes: 0,
            heartbeat: None,
            inventory: None,
            metrics: None,
            health: None,
            progress: BTreeMap::new(),
            output: VecDeque::new(),
            output_of: BTreeMap::new(),
        }
    }

    /// Something whose order matters.
    ///
    /// # Errors
    /// When it would be one too many. Nothing more may be sent then.
    pub fn push(&mut self, message: Message) -> Result<(), Overflow> {
        let bytes = size(&message);
        if self.messages >= self.bounds.messages || self.bytes + bytes > self.bounds.bytes {
            return Err(Overflow);
        }
        self.forget_old_progress(&message);
        self.messages += 1;
        self.bytes += bytes;
        self.ordered
            .push_back(Ordered::One(Box::new(message), bytes));
        Ok(())
    }

    /// The first message of all; does not count.
    pub fn hello(&mut self, hello: Hello) {
        let hello = Message::Hello(Box::new(hello));
        self.ordered.push_front(Ordered::Uncounted(Box::new(hello)));
    }

    /// The whole state.
    pub fn sync(&mut self, records: Vec<InstanceMessage>) {
        self.ordered.push_back(Ordered::Sync(records.into_iter()));
    }

    /// The end of the whole state.
    pub fn synced(&mut self, synced: Synced) {
        let synced = Message::Synced(synced);
        self.ordered.push_back(Ordered::Uncounted(Box::new(synced)));
    }

    /// Replaces the one that waits.
    pub fn heartbeat(&mut self, heartbeat: Heartbeat) {
        self.heartbeat = Some(heartbeat);
    }

    /// Each field replaces the waiting one.
    pub fn inventory(&mut self, newer: Inventory) {
        let waiting = self.inventory.take().unwrap_or_default();
        self.inventory = Some(Inventory {
            host: newer.host.or(waiting.host),
            gpus: newer.gpus.or(waiting.gpus),
            inventory_complete: newer.inventory_complete.or(waiting.inventory_complete),
            capacity: newer.capacity.or(waiting.capacity),
        });
    }

    /// Replaces the one that waits.
    pub fn metrics(&mut self, metrics: Arc<Metrics>) {
        self.metrics = Some(metrics);
    }

    /// Replaces the one that waits.
    pub fn health(&mut self, health: Arc<HealthReport>) {
        self.health = Some(health);
    }

    /// Replaces the one about the same subject.
    pub fn progress(&mut self, progress: Progress, now: Duration) {
        // A subject without anything waiting is kept only until it may send again.
        self.progress
            .retain(|_, waiting| waiting.newest.is_some() || waiting.not_before > now);
        let waiting = self.progress.entry(subject(&progress)).or_insert(Waiting {
            newest: None,
            not_before: now,
        });
        waiting.newest = Some(progress);
    }

    /// A chunk of a command's output; dropped and counted when too much of it waits.
    pub fn output(&mut self, mut chunk: Output) {
        let of = self.output_of.entry(chunk.command_id.clone()).or_default();
        let bytes = chunk.data.len();
        if of.waiting_bytes + bytes > self.bounds.output_bytes {
            of.dropped_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
            return;
        }
        of.waiting_bytes += bytes;
        let dropped = chunk.dropped_bytes.unwrap_or(0) + std::mem::take(&mut of.dropped_bytes);
        chunk.dropped_bytes = (dropped > 0).then_some(dropped);
        self.output.push_back(chunk);
    }

    /// The next message to send.
    pub fn next(&mut self, now: Duration) -> Option<Message> {
        // The sign of life first: small, and a full queue must not make the agent look dead.
        if let Some(heartbeat) = self.heartbeat.take() {
            return Some(Message::Heartbeat(heartbeat));
        }
        if let Some(message) = self.next_ordered() {
            return Some(message);
        }
        if let Some(inventory) = self.inventory.take() {
            return Some(Message::Inventory(Box::new(inventory)));
        }
        if let Some(progress) = self.next_progress(now) {
            return Some(Message::Progress(progress));
        }
        if let Some(health) = self.health.take() {
            return Some(Message::Health(Arc::unwrap_or_clone(health)));
        }
        if let Some(metrics) = self.metrics.take() {
            return Some(Message::Metrics(Arc::unwrap_or_clone(metrics)));
        }
        self.next_output().map(Message::Output)
    }

    /// From when on [`Self::next`] has something; `None` when nothing waits.
    pub fn next_at(&self, now: Duration) -> Option<Duration> {
        let at_once = self.heartbeat.is_some()
            || self.waits_in_order()
            || self.inventory.is_some()
            || self.health.is_some()
            || self.metrics.is_some()
            || !self.output.is_empty();
        if at_once {
            return Some(now);
        }
        let waiting = self
            .progress
            .values()
            .filter(|waiting| waiting.newest.is_some());
        waiting.map(|waiting| waiting.not_before.max(now)).min()
    }

    /// Whether a record or a reply waits.
    pub fn waits_in_order(&self) -> bool {
        self.ordered.iter().any(|ordered| match ordered {
            Ordered::One(..) | Ordered::Uncounted(_) => true,
            Ordered::Sync(records) => records.len() > 0,
        })
    }

    fn next_ordered(&mut self) -> Option<Message> {
        loop {
            match self.ordered.pop_front()? {
                Ordered::One(message, bytes) => {
                    self.messages -= 1;
                    self.bytes -= bytes;
                    return Some(*message);
                }
                Ordered::Uncounted(message) => return Some(*message),
                Ordered::Sync(mut records) => {
                    if let Some(record) = records.next() {
                        self.ordered.push_front(Ordered::Sync(records));
                        return Some(Message::Instance(record));
                    }
                }
            }
        }
    }

    /// Of the subject that has waited longest, so that on a slow link none starves.
    fn next_progress(&mut self, now: Duration) -> Option<Progress> {
        let interval = self.bounds.progress_interval;
        let ready = |waiting: &&mut Waiting| waiting.newest.is_some() && waiting.not_before <= now;
        let waiting = self
            .progress
            .values_mut()
            .filter(ready)
            .min_by_key(|waiting| waiting.not_before)?;
        waiting.not_before = now + interval;
        waiting.newest.take()
    }

    fn next_output(&mut self) -> Option<Output> {
        let chunk = self.output.pop_front()?;
        if let Some(of) = self.output_of.get_mut(&chunk.command_id) {
            of.waiting_bytes = of.waiting_bytes.saturating_sub(chunk.data.len());
            if of.waiting_bytes == 0 && of.dropped_bytes == 0 {
                self.output_of.remove(&chunk.command_id);
            }
        }
        Some(chunk)
    }

    /// Progress that waits is older than a record or a last reply of its subject: it would be read
    /// as if the rental had gone back.
    fn forget_old_progress(&mut self, message: &Message) {
        let subject = if let Message::Instance(InstanceMessage { instance, .. }) = message {
            Subject::Instance(instance.id.clone())
        } else if let Message::Reply(Reply {
            command_id,
            outcome,
            ..
        }) = message
            && outcome.is_final()
        {
            Subject::Command(command_id.clone())
        } else {
            return;
        };
        if let Some(waiting) = self.progress.get_mut(&subject) {
            waiting.newest = None;
        }
    }
}

fn subject(progress: &Progress) -> Subject {
    match (&progress.instance_id, &progress.command_id) {
        (Some(id), _) => Subject::Instance(id.clone()),
        (None, Some(id)) => Subject::Command(id.clone()),
        (None, None) => Subject::Neither,
    }
}

/// The message's bytes on the wire, without making them.
fn size(message: &Message) -> usize {
    struct Count(usize);

    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    // Fails only where `protocol::encode` does, and then as little is sent.
    let _ = serde_json::to_writer(&mut count, message);
    count.0
}

#[cfg(test)]
mod tests;
