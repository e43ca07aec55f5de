//! The node's own keys: one signs receipts (and tokens that others verify), the others were or will be the one.
//!
//! At rest they are in the data directory's `keys/` or in a hardware token ([`KeyStore`]). In a running node they are a
//! [`Keyring`], which follows the changes that `llm-node keys …` makes beside it. The node's identity is the thumbprint
//! of its first key; each later key is signed by the one before ([`signing::KeyStatement`]), so the identity outlives
//! every rotation.

mod error;
mod files;
mod key_store;
mod metrics;
mod pkcs11;
mod ring;
mod secret;
mod signer;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
pub use error::KeysError;
pub use files::read_private;
pub use key_store::{BACKUP_BYTES_MAX, KeyStore, KeysConfig, Opener, Origin, Restored, Rotated, Sealer, read_key_file};
pub use metrics::KeyMetrics;
use metrics::KeyUses;
use parking_lot::Mutex;
pub(crate) use pkcs11::TokenError;
pub use pkcs11::{Pkcs11Config, Selector, TokenError as HardwareTokenError};
pub use ring::{KEYS_MAX, KeyRecord, Ring, RingError, SecretPlace};
pub use secret::Passphrase;
use signer::CountedSigner;
use signing::{JwkSet, KeyStatement, PublicKey, SignError, Signature, Signer};
use tokio::time::MissedTickBehavior;

use crate::token::{KeyVerdict, NodeKeys, now};

/// How long others may keep the JWKS, in seconds: `Cache-Control: max-age` of `/.well-known/jwks.json`. A key is published
/// for at least as long before it signs.
pub const JWKS_MAX_AGE_SECS: u64 = 300;

/// How often a running node looks for changes.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// The keys of a running node. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    store: KeyStore,
    node_id: String,
    current: ArcSwap<Current>,
    /// One at a time takes over a change; holds the state on disk that was taken, or refused.
    seen: Mutex<Option<files::Stamp>>,
    metrics: KeyMetrics,
}

/// One state of the keys.
struct Current {
    ring: Ring,
    kid: String,
    signer: Arc<CountedSigner>,
    jwks: JwkSet,
    keys: HashMap<String, (KeyRecord, KeyUses)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("node_id", &self.0.node_id).finish_non_exhaustive()
    }
}

impl Keyring {
    /// Opens the keys; makes the first one where there is none (`origin` says from where). Whether it was made now.
    ///
    /// # Errors
    /// [`KeysError`]: the active key cannot be used.
    pub fn open(config: &KeysConfig, origin: Origin, metrics: KeyMetrics) -> Result<(Self, bool), KeysError> {
        let store = KeyStore::open(config)?;
        let (_, made) = store.ring_or_first(origin, now())?;
        let seen = store.stamp()?;
        let ring = store.existing_ring()?;
        let node_id = ring.node_id.clone();
        let current = Current::load(&store, ring, &metrics)?;
        metrics.active_since.set(current.active_since());
        let inner = Inner { store, node_id, current: ArcSwap::from_pointee(current), seen: Mutex::new(seen), metrics };
        Ok((Self(Arc::new(inner)), made))
    }

    /// Starts to notice what `llm-node keys …` changes beside this process. Must be called in a tokio runtime; the task
    /// ends when the last clone is dropped.
    #[must_use]
    pub fn watched(self) -> Self {
        tokio::spawn(watch(Arc::downgrade(&self.0)));
        self
    }

    /// The node's name: the thumbprint of its first key, whichever key signs now.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.0.node_id
    }

    /// The key that signs now, and its name. Take it for one use: the next may be by another key.
    #[must_use]
    pub fn signer(&self) -> (String, Arc<dyn Signer>) {
        let current = self.0.current.load();
        (current.kid.clone(), Arc::clone(&current.signer) as Arc<dyn Signer>)
    }

    /// Signs by the key that signs now.
    ///
    /// # Errors
    /// [`SignError`] when the hardware token fails.
    pub fn sign(&self, message: &[u8]) -> Result<(String, Signature), SignError> {
        let (kid, signer) = self.signer();
        signer.sign(message).map(|signature| (kid, signature))
    }

    /// What `/.well-known/jwks.json` shows.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        self.0.current.load().jwks.clone()
    }

    /// Each key but the first, signed by one before it.
    #[must_use]
    pub fn statements(&self) -> Vec<KeyStatement> {
        self.0.current.load().ring.statements.clone()
    }

    /// The key named `kid`, whatever the node does with it: for what it signed, not for what it may still sign.
    #[must_use]
    pub fn verifying_key(&self, kid: &str) -> Option<PublicKey> {
        self.0.current.load().keys.get(kid).map(|(record, _)| record.public_key)
    }

    /// Takes over a change of the keys at rest, if there is one. Reads files: not for a runtime's threads.
    ///
    /// # Errors
    /// [`KeysError`], once for each change: the node goes on with the keys that it has.
    pub fn refresh(&self) -> Result<bool, KeysError> {
        let mut seen = self.0.seen.lock();
        let found = self.0.store.stamp();
        // Whatever cannot be read counts as no keyring, and is said once.
        let state = found.as_ref().ok().copied().flatten();
        if state == *seen {
            return Ok(false);
        }
        *seen = state;
        let taken = found.and_then(|_| self.take_over());
        if taken.is_err() {
            self.0.metrics.reload_failures.inc();
        }
        taken.map(|()| true)
    }

    fn take_over(&self) -> Result<(), KeysError> {
        let ring = self.0.store.existing_ring()?;
        if ring.node_id != self.0.node_id {
            return Err(RingError::Damaged("it is of another node; restart to become that one").into());
        }
        let old = self.0.current.load_full();
        // The key that signs already needs no opening: its passphrase or its token may be gone by now.
        let new = if ring.active().kid == old.kid {
            Current::new(ring, Arc::clone(&old.signer), &self.0.metrics)
        } else {
            Current::load(&self.0.store, ring, &self.0.metrics)?
        };
        self.0.metrics.active_since.set(new.active_since());
        let changed = new.kid != old.kid;
        self.0.current.store(Arc::new(new));
        if changed {
            old.signer.retire(now());
        }
        Ok(())
    }
}

async fn watch(inner: Weak<Inner>) {
    let mut tick = tokio::time::interval(WATCH_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let keyring = Keyring(inner);
        // Reading files, opening an encrypted key or a hardware token: not on the runtime's threads.
        let taken = tokio::task::spawn_blocking(move || keyring.refresh().map(|new| new.then(|| keyring.signer().0)));
        match taken.await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(kid))) => tracing::info!(kid, "the node's keys have changed"),
            Ok(Err(error)) => {
                tracing::error!(%error, "a change of the node's keys cannot be taken; it goes on with those that it has");
            }
            // The runtime is ending.
            Err(_) => return,
        }
    }
}

impl Current {
    fn load(store: &KeyStore, ring: Ring, metrics: &KeyMetrics) -> Result<Self, KeysError> {
        let active = ring.active();
        let signer = CountedSigner::new(store.signer(active)?, metrics.uses(&active.kid));
        Ok(Self::new(ring, Arc::new(signer), metrics))
    }

    fn new(ring: Ring, signer: Arc<CountedSigner>, metrics: &KeyMetrics) -> Self {
        // Newest first: they are the ones in use, and get series of their own.
        let keys = ring.keys.iter().rev().map(|key| (key.kid.clone(), (key.clone(), metrics.uses(&key.kid)))).collect();
        Self { kid: ring.active().kid.clone(), jwks: ring.jwks(), signer, keys, ring }
    }

    fn active_since(&self) -> i64 {
        self.ring.active().active_from.and_then(|at| i64::try_from(at).ok()).unwrap_or_default()
    }
}

/// For a command beside the node: nothing is counted, and the active key is opened when it signs.
impl NodeKeys for KeyStore {
    fn active(&self) -> Result<(String, Arc<dyn Signer>), String> {
        let ring = self.existing_ring().map_err(|error| error.to_string())?;
        let signer = self.signer(ring.active()).map_err(|error| error.to_string())?;
        Ok((ring.active().kid.clone(), signer))
    }

    fn verify(&self, kid: &str, message: &[u8], signature: &Signature) -> KeyVerdict {
        let ring = self.ring().ok().flatten();
        match ring.as_ref().and_then(|ring| ring.find(kid)) {
            None => KeyVerdict::Unknown,
            Some(record) if !record.vouches_at(now()) => KeyVerdict::Retired,
            Some(record) if record.public_key.verify(message, signature).is_ok() => KeyVerdict::Valid,
            Some(_) => KeyVerdict::Invalid,
        }
    }
}

impl NodeKeys for Keyring {
    fn active(&self) -> Result<(String, Arc<dyn Signer>), String> {
        Ok(self.signer())
    }

    fn verify(&self, kid: &str, message: &[u8], signature: &Signature) -> KeyVerdict {
        let current = self.0.current.load();
        let Some((record, uses)) = current.keys.get(kid) else { return KeyVerdict::Unknown };
        if !record.vouches_at(now()) {
            uses.verify_retired.inc();
            return KeyVerdict::Retired;
        }
        if record.public_key.verify(message, signature).is_ok() {
            uses.verified.inc();
            KeyVerdict::Valid
        } else {
            uses.verify_failed.inc();
            KeyVerdict::Invalid
        }
    }
}
