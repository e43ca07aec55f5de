use std::{fmt, sync::Arc};

use protocol::receipt::SignedReceipt;
use store::{MakeReceipt, ReservationId, Settlement, Store, StoreError};

use crate::{
    Metrics,
    journal::{Counts, Journal, Unsettled},
    now,
};

/// How a request ended, for the record.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Tokens of the prompt: recorded, not charged.
    pub prompt_tokens: u32,
    /// `stop`, `length`, `cancelled` or `error`.
    pub reason: &'static str,
}

/// What a settlement did.
#[derive(Debug, Clone)]
pub struct Charge {
    /// What the job was charged.
    pub tokens: u32,
    /// The receipt, durable like the charge; none where none was wanted or it could not be signed.
    pub receipt: Option<Arc<SignedReceipt>>,
}

/// A running request's claim on its job. Settle it; one that is dropped unsettled is settled in the background at
/// what was delivered, which is nothing if nothing was.
pub struct Reservation {
    store: Store,
    journal: Arc<Journal>,
    metrics: Metrics,
    counts: Arc<Counts>,
    id: ReservationId,
    tokens: u32,
    open: bool,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("id", &self.id).field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Reservation {
    pub(crate) fn new(store: Store, journal: Arc<Journal>, metrics: Metrics, id: ReservationId, tokens: u32) -> Self {
        let counts = journal.open(id);
        Self { store, journal, metrics, counts, id, tokens, open: true }
    }

    /// How many tokens were granted.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Notes that so many more tokens were handed to the client.
    pub fn delivered(&self, tokens: u32) {
        self.journal.delivered(&self.counts, tokens);
    }

    /// Charges what was delivered, gives back the rest and issues the receipt, durably and together.
    ///
    /// # Errors
    /// When the store fails: the settlement is repeated until the store takes it. Should the process end before, the
    /// next start settles what the journal says.
    pub async fn settle(mut self, outcome: Outcome, receipt: Option<MakeReceipt>) -> Result<Charge, StoreError> {
        let settlement = self.close(outcome);
        finish(&self.store, &self.journal, &self.metrics, (settlement, receipt)).await
    }

    /// Ends the journal's interest and the gauges; what is left is the store's.
    fn close(&mut self, outcome: Outcome) -> Settlement {
        self.open = false;
        self.journal.close(self.id);
        self.metrics.released(self.tokens);
        let delivered = self.counts.total();
        if delivered > self.tokens {
            tracing::error!(delivered, granted = self.tokens, "more was delivered than granted; charging the grant");
        }
        Settlement {
            id: self.id,
            prompt_tokens: outcome.prompt_tokens,
            completion_tokens: delivered.min(self.tokens),
            outcome: outcome.reason,
            settled_at: now(),
        }
    }
}

async fn finish(
    store: &Store,
    journal: &Journal,
    metrics: &Metrics,
    (settlement, receipt): Unsettled,
) -> Result<Charge, StoreError> {
    match store.settle(settlement, receipt.clone()).await {
        Ok(outcome) => {
            metrics.settled(&settlement, &outcome);
            Ok(Charge { tokens: settlement.completion_tokens, receipt: outcome.receipt })
        }
        Err(error) => {
            metrics.settlement_failures.inc();
            tracing::warn!(%error, "a settlement failed; it is repeated until the database takes it");
            journal.settle_later((settlement, receipt));
            Err(error)
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let settlement = self.close(Outcome { prompt_tokens: 0, reason: "cancelled" });
        let (store, journal, metrics) = (self.store.clone(), Arc::clone(&self.journal), self.metrics.clone());
        // Outside a runtime (the process is ending) the next start settles it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // `finish` logs and counts a failure.
                let _ = finish(&store, &journal, &metrics, (settlement, None)).await;
            });
        }
    }
}
