//! May they, and how much: jobs with a token budget that is reserved before an answer and settled after it.
//!
//! The unit is the generated token: what the model produced and the client was sent. Prompt tokens are recorded and
//! not charged (the marketplace's `tokensUsed` counts likewise).
//!
//! A [`Reservation`] is one running request's claim. It notes what was delivered ([`Reservation::delivered`]); a
//! journal task writes these notes to the store, so that a process that is killed charges what it delivered, but for
//! at most [`JobsConfig::journal_tokens`] tokens or [`JobsConfig::journal_interval`] of time per running request.

mod error;
mod journal;
mod metrics;
mod receipts;
mod reservation;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use error::JobError;
pub use metrics::Metrics;
use protocol::{JobId, RequestId, Subject};
pub use reservation::{Charge, Outcome, Reservation};
pub use store::{ChainLink, JobRow as Job, JobStatus, MakeReceipt, NewJobRow as NewJob, Recovered};
use store::{ReserveOutcome, Store, StoreError};

use crate::journal::Journal;

/// How often running requests are journalled.
#[derive(Debug, Clone, Copy)]
pub struct JobsConfig {
    /// Write a request's delivered count at least every so many tokens.
    pub journal_tokens: u32,
    /// … and at least this often.
    pub journal_interval: Duration,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self { journal_tokens: 64, journal_interval: Duration::from_secs(1) }
    }
}

/// Decides about jobs. Clones share state.
#[derive(Debug, Clone)]
pub struct Jobs {
    store: Store,
    journal: Arc<Journal>,
    metrics: Metrics,
}

impl Jobs {
    /// Jobs in this store. Must be called in a tokio runtime: it starts the journal task, which ends when the last
    /// clone and the last reservation are dropped.
    #[must_use]
    pub fn new(store: Store, config: JobsConfig, metrics: Metrics) -> Self {
        let journal = Journal::start(store.clone(), config, metrics.clone());
        Self { store, journal, metrics }
    }

    /// Settles what an earlier process left open. Call once at start, before any work, by the process that owns the
    /// data directory.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn recover(&self) -> Result<Recovered, StoreError> {
        let recovered = self.store.recover(now()).await?;
        self.metrics.charged_tokens.inc_by(recovered.tokens);
        Ok(recovered)
    }

    /// Why usage cannot be recorded now, as a sentence for everybody; `None` while it can.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        self.store.failure().map(|error| match error {
            StoreError::Full => "the disk that holds the database is full; requests are refused until there is space",
            _ => "the database cannot be written; requests are refused until it can",
        })
    }

    /// Creates a job.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when its id is taken.
    pub async fn create(&self, job: NewJob) -> Result<(), StoreError> {
        self.store.create_job(job).await
    }

    /// Finds a job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        self.store.job(id.clone()).await
    }

    /// Every job, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self) -> Result<Vec<Job>, StoreError> {
        self.store.jobs().await
    }

    /// A subject's jobs, newest first; at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(&self, owner: &Subject, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.store.jobs_of(owner.clone(), limit).await
    }

    /// Closes a job: it takes no new work, running requests settle. `None`: no such job.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn close(&self, id: &JobId) -> Result<Option<Job>, StoreError> {
        self.store.close_job(id.clone(), now()).await
    }

    /// Checks that `subject` may use the job now, for `model` where it is known.
    ///
    /// # Errors
    /// [`JobError`]: which check failed. Checks run in this order: exists, owner, open, time, model, budget.
    pub async fn check(&self, id: &JobId, subject: &Subject, model: Option<&str>) -> Result<Job, JobError> {
        let result = match self.find(id).await {
            Ok(Some(job)) => check(&job, subject, model, now()).map(|()| job),
            Ok(None) => Err(JobError::Unknown),
            Err(error) => Err(JobError::Store(error)),
        };
        if let Err(error) = &result {
            self.metrics.refused(error);
        }
        result
    }

    /// Reserves up to `tokens` of the job for one request: as many as asked, or what remains.
    ///
    /// # Errors
    /// [`JobError`]; nothing is reserved.
    pub async fn reserve(
        &self,
        id: &JobId,
        subject: &Subject,
        request: &RequestId,
        tokens: u32,
    ) -> Result<Reservation, JobError> {
        let now = now();
        let outcome = self.store.reserve(id.clone(), subject.clone(), request.clone(), tokens.max(1), now).await;
        let result = match outcome {
            Ok(ReserveOutcome::Granted { id, tokens }) => {
                self.metrics.reserved(tokens);
                Ok(Reservation::new(self.store.clone(), Arc::clone(&self.journal), self.metrics.clone(), id, tokens))
            }
            Ok(ReserveOutcome::Unknown) => Err(JobError::Unknown),
            // It was refused in the transaction: the row says why, and if it does not, the budget ran out meanwhile.
            Ok(ReserveOutcome::Refused(job)) => {
                Err(check(&job, subject, None, now).err().unwrap_or(JobError::Exhausted))
            }
            Err(error) => Err(JobError::Store(error)),
        };
        if let Err(error) = &result {
            self.metrics.refused(error);
        }
        result
    }
}

fn check(job: &Job, subject: &Subject, model: Option<&str>, now: u64) -> Result<(), JobError> {
    if job.owner != *subject {
        return Err(JobError::NotOwner);
    }
    match job.status(now) {
        JobStatus::Closed => return Err(JobError::Closed),
        JobStatus::Expired => return Err(JobError::Expired),
        JobStatus::Exhausted => return Err(JobError::Exhausted),
        JobStatus::Active => {}
    }
    if let (Some(allowed), Some(asked)) = (&job.model, model)
        && allowed != asked
    {
        return Err(JobError::ModelNotAllowed);
    }
    if job.remaining_tokens() == 0 { Err(JobError::Exhausted) } else { Ok(()) }
}

/// Unix seconds.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
