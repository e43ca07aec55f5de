//! What a connection holds of its session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{EndReason, SessionKey, Shared};
use crate::metrics::SessionEvent;

/// A session's part that both sides write without the registry's lock.
#[derive(Debug)]
pub(super) struct Live {
    /// 0 while it is open, else one more than the place in [`REASONS`].
    ended: AtomicU8,
    /// Answers that run.
    busy: AtomicU32,
    /// Milliseconds since the registry's epoch.
    active_ms: AtomicU64,
    bell: Arc<Notify>,
}

const REASONS: [EndReason; 5] =
    [EndReason::Operator, EndReason::Replaced, EndReason::Resumed, EndReason::Idle, EndReason::Lifetime];

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

impl Live {
    pub(super) fn new(bell: Arc<Notify>, now: Duration) -> Self {
        Self { ended: AtomicU8::new(0), busy: AtomicU32::new(0), active_ms: AtomicU64::new(millis(now)), bell }
    }

    pub(super) fn end(&self, reason: EndReason) {
        let place = REASONS.iter().position(|known| *known == reason).expect("REASONS has them all");
        self.ended.store(place as u8 + 1, Ordering::Release);
        self.bell.notify_one();
    }

    fn ended(&self) -> Option<EndReason> {
        let place = self.ended.load(Ordering::Acquire).checked_sub(1)?;
        REASONS.get(usize::from(place)).copied()
    }

    pub(super) fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    pub(super) fn last_active(&self) -> Duration {
        Duration::from_millis(self.active_ms.load(Ordering::Relaxed))
    }

    fn touch(&self, now: Duration) {
        self.active_ms.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// An answer begins.
    pub(super) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer ended.
    pub(super) fn finish(&self, now: Duration) {
        // In this order: between the two it is busy and fresh, never idle and stale.
        self.touch(now);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open session. Dropping it closes the session.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    key: SessionKey,
    live: Arc<Live>,
}

impl Ticket {
    pub(super) fn new(shared: Arc<Shared>, key: SessionKey, live: Arc<Live>) -> Self {
        Self { shared, key, live }
    }

    /// Something is asked: the session is not idle.
    pub(crate) fn touch(&self) {
        self.live.touch(self.shared.now());
    }

    /// An answer runs until the result is dropped.
    pub(crate) fn activity(&self) -> Activity {
        self.live.begin();
        Activity { shared: Arc::clone(&self.shared), live: Arc::clone(&self.live) }
    }

    /// Begins the session anew in its place: its lifetime counts from now.
    pub(crate) fn renew(&self) {
        self.touch();
        self.shared.state.lock().renew(self.key, self.shared.now());
    }

    /// Why the session ended, if it was ended from outside.
    pub(crate) fn ended(&self) -> Option<EndReason> {
        self.live.ended()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.shared.state.lock().close(self.key, self.shared.now()) {
            self.shared.metrics.sessions.closed(SessionEvent::Closed);
        }
    }
}

/// A running answer keeps its session from being idle.
#[derive(Debug)]
pub(crate) struct Activity {
    shared: Arc<Shared>,
    live: Arc<Live>,
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.live.finish(self.shared.now());
    }
}
