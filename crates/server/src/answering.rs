//! A request's way through the pipeline, as a stream of events that a WebSocket connection can poll beside its socket.

use std::sync::Arc;

use futures_util::stream::{self, Stream};
use protocol::{ApiError, ErrorCode};
use tokio_util::sync::CancellationToken;

use crate::{
    App,
    pipeline::{Answer, AnswerEvent, AnswerInfo, Authenticated, Request},
};

/// What happens to a prompt. The last is [`Event::Refused`], [`Event::NotStarted`], or an [`Event::Answer`] that ends it.
pub(crate) enum Event {
    /// The pipeline took it.
    Accepted(AnswerInfo),
    /// The pipeline, or the model behind it, did not.
    Refused(ApiError),
    /// It was cancelled before it was taken; nothing was generated or charged.
    NotStarted,
    /// The answer goes on.
    Answer(AnswerEvent),
}

enum State {
    Asking { app: Arc<App>, who: Arc<Authenticated>, request: Box<Request> },
    Answering { answer: Answer, cancelled: bool },
    Over,
}

/// The events of a prompt. Cancelling `cancel` stops the generation, after which the end still comes; dropping the
/// stream stops it without.
pub(crate) fn events(
    app: Arc<App>,
    who: Arc<Authenticated>,
    request: Request,
    cancel: CancellationToken,
) -> impl Stream<Item = Event> + Send {
    let first = State::Asking { app, who, request: Box::new(request) };
    stream::unfold((first, cancel), |(state, cancel)| async move {
        let (event, state) = match state {
            State::Asking { app, who, request } => tokio::select! {
                biased;
                () = cancel.cancelled() => (Event::NotStarted, State::Over),
                result = app.pipeline.answer(&who, *request) => match result {
                    Ok(answer) => (Event::Accepted(answer.info().clone()), State::Answering { answer, cancelled: false }),
                    Err(error) => (Event::Refused(error), State::Over),
                },
            },
            State::Answering { mut answer, cancelled } => next(&mut answer, cancelled, &cancel).await.map_or_else(
                // The pipeline promises an end; should it break that, the client still gets one.
                || (Event::Refused(broken()), State::Over),
                |(event, cancelled)| {
                    let over = matches!(event, AnswerEvent::Finished(_) | AnswerEvent::Failed { .. });
                    (Event::Answer(event), if over { State::Over } else { State::Answering { answer, cancelled } })
                },
            ),
            State::Over => return None,
        };
        Some((event, (state, cancel)))
    })
}

/// The answer's next event, and whether it was told to stop.
async fn next(answer: &mut Answer, mut cancelled: bool, cancel: &CancellationToken) -> Option<(AnswerEvent, bool)> {
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !cancelled => {
                answer.cancel();
                cancelled = true;
            }
            event = answer.next() => return event.map(|event| (event, cancelled)),
        }
    }
}

fn broken() -> ApiError {
    tracing::error!("an answer ended without its last event");
    ApiError::new(ErrorCode::Internal, "The answer broke off. Retry; if it persists, give the operator the request_id.")
}
