//! The shelves of a [`super::ResponseStore`]: who has what, and in which order it goes.
//!
//! What is over the limits goes least recently used first: from the shelf that grows, if that has more than its
//! share, else from all. One busy client cannot empty the shelves of the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use super::{Limits, Owner, Stored};

/// Every owner's shelf.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    by_owner: HashMap<Arc<Owner>, Shelf>,
    /// Everything, least recently used first, by the turn of its last use.
    order: BTreeMap<u64, (Arc<Owner>, Arc<str>)>,
    /// Counts uses.
    turn: u64,
    bytes: usize,
}

/// One owner's responses.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    entries: HashMap<Arc<str>, Entry>,
    /// Least recently used first.
    order: BTreeMap<u64, Arc<str>>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    bytes: usize,
    turn: u64,
    used: Instant,
}

impl Shelves {
    /// Puts a response on its owner's shelf. The id must not be there yet.
    pub(super) fn put(&mut self, owner: &Owner, id: &str, stored: Arc<Stored>, bytes: usize, now: Instant) {
        let turn = self.next_turn();
        let (owner, id): (Arc<Owner>, Arc<str>) = (Arc::new(owner.clone()), id.into());
        let shelf = self.by_owner.entry(Arc::clone(&owner)).or_default();
        let former = shelf.entries.insert(Arc::clone(&id), Entry { stored, bytes, turn, used: now });
        debug_assert!(former.is_none(), "the caller removes first, or its bytes stay counted");
        shelf.order.insert(turn, Arc::clone(&id));
        shelf.bytes += bytes;
        self.bytes += bytes;
        self.order.insert(turn, (owner, id));
    }

    /// A response, which becomes the most recently used.
    pub(super) fn touch(&mut self, owner: &Owner, id: &str, now: Instant) -> Option<Arc<Stored>> {
        let turn = self.next_turn();
        let shelf = self.by_owner.get_mut(owner)?;
        let entry = shelf.entries.get_mut(id)?;
        let before = std::mem::replace(&mut entry.turn, turn);
        entry.used = now;
        let stored = Arc::clone(&entry.stored);
        if let Some(id) = shelf.order.remove(&before) {
            shelf.order.insert(turn, id);
        }
        if let Some(place) = self.order.remove(&before) {
            self.order.insert(turn, place);
        }
        Some(stored)
    }

    /// Takes a response off its shelf.
    pub(super) fn remove(&mut self, owner: &Owner, id: &str) -> Option<Arc<Stored>> {
        let shelf = self.by_owner.get_mut(owner)?;
        let entry = shelf.entries.remove(id)?;
        shelf.order.remove(&entry.turn);
        shelf.bytes -= entry.bytes;
        if shelf.entries.is_empty() {
            self.by_owner.remove(owner);
        }
        self.order.remove(&entry.turn);
        self.bytes -= entry.bytes;
        Some(entry.stored)
    }

    /// Takes a whole shelf.
    pub(super) fn remove_all(&mut self, owner: &Owner) -> Option<Shelf> {
        let shelf = self.by_owner.remove(owner)?;
        self.bytes -= shelf.bytes;
        for turn in shelf.order.keys() {
            self.order.remove(turn);
        }
        Some(shelf)
    }

    /// Removes what was not used for too long. The order of use is the order of expiry, so this looks no further
    /// than the first that is still good.
    pub(super) fn expire(&mut self, limits: Limits, now: Instant) -> Vec<Arc<Stored>> {
        let mut expired = Vec::new();
        while let Some((owner, id)) = self.oldest() {
            let entry = self.by_owner.get(&owner).and_then(|shelf| shelf.entries.get(&id));
            if entry.is_some_and(|entry| now.saturating_duration_since(entry.used) < limits.kept_for) {
                break;
            }
            expired.extend(self.remove(&owner, &id));
        }
        expired
    }

    /// What must go next, and for which limit, after `owner`'s shelf grew.
    pub(super) fn over(&self, limits: Limits, owner: &Owner) -> Option<(&'static str, Arc<Owner>, Arc<str>)> {
        let growing = self.by_owner.get_key_value(owner);
        let shares = self.by_owner.len();
        let (limit, greedy) = if self.order.len() > limits.responses_max {
            let held = growing.map_or(0, |(_, shelf)| shelf.entries.len());
            ("responses_stored_max", held.saturating_mul(shares) > limits.responses_max)
        } else if self.bytes > limits.bytes_max {
            let held = growing.map_or(0, |(_, shelf)| shelf.bytes);
            ("responses_stored_bytes_max", held.saturating_mul(shares) > limits.bytes_max)
        } else {
            return None;
        };
        // The newest stays, unless nothing else is left to give way.
        let own = growing.filter(|(_, shelf)| greedy && shelf.entries.len() > 1);
        let own = own.and_then(|(owner, shelf)| Some((Arc::clone(owner), Arc::clone(shelf.order.values().next()?))));
        let (owner, id) = own.or_else(|| self.oldest())?;
        Some((limit, owner, id))
    }

    fn oldest(&self) -> Option<(Arc<Owner>, Arc<str>)> {
        self.order.values().next().map(|(owner, id)| (Arc::clone(owner), Arc::clone(id)))
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Responses and bytes held, recounted from the shelves: the counters must agree.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let entries = || self.by_owner.values().flat_map(|shelf| shelf.entries.values());
        let bytes = entries().map(|entry| entry.bytes).sum();
        assert_eq!(bytes, self.bytes);
        assert_eq!(entries().count(), self.order.len());
        assert!(self.by_owner.values().all(|shelf| shelf.order.len() == shelf.entries.len()));
        assert!(self.by_owner.values().all(|shelf| !shelf.entries.is_empty()), "empty shelves are removed");
        (self.order.len(), bytes)
    }
}
