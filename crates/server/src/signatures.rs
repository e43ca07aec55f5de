//! Signatures of clients: which key signed a message, proven once and in one place for every transport.
//!
//! [`Proof`] is the witness. It is made here and nowhere else, after the key was found among the speaker's and the
//! signature verified; the pipeline decides what a message without one may do.
//!
//! Verification costs about 25 µs of CPU, too little to leave the thread and too much to be done everywhere at once:
//! at most half of the runtime's threads verify at any time, the others wait in line without holding a thread. So
//! however many signed messages come, threads are left for the rest. A message of more than
//! [`INLINE_BYTES_MAX`] leaves the runtime's threads while it is hashed.

mod nonce;
mod refusal;
mod replay;
mod statement;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use auth::ClientKeys;
use parking_lot::Mutex;
use protocol::Subject;
use signing::{PublicKey, Window};
use tokio::sync::Semaphore;

use self::{
    nonce::ProofNonces,
    replay::{NotFresh, ReplayCache},
};
pub(crate) use self::{
    refusal::{OUTCOMES, Refusal, Why},
    statement::{Addressed, Statement, read_refusal},
};
use crate::{Metrics, Settings, pipeline::Authenticated};

/// Longest message that is hashed and verified on a runtime thread: about 100 µs of SHA-512.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// How far a client's clock may be ahead, in seconds.
pub(crate) const CLOCK_SKEW_SECS: u64 = 30;

/// What signatures a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SignatureMode {
    /// It takes none. Tokens that are bound to a key are of no use then.
    Off,
    /// Messages may be signed; those of a token that is bound to a key, and of a job that says so, must be.
    #[default]
    Optional,
    /// Every message must be signed.
    Required,
}

/// Where signed messages come in; the label `transport`.
pub(crate) const TRANSPORTS: [&str; 4] = ["native_ws", "responses_ws", "http", "dpop"];

/// Proof that a message was signed by a key of a subject.
#[derive(Debug, Clone)]
pub struct Proof {
    subject: Subject,
    thumbprint: String,
}

impl Proof {
    /// Whose key it is.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Which key signed: its RFC 7638 thumbprint.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }
}

/// A key whose holder sent a request, whoever that is.
#[derive(Debug, Clone)]
pub struct ProvenKey {
    key: PublicKey,
    thumbprint: String,
    /// The proof's own id.
    id: String,
}

impl ProvenKey {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The key's RFC 7638 thumbprint.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }
}

/// Verifies what clients signed.
pub struct Signatures {
    keys: ClientKeys,
    /// Places for those who verify now.
    turns: Arc<Semaphore>,
    seen: Mutex<ReplayCache>,
    nonces: ProofNonces,
    /// What was signed before this process began may be a replay of what an earlier one has seen (Unix seconds).
    started: u64,
    metrics: Metrics,
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signatures").finish_non_exhaustive()
    }
}

impl Signatures {
    /// Verifies by these keys.
    #[must_use]
    pub fn new(keys: ClientKeys, metrics: Metrics) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            keys,
            turns: Arc::new(Semaphore::new((threads / 2).max(1))),
            seen: Mutex::default(),
            nonces: ProofNonces::new(Instant::now()),
            started: unix_now(),
            metrics,
        }
    }

    /// The keys of clients.
    #[must_use]
    pub fn keys(&self) -> &ClientKeys {
        &self.keys
    }

    /// The key that a message of `who` names (or means, without a name), if it may sign for them.
    ///
    /// # Errors
    /// [`Refusal::Key`], [`Refusal::Store`].
    pub(crate) async fn key(&self, who: &Authenticated, named: Option<&str>) -> Result<PublicKey, Refusal> {
        let keys = self.keys.of(who.subject()).await?;
        Ok(keys.resolve(named, who.bound_key())?)
    }

    /// Verifies a statement by a key that [`Self::key`] gave for the same speaker.
    ///
    /// # Errors
    /// That the signature does not fit, or does not cover what it must.
    pub(crate) async fn verify(
        &self,
        who: &Authenticated,
        key: PublicKey,
        statement: Statement,
    ) -> Result<Proof, Refusal> {
        let bytes = statement.bytes();
        self.take_turn(bytes, move || statement.verify(&key)).await?;
        Ok(Proof { subject: who.subject().clone(), thumbprint: key.thumbprint() })
    }

    /// Verifies that who sends a request holds the key in its proof (RFC 9449), now and for the first time. Whose key
    /// that is, is not said.
    ///
    /// # Errors
    /// What is wrong with the proof.
    pub(crate) async fn verify_possession(
        &self,
        proof: &str,
        request: Addressed,
        settings: &Settings,
    ) -> Result<ProvenKey, Refusal> {
        let (proof, bytes, age_max) = (proof.to_owned(), proof.len(), settings.signature_age_max);
        let window = window(age_max);
        let proof = self.take_turn(bytes, move || request.verify_possession(&proof, window)).await?;
        self.check_time(proof.issued_at, age_max)?;
        if !proof.nonce.is_some_and(|nonce| self.nonces.accepts(&nonce, Instant::now())) {
            return Err(Refusal::NoNonce);
        }
        Ok(ProvenKey { thumbprint: proof.key.thumbprint(), key: proof.key, id: proof.jti })
    }

    /// Uses a proof up. Call it once the key turned out to be known: strangers must not fill the memory.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::Full`].
    pub(crate) fn use_up(&self, key: &ProvenKey, settings: &Settings) -> Result<(), Refusal> {
        // A space is in no thumbprint: ids of proofs and nonces of requests do not meet.
        let owner = format!("dpop {}", key.thumbprint);
        let keep = ProofNonces::LIFETIME.max(keep_for(settings.signature_age_max));
        self.take_nonce(&owner, &key.id, keep, settings.signature_nonces_max)
    }

    /// Runs a verification of so many bytes when its turn has come.
    async fn take_turn<T: Send + 'static>(
        &self,
        bytes: usize,
        verify: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("it is never closed");
        let verify = move || {
            let result = verify();
            drop(turn);
            result
        };
        if bytes <= INLINE_BYTES_MAX {
            return verify();
        }
        // It is never cancelled, so it fails only by a panic: nothing is proven then.
        tokio::task::spawn_blocking(verify).await.unwrap_or(Err(Refusal::Invalid))
    }

    /// Takes a nonce that `thumbprint` has signed, once. `keep` is how long what carries it would be accepted.
    ///
    /// # Errors
    /// [`Refusal::Replayed`], [`Refusal::Full`].
    pub(crate) fn take_nonce(&self, thumbprint: &str, nonce: &str, keep: Duration, max: usize) -> Result<(), Refusal> {
        let taken = self.seen.lock().note(thumbprint, nonce, Instant::now(), keep, max);
        taken.map_err(|why| match why {
            NotFresh::Seen => Refusal::Replayed,
            NotFresh::Full => {
                self.metrics.limit_hit("nonces_max");
                Refusal::Full
            }
        })
    }

    /// Checks the time at which something was signed (Unix seconds): at most `age_max` ago, not before this process
    /// began, and not in the future but for [`CLOCK_SKEW_SECS`].
    ///
    /// # Errors
    /// [`Refusal::Stale`], [`Refusal::Future`].
    pub(crate) fn check_time(&self, at: u64, age_max: Duration) -> Result<(), Refusal> {
        let now = unix_now();
        if at > now.saturating_add(CLOCK_SKEW_SECS) {
            return Err(Refusal::Future { now });
        }
        if at.saturating_add(age_max.as_secs()) < now || at < self.started {
            return Err(Refusal::Stale { now });
        }
        Ok(())
    }

    /// The nonce for the next key proof.
    pub(crate) fn proof_nonce(&self) -> String {
        self.nonces.current(Instant::now())
    }

    /// Counts a check and logs a refusal; the client hears less.
    pub(crate) fn counted<T>(&self, transport: &'static str, result: Result<T, Refusal>) -> Result<T, Refusal> {
        let outcome = result.as_ref().err().map_or("ok", Refusal::outcome);
        self.metrics.signature_checked(transport, outcome);
        if let Err(refusal) = &result {
            tracing::info!(transport, reason = %refusal, "a signature was refused");
        }
        result
    }
}

/// How long a nonce must be remembered whose time is checked with `age_max`.
pub(crate) fn keep_for(age_max: Duration) -> Duration {
    age_max + Duration::from_secs(CLOCK_SKEW_SECS + 1)
}

/// The times that are taken now.
pub(crate) fn window(age_max: Duration) -> Window {
    Window { now: unix_now(), age_secs_max: age_max.as_secs(), ahead_secs_max: CLOCK_SKEW_SECS }
}

/// Unix seconds.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
