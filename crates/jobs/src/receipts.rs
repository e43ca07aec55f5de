//! Receipts of a job, after they were issued.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::{JobId, ReceiptId, Subject};
use store::{Store, StoreError};
use tokio::time::MissedTickBehavior;

use crate::{Jobs, Metrics};

/// How often receipts that are too old are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);
/// Pause between two transactions that forget, so that answers get their turn.
const FORGET_PAUSE: Duration = Duration::from_millis(50);

impl Jobs {
    /// The canonical text of a receipt that belongs to `subject`, and to `job` where one is given.
    ///
    /// # Errors
    /// When the store fails. `Ok(None)`: there is none, or none of theirs.
    pub async fn receipt(
        &self,
        id: &ReceiptId,
        subject: &Subject,
        job: Option<&JobId>,
    ) -> Result<Option<String>, StoreError> {
        self.store.receipt(id.clone(), subject.clone(), job.cloned()).await
    }

    /// Forgets receipts once they are older than `retention`, now and every hour, until the future is dropped.
    pub fn forget_receipts(&self, retention: Duration) -> impl Future<Output = ()> + Send + 'static {
        run(self.store.clone(), self.metrics.clone(), retention)
    }
}

async fn run(store: Store, metrics: Metrics, retention: Duration) {
    let mut tick = tokio::time::interval(FORGET_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = u64::try_from(now.saturating_sub(retention).as_millis()).unwrap_or(0);
        loop {
            match store.forget_receipts(before).await {
                Ok(0) => break,
                Ok(forgotten) => {
                    metrics.forgotten_receipts.inc_by(forgotten);
                    tokio::time::sleep(FORGET_PAUSE).await;
                }
                // The store has said what is wrong, once.
                Err(error) => {
                    tracing::debug!(%error, "old receipts could not be deleted; retrying within the hour");
                    break;
                }
            }
        }
    }
}
