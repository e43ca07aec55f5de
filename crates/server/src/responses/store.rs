//! Responses that can be continued, in memory and bounded.
//!
//! Every owner has a shelf of their own and an id is only ever looked up on one's own shelf. So an id of someone else
//! and an id that never existed take the same path, and no check can be forgotten.

mod shelves;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use protocol::{JobId, Subject, inference::Message};

use crate::{Settings, pipeline::Authenticated};
use shelves::Shelves;

/// What an entry costs beside its text (map nodes, ids, counters), generously.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Whose a response is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// An identity: the token's subject, and its job where it has one. Two jobs of one subject are two parties.
    Identity {
        /// `sub`.
        subject: Subject,
        /// The token's job.
        job: Option<JobId>,
    },
    /// One WebSocket, by a random number of its own: `store: false` responses live and die with it.
    Connection(u128),
}

impl Owner {
    pub(super) fn of(who: &Authenticated) -> Self {
        Self::Identity { subject: who.subject().clone(), job: who.job().cloned() }
    }
}

/// A response as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// The conversation up to and including the answer, without `instructions`.
    pub messages: Vec<Message>,
    /// The response object's JSON, where it can be retrieved.
    pub json: Option<String>,
}

impl Stored {
    fn bytes(&self) -> usize {
        let messages: usize = self.messages.iter().map(|m| m.content.len() + size_of::<Message>()).sum();
        ENTRY_OVERHEAD_BYTES + messages + self.json.as_ref().map_or(0, String::len)
    }
}

/// The limits in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// `responses_stored_max`.
    pub responses_max: usize,
    /// `responses_stored_bytes_max`.
    pub bytes_max: usize,
    /// `responses_stored_for`, counted from the last use.
    pub kept_for: Duration,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            responses_max: settings.responses_stored_max,
            bytes_max: settings.responses_stored_bytes_max,
            kept_for: settings.responses_stored_for,
        }
    }
}

/// Responses by owner and id, bounded in number, bytes and age; the least recently used go first.
#[derive(Debug, Default)]
pub struct ResponseStore {
    shelves: Mutex<Shelves>,
}

// What a method removes is freed after the lock is released: a conversation can have megabytes.
impl ResponseStore {
    /// Keeps a response. Returns the settings key of the limit to which something had to give way: older responses,
    /// or this one where it alone is larger than everything allowed.
    pub(super) fn insert(
        &self,
        owner: &Owner,
        id: &str,
        stored: Stored,
        limits: Limits,
        now: Instant,
    ) -> Option<&'static str> {
        let bytes = stored.bytes();
        if bytes > limits.bytes_max {
            return Some("responses_stored_bytes_max");
        }
        let mut shelves = self.shelves.lock();
        let mut removed = shelves.expire(limits, now);
        removed.extend(shelves.remove(owner, id));
        shelves.put(owner, id, Arc::new(stored), bytes, now);
        let mut hit = None;
        while let Some((limit, owner, id)) = shelves.over(limits, owner) {
            hit = Some(limit);
            removed.extend(shelves.remove(&owner, &id));
        }
        drop(shelves);
        hit
    }

    /// A response of this owner. Using it keeps it.
    pub(super) fn get(&self, owner: &Owner, id: &str, limits: Limits, now: Instant) -> Option<Arc<Stored>> {
        let mut shelves = self.shelves.lock();
        let _expired = shelves.expire(limits, now);
        let found = shelves.touch(owner, id, now);
        drop(shelves);
        found
    }

    /// Forgets a response of this owner. False when there is none.
    pub(super) fn remove(&self, owner: &Owner, id: &str, limits: Limits, now: Instant) -> bool {
        let mut shelves = self.shelves.lock();
        let _expired = shelves.expire(limits, now);
        let found = shelves.remove(owner, id);
        drop(shelves);
        found.is_some()
    }

    /// Forgets everything of this owner.
    pub(super) fn remove_all(&self, owner: &Owner) {
        let _removed = self.shelves.lock().remove_all(owner);
    }
}
