//! Which request crashes the workers.
//!
//! Everyone whom a crashed worker was working on is a suspect, so a limit on the crashes that a request was part of would
//! fail the bystanders with the culprit. Instead the next worker gets the suspects **one at a time**: the next is handed
//! over when the one before went past the point at which the worker crashed (a request that ran has its next token, one
//! that was being prepared is prepared), and everyone else when there are no suspects left. Resuming repeats what was
//! done last, so what crashed a worker crashes the next one while it is alone on probation: it is the culprit, after two
//! crashes, and the only one who is failed.
//!
//! - Who had only waited for a sequence is no suspect.
//! - A worker that was killed from outside (`kill`, the kernel's out-of-memory killer) accuses nobody.
//! - A request that crashes workers only some tokens after it was resumed is past its probation each time: the limit on
//!   failures ends it together with the others.

use std::collections::BTreeMap;

use engine_ipc::WorkerId;

use super::live::Stage;

/// Requests that may have crashed a worker, with what it was doing for them.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    stages: BTreeMap<WorkerId, Stage>,
    /// The one that the present worker has.
    on_probation: Option<WorkerId>,
}

impl Suspects {
    pub(super) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// A worker crashed at this stage of a request.
    pub(super) fn accuse(&mut self, id: WorkerId, stage: Stage) {
        if matches!(stage, Stage::Preparing | Stage::Running) {
            self.stages.insert(id, stage);
        }
    }

    /// The next to hand over, which is then on probation; `None` while another is, and when there are none.
    ///
    /// Those that ran come first: there are no more of them than sequences, so each gets one at once, and none is on
    /// probation while it merely waits.
    pub(super) fn next(&mut self) -> Option<WorkerId> {
        if self.on_probation.is_some() {
            return None;
        }
        let ran = self.stages.iter().find(|(_, stage)| **stage == Stage::Running);
        self.on_probation = ran.or_else(|| self.stages.iter().next()).map(|(id, _)| *id);
        self.on_probation
    }

    /// The request reached `stage` again. True if that ends its suspicion: the next may be handed over.
    pub(super) fn reached(&mut self, id: WorkerId, stage: Stage) -> bool {
        let proven = self.stages.get(&id).is_some_and(|at| *at == Stage::Preparing && stage != Stage::Preparing);
        proven && self.remove(id)
    }

    /// The request got a token in the present worker, or is over. True if it was a suspect.
    pub(super) fn remove(&mut self, id: WorkerId) -> bool {
        if self.on_probation == Some(id) {
            self.on_probation = None;
        }
        self.stages.remove(&id).is_some()
    }

    /// The worker is gone. The one that was on probation, no longer a suspect if the crash `accuses` it.
    pub(super) fn worker_ended(&mut self, accuses: bool) -> Option<WorkerId> {
        let culprit = self.on_probation.take().filter(|_| accuses)?;
        self.stages.remove(&culprit);
        Some(culprit)
    }
}
