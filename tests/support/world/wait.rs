//! Waiting for a condition, not for a time: it is looked at until it holds, and a limit that is far
//! above what it should take turns a hang into a failure with words.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// For what should take a moment, on a machine that is busy with other tests.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// For what has pauses of its own: the list after 10 s, back-offs, an engine's restart.
pub(crate) const LATER: Duration = Duration::from_secs(90);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// Looks until there is something to see. Panics after `limit`.
pub(crate) async fn wait_until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for {what}"
        );
        tokio::time::sleep(PERIOD).await;
    }
}

/// Looks until `holds` is true. Panics after `limit`.
pub(crate) async fn wait_for(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    wait_until(what, limit, || std::future::ready(holds().then_some(()))).await;
}
