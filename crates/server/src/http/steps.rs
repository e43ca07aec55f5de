//! An answer as a reader over HTTP needs it: text, then an end or an error.

use std::{sync::Arc, time::Duration};

use protocol::{ApiError, ErrorCode, inference::Delta, inference::FinishReason, receipt::SignedReceipt};
use tokio::time::timeout;

use crate::pipeline::{Answer, AnswerEvent, Settled};

/// How long the headers of a stream wait for the first event: a failure before it (a prompt that does not fit) still
/// gets a status of its own. Longer, and proxies might take the silence for a dead node.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(5);

/// What happened next.
#[derive(Debug)]
pub(crate) enum Step {
    /// More of the answer.
    Delta(Delta),
    /// The end, settled.
    End(Settled),
    /// The end, by a failure; with the receipt of an answer that had begun.
    Error(ApiError, Option<Arc<SignedReceipt>>),
}

/// A running answer. Dropping it cancels the generation.
pub(crate) struct Steps {
    answer: Answer,
    /// What [`Steps::start`] saw already.
    first: Option<AnswerEvent>,
}

impl Steps {
    /// Waits briefly for a first sign of life.
    ///
    /// # Errors
    /// The failure, where that is the first sign.
    pub(crate) async fn start(mut answer: Answer) -> Result<Self, ApiError> {
        match timeout(FIRST_EVENT_WAIT, answer.next()).await {
            Err(_) => Ok(Self { answer, first: None }),
            Ok(event) => match step(event) {
                Some(Step::Error(error, _)) => Err(error),
                Some(Step::Delta(delta)) => Ok(Self { answer, first: Some(AnswerEvent::Delta(delta)) }),
                Some(Step::End(settled)) => Ok(Self { answer, first: Some(AnswerEvent::Finished(settled)) }),
                None => Ok(Self { answer, first: None }),
            },
        }
    }

    /// The next step; after [`Step::End`] or [`Step::Error`] there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            let event = match self.first.take() {
                Some(event) => Some(event),
                None => self.answer.next().await,
            };
            if let Some(step) = step(event) {
                return step;
            }
        }
    }

    /// The whole answer: the sum of its deltas (bounded by the granted tokens), and the settlement.
    ///
    /// # Errors
    /// The failure; what was generated until then is settled and thrown away.
    pub(crate) async fn collect(mut self) -> Result<(Delta, Settled), ApiError> {
        let mut whole = Delta::default();
        loop {
            match self.next().await {
                Step::Delta(delta) => {
                    whole.text.push_str(&delta.text);
                    whole.reasoning.push_str(&delta.reasoning);
                    whole.tokens += delta.tokens;
                    whole.logprobs.extend(delta.logprobs);
                }
                Step::End(settled) => return Ok((whole, settled)),
                Step::Error(error, _) => return Err(error),
            }
        }
    }
}

/// `None` for what an HTTP client is not told.
fn step(event: Option<AnswerEvent>) -> Option<Step> {
    match event {
        Some(AnswerEvent::Started { .. }) => None,
        Some(AnswerEvent::Delta(delta)) => Some(Step::Delta(delta)),
        // Who cancels over HTTP is gone. If somebody reads this, the node itself stopped the answer.
        Some(AnswerEvent::Finished(settled)) if settled.reason == FinishReason::Cancelled => {
            let error = ApiError::new(
                ErrorCode::ShuttingDown,
                "The node stopped before the answer was complete. Retry on another node, or in a minute.",
            );
            Some(Step::Error(settled.named_in(error), settled.receipt))
        }
        Some(AnswerEvent::Finished(settled)) => Some(Step::End(settled)),
        Some(AnswerEvent::Failed { error, settled }) => Some(Step::Error(error, settled.receipt)),
        None => {
            let error = ApiError::new(
                ErrorCode::Internal,
                "The answer ended unexpectedly. Retry; if it persists, give the operator this request's id.",
            );
            Some(Step::Error(error, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::inference::Usage;

    use super::*;

    fn settled(reason: FinishReason) -> Settled {
        Settled { reason, usage: Usage::default(), charged_tokens: 0, receipt: None }
    }

    #[test]
    fn only_a_whole_answer_ends_in_order() {
        let error = |event: Option<AnswerEvent>| match step(event) {
            Some(Step::Error(error, _)) => error.code,
            other => panic!("{other:?}"),
        };
        assert_eq!(error(None), ErrorCode::Internal);
        assert_eq!(error(Some(AnswerEvent::Finished(settled(FinishReason::Cancelled)))), ErrorCode::ShuttingDown);
        let failed = AnswerEvent::Failed {
            error: ApiError::new(ErrorCode::Timeout, "late"),
            settled: settled(FinishReason::Cancelled),
        };
        assert_eq!(error(Some(failed)), ErrorCode::Timeout);
        for reason in [FinishReason::Stop, FinishReason::Length] {
            let step = step(Some(AnswerEvent::Finished(settled(reason))));
            assert!(matches!(step, Some(Step::End(end)) if end.reason == reason));
        }
    }
}
