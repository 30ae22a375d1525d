//! Level-triggered waiting: a condition is asked again and again until it holds.

use std::{
    future::Future,
    time::{Duration, Instant},
};

const EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` after `limit`.
pub(crate) async fn wait_until<F, Fut>(what: &str, limit: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(EVERY).await;
    }
}

/// As [`wait_until`], outside a runtime.
pub(crate) fn wait_until_blocking(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(EVERY);
    }
}
