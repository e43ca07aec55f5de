//! Stages 5 and 6: generate and settle.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use engine::{GenerateRequest, Generation, GenerationEvent};
use jobs::{Outcome, Reservation};
use protocol::{
    ApiError, ErrorCode, JobId, ReceiptId, RequestId,
    inference::{Delta, FinishReason, Usage},
    receipt::{Digest, Receipt, SignedReceipt},
};
use signing::receipt::OutputHash;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::{Admitted, Authenticated, Parts, receipt::Draft};
use crate::metrics::{AnswerTimer, Metrics};

/// Events between the driving task and the transport. One: what waits longer is merged by the engine's channel.
const EVENTS_AHEAD_MAX: usize = 1;

/// The detail of an error that names the receipt of an answer which failed after it had begun.
pub(crate) const RECEIPT_ID: &str = "receipt_id";

/// What is known of an answer when it starts.
#[derive(Debug, Clone)]
pub struct AnswerInfo {
    /// Of the request.
    pub request_id: RequestId,
    /// The served model's name.
    pub model: String,
    /// Its context, where known.
    pub context_tokens: Option<u32>,
    /// Most tokens that may be generated: the wish, clamped.
    pub max_tokens: u32,
    /// What the client asked.
    pub requested_tokens: Option<u32>,
    /// What is charged.
    pub job: JobId,
    /// When the request arrived.
    pub created: SystemTime,
    /// The receipt that the answer will have.
    pub receipt_id: ReceiptId,
}

/// What an answer reports: `Started` once, `Delta`s, then one `Finished` or `Failed`.
#[derive(Debug)]
pub enum AnswerEvent {
    /// The model has the prompt.
    Started {
        /// Its tokens.
        prompt_tokens: u32,
        /// Of those, cached.
        cached_tokens: u32,
        /// History messages that were dropped to make it fit.
        trimmed_messages: u32,
    },
    /// More text.
    Delta(Delta),
    /// The end; what was delivered is charged, durably.
    Finished(Settled),
    /// The end by a failure; what was delivered before it is charged, durably.
    Failed {
        /// What the client hears.
        error: ApiError,
        /// What was charged.
        settled: Settled,
    },
}

/// Proof that an answer was charged.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Why it ended.
    pub reason: FinishReason,
    /// What was counted.
    pub usage: Usage,
    /// What the job was charged.
    pub charged_tokens: u64,
    /// The receipt, as durable as the charge. None where the answer failed before it began, or it could not be signed.
    pub receipt: Option<Arc<SignedReceipt>>,
}

impl Settled {
    /// What the client is sent of [`Settled::receipt`].
    #[must_use]
    pub fn receipt(&self) -> Option<&Receipt> {
        self.receipt.as_deref().map(SignedReceipt::receipt)
    }

    /// The error of an answer that had begun, with the name of its receipt: what was delivered is charged.
    pub(crate) fn named_in(&self, error: ApiError) -> ApiError {
        match self.receipt() {
            Some(receipt) => error.with(RECEIPT_ID, receipt.receipt_id.as_str()),
            None => error,
        }
    }
}

/// A running answer. Dropping it cancels the generation; what was delivered is settled all the same.
#[derive(Debug)]
pub struct Answer {
    info: AnswerInfo,
    events: mpsc::Receiver<AnswerEvent>,
    cancel: CancellationToken,
    _cancel_on_drop: DropGuard,
}

impl Answer {
    /// What is known of it.
    #[must_use]
    pub fn info(&self) -> &AnswerInfo {
        &self.info
    }

    /// The next event; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<AnswerEvent> {
        self.events.recv().await
    }

    /// Stops the generation within one step; `Finished` with [`FinishReason::Cancelled`] follows.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

pub(super) async fn generate(parts: &Parts, admitted: Admitted, created: SystemTime) -> Result<Answer, ApiError> {
    let Admitted { who, request, model, job, reservation, receipt_id } = admitted;
    let timer = parts.metrics.answer_started(request.endpoint);
    let cancel = parts.stop.child_token();
    let info = AnswerInfo {
        request_id: request.id.clone(),
        model: model.name.clone(),
        context_tokens: model.context_tokens,
        max_tokens: reservation.tokens(),
        requested_tokens: request.inference.max_tokens,
        job: job.clone(),
        created,
        receipt_id: receipt_id.clone(),
    };
    let draft = Draft {
        signer: parts.receipts.clone(),
        receipt_id,
        request_id: request.id.clone(),
        session: request.session,
        job,
        subject: who.subject().clone(),
        model: model.name,
        model_digest: model.digest.as_deref().and_then(|digest| digest.parse().ok()),
        endpoint: request.endpoint,
        request_hash: Digest::new(request.received.hash),
        started: created,
        output: OutputHash::default(),
        begun: false,
    };
    let request_timeout = parts.settings.load().request_timeout;
    let generation = parts
        .backend
        .generate(GenerateRequest {
            request_id: request.id.clone(),
            tenant: who.tenant(),
            inference: request.inference,
            max_tokens: reservation.tokens(),
            deadline: Some(request_timeout),
            cancel: cancel.clone(),
        })
        .await;
    let generation = match generation {
        Ok(generation) => generation,
        Err(error) => {
            log_failure(&request.id, &error);
            return Err(error.into());
        }
    };
    let (events, receiver) = mpsc::channel(EVENTS_AHEAD_MAX);
    let stopping = cancel.clone();
    let span = tracing::info_span!("answer", request_id = %request.id, endpoint = request.endpoint);
    let drive = Drive {
        generation,
        reservation,
        events,
        timer,
        request_id: request.id,
        request_timeout,
        usage: Usage::default(),
        draft,
    };
    parts.tasks.spawn(drive.run(who, stopping).instrument(span));
    Ok(Answer { info, events: receiver, cancel: cancel.clone(), _cancel_on_drop: cancel.drop_guard() })
}

/// The task that owns a running answer's reservation.
struct Drive {
    generation: Generation,
    reservation: Reservation,
    events: mpsc::Sender<AnswerEvent>,
    timer: AnswerTimer,
    request_id: RequestId,
    request_timeout: Duration,
    usage: Usage,
    draft: Draft,
}

enum End {
    Finished(FinishReason),
    Failed(ApiError),
}

impl Drive {
    async fn run(mut self, who: Authenticated, cancel: CancellationToken) {
        let end = tokio::select! {
            end = self.deliver() => end,
            // What runs goes on when a token expires, and stops when it is revoked: in every transport.
            error = who.until_revoked() => {
                cancel.cancel();
                End::Failed(error)
            }
        };
        let (reason, outcome) = match &end {
            End::Finished(reason) => (*reason, reason.as_str()),
            End::Failed(_) => (FinishReason::Cancelled, "error"),
        };
        match &end {
            End::Finished(reason) => self.timer.finished(*reason, &self.usage),
            End::Failed(error) => self.timer.failed(error.code),
        }
        let outcome = Outcome { prompt_tokens: self.usage.prompt_tokens, reason: outcome };
        let ended = if let End::Finished(reason) = &end { Ok(*reason) } else { Err(()) };
        let receipt = self.draft.finish(ended, &self.usage);
        let settled = |charged_tokens, receipt| Settled { reason, usage: self.usage, charged_tokens, receipt };
        let event = match (self.reservation.settle(outcome, receipt).await, end) {
            (Ok(charge), End::Finished(_)) => AnswerEvent::Finished(settled(u64::from(charge.tokens), charge.receipt)),
            (Ok(charge), End::Failed(error)) => {
                let settled = settled(u64::from(charge.tokens), charge.receipt);
                AnswerEvent::Failed { error: settled.named_in(error), settled }
            }
            (Err(_), _) => AnswerEvent::Failed {
                error: ApiError::new(
                    ErrorCode::Internal,
                    "The answer is complete but could not be recorded. It will be charged once; do not repeat it for that reason.",
                ),
                settled: settled(0, None),
            },
        };
        // Nobody left to tell: it is settled all the same.
        let _ = self.events.send(event).await;
    }

    /// Hands events over until the last one. What the transport did not take is not charged.
    async fn deliver(&mut self) -> End {
        loop {
            let event = match self.generation.next().await {
                Some(GenerationEvent::Started { prompt_tokens, cached_tokens, trimmed_messages }) => {
                    self.draft.begun = true;
                    self.usage.prompt_tokens = prompt_tokens;
                    self.usage.cached_tokens = cached_tokens;
                    AnswerEvent::Started { prompt_tokens, cached_tokens, trimmed_messages }
                }
                Some(GenerationEvent::Delta(delta)) => {
                    let tokens = delta.tokens;
                    self.timer.tokens(tokens);
                    let output = self.draft.output_with(&delta);
                    if self.events.send(AnswerEvent::Delta(delta)).await.is_err() {
                        return End::Finished(FinishReason::Cancelled);
                    }
                    self.reservation.delivered(tokens);
                    self.draft.begun = true;
                    self.draft.output = output;
                    self.usage.completion_tokens += tokens;
                    continue;
                }
                Some(GenerationEvent::Finished { reason, usage }) => {
                    debug_assert_eq!(usage.completion_tokens, self.usage.completion_tokens, "deltas sum to the usage");
                    // Delivered is what counts; the rest of the usage is the backend's knowledge.
                    self.usage = Usage { completion_tokens: self.usage.completion_tokens, ..usage };
                    return End::Finished(reason);
                }
                Some(GenerationEvent::Failed(error)) => {
                    log_failure(&self.request_id, &error);
                    if error == engine::BackendError::Timeout {
                        self.timer.timed_out(self.request_timeout);
                    }
                    return End::Failed(error.into());
                }
                None => {
                    tracing::error!("the backend ended without a last event");
                    return End::Failed(ApiError::new(ErrorCode::Internal, "The model backend failed. Retry."));
                }
            };
            if self.events.send(event).await.is_err() {
                return End::Finished(FinishReason::Cancelled);
            }
        }
    }
}

fn log_failure(request_id: &RequestId, error: &engine::BackendError) {
    use engine::BackendError::{ContextTooLarge, Internal, Invalid, Overloaded, Poisonous, Timeout, Unavailable};
    match error {
        ContextTooLarge { .. } | Invalid { .. } => {
            tracing::info!(%request_id, reason = %error, "a request was refused")
        }
        Overloaded { .. } | Poisonous | Timeout | Unavailable(_) => {
            tracing::warn!(%request_id, %error, "a request was not answered")
        }
        Internal(_) => tracing::error!(%request_id, %error, "the backend failed"),
    }
}

impl Metrics {
    fn answer_started(&self, endpoint: &'static str) -> AnswerTimer {
        AnswerTimer::new(self.clone(), endpoint, Instant::now())
    }
}
