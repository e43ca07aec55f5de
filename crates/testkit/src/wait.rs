//! Waiting for a condition, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a test waits for anything before it fails.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Looks at a condition until it gives a value.
///
/// # Panics
/// With `what` when [`DEADLINE`] passed.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "within {DEADLINE:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
}
