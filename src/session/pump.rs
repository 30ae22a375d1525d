//! One link, from `hello` to its end: what comes goes to the driver, what the driver says goes out,
//! and neither direction waits for the other.
//!
//! ```text
//!  socket -- decode --> pending (one) --(awaited)--> driver
//!  socket <-- encode -- outbox <-- events (always drained), snapshot, ticks
//! ```
//!
//! While something is pending the socket is not read: that is how a busy driver slows the server
//! down. What exists only after `welcome` lives in [`Open`].

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::{CancellationToken, PollSender};

mod incoming;
mod open;
mod outgoing;

use super::{
    Feeds, Limits,
    authority::Authority,
    end::End,
    link::{Io, Link},
    liveness::{Liveness, Signs},
    outbox::Outbox,
    report::Reporter,
    tap::Tap,
    told::{self, Told},
};
use crate::{
    driver::{FromServer, Identity, SessionNo},
    ids::Generation,
    instance::publish::Event,
};
use incoming::BadFrames;
use open::Open;

/// So many events are taken at once before the socket has its turn.
const BATCH: usize = 64;

/// What outlives a link and every link needs.
pub(super) struct Surroundings {
    pub(super) limits: Limits,
    pub(super) authority: Authority,
    pub(super) identity: Identity,
    pub(super) feeds: Feeds,
    pub(super) inputs: PollSender<FromServer>,
    pub(super) reporter: Reporter,
}

/// What became of a link.
pub(super) struct Outcome {
    pub(super) end: End,
    /// There was a `welcome`, and its `reconnect_spread_s`.
    pub(super) welcomed: Option<Option<f64>>,
    /// The driver was told of the session.
    pub(super) announced: bool,
}

/// One link.
pub(super) struct Pump<'a, S> {
    no: SessionNo,
    around: &'a mut Surroundings,
    began: Instant,
    link: Link<S>,
    outbox: Outbox,
    liveness: Liveness,
    next_ping: Duration,
    bad_frames: BadFrames,
    /// Read and not yet taken by the driver.
    pending: Option<FromServer>,
    /// Whether the socket was wanted during the last wait.
    was_reading: bool,
    told: Told,
    /// The highest that the socket was given.
    sent: Option<Generation>,
    open: Option<Open>,
    announced: bool,
    batch: Vec<Event>,
    /// Who goes first, when the driver has something to say and the socket too: in turns.
    events_first: bool,
}

/// What the loop waited for.
enum Step {
    Shutdown,
    Events(usize),
    DriverReady(bool),
    Snapshot(bool),
    Io(Io),
    Time,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Pump<'a, S> {
    /// A link that has just been opened. Its `hello` waits to be sent.
    pub(super) fn new(
        no: SessionNo,
        socket: WebSocketStream<Tap<S>>,
        around: &'a mut Surroundings,
    ) -> Self {
        let snapshot = Arc::clone(&around.feeds.snapshot.borrow_and_update());
        let hello = told::hello(&around.identity, &snapshot);
        let mut outbox = Outbox::new(around.limits.outbox.clone());
        outbox.hello(hello);
        Self {
            no,
            began: Instant::now(),
            link: Link::new(socket),
            outbox,
            liveness: Liveness::new(&around.limits),
            next_ping: around.limits.ping,
            bad_frames: BadFrames::default(),
            pending: None,
            was_reading: false,
            told: Told::by_hello(snapshot),
            sent: None,
            open: None,
            announced: false,
            batch: Vec::with_capacity(BATCH),
            events_first: false,
            around,
        }
    }

    /// Pumps until the link ends, and ends it.
    pub(super) async fn run(mut self, token: &CancellationToken) -> Outcome {
        let end = loop {
            let now = self.now();
            if let Err(end) = self.on_time(now) {
                break end;
            }
            let step = self.next(now, token).await;
            if let Err(end) = self.handle(step) {
                break end;
            }
        };
        // A place in the driver's queue that was reserved for this link is given back.
        self.around.inputs.abort_send();
        let outcome = Outcome {
            welcomed: self.open.as_ref().map(Open::spread_s),
            announced: self.announced,
            end,
        };
        self.finish(&outcome.end).await;
        outcome
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is due whatever happens: looked at in every turn, so that no flood of frames or events
    /// keeps it waiting.
    fn on_time(&mut self, now: Duration) -> Result<(), End> {
        let limits = &self.around.limits;
        let tap = self.link.tap();
        let signs = Signs {
            reading: self.was_reading,
            received_bytes: tap.received_bytes(),
            message_open: tap.frames().open(),
            messages: tap.frames().messages(),
            writing: self.link.writing(),
            sent_bytes: tap.sent_bytes(),
        };
        self.liveness
            .look(now, signs)
            .map_err(|failure| End::of_failure(failure, limits))?;
        match &mut self.open {
            Some(open) => open.tick(now, &self.around.feeds, &mut self.outbox),
            None if now >= limits.welcome => return Err(End::NoWelcome(limits.welcome)),
            None => {}
        }
        Ok(())
    }

    /// When [`Self::on_time`] or the outbox has something to do, if nothing happens before.
    fn deadline(&self, now: Duration) -> Duration {
        let open = match &self.open {
            Some(open) => open.next_tick(),
            None => self.around.limits.welcome,
        };
        let later = |at: &Duration| *at > now;
        let ping = Some(self.next_ping).filter(later);
        let outbox = self.outbox.next_at(now).filter(later);
        [ping, outbox]
            .into_iter()
            .flatten()
            .fold(open.min(self.liveness.next_look()), Duration::min)
    }

    async fn next(&mut self, now: Duration, token: &CancellationToken) -> Step {
        let deadline = self.began + self.deadline(now);
        let reading = self.pending.is_none();
        let more = now >= self.next_ping || self.outbox.next_at(now).is_some_and(|at| at <= now);
        self.was_reading = reading;
        self.events_first = !self.events_first;
        let turns = [self.events_first, !self.events_first];
        let Self {
            around,
            link,
            open,
            batch,
            ..
        } = self;
        let both = |cx: &mut Context<'_>| {
            for events in turns {
                let step = match (events, &mut *open) {
                    (true, Some(open)) => open
                        .events
                        .poll_recv_many(cx, batch, BATCH)
                        .map(Step::Events),
                    (true, None) => Poll::Pending,
                    (false, _) => link.poll(cx, reading, more).map(Step::Io),
                };
                if step.is_ready() {
                    return step;
                }
            }
            Poll::Pending
        };
        select! {
            // Shutdown first. Then the driver's readiness, which the socket waits for, and the
            // snapshot: both are rare. Events and the socket take turns, so that a flood of one
            // does not keep the other waiting. Time last: it is looked at in every turn anyway.
            biased;
            () = token.cancelled() => Step::Shutdown,
            ready = poll_fn(|cx| around.inputs.poll_reserve(cx)), if !reading => {
                Step::DriverReady(ready.is_ok())
            }
            changed = around.feeds.snapshot.changed() => Step::Snapshot(changed.is_ok()),
            step = poll_fn(both) => step,
            () = sleep_until(deadline) => Step::Time,
        }
    }

    fn handle(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::Shutdown => Err(End::Shutdown),
            Step::Events(0) => Err(self.given_up()),
            Step::Events(_) => self.take_events(),
            Step::DriverReady(true) => self.hand_over(),
            Step::DriverReady(false) | Step::Snapshot(false) => Err(End::Orphaned),
            Step::Snapshot(true) => {
                if self.open.is_some() {
                    self.tell_news();
                }
                Ok(())
            }
            Step::Io(Io::Received(frame)) => self.on_frame(frame),
            Step::Io(Io::Room) => {
                self.write();
                Ok(())
            }
            Step::Io(Io::Over(end)) => Err(end),
            Step::Time => Ok(()),
        }
    }

    /// The driver has dropped its end of the events: it found them full, or it is gone.
    fn given_up(&self) -> End {
        let driver = self.around.inputs.get_ref();
        match driver {
            Some(driver) if !driver.is_closed() => End::Behind,
            Some(_) | None => End::Orphaned,
        }
    }

    fn take_events(&mut self) -> Result<(), End> {
        let mut batch = std::mem::take(&mut self.batch);
        let now = self.now();
        for event in batch.drain(..) {
            open::put(event, &mut self.outbox, &self.around.feeds, now)?;
        }
        self.batch = batch;
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), End> {
        let Some(input) = self.pending.take() else {
            return Ok(());
        };
        self.announced |= matches!(input, FromServer::Connected { .. });
        let sent = self.around.inputs.send_item(input);
        sent.map_err(|_| End::Orphaned)
    }

    /// The last words, within `limits.close` in all.
    async fn finish(mut self, end: &End) {
        let limit = self.around.limits.close;
        let began = Instant::now();
        if let End::Shutdown = end {
            // Half of the time for what is there to be said, the rest for the close.
            let _ = timeout(limit / 2, self.goodbye()).await;
        }
        // From here on the driver keeps its words for the next session.
        self.open = None;
        let left = limit.saturating_sub(began.elapsed());
        self.link.close(end.close_frame(), left).await;
    }
}
