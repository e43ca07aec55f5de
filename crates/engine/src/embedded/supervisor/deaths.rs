//! What becomes of the live requests when a worker dies.

use std::time::Duration;

use engine_ipc::WorkerId;
use protocol::inference::FinishReason;
use tokio::time::Instant;

use super::Supervisor;
use crate::{
    backend::{BackendError, Readiness},
    embedded::{
        link::{Ended, Link},
        live::Stage,
    },
};

/// A worker that is gone or no longer trusted.
pub(super) struct Death {
    /// `None` when it could not even be started.
    link: Option<Link>,
    reason: String,
    /// Its socket closed, so that it ends, or has ended, by itself.
    is_over: bool,
}

impl Supervisor {
    /// The worker's socket closed.
    pub(super) fn worker_ended(&mut self) {
        let reason = "the worker's socket closed".to_owned();
        self.death = Some(Death { link: self.link.take(), reason, is_over: true });
    }

    /// The worker is no longer trusted, or could not be started.
    pub(super) fn worker_failed(&mut self, reason: String) {
        self.death = Some(Death { link: self.link.take(), reason, is_over: false });
    }

    /// Decides who goes on, and plans the next start.
    pub(super) async fn bury(&mut self, Death { link, reason, is_over }: Death) {
        let mut ready_for = Duration::ZERO;
        let mut ended = Ended::ByItself;
        if let Some(link) = link {
            if let Some(ready_at) = link.ready_at {
                self.down_since = Instant::now();
                ready_for = self.down_since.duration_since(ready_at);
            }
            ended = link.end(&reason, is_over).await;
        }
        let now = Instant::now();
        let is_explained = self.end_what_cannot_go_on(ended);
        self.failures.record(now, ready_for, is_explained, &self.config);
        let delay = self.failures.backoff(&self.config);
        self.restart_at = now + delay;
        tracing::error!(
            %reason, live_requests = self.live.len(), deaths = self.failures.consecutive(),
            restart_in_seconds = delay.as_secs_f64(), "the worker failed"
        );
        if self.failures.are_too_many(&self.config) {
            let (count, window) = (self.config.failures_max, self.config.failure_window.as_secs());
            self.refuse(format!("the worker failed {count} times within {window} s, last: {reason}"));
        } else if self.refusal.is_none() {
            self.readiness.send_replace(Readiness::Starting { per_mille: 0 });
        }
    }

    /// Finishes requests whose last token was there, fails the one that the crash is to blame on, and suspects those that
    /// it may be. True if one was to blame.
    fn end_what_cannot_go_on(&mut self, ended: Ended) -> bool {
        let culprit = self.suspects.worker_ended(ended == Ended::ByItself);
        if let Some(id) = culprit {
            self.fail_poisonous(id);
        }
        let complete: Vec<WorkerId> =
            self.live.iter().filter(|(_, live)| live.is_complete()).map(|(id, _)| *id).collect();
        for id in complete {
            self.finish(id, FinishReason::Length);
        }
        for (id, live) in &mut self.live {
            let stage = std::mem::replace(&mut live.stage, Stage::Held);
            if culprit.is_none() && ended == Ended::ByItself {
                self.suspects.accuse(*id, stage);
            }
        }
        culprit.is_some()
    }

    fn fail_poisonous(&mut self, id: WorkerId) {
        let Some(live) = self.remove(id) else { return };
        self.metrics.poisoned.inc();
        tracing::error!(request_id = %live.request_id, "this request crashed two workers: it is failed");
        live.fail(BackendError::Poisonous);
    }

    /// Fails every live request and refuses new ones until a worker is ready.
    pub(super) fn refuse(&mut self, reason: String) {
        for (id, live) in self.live.drain() {
            self.suspects.remove(id);
            live.fail(BackendError::Unavailable(reason.clone()));
        }
        self.readiness.send_replace(Readiness::Failed(reason.clone()));
        self.refusal = Some(reason);
    }
}
