//! Receipts over HTTP: the header that names one, the event that brings one, and `GET /v1/receipts/{id}`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, header::CONTENT_TYPE};
use protocol::{
    ApiError, ErrorCode, ReceiptId,
    receipt::{Receipt, SignedReceipt},
};
use serde::Serialize;

use super::sse::{self, Event, Gone};
use crate::{App, error::HttpError, gate::Caller};

/// The `type` of an event that every Responses client knows and skips.
const KEEPALIVE: &str = "keepalive";

/// Names the receipt of a generated answer.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-receipt-id");
/// The event's name, and the `type` in its data. The prefix marks what is ours in others' protocols (Open Responses,
/// "extending the specification").
const EVENT: &str = "llm-node:receipt";

/// The data of the event.
#[derive(Serialize)]
struct Data<'a, T> {
    r#type: &'static str,
    #[serde(flatten)]
    around: Option<T>,
    receipt: &'a Receipt,
}

#[derive(Serialize)]
struct Numbered {
    sequence_number: u64,
}

/// An answer whose receipt has this id, or will have once its stream ends.
pub(crate) fn named(mut response: Response, id: &ReceiptId) -> Response {
    let value = HeaderValue::from_str(id.as_str()).expect("an id has visible ASCII characters only");
    response.headers_mut().insert(HEADER, value);
    response
}

/// Sends the event that brings a receipt, where there is one. `around` are the members of an event that adds nothing:
/// OpenAI's SDKs take every event for a chunk, whatever its name.
///
/// # Errors
/// [`Gone`].
pub(super) async fn send(
    out: &mut sse::Sender,
    signed: Option<&SignedReceipt>,
    around: Option<impl Serialize>,
) -> Result<(), Gone> {
    let Some(signed) = signed else { return Ok(()) };
    out.send(Event::named(EVENT, &Data { r#type: EVENT, around, receipt: signed.receipt() })).await
}

/// The event of a Responses stream that brings a receipt. Its name says what it is; its `type` is one that adds nothing,
/// because OpenAI's npm SDK looks at the type alone and breaks a stream off at one that it does not know.
pub(crate) fn in_responses(receipt: &Receipt, sequence_number: u64) -> Event {
    let around = Some(Numbered { sequence_number });
    Event::named(EVENT, &Data { r#type: KEEPALIVE, around, receipt })
}

/// `GET /v1/receipts/{id}`: the canonical text of one's own receipt. What is someone else's and what is not at all get
/// the same answer.
pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Extension(Caller(who)): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let json = app.pipeline.receipt(&who, &id).await?.ok_or_else(not_found)?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

fn not_found() -> ApiError {
    ApiError::new(
        ErrorCode::NotFound,
        "There is no receipt with this id, or it is not yours. The receipt of a stream exists once the stream has ended.",
    )
    .param("receipt_id")
}
