//! When the worker gets which request: at once, but for the time after a crash.

use engine_ipc::{ToWorker, WorkerId};

use super::Supervisor;
use crate::embedded::live::{Live, Stage};

impl Supervisor {
    /// Gives the worker what it may have now: the next suspect, or everything once there are none.
    pub(super) fn hand_over(&mut self) {
        if !self.is_ready() {
            return;
        }
        if !self.suspects.is_empty() {
            if let Some(id) = self.suspects.next() {
                self.submit(id);
            }
            return;
        }
        let held = self.live.iter().filter(|(_, live)| live.stage == Stage::Held);
        let mut ids: Vec<WorkerId> = held.map(|(id, _)| *id).collect();
        ids.sort_unstable(); // The order of arrival stays the order of service.
        for id in ids {
            self.submit(id);
        }
    }

    pub(super) fn submit(&mut self, id: WorkerId) {
        let Some((submit, again)) = self.live.get_mut(&id).map(Live::hand_over) else { return };
        self.metrics.resubmitted.inc_by(again.into());
        self.send(ToWorker::Submit(Box::new(submit)));
    }

    /// Takes a request that is over; a suspect makes way for the next.
    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Live> {
        let live = self.live.remove(&id);
        if self.suspects.remove(id) {
            self.hand_over();
        }
        live
    }

    /// The worker got so far with a request.
    pub(super) fn reached(&mut self, id: WorkerId, stage: Stage) {
        if let Some(live) = self.live.get_mut(&id) {
            live.stage = stage;
        }
        if self.suspects.reached(id, stage) {
            self.hand_over();
        }
    }
}
