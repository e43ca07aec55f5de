//! A key that is counted at each use, and that stops when it has been retired for a while.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use signing::{PublicKey, SignError, Signature, Signer};

use super::metrics::KeyUses;
use crate::token::now;

/// How long after it was retired a signer still signs, in seconds: work that took it just before gets to its end.
/// Receipts allow as much (`signing::receipt::RETIREMENT_LEEWAY_SECS`).
const RETIRED_GRACE_SECS: u64 = 30;
/// Not retired.
const NEVER: u64 = u64::MAX;

pub(super) struct CountedSigner {
    inner: Arc<dyn Signer>,
    uses: KeyUses,
    retired_at: AtomicU64,
}

impl CountedSigner {
    pub(super) fn new(inner: Arc<dyn Signer>, uses: KeyUses) -> Self {
        Self { inner, uses, retired_at: AtomicU64::new(NEVER) }
    }

    pub(super) fn retire(&self, now: u64) {
        self.retired_at.store(now, Ordering::Relaxed);
    }
}

impl Signer for CountedSigner {
    fn public_key(&self) -> PublicKey {
        self.inner.public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let retired_at = self.retired_at.load(Ordering::Relaxed);
        if retired_at != NEVER && now() > retired_at.saturating_add(RETIRED_GRACE_SECS) {
            self.uses.sign_retired.inc();
            return Err(SignError("the key was retired".to_owned()));
        }
        let signature = self.inner.sign(message);
        match &signature {
            Ok(_) => self.uses.signed.inc(),
            Err(_) => self.uses.sign_failed.inc(),
        };
        signature
    }
}
