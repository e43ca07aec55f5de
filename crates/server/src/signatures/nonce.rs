//! The nonce that key proofs must carry (RFC 9449 section 8).

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A nonce is given out for so long, and accepted for as long again.
const ROTATION: Duration = Duration::from_secs(150);

/// The nonce of now and the one before. They are random and of this process: a proof from before a restart is useless.
#[derive(Debug)]
pub(crate) struct ProofNonces(Mutex<Nonces>);

#[derive(Debug)]
struct Nonces {
    since: Instant,
    current: String,
    previous: Option<String>,
}

impl ProofNonces {
    /// Longest time from a nonce's first day to its last.
    pub(crate) const LIFETIME: Duration = Duration::from_secs(2 * ROTATION.as_secs());

    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Nonces { since: now, current: fresh(), previous: None }))
    }

    /// What a new proof must carry.
    pub(crate) fn current(&self, now: Instant) -> String {
        self.rotated(now, |nonces| nonces.current.clone())
    }

    pub(crate) fn accepts(&self, nonce: &str, now: Instant) -> bool {
        self.rotated(now, |nonces| nonces.current == nonce || nonces.previous.as_deref() == Some(nonce))
    }

    fn rotated<T>(&self, now: Instant, read: impl FnOnce(&Nonces) -> T) -> T {
        let mut nonces = self.0.lock();
        let age = now.saturating_duration_since(nonces.since);
        if age >= ROTATION {
            let last = std::mem::replace(&mut nonces.current, fresh());
            nonces.previous = (age < Self::LIFETIME).then_some(last);
            nonces.since = now;
        }
        read(&nonces)
    }
}

/// 128 random bits.
fn fresh() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_valid_for_a_while_and_not_again() {
        let start = Instant::now();
        let nonces = ProofNonces::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = nonces.current(start);
        assert!(!nonces.accepts("", start) && !nonces.accepts(&first[1..], start));
        assert!(nonces.accepts(&first, at(149)));
        assert!(nonces.accepts(&first, at(151)), "the one before is still taken");
        let second = nonces.current(at(152));
        assert_ne!(first, second);
        assert!(nonces.accepts(&second, at(302)));
        assert!(!nonces.accepts(&first, at(302)));
        assert!(!nonces.accepts(&second, at(1000)), "nobody asked for long: both are old");
    }
}
