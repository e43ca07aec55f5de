//! What becomes of the live requests when a worker dies.

use std::time::Duration;

use protocol::inference::FinishReason;
use tokio::time::Instant;

use super::Supervisor;
use crate::backend::{BackendError, Readiness};

impl Supervisor {
    /// The worker is gone or no longer trusted: drop it, decide who goes on, and plan the next start.
    pub(super) fn worker_died(&mut self, reason: &str) {
        let now = Instant::now();
        let mut ready_for = Duration::ZERO;
        if let Some(link) = self.link.take() {
            if let Some(ready_at) = link.ready_at {
                self.down_since = now;
                ready_for = now.duration_since(ready_at);
            }
            link.kill(reason);
        }
        self.failures.record(now, ready_for, &self.config);
        let delay = self.failures.backoff(&self.config);
        self.restart_at = now + delay;
        tracing::error!(
            %reason, live_requests = self.live.len(), deaths = self.failures.consecutive(),
            restart_in_seconds = delay.as_secs_f64(), "the worker failed"
        );
        self.end_what_cannot_go_on();
        if self.failures.are_too_many(&self.config) {
            let (count, window) = (self.config.failures_max, self.config.failure_window.as_secs());
            self.refuse(format!("the worker failed {count} times within {window} s, last: {reason}"));
        } else if self.refusal.is_none() {
            self.readiness.send_replace(Readiness::Starting { per_mille: 0 });
        }
    }

    /// After a death: requests whose last token was there are finished, those that keep killing workers are failed.
    fn end_what_cannot_go_on(&mut self) {
        let mut complete = Vec::new();
        let mut poisonous = Vec::new();
        for (id, live) in &mut self.live {
            let deaths = live.worker_died();
            if live.is_complete() {
                complete.push(*id);
            } else if deaths >= self.config.request_deaths_max {
                poisonous.push(*id);
            }
        }
        for id in complete {
            self.finish(id, FinishReason::Length);
        }
        for id in poisonous {
            let Some(live) = self.live.remove(&id) else { continue };
            self.metrics.poisoned.inc();
            let deaths = self.config.request_deaths_max;
            tracing::error!(request_id = %live.request_id, deaths, "workers died while this request ran: it is failed");
            live.fail(BackendError::Internal(format!("{deaths} workers died while this request ran")));
        }
    }

    /// Fails every live request and refuses new ones until a worker is ready.
    pub(super) fn refuse(&mut self, reason: String) {
        for (_, live) in self.live.drain() {
            live.fail(BackendError::Unavailable(reason.clone()));
        }
        self.readiness.send_replace(Readiness::Failed(reason.clone()));
        self.refusal = Some(reason);
    }
}
