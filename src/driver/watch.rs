//! Watches the engine: says when it answers and when it does not, and passes its events on as hints.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Timestamp},
    host,
    instance::{marker, registry::Input},
    protocol::{
        record::{Disk, EngineStatus},
        text::chain,
    },
    runtime::{Class, ContainerEvent, ContainerRuntime, RuntimeError},
};

/// While it does not answer it is asked again after so long, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// One that was there for so long is looked for at once when it goes.
const STEADY: Duration = Duration::from_secs(10);
/// While it answers it is asked this often, so that one that hangs is noticed.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Silence for so long is silence.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Runs until cancelled. Inputs go into a bounded channel and are awaited: a driver that is behind
/// slows the events down, and what is missed in the meantime the next full list shows.
pub(super) async fn watch<R: ContainerRuntime>(
    runtime: &R,
    inputs: &mpsc::Sender<Input>,
    token: &CancellationToken,
) {
    let mut wait = RETRY.0;
    let mut since: Option<Timestamp> = None;
    let mut told: Option<Unusable> = None;
    while !token.is_cancelled() {
        let begin = clock::now();
        match in_time(runtime.engine()).await {
            Ok(facts) => {
                told = None;
                let disks = disks(&facts.root_dir).await;
                let facts = Box::new(facts);
                let _ = inputs.send(Input::EngineUp { facts, disks }).await;
                let last = follow(runtime, inputs, since).await;
                let _ = inputs.send(Input::EngineLost).await;
                since = Some(last.unwrap_or(begin.wall));
            }
            Err(unusable) => {
                // Each change is worth a line, each try is not.
                if told.as_ref() != Some(&unusable) {
                    let Unusable { status, reason } = &unusable;
                    tracing::warn!(?status, reason, "the container engine cannot be used");
                }
                let _ = inputs.send(Input::EngineDown(unusable.status)).await;
                told = Some(unusable);
            }
        }
        if clock::now().boot.saturating_sub(begin.boot) > STEADY {
            wait = RETRY.0;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// What the absence of an answer means, and why there is none, for the log.
#[derive(Debug, PartialEq, Eq)]
struct Unusable {
    status: EngineStatus,
    reason: String,
}

/// An answer in time, or what its absence means. An engine that refuses to be asked at all, or that
/// is too old, is of no more use than one that is not there.
async fn in_time<T>(answer: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, Unusable> {
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Unusable {
            status: if matches!(error.class, Class::Unreachable | Class::Refused) {
                EngineStatus::Unavailable
            } else {
                EngineStatus::Degraded
            },
            reason: chain(&error),
        }),
        Err(_) => Err(Unusable {
            status: EngineStatus::Degraded,
            reason: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        }),
    }
}

/// Passes events on until the stream ends or the engine falls silent. Returns the time of the last
/// event, from which the next stream goes on.
async fn follow<R: ContainerRuntime>(
    runtime: &R,
    inputs: &mpsc::Sender<Input>,
    since: Option<Timestamp>,
) -> Option<Timestamp> {
    // The engine keeps 256 events of its own; as many may wait here, more are a hint too many.
    let (hints, mut hinted) = mpsc::channel(256);
    let mut on_event = move |event: ContainerEvent| {
        // Others may make containers by the thousand, and each input costs the driver a turn.
        if marker::instance_of(&event.name).is_some() {
            let _ = hints.try_send(event);
        }
    };
    let stream = runtime.events(since, &mut on_event);
    tokio::pin!(stream);
    let mut asked = tokio::time::interval(ASK_EVERY);
    asked.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    asked.tick().await;
    let mut last = since;
    loop {
        tokio::select! {
            // Hints first: they are few, and the order of the rest does not matter.
            biased;
            Some(event) = hinted.recv() => {
                last = Some(event.at);
                if inputs.send(Input::Container(event)).await.is_err() {
                    return last;
                }
            }
            ended = &mut stream => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "the engine's event stream ended");
                }
                return last;
            }
            _ = asked.tick() => {
                if let Err(unusable) = in_time(runtime.ping()).await {
                    tracing::debug!(reason = unusable.reason, "the engine fell silent");
                    return last;
                }
            }
        }
    }
}

/// A file system may hang: then nothing is said of the disks this time.
async fn disks(engine_root: &str) -> Vec<Disk> {
    let engine_root = PathBuf::from(engine_root);
    let look =
        tokio::task::spawn_blocking(move || host::disks([Path::new("/"), engine_root.as_path()]));
    match tokio::time::timeout(ANSWER_WITHIN, look).await {
        Ok(Ok(disks)) => disks,
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
