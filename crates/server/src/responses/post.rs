//! `POST /v1/responses`, as JSON or server-sent events.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use protocol::{
    ApiError, RequestId,
    inference::Message,
    openai::responses::{CreateResponse, Event, ServerEvent},
};

use super::{
    admitted, broken_off, conversation_bytes_max, keep, narration::Narration, plan::plan, previous, random_id,
    store::Owner, unix_now,
};
use crate::{
    App,
    error::HttpError,
    http::{body, receipt, sse},
    pipeline::{self, Answer, AnswerEvent},
};

/// The label `endpoint` in metrics.
const ENDPOINT: &str = "responses";

/// What has to be kept for a continuation.
struct Kept {
    app: Arc<App>,
    owner: Owner,
    conversation: Vec<Message>,
}

impl Kept {
    fn keep(self, narration: &Narration) {
        if narration.response().store {
            keep(&self.app, &self.owner, self.conversation, narration);
        }
    }
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request<Body>,
) -> Result<Response, HttpError> {
    let (who, received, request) = body::receive::<CreateResponse>(&app, request).await?;
    if request.generate == Some(false) {
        return Err(HttpError(ApiError::invalid("generate", "Only WebSocket mode can prepare without an answer.")));
    }
    let owner = Owner::of(&who);
    let streamed = request.stream == Some(true);
    let earlier = match &request.previous_response_id {
        None => None,
        Some(id) => Some(previous(&app, &[&owner], id)?),
    };
    let earlier = earlier.as_ref().map_or(&[][..], |stored| &stored.messages);
    let mut plan = plan(request, earlier, random_id("resp"), conversation_bytes_max(&app.settings()))?;
    let request =
        pipeline::Request { id, endpoint: ENDPOINT, received, session: None, job: None, inference: plan.inference };
    let mut answer = app.pipeline.answer(&who, request).await?;
    admitted(&mut plan.response, answer.info());
    // A prompt that the model refuses is answered with a status of its own, streamed or not.
    let first = match answer.next().await {
        Some(AnswerEvent::Failed { error, .. }) => return Err(error.into()),
        Some(first) => first,
        None => return Err(broken_off().into()),
    };
    let receipt_id = answer.info().receipt_id.clone();
    let narration = Narration::new(plan.response, None);
    let kept = Kept { app: Arc::clone(&app), owner, conversation: plan.conversation };
    if streamed {
        let narration = narration.announcing_errors();
        Ok(receipt::named(sse::respond(&app, |events| stream(events, first, answer, narration, kept)), &receipt_id))
    } else {
        Ok(receipt::named(whole(first, answer, narration, kept).await?, &receipt_id))
    }
}

async fn whole(
    first: AnswerEvent,
    mut answer: Answer,
    mut narration: Narration,
    kept: Kept,
) -> Result<Response, HttpError> {
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            AnswerEvent::Failed { error, .. } => return Err(error.into()),
            AnswerEvent::Finished(_) => {
                narration.next(event, unix_now());
                kept.keep(&narration);
                return Ok(Json(narration.response()).into_response());
            }
            AnswerEvent::Started { .. } | AnswerEvent::Delta(_) => {
                narration.next(event, unix_now());
            }
        }
        next = answer.next().await;
    }
    Err(broken_off().into())
}

/// Ends with a terminal event: `sse` makes the body fail where this future ends with an error.
async fn stream(
    mut events: sse::Sender,
    first: AnswerEvent,
    mut answer: Answer,
    mut narration: Narration,
    kept: Kept,
) -> Result<(), sse::Gone> {
    let (mut next, mut kept) = (Some(first), Some(kept));
    while let Some(event) = next {
        let is_last = matches!(event, AnswerEvent::Finished(_) | AnswerEvent::Failed { .. });
        let told = narration.next(event, unix_now());
        if let Some(kept) = kept.take_if(|_| is_last) {
            // Before the client hears of the end, so that it can continue at once.
            kept.keep(&narration);
        }
        for told in told {
            events.send(shown(&told)).await?;
        }
        if is_last {
            return Ok(());
        }
        next = answer.next().await;
    }
    for told in narration.broken(&broken_off()) {
        events.send(shown(&told)).await?;
    }
    Ok(())
}

fn shown(told: &ServerEvent) -> sse::Event {
    match &told.event {
        Event::Receipt { receipt } => receipt::in_responses(receipt, told.sequence_number),
        event => sse::Event::named(event.name(), told),
    }
}
