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
    sse::{self, Event, Gone},
    steps::{Step, Steps},
};
use crate::{App, error::NativeHttpError, pipeline};

const ENDPOINT: &str = "inference";

pub(super) async fn handle(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, NativeHttpError> {
    let request_id = id.to_string();
    answer(&app, id, request).await.map_err(|error| NativeHttpError { error, request_id })
}

async fn answer(app: &Arc<App>, id: RequestId, request: Request) -> Result<Response, ApiError> {
    let (who, request) = receive::<native_http::Request>(app, request).await?;
    let streaming = request.streaming();
    let (job, inference) = request.into_inference()?;
    let request = pipeline::Request { id, endpoint: ENDPOINT, session: None, job, inference };
    let answer = app.pipeline.answer(&who, request).await?;
    let info = answer.info();
    let reply = Reply::new(info.request_id.clone(), info.model.clone(), info.context_tokens);
    let steps = Steps::start(answer).await?;
    if streaming {
        return Ok(sse::respond(app, move |out| stream(reply, steps, out)));
    }
    let (answer, settled) = steps.collect().await?;
    Ok(Json(reply.body(&answer, settled.reason, &settled.usage)).into_response())
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
                return out.send(Event::json(&reply.end(settled.reason, &settled.usage))).await;
            }
            Step::Error(error) => {
                for event in reply.failure(&error) {
                    out.send(Event::json(&event)).await?;
                }
                return Ok(());
            }
        }
    }
}
