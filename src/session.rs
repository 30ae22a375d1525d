//! The session with the central server: the agent dials out, says who and how it is, takes commands
//! and tells everything that happens; when the link is lost it comes back by itself, for ever.
//!
//! ```text
//!  wait (backoff) --> connect --> pump: hello .. welcome .. until the end --+
//!        ^                |                                                 |
//!        +----------------+-------------------------------------------------+
//! ```
//!
//! Owns the socket and nothing else. It decides nothing about rentals: commands go to the driver
//! through a bounded channel, which it awaits; what the driver says comes through one that it always
//! drains. It keeps nothing across a drop: the next session gets the whole state.
//!
//! [`backoff`] and [`outbox`] decide and are pure; [`connect`] dials; `pump` is one link's life.

use std::{sync::Arc, time::Duration};

use tokio::{
    select,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, PollSender};

mod authority;
pub mod backoff;
mod bearer;
pub mod connect;
mod end;
mod frames;
mod journal;
mod limits;
mod link;
mod liveness;
pub mod outbox;
mod pump;
mod report;
pub mod tap;
mod tls;
mod told;

pub use connect::{DialError, Dialler, ProxyError, dial};
pub use limits::Limits;
pub use report::LinkState;
pub use tls::TrustError;

use crate::{
    config::{CommandKey, Server},
    driver::{FromServer, Identity, SessionNo},
    instance::publish::Snapshot,
    protocol::message::{HealthReport, Metrics},
};
use authority::Authority;
use backoff::{Backoff, Cause};
use end::End;
use pump::{Outcome, Pump, Surroundings};
use report::Reporter;

/// What the session reads of the rest of the agent.
#[derive(Debug, Clone)]
pub struct Feeds {
    /// The driver's, for `hello`, heartbeats and inventories.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The newest samples.
    pub metrics: watch::Receiver<Arc<Metrics>>,
    /// The newest verdicts.
    pub health: watch::Receiver<Arc<HealthReport>>,
}

/// The session, before it runs.
pub struct Session {
    server: Server,
    dialler: Dialler,
    around: Surroundings,
    backoff: Backoff,
    last: SessionNo,
}

impl Session {
    /// Will dial `server` as `identity` and pass its commands to `inputs`.
    pub fn new(
        server: Server,
        identity: Identity,
        inputs: mpsc::Sender<FromServer>,
        feeds: Feeds,
        limits: Limits,
    ) -> Self {
        Self {
            server,
            dialler: Dialler::default(),
            backoff: Backoff::new(limits.waits.clone()),
            around: Surroundings {
                reporter: Reporter::new(limits.log_interval),
                inputs: PollSender::new(inputs),
                authority: Authority::Server,
                limits,
                identity,
                feeds,
            },
            last: SessionNo(0),
        }
    }

    /// Will take no command but those that this key has signed.
    #[must_use]
    pub fn obeying(mut self, key: CommandKey) -> Self {
        let agent = self.around.identity.agent_id.clone();
        self.around.authority = Authority::Key(key, agent);
        self
    }

    /// How the link is, from now on.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.around.reporter.watch()
    }

    /// Keeps a session, one after the other, until `token` is cancelled; then says goodbye.
    ///
    /// # Errors
    /// When the driver is gone while the agent is not shutting down.
    pub async fn run(mut self, token: CancellationToken) -> anyhow::Result<()> {
        loop {
            self.around.reporter.connecting();
            let wait = match self.once(&token).await {
                Ok(wait) => wait,
                Err(Stop::Shutdown) => return Ok(()),
                Err(Stop::Orphaned) => anyhow::bail!("the session has lost the driver"),
            };
            select! {
                biased;
                () = token.cancelled() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    /// One try. Returns how long to wait before the next.
    async fn once(&mut self, token: &CancellationToken) -> Result<Duration, Stop> {
        let agent = &self.around.identity.agent_id;
        let dialled = select! {
            biased;
            () = token.cancelled() => return Err(Stop::Shutdown),
            dialled = self.dialler.dial(&self.server, agent, &self.around.limits) => dialled,
        };
        let socket = match dialled {
            Ok(socket) => socket,
            Err(error) => return Ok(self.down(&error, error.cause())),
        };
        self.last.0 += 1;
        let pump = Pump::new(self.last, socket, &mut self.around);
        let Outcome {
            end,
            welcomed,
            announced,
        } = pump.run(token).await;
        if let End::Shutdown = end {
            return Err(Stop::Shutdown);
        }
        if let End::Orphaned = end {
            return Err(Stop::Orphaned);
        }
        if let Some(spread_s) = welcomed {
            self.backoff.welcomed(spread_s);
        }
        let wait = self.down(&end, end.cause(welcomed.is_some()));
        if announced {
            self.announce_end(token).await?;
        }
        Ok(wait)
    }

    fn down(&mut self, why: &dyn std::error::Error, cause: Cause) -> Duration {
        let wait = self.backoff.next(cause, rand::random());
        self.around.reporter.down(why, wait);
        wait
    }

    /// The driver learns of the end before it learns of the next session.
    async fn announce_end(&mut self, token: &CancellationToken) -> Result<(), Stop> {
        let session = self.last;
        let inputs = &mut self.around.inputs;
        select! {
            biased;
            () = token.cancelled() => return Err(Stop::Shutdown),
            ready = std::future::poll_fn(|cx| inputs.poll_reserve(cx)) => {
                ready.map_err(|_| Stop::Orphaned)?;
            }
        }
        let sent = inputs.send_item(FromServer::Disconnected { session });
        sent.map_err(|_| Stop::Orphaned)
    }
}

/// Why there is no next try.
enum Stop {
    Shutdown,
    Orphaned,
}
