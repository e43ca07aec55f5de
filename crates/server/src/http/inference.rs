//! `POST /v1/inference` of the native family: JSON, or the native stream's frames as events.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use protocol::{
    ApiError, RequestId,
    native_http::{self, Reply},
};

use super::{
    body::receive,
    receipt,
    sse::{self, Event, Gone},
    steps::{Step, Steps},
};
use crate::{App, error::NativeHttpError, pipeline};

const ENDPOINT: &str = "inference";
/// Clients of this stream know their events by `type`.
const NOTHING_AROUND: Option<()> = None;

pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, NativeHttpError> {
    let request_id = id.to_string();
    answer(&app, id, request).await.map_err(|error| NativeHttpError { error, request_id })
}

async fn answer(app: &Arc<App>, id: RequestId, request: Request) -> Result<Response, ApiError> {
    let (who, received, request) = receive::<native_http::Request>(app, request).await?;
    let streaming = request.streaming();
    let (job, inference) = request.into_inference()?;
    let request = pipeline::Request { id, endpoint: ENDPOINT, received, session: None, job, inference };
    let answer = app.pipeline.answer(&who, request).await?;
    let info = answer.info();
    let reply = Reply::new(info.request_id.clone(), info.model.clone(), info.context_tokens);
    let receipt_id = info.receipt_id.clone();
    let steps = Steps::start(answer).await?;
    if streaming {
        return Ok(receipt::named(sse::respond(app, move |out| stream(reply, steps, out)), &receipt_id));
    }
    let (answer, settled) = steps.collect().await?;
    let body = Json(reply.body(&answer, settled.reason, &settled.usage, settled.receipt()));
    Ok(receipt::named(body.into_response(), &receipt_id))
}

async fn stream(mut reply: Reply, mut steps: Steps, mut out: sse::Sender) -> Result<(), Gone> {
    loop {
        match steps.next().await {
            Step::Delta(delta) => {
                if let Some(chunk) = reply.chunk(&delta) {
                    out.send(Event::json(&chunk)).await?;
                }
            }
            Step::End(settled) => {
                out.send(Event::json(&reply.final_chunk())).await?;
                receipt::send(&mut out, settled.receipt.as_deref(), NOTHING_AROUND).await?;
                return out.send(Event::json(&reply.end(settled.reason, &settled.usage))).await;
            }
            Step::Error(error, signed) => {
                let [failure, end] = reply.failure(&error);
                out.send(Event::json(&failure)).await?;
                receipt::send(&mut out, signed.as_deref(), NOTHING_AROUND).await?;
                return out.send(Event::json(&end)).await;
            }
        }
    }
}
