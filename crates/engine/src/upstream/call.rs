use std::sync::Arc;

use protocol::{RequestId, inference::FinishReason};
use reqwest::{Response, header::CONTENT_TYPE};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answer,
    failure::{self, ERROR_BYTES_MAX, Failure},
    pool::{Address, ERROR_BODY_TIMEOUT, Lease, Pool, cause, read_bounded},
    request,
    sse::DataLines,
};
use crate::{
    Metrics,
    backend::{BackendError, GenerateRequest, GenerationEvent},
    stream::Sender,
};

/// One request on its way over the addresses.
pub(super) struct Call {
    pool: Arc<Pool>,
    request_id: RequestId,
    model: String,
    path: &'static str,
    body: bytes::Bytes,
    max_tokens: u32,
    has_logprobs: bool,
    cancel: CancellationToken,
    stop: CancellationToken,
    /// The earlier of the request's deadline and the configured total.
    deadline: Instant,
    tried: Vec<Arc<Address>>,
}

/// An answer whose headers are there. Dropping it closes the connection.
pub(super) struct Opened {
    response: Response,
    lease: Lease,
    first_token_by: Instant,
}

/// Why there is no answer, or no more of it.
#[derive(Debug)]
pub(super) enum Interrupted {
    Cancelled,
    Failed(BackendError),
}

/// How reading an answer ended.
enum End {
    Whole(FinishReason),
    Interrupted(Interrupted),
    /// The connection broke: before the first token another address may do it.
    Broken(String),
}

impl Call {
    pub(super) fn new(
        pool: Arc<Pool>,
        request: &GenerateRequest,
        stop: CancellationToken,
    ) -> Result<Self, BackendError> {
        let no_model = || BackendError::Unavailable("no upstream serves this model now".into());
        let model = pool.model_name(&request.inference.model).ok_or_else(no_model)?;
        let (path, body) = request::build(request, &model)?;
        let total = pool.config().total_timeout;
        let total = request.deadline.map_or(total, |deadline| deadline.min(total));
        Ok(Self {
            request_id: request.request_id.clone(),
            model,
            path,
            body: body.into(),
            max_tokens: request.max_tokens,
            has_logprobs: request.inference.logprobs.is_some(),
            cancel: request.cancel.clone(),
            stop,
            deadline: Instant::now() + total,
            tried: Vec::new(),
            pool,
        })
    }

    /// Asks one address after the other until one answers. Each is asked at most once in the life of a call.
    pub(super) async fn open(&mut self) -> Result<Opened, Interrupted> {
        let mut last = BackendError::Unavailable("no upstream that serves this model is healthy".into());
        while let Some(lease) = self.pool.lease(&self.model, &self.tried) {
            self.tried.push(Arc::clone(&lease.address));
            let failure = match self.attempt(lease).await {
                Ok(opened) => return Ok(opened),
                Err(Attempt::Interrupted(interrupted)) => return Err(interrupted),
                Err(Attempt::Failed(failure)) => failure,
            };
            last = failure.error;
            if !failure.try_others {
                break;
            }
        }
        Err(Interrupted::Failed(last))
    }

    async fn attempt(&self, lease: Lease) -> Result<Opened, Attempt> {
        let first_token_by = Instant::now() + self.pool.config().first_token_timeout;
        let sending = self
            .pool
            .client()
            .post(format!("{}{}", lease.address.base, self.path))
            .header(CONTENT_TYPE, "application/json")
            .body(self.body.clone())
            .send();
        let sent = self.unless_interrupted(first_token_by, sending).await.map_err(Attempt::Interrupted)?;
        let address = &lease.address.base;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                let reason = cause(&error);
                if error.is_connect() {
                    self.pool.mark_down(&lease.address, &reason);
                } else {
                    tracing::warn!(request_id = %self.request_id, %address, %reason, "upstream request failed");
                }
                let error = BackendError::Unavailable("the upstream does not answer".into());
                return Err(Attempt::Failed(Failure { error, try_others: true }));
            }
        };
        let status = response.status();
        if status.as_u16() == 200 {
            return Ok(Opened { response, lease, first_token_by });
        }
        // The status alone says enough when the body does not come.
        let read = tokio::time::timeout(ERROR_BODY_TIMEOUT, read_bounded(&mut response, ERROR_BYTES_MAX));
        let body = read.await.ok().and_then(Result::ok).unwrap_or_default();
        match status.as_u16() {
            401 | 403 => {
                tracing::error!(%address, %status, "the upstream refuses the API key: correct engine.upstream_api_key");
            }
            _ => tracing::warn!(request_id = %self.request_id, %address, %status, "upstream refused a request"),
        }
        let queue_max = self.pool.config().in_flight_max;
        Err(Attempt::Failed(failure::classify(status, &body, queue_max)))
    }

    /// Delivers the answer to its end. Until the first token, another address may take over.
    pub(super) async fn stream(mut self, mut opened: Opened, sender: &Sender, metrics: &Metrics) {
        let mut answer = Answer::new(self.max_tokens, self.has_logprobs);
        loop {
            let end = match self.read(&mut opened, &mut answer, sender, metrics).await {
                End::Broken(reason) => {
                    let address = &opened.lease.address.base;
                    tracing::warn!(request_id = %self.request_id, %address, %reason, "upstream answer broke off");
                    if answer.is_touched() {
                        End::Interrupted(Interrupted::Failed(BackendError::Unavailable(reason)))
                    } else {
                        match self.open().await {
                            Ok(next) => {
                                opened = next;
                                answer = Answer::new(self.max_tokens, self.has_logprobs);
                                continue;
                            }
                            Err(interrupted) => End::Interrupted(interrupted),
                        }
                    }
                }
                end => end,
            };
            let event = match end {
                End::Whole(reason) => {
                    if let Some(delta) = answer.correction() {
                        metrics.generated.inc_by(delta.tokens.into());
                        sender.send(GenerationEvent::Delta(delta));
                    }
                    metrics.prompt.inc_by(answer.usage().prompt_tokens.into());
                    GenerationEvent::Finished { reason, usage: answer.usage() }
                }
                End::Interrupted(Interrupted::Cancelled) => {
                    metrics.cancelled.inc();
                    GenerationEvent::Finished { reason: FinishReason::Cancelled, usage: answer.usage() }
                }
                End::Interrupted(Interrupted::Failed(error)) => {
                    if error == BackendError::Timeout {
                        metrics.timed_out.inc();
                    }
                    GenerationEvent::Failed(error)
                }
                End::Broken(reason) => GenerationEvent::Failed(BackendError::Unavailable(reason)),
            };
            return sender.send(event);
        }
    }

    async fn read(&self, opened: &mut Opened, answer: &mut Answer, sender: &Sender, metrics: &Metrics) -> End {
        let config = self.pool.config();
        let mut lines = DataLines::new(config.line_bytes_max);
        let mut read_bytes = 0_usize;
        loop {
            let by = if answer.is_touched() { Instant::now() + config.idle_timeout } else { opened.first_token_by };
            let chunk = match self.unless_interrupted(by, opened.response.chunk()).await {
                Err(interrupted) => return End::Interrupted(interrupted),
                Ok(Err(error)) => return End::Broken(cause(&error)),
                Ok(Ok(Some(chunk))) => chunk,
                // Some servers close without `[DONE]`; without a reason to end, it is a broken answer.
                Ok(Ok(None)) => {
                    return answer.finish_reason().map_or_else(|| End::Broken("it ended early".into()), End::Whole);
                }
            };
            let too_much = || {
                let error = BackendError::Internal("the upstream sent more than its limit".into());
                End::Interrupted(Interrupted::Failed(error))
            };
            read_bytes = read_bytes.saturating_add(chunk.len());
            if read_bytes > config.answer_bytes_max {
                return too_much();
            }
            let Ok(events) = lines.push(&chunk) else { return too_much() };
            for event in events {
                if event == "[DONE]" {
                    return End::Whole(answer.finish_reason().unwrap_or(FinishReason::Stop));
                }
                match answer.chunk(&event) {
                    Ok(Some(delta)) => {
                        metrics.generated.inc_by(delta.tokens.into());
                        sender.send(GenerationEvent::Delta(delta));
                    }
                    Ok(None) => {}
                    Err(error) => return End::Interrupted(Interrupted::Failed(error)),
                }
            }
        }
    }

    /// Runs `work` until it is done, the client cancels, the node stops, or a time is over.
    async fn unless_interrupted<T>(&self, by: Instant, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Interrupted::Cancelled),
            () = self.stop.cancelled() => {
                Err(Interrupted::Failed(BackendError::Unavailable("the engine is shutting down".into())))
            }
            done = work => Ok(done),
            () = tokio::time::sleep_until(by.min(self.deadline)) => Err(Interrupted::Failed(BackendError::Timeout)),
        }
    }
}

enum Attempt {
    Interrupted(Interrupted),
    Failed(Failure),
}
