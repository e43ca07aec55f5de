//! Where a node's secrets come from, and the ring in force.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    JwtSecret, SecretError,
    files::{Rotated, SecretFiles, Stamp},
    ring::{Earlier, Keyed, Ring},
};

/// How often the files are looked at: a rotation beside the node takes effect within a second.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Least time between two looks at the files that strangers' tokens can cause.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// The secrets of the node's own HS256 tokens. Clones share them.
#[derive(Clone)]
pub struct Secrets(Arc<Inner>);

struct Inner {
    ring: ArcSwap<Ring>,
    /// `None` where the secret is configured.
    files: Option<Mutex<Files>>,
}

struct Files {
    files: SecretFiles,
    seen: Stamp,
    looked: Instant,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl Secrets {
    /// A configured secret, and the one before it, which verifies only.
    #[must_use]
    pub fn configured(current: &JwtSecret, previous: Option<&JwtSecret>) -> Self {
        Self(Arc::new(Inner { ring: ArcSwap::from_pointee(configured(current, previous)), files: None }))
    }

    /// The generated secret at `path`, and earlier ones beside it. On first start it is generated.
    ///
    /// # Errors
    /// [`SecretError`]: unreadable, exposed to others, too short.
    pub fn generated(path: PathBuf) -> Result<Self, SecretError> {
        let files = SecretFiles::new(path);
        let (ring, seen) = files.load()?;
        let files = Mutex::new(Files { files, seen, looked: Instant::now() });
        Ok(Self(Arc::new(Inner { ring: ArcSwap::from_pointee(ring), files: Some(files) })))
    }

    /// Starts to notice what commands beside this process change. Must be called in a tokio runtime; the task ends when
    /// the last clone is dropped.
    #[must_use]
    pub fn watched(self) -> Self {
        if self.0.files.is_some() {
            tokio::spawn(watch(Arc::downgrade(&self.0)));
        }
        self
    }

    /// Whether the secret is configured, not generated.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.0.files.is_none()
    }

    /// Takes other configured secrets. Nothing happens where the secret is a generated one.
    pub fn reconfigure(&self, current: &JwtSecret, previous: Option<&JwtSecret>) {
        if self.0.files.is_none() {
            self.0.ring.store(Arc::new(configured(current, previous)));
        }
    }

    /// Generates a new secret beside the node, which notices within a second. Tokens of the old one stay valid for
    /// `overlap`.
    ///
    /// # Errors
    /// [`SecretError::TooManyEarlier`], [`SecretError::Io`].
    pub fn rotate(path: PathBuf, overlap: Duration, now: u64) -> Result<Rotated, SecretError> {
        SecretFiles::new(path).rotate(overlap, now)
    }

    /// Looks whether a command beside the node changed the files.
    ///
    /// # Errors
    /// As [`Self::generated`]; the ring in force stays.
    pub fn look(&self) -> Result<(), SecretError> {
        let Some(files) = &self.0.files else { return Ok(()) };
        let mut files = files.lock();
        files.looked = Instant::now();
        if files.files.stamp()? != files.seen {
            let (ring, seen) = files.files.load()?;
            files.seen = seen;
            self.0.ring.store(Arc::new(ring));
        }
        Ok(())
    }

    /// As [`Self::look`], at once, because a token names a secret that is not known: a token that was issued beside the
    /// node is good before the next look is due. However many come, the files are looked at 20 times a second at most.
    pub(crate) fn look_if_due(&self) {
        let due = |files: &Mutex<Files>| files.try_lock().is_some_and(|it| it.looked.elapsed() >= LOOK_INTERVAL_MIN);
        if self.0.files.as_ref().is_some_and(due)
            && let Err(error) = self.look()
        {
            tracing::debug!(%error, "the token secrets cannot be read again");
        }
    }

    /// The secrets in force.
    pub(crate) fn ring(&self) -> Arc<Ring> {
        self.0.ring.load_full()
    }
}

async fn watch(secrets: Weak<Inner>) {
    let mut interval = tokio::time::interval(POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        interval.tick().await;
        let Some(secrets) = secrets.upgrade().map(Secrets) else { return };
        // Files may be on a disk that is slow or gone.
        let looked = tokio::task::spawn_blocking(move || secrets.look()).await;
        let Ok(looked) = looked else { return }; // the runtime ends
        if let Err(error) = &looked
            && !failing
        {
            tracing::error!(%error, "the token secrets cannot be read again; those in force stay");
        }
        failing = looked.is_err();
    }
}

fn configured(current: &JwtSecret, previous: Option<&JwtSecret>) -> Ring {
    let earlier = previous.map(|previous| Earlier { keyed: Keyed::new(previous), until: None });
    Ring::new(current, earlier.into_iter().collect())
}
