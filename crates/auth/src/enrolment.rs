//! The public keys of clients: which keys sign for which subject.
//!
//! Keys are enrolled and withdrawn by the operator, through the admin API or by a command beside the node; the store
//! has them. What was read is kept in memory for a bounded number of subjects, and forgotten as soon as the store's
//! count of changes says so.

mod resolve;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use protocol::Subject;
pub use resolve::{KeyRefusal, SubjectKeys};
use signing::PublicKey;
use store::{ClientKeyRow, Enrolment, KEYS_PER_SUBJECT_MAX, Store, StoreError};

/// How often the store is asked what others changed: a withdrawal beside the node takes effect within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Subjects whose keys are kept in memory. At [`KEYS_PER_SUBJECT_MAX`] keys each they take at most about 40 MB.
const SUBJECTS_CACHED_MAX: usize = 8192;
/// Changed subjects that are forgotten one by one; after more of them everything is.
const CHANGES_NAMED_MAX: u32 = 256;
/// Longest label, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;

/// A subject that is nothing but a key: `ed25519:` and the key's RFC 7638 thumbprint.
const KEY_SUBJECT_PREFIX: &str = "ed25519:";

/// A key of a client.
pub type ClientKey = ClientKeyRow;

/// Why a key was not enrolled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnrolmentError {
    /// It was withdrawn before.
    #[error("this key was withdrawn: enrol it again by name if it is to be trusted once more, better use a new one")]
    Withdrawn,
    /// The subject has as many keys as it may.
    #[error("the subject has {KEYS_PER_SUBJECT_MAX} keys, which is the limit: withdraw one first")]
    Full,
    /// The label is too long or has unprintable characters.
    #[error("a label has at most {LABEL_BYTES_MAX} bytes and no control characters")]
    Label,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The subject that a job has whose owner is a key.
#[must_use]
pub fn subject_of(key: &PublicKey) -> Subject {
    Subject::new(format!("{KEY_SUBJECT_PREFIX}{}", key.thumbprint())).expect("base64url is short and printable")
}

/// The keys of all clients. Clones share the memory.
#[derive(Clone)]
pub struct ClientKeys {
    store: Store,
    cache: Arc<Mutex<Cache>>,
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKeys").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Cache {
    subjects: HashMap<Subject, Arc<SubjectKeys>>,
    /// Counts what was forgotten: what was read before a change must not be kept after it.
    generation: u64,
}

impl Cache {
    fn forget(&mut self, subjects: Option<&[Subject]>) {
        self.generation += 1;
        match subjects {
            Some(subjects) => subjects.iter().for_each(|subject| drop(self.subjects.remove(subject))),
            None => self.subjects.clear(),
        }
    }
}

impl ClientKeys {
    /// The keys in this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, cache: Arc::default() }
    }

    /// Starts to notice what commands beside this process change. Must be called in a tokio runtime; the task ends
    /// when the last clone is dropped.
    #[must_use]
    pub fn watched(self) -> Self {
        tokio::spawn(watch(self.store.clone(), Arc::downgrade(&self.cache)));
        self
    }

    /// The keys of a subject.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn of(&self, subject: &Subject) -> Result<Arc<SubjectKeys>, EnrolmentError> {
        let generation = {
            let cache = self.cache.lock();
            if let Some(keys) = cache.subjects.get(subject) {
                return Ok(Arc::clone(keys));
            }
            cache.generation
        };
        let rows = self.store.client_keys(Some(subject.clone()), u32::MAX).await?;
        let keys = Arc::new(SubjectKeys::new(subject, rows));
        let mut cache = self.cache.lock();
        if cache.generation == generation {
            if cache.subjects.len() >= SUBJECTS_CACHED_MAX {
                // Who comes again is read again; simpler than an order of use, and as bounded.
                cache.subjects.clear();
            }
            cache.subjects.insert(subject.clone(), Arc::clone(&keys));
        }
        Ok(keys)
    }

    /// Enrols a key. A key that the subject has already stays as it is. `again` also takes one that was withdrawn.
    ///
    /// # Errors
    /// [`EnrolmentError`]; nothing changed.
    pub async fn enrol(
        &self,
        subject: &Subject,
        key: &PublicKey,
        label: Option<String>,
        again: bool,
    ) -> Result<ClientKey, EnrolmentError> {
        if label.as_ref().is_some_and(|label| label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control)) {
            return Err(EnrolmentError::Label);
        }
        let thumbprint = key.thumbprint();
        let row = ClientKeyRow {
            subject: subject.clone(),
            thumbprint: thumbprint.clone(),
            public_key: *key.as_bytes(),
            label,
            enrolled_at: now(),
            withdrawn_at: None,
        };
        let enrolment = self.store.enrol_client_key(row.clone(), again).await?;
        self.cache.lock().forget(Some(std::slice::from_ref(subject)));
        match enrolment {
            Enrolment::Enrolled => Ok(row),
            Enrolment::Already => {
                let rows = self.store.client_keys(Some(subject.clone()), u32::MAX).await?;
                Ok(rows.into_iter().find(|found| found.thumbprint == thumbprint).unwrap_or(row))
            }
            Enrolment::Withdrawn => Err(EnrolmentError::Withdrawn),
            Enrolment::Full => Err(EnrolmentError::Full),
        }
    }

    /// Withdraws a key: nothing that it signs is accepted any more, and no token that is bound to it is of use.
    /// `None`: the subject has no such key.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn withdraw(&self, subject: &Subject, thumbprint: &str) -> Result<Option<ClientKey>, EnrolmentError> {
        let row = self.store.withdraw_client_key(subject.clone(), thumbprint.to_owned(), now()).await?;
        self.cache.lock().forget(Some(std::slice::from_ref(subject)));
        Ok(row)
    }

    /// Keys of one subject or of all, withdrawn ones too; at most `limit`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, subject: Option<&Subject>, limit: u32) -> Result<Vec<ClientKey>, EnrolmentError> {
        Ok(self.store.client_keys(subject.cloned(), limit).await?)
    }
}

async fn watch(store: Store, cache: Weak<Mutex<Cache>>) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = 0;
    let mut failing = false;
    loop {
        interval.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        match store.client_key_changes(seen, CHANGES_NAMED_MAX).await {
            Ok(changes) => {
                if changes.latest != seen {
                    cache.lock().forget(changes.subjects.as_deref());
                    seen = changes.latest;
                }
                failing = false;
            }
            Err(error) => {
                // What may be out of date is not used: without the cache each check asks the store, and fails closed.
                cache.lock().forget(None);
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "changes of client keys cannot be read");
                }
            }
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
