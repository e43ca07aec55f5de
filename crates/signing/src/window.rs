//! How old, or how far ahead, a time in a signed message may be.

/// The accepted times around now, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Now.
    pub now: u64,
    /// Oldest that is accepted, in seconds.
    pub age_secs_max: u64,
    /// How far ahead the other's clock may be, in seconds.
    pub ahead_secs_max: u64,
}

impl Window {
    /// Whether `time` is in it, both ends included.
    #[must_use]
    pub const fn contains(&self, time: u64) -> bool {
        time >= self.now.saturating_sub(self.age_secs_max) && time <= self.now.saturating_add(self.ahead_secs_max)
    }
}
