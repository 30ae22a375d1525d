//! The way to the driver: commands, their replies, and the state as everybody may read it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Problem;
use crate::{
    driver::{FromLocal, Inputs, REPLIES},
    ids::InstanceId,
    instance::publish::{Event, Snapshot},
    protocol::{Command, Error, ErrorCode, Instance, Reply},
};

/// The driver takes a command in far less; above it something is very wrong.
const TAKE: Duration = Duration::from_secs(10);
/// A record is in the snapshot as soon as the driver has ended its turn.
const SHOW: Duration = Duration::from_secs(10);

/// For handlers.
#[derive(Clone)]
pub(super) struct Surface {
    driver: mpsc::Sender<FromLocal>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    stop: CancellationToken,
}

/// A command that was given.
pub(super) struct Given {
    replies: mpsc::Receiver<Reply>,
    deadline: Instant,
    stop: CancellationToken,
}

impl Surface {
    pub(super) fn new(inputs: &Inputs, stop: CancellationToken) -> Self {
        Self {
            driver: inputs.from_local.clone(),
            snapshot: inputs.snapshot.clone(),
            stop,
        }
    }

    /// Gives a command. From then on it is done, whoever waits for it; its effect is waited for until
    /// `limit` has passed.
    pub(super) async fn give(&self, command: Command, limit: Duration) -> Result<Given, Problem> {
        let (sender, replies) = mpsc::channel(REPLIES);
        let command = FromLocal::Command {
            command: Box::new(command),
            replies: sender,
        };
        self.tell(command).await?;
        Ok(Given {
            replies,
            deadline: Instant::now() + limit,
            stop: self.stop.clone(),
        })
    }

    /// Asks for the whole state and each change after it; at most `most` events wait.
    pub(super) async fn watch(&self, most: usize) -> Result<mpsc::Receiver<Event>, Problem> {
        let (events, watched) = mpsc::channel(most);
        self.tell(FromLocal::Watch { events }).await?;
        Ok(watched)
    }

    async fn tell(&self, input: FromLocal) -> Result<(), Problem> {
        let told = timeout(TAKE, self.driver.send(input));
        match self.stop.run_until_cancelled(told).await {
            Some(Ok(Ok(()))) => Ok(()),
            Some(_) | None => Err(stopping()),
        }
    }

    /// How things are now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// The record of a rental of which a reply has just spoken.
    pub(super) async fn record(&self, id: &InstanceId) -> Result<Arc<Instance>, Problem> {
        let mut snapshot = self.snapshot.clone();
        let shown = snapshot.wait_for(|snapshot| find(snapshot, id).is_some());
        match timeout(SHOW, shown).await {
            Ok(Ok(snapshot)) => find(&snapshot, id).ok_or_else(stopping),
            Ok(Err(_)) | Err(_) => Err(stopping()),
        }
    }
}

/// The record of this id, if there is one.
pub(super) fn find(snapshot: &Snapshot, id: &InstanceId) -> Option<Arc<Instance>> {
    let found = snapshot.instances.iter().find(|record| record.id == *id);
    found.cloned()
}

impl Given {
    /// Its first reply: `accepted`, `already`, or what ends it.
    pub(super) async fn first(&mut self) -> Result<Reply, Problem> {
        let replies = timeout_at(self.deadline, self.replies.recv());
        let reply = match self.stop.run_until_cancelled(replies).await {
            Some(Ok(Some(reply))) => reply,
            Some(Err(_)) => return Err(late()),
            Some(Ok(None)) | None => return Err(stopping()),
        };
        match reply.error {
            Some(error) => Err(Problem::from(error)),
            None => Ok(reply),
        }
    }

    /// Its final reply, which says that it is done.
    pub(super) async fn last(&mut self) -> Result<Reply, Problem> {
        loop {
            let reply = self.first().await?;
            if reply.outcome.is_final() {
                return Ok(reply);
            }
        }
    }
}

fn stopping() -> Problem {
    let message = "the agent is ending; what was asked for may go on after its next start";
    Problem::from(Error::new(ErrorCode::NotReady, message))
}

fn late() -> Problem {
    let message = "it takes very long; it goes on, and its record says how far it is";
    Problem::from(Error::new(ErrorCode::DeadlineExceeded, message))
}
