//! Says how the link is: in the log, sparingly, and to whoever watches.

use std::{error::Error, fmt, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::journal::{Journal, Line};

/// How the link is, for readiness and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// On the way to a session.
    Connecting,
    /// There is a session.
    Connected {
        /// As the server calls it.
        session_id: String,
    },
    /// There is none.
    Waiting {
        /// Why, with its causes.
        reason: String,
        /// Until the next try.
        retry_in: Duration,
    },
}

/// Keeps the log and the watch.
#[derive(Debug)]
pub(super) struct Reporter {
    journal: Journal,
    began: Instant,
    state: watch::Sender<LinkState>,
}

impl Reporter {
    pub(super) fn new(log_interval: Duration) -> Self {
        let (state, _) = watch::channel(LinkState::Connecting);
        Self {
            journal: Journal::new(log_interval, Duration::ZERO),
            began: Instant::now(),
            state,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub(super) fn connecting(&mut self) {
        self.state.send_replace(LinkState::Connecting);
    }

    pub(super) fn up(&mut self, session_id: &str) {
        match self.journal.up(self.began.elapsed()) {
            Line::Up {
                failures: 0,
                down_for: _,
            } => tracing::info!(session_id, "connected to the central server"),
            Line::Up { failures, down_for } => {
                tracing::info!(
                    session_id,
                    failures,
                    down_s = down_for.as_secs(),
                    "connected to the central server again"
                );
            }
            Line::Lost | Line::StillDown { .. } | Line::Nothing => {}
        }
        self.state.send_replace(LinkState::Connected {
            session_id: session_id.to_owned(),
        });
    }

    pub(super) fn down(&mut self, why: &dyn Error, retry_in: Duration) {
        let reason = Chain(why).to_string();
        let retry_in_ms = retry_in.as_millis();
        match self.journal.failed(self.began.elapsed()) {
            Line::Lost => {
                tracing::warn!(%reason, retry_in_ms, "no session with the central server");
            }
            Line::StillDown { failures, down_for } => {
                let down_s = down_for.as_secs();
                tracing::warn!(%reason, failures, down_s, "still no session with the central server");
            }
            Line::Nothing | Line::Up { .. } => {
                tracing::debug!(%reason, retry_in_ms, "no session with the central server");
            }
        }
        self.state
            .send_replace(LinkState::Waiting { reason, retry_in });
    }
}

/// An error with its causes, those left out that an outer one has already quoted.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            source = error.source();
        }
        Ok(())
    }
}
