//! What was seen already: nonces of signed HTTP requests and ids of key proofs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

/// One key may take this part of the places, so that it cannot shut out the others.
const SHARE: usize = 4;

type Mark = [u8; 16];

/// Why a nonce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFresh {
    /// It was seen before.
    Seen,
    /// There is no room to remember it: what cannot be told from a replay is refused like one.
    Full,
}

/// Remembers nonces for as long as what carries them would be accepted. Only what a known key has signed comes here, so
/// strangers cannot fill it.
#[derive(Debug, Default)]
pub(crate) struct ReplayCache {
    seen: HashSet<Mark>,
    /// In the order of arrival, which is that of expiry: everything is kept equally long.
    order: VecDeque<(Instant, Mark, Mark)>,
    by_key: HashMap<Mark, usize>,
}

impl ReplayCache {
    /// Notes `nonce` of the key with this thumbprint, to be kept until `now + keep`; at most `max` in all.
    ///
    /// # Errors
    /// [`NotFresh`]; it was not noted.
    pub(crate) fn note(
        &mut self,
        thumbprint: &str,
        nonce: &str,
        now: Instant,
        keep: Duration,
        max: usize,
    ) -> Result<(), NotFresh> {
        while let Some((expires, nonce, key)) = self.order.front()
            && *expires <= now
        {
            self.seen.remove(nonce);
            if let Some(count) = self.by_key.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.by_key.remove(key);
                }
            }
            self.order.pop_front();
        }
        // The thumbprint is of one length: no two pairs have one text.
        let (key, nonce) = (mark(&[thumbprint]), mark(&[thumbprint, nonce]));
        if self.seen.contains(&nonce) {
            return Err(NotFresh::Seen);
        }
        let of_key = self.by_key.get(&key).copied().unwrap_or(0);
        if self.order.len() >= max || of_key >= max.div_ceil(SHARE) {
            return Err(NotFresh::Full);
        }
        self.seen.insert(nonce);
        self.order.push_back((now + keep, nonce, key));
        *self.by_key.entry(key).or_default() += 1;
        Ok(())
    }
}

/// Half a SHA-256: collisions cost 2^64 tries, and only fool the one who signed both.
fn mark(parts: &[&str]) -> Mark {
    let mut digest = Sha256::new();
    parts.iter().for_each(|part| digest.update(part.as_bytes()));
    let mut mark = Mark::default();
    mark.copy_from_slice(&digest.finalize()[..16]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(10);

    #[test]
    fn a_nonce_is_taken_once_while_it_is_valid() {
        let (mut cache, start) = (ReplayCache::default(), Instant::now());
        let mut note = |key: &str, nonce: &str, second: u64| {
            cache.note(key, nonce, start + Duration::from_secs(second), KEEP, 100)
        };
        assert_eq!(note("a", "1", 0), Ok(()));
        assert_eq!(note("a", "1", 0), Err(NotFresh::Seen));
        assert_eq!(note("a", "1", 9), Err(NotFresh::Seen));
        assert_eq!(note("b", "1", 9), Ok(()), "nonces are the key's own");
        assert_eq!(note("a", "1", 10), Ok(()), "what carried it has expired");
        assert_eq!(note("b", "1", 18), Err(NotFresh::Seen));
    }

    #[test]
    fn a_full_memory_refuses_what_it_cannot_remember() {
        let (mut cache, start) = (ReplayCache::default(), Instant::now());
        let mut note = |key: &str, nonce: u32, second: u64| {
            cache.note(key, &nonce.to_string(), start + Duration::from_secs(second), KEEP, 8)
        };
        assert_eq!([note("a", 1, 0), note("a", 2, 0)], [Ok(()), Ok(())]);
        assert_eq!(note("a", 3, 0), Err(NotFresh::Full), "a quarter for each key");
        for key in ["b", "c", "d"] {
            assert_eq!([note(key, 1, 1), note(key, 2, 1)], [Ok(()), Ok(())]);
        }
        assert_eq!(note("e", 1, 1), Err(NotFresh::Full));
        assert_eq!(note("a", 1, 1), Err(NotFresh::Seen), "what is known stays known");
        assert_eq!(note("e", 1, 10), Ok(()), "room comes back with time");
        assert_eq!(note("a", 3, 11), Ok(()));
        assert_eq!(cache.order.len(), cache.seen.len());
        assert_eq!(cache.by_key.values().sum::<usize>(), cache.order.len());
    }
}
