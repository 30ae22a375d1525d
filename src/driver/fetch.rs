//! Sees to it that the host has an image: looks, pulls, tries again what may pass by itself.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::{
    clock,
    image::{private, pull::Pull},
    instance::{
        effect::{FetchId, FetchRequest, Fetched},
        registry::Input,
    },
    protocol::spec::PullPolicy,
    runtime::{Class, ContainerRuntime, PullRequest, RuntimeError},
};

/// What may pass by itself is tried again after so long.
const RETRY_AFTER: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// Progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Looks for the image, and fetches it where it has to be. What may pass by itself is tried again,
/// the engine's own silence included.
pub(super) async fn fetch<R: ContainerRuntime>(
    runtime: &R,
    id: FetchId,
    request: FetchRequest,
    progress: mpsc::Sender<Input>,
) -> Fetched {
    let mut waits = RETRY_AFTER.iter();
    loop {
        let error = match try_once(runtime, id, &request, &progress).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        let wait = match waits.next() {
            Some(wait) if may_pass(error.class) => *wait,
            _ => return Err(error),
        };
        let message = format!("{}; trying again in {} s", error.message, wait.as_secs());
        tracing::warn!(image = %request.reference, %error, wait_s = wait.as_secs(), "pull");
        // Lossy: the next one tells as much.
        let _ = progress.try_send(Input::FetchProgress(id, Default::default(), message));
        tokio::time::sleep(wait).await;
    }
}

async fn try_once<R: ContainerRuntime>(
    runtime: &R,
    id: FetchId,
    request: &FetchRequest,
    progress: &mpsc::Sender<Input>,
) -> Fetched {
    let ask_registry = request.auth.is_some() || request.private;
    if request.auth.is_some() {
        // Before the image arrives, so that no crash leaves it open to everybody.
        super::operate::put_marker(runtime, &private::volume(&request.repository)).await?;
    }
    let present = match request.pull {
        PullPolicy::Never if ask_registry => {
            let why =
                "the repository is private, and with pull: never nobody can say who may have it";
            return Err(RuntimeError::new(
                "pull",
                &request.reference,
                Class::RegistryAuth,
                why,
            ));
        }
        PullPolicy::Never => {
            let missing = || absent(request, "the host does not have it and pull is never");
            return runtime.image(&request.reference).await?.ok_or_else(missing);
        }
        PullPolicy::Missing if !ask_registry => runtime.image(&request.reference).await?,
        PullPolicy::Missing | PullPolicy::Always => None,
    };
    if let Some(image) = present {
        return Ok(image);
    }
    let pull = PullRequest {
        reference: request.reference.clone(),
        auth: request.auth.clone(),
    };
    pull_once(runtime, id, &pull, progress).await?;
    // Removed in between, by somebody's clean-up, it is as good as never found.
    let gone = || absent(request, "the engine pulled it and does not have it");
    runtime.image(&request.reference).await?.ok_or_else(gone)
}

async fn pull_once<R: ContainerRuntime>(
    runtime: &R,
    id: FetchId,
    pull: &PullRequest,
    progress: &mpsc::Sender<Input>,
) -> Result<(), RuntimeError> {
    let begin = clock::now().boot;
    let mut layers = Pull::new(begin);
    let mut told: Option<Duration> = None;
    let mut tell = |layers: &Pull, at: Duration, last: bool| {
        if last || told.is_none_or(|told| at.saturating_sub(told) >= TELL_EVERY) {
            told = Some(at);
            let message = format!("pulling {}", pull.reference);
            let input = Input::FetchProgress(id, layers.progress(at), message);
            // Lossy: the newest wins.
            let _ = progress.try_send(input);
        }
    };
    tell(&layers, begin, true);
    let mut on_event = |event| {
        let at = clock::now().boot;
        layers.apply(&event, at);
        tell(&layers, at, false);
    };
    let result = runtime.pull(pull, &mut on_event).await;
    tell(&layers, clock::now().boot, true);
    result
}

/// Whether another try may succeed without anybody doing anything.
fn may_pass(class: Class) -> bool {
    match class {
        Class::Unknown
        | Class::Unreachable
        | Class::RegistryFailed
        | Class::Stalled
        | Class::Failed
        | Class::NotFound => true,
        Class::NameTaken
        | Class::PortTaken
        | Class::GpuRuntime
        | Class::DiskFull
        | Class::Unstartable
        | Class::Refused
        | Class::ImageNotFound
        | Class::RegistryAuth
        | Class::RateLimited
        | Class::ImageUnsupported
        | Class::ImageCorrupt
        | Class::InUse => false,
    }
}

fn absent(request: &FetchRequest, why: &str) -> RuntimeError {
    RuntimeError::new("pull", &request.reference, Class::ImageNotFound, why)
}
