use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::EmbeddedConfig;

/// Deaths of workers: how many lately, and how long to wait before the next start.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// At most `failures_max`, none older than `failure_window`.
    recent: VecDeque<Instant>,
    /// Since a worker was ready for a whole `failure_window`.
    consecutive: u32,
}

impl Failures {
    /// Records a death. `ready_for` is how long the worker had been ready. A death `is_explained` when a request answers
    /// for it and is gone: it delays the next start like any other, but says nothing about the workers to come.
    pub(super) fn record(&mut self, now: Instant, ready_for: Duration, is_explained: bool, config: &EmbeddedConfig) {
        if ready_for >= config.failure_window {
            self.consecutive = 0;
        }
        self.consecutive = self.consecutive.saturating_add(1);
        if !is_explained {
            self.recent.push_back(now);
        }
        while self.recent.len() > config.failures_max
            || self.recent.front().is_some_and(|&at| now.duration_since(at) > config.failure_window)
        {
            self.recent.pop_front();
        }
    }

    /// Whether there were too many lately to let requests wait.
    pub(super) fn are_too_many(&self, config: &EmbeddedConfig) -> bool {
        self.recent.len() >= config.failures_max
    }

    pub(super) fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// Doubling, bounded, and between half and all of it, so that several nodes do not restart in step.
    pub(super) fn backoff(&self, config: &EmbeddedConfig) -> Duration {
        let doublings = self.consecutive.saturating_sub(1).min(16);
        let delay = config.backoff_base.saturating_mul(1 << doublings).min(config.backoff_max);
        delay.mul_f64(rand::random_range(0.5..=1.0))
    }
}
