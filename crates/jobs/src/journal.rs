//! Writes the delivered counts of running requests to the store, all that changed in one transaction, and repeats what
//! the store did not take.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use store::{MakeReceipt, ReservationId, Settlement, Store};
use tokio::{sync::Notify, time::MissedTickBehavior};

use crate::{JobsConfig, Metrics};

/// Settlements that wait for the store. While it fails nothing new is reserved, so they are as many as ran at once.
const UNSETTLED_MAX: usize = 65_536;

/// A settlement, and the receipt that goes with it.
pub(crate) type Unsettled = (Settlement, Option<MakeReceipt>);

#[derive(Debug, Default)]
pub(crate) struct Counts {
    delivered: AtomicU32,
    journalled: AtomicU32,
}

#[derive(Debug)]
pub(crate) struct Journal {
    live: Mutex<HashMap<ReservationId, Arc<Counts>>>,
    /// Answers that are over, as the store does not know yet.
    unsettled: Mutex<Vec<Unsettled>>,
    due: Notify,
    journal_tokens: u32,
    metrics: Metrics,
}

impl Journal {
    pub(crate) fn start(store: Store, config: JobsConfig, metrics: Metrics) -> Arc<Self> {
        let journal = Arc::new(Self {
            live: Mutex::default(),
            unsettled: Mutex::default(),
            due: Notify::new(),
            journal_tokens: config.journal_tokens.max(1),
            metrics,
        });
        tokio::spawn(run(Arc::downgrade(&journal), store, config));
        journal
    }

    pub(crate) fn open(&self, id: ReservationId) -> Arc<Counts> {
        let counts = Arc::new(Counts::default());
        self.live.lock().insert(id, Arc::clone(&counts));
        counts
    }

    pub(crate) fn close(&self, id: ReservationId) {
        self.live.lock().remove(&id);
    }

    pub(crate) fn delivered(&self, counts: &Counts, tokens: u32) {
        let delivered = counts.delivered.fetch_add(tokens, Ordering::Relaxed) + tokens;
        if delivered - counts.journalled.load(Ordering::Relaxed) >= self.journal_tokens {
            self.due.notify_one();
        }
    }

    /// Repeats a settlement that the store did not take, until it does.
    pub(crate) fn settle_later(&self, settlement: Unsettled) {
        let mut unsettled = self.unsettled.lock();
        if unsettled.len() >= UNSETTLED_MAX {
            tracing::error!(
                limit = UNSETTLED_MAX,
                "too many settlements wait; the next start settles from the journal"
            );
            return;
        }
        unsettled.push(settlement);
        self.metrics.unsettled.inc();
    }

    /// Asks a store that failed whether it can write again, and gives it what waits.
    async fn catch_up(&self, store: &Store) {
        if store.failure().is_some() && store.probe().await.is_err() {
            return;
        }
        let waiting = std::mem::take(&mut *self.unsettled.lock());
        let mut waiting = waiting.into_iter();
        while let Some((settlement, receipt)) = waiting.next() {
            match store.settle(settlement, receipt.clone()).await {
                Ok(outcome) => {
                    self.metrics.unsettled.dec();
                    self.metrics.settled(&settlement, &outcome);
                }
                Err(_) => {
                    self.unsettled.lock().extend(std::iter::once((settlement, receipt)).chain(waiting));
                    return;
                }
            }
        }
    }

    fn changed(&self) -> Vec<(ReservationId, u32, Arc<Counts>)> {
        let live = self.live.lock();
        let now = live.iter().map(|(id, counts)| (*id, counts.delivered.load(Ordering::Relaxed), counts));
        now.filter(|(_, delivered, counts)| *delivered != counts.journalled.load(Ordering::Relaxed))
            .map(|(id, delivered, counts)| (id, delivered, Arc::clone(counts)))
            .collect()
    }
}

impl Counts {
    pub(crate) fn total(&self) -> u32 {
        self.delivered.load(Ordering::Relaxed)
    }
}

/// Ends when the journal is dropped: at the next tick, at the latest.
async fn run(journal: Weak<Journal>, store: Store, config: JobsConfig) {
    let mut tick = tokio::time::interval(config.journal_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        loop {
            let Some(journal) = journal.upgrade() else { return };
            journal.catch_up(&store).await;
            let changed = journal.changed();
            if !changed.is_empty() {
                let counts = changed.iter().map(|(id, delivered, _)| (*id, *delivered)).collect();
                match store.journal(counts).await {
                    Ok(()) => {
                        for (_, delivered, counts) in changed {
                            counts.journalled.store(delivered, Ordering::Relaxed);
                        }
                    }
                    // The store has said what is wrong, once.
                    Err(error) => tracing::debug!(%error, "delivered tokens could not be journalled; retrying"),
                }
            }
            // Before the interval is over, a request that delivered `journal_tokens` makes it due.
            let due = tokio::time::timeout(config.journal_interval, journal.due.notified()).await;
            if due.is_err() {
                break;
            }
        }
    }
}
