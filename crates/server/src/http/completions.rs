//! `POST /v1/completions`: JSON, or `text_completion` events.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use protocol::{
    RequestId,
    inference::Delta,
    openai::completions::{self, Reply},
};
use serde_json::json;

use super::{
    body::receive,
    receipt,
    sse::{self, Event, Gone},
    steps::{Step, Steps},
    unix_secs,
};
use crate::{
    App,
    error::{HttpError, openai},
    pipeline,
};

const ENDPOINT: &str = "completions";

pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, HttpError> {
    let (who, received, request) = receive::<completions::Request>(&app, request).await?;
    let streaming = request.streaming();
    let inference = request.into_inference()?;
    let request = pipeline::Request { id, endpoint: ENDPOINT, received, session: None, job: None, inference };
    let answer = app.pipeline.answer(&who, request).await?;
    let info = answer.info();
    let include_usage = streaming.is_some_and(|streaming| streaming.include_usage);
    let mut reply = Reply::new(&info.request_id, unix_secs(info.created), info.model.clone(), include_usage);
    let receipt_id = info.receipt_id.clone();
    let steps = Steps::start(answer).await?;
    if streaming.is_some() {
        return Ok(receipt::named(sse::respond(&app, move |out| stream(reply, steps, out)), &receipt_id));
    }
    let (answer, settled) = steps.collect().await?;
    let response = Json(reply.completion(&flat(answer), settled.reason, settled.usage)).into_response();
    Ok(receipt::named(response, &receipt_id))
}

async fn stream(mut reply: Reply, mut steps: Steps, mut out: sse::Sender) -> Result<(), Gone> {
    loop {
        match steps.next().await {
            Step::Delta(delta) => {
                let delta = flat(delta);
                if let Some(event) = reply.delta(&delta) {
                    out.send(Event::json(&event)).await?;
                }
            }
            Step::End(settled) => {
                receipt::send(&mut out, settled.receipt.as_deref(), Some(reply.nothing())).await?;
                out.send(Event::json(&reply.last(settled.reason))).await?;
                if let Some(event) = reply.usage(settled.usage) {
                    out.send(Event::json(&event)).await?;
                }
                return out.send(Event::done()).await;
            }
            Step::Error(error, signed) => {
                receipt::send(&mut out, signed.as_deref(), Some(reply.nothing())).await?;
                // OpenAI's SDKs raise an event with `error` as their APIError.
                return out.send(Event::json(&json!({ "error": openai(&error) }))).await;
            }
        }
    }
}

/// This API has no place for reasoning beside the text: a continuation is all that the model wrote, in its order.
fn flat(mut delta: Delta) -> Delta {
    if !delta.reasoning.is_empty() {
        delta.text.insert_str(0, &delta.reasoning);
        delta.reasoning.clear();
    }
    delta
}
