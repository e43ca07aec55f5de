//! The Responses API: `POST /v1/responses` as JSON or server-sent events, `GET /v1/responses` as a WebSocket, and
//! stored responses by id.
//!
//! [`plan`] translates a request, [`narration`] tells the answer as events; the three ways of delivery share both.

mod lanes;
mod message;
mod narration;
mod plan;
mod post;
mod refusal;
mod socket;
mod store;
mod stored;

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{Router, routing::get};
use protocol::{
    ApiError, ErrorCode,
    inference::{Message, Role},
    openai::responses::{Response, Status},
};

pub use store::ResponseStore;

use self::{
    narration::Narration,
    store::{Limits, Owner, Stored},
};
use crate::{App, Settings, pipeline::AnswerInfo};

/// The routes of the public listener.
pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/responses", get(socket::connect).post(post::create))
        .route("/v1/responses/{id}", get(stored::retrieve).delete(stored::delete))
}

/// The conversation of the response that `id` names on one of these owners' shelves.
fn previous(app: &App, owners: &[&Owner], id: &str) -> Result<Arc<Stored>, ApiError> {
    let (limits, now) = (Limits::from(&*app.settings()), Instant::now());
    let found = owners.iter().find_map(|owner| app.responses.get(owner, id, limits, now));
    found.ok_or_else(refusal::previous_response_not_found)
}

/// Puts a response that ended on its owner's shelf, so that it can be continued. One that failed cannot.
/// Returns whether it is there now, unless the store was full of better.
fn keep(app: &App, owner: &Owner, mut conversation: Vec<Message>, narration: &Narration) -> bool {
    let response = narration.response();
    if response.status == Status::Failed {
        return false;
    }
    if let Some(answer) = narration.answer_text() {
        conversation.push(Message { role: Role::Assistant, content: answer });
    }
    let json =
        response.store.then(|| serde_json::to_string(response).expect("wire types have string keys and serialise"));
    let stored = Stored { messages: conversation, json };
    let limits = Limits::from(&*app.settings());
    if let Some(limit) = app.responses.insert(owner, &response.id, stored, limits, Instant::now()) {
        app.metrics.limit_hit(limit);
    }
    true
}

/// A stored conversation may have as many bytes as a request that brings all of it along.
fn conversation_bytes_max(settings: &Settings) -> usize {
    settings.body_bytes_max
}

/// Completes a response with what is known once it is admitted.
fn admitted(response: &mut Response, info: &AnswerInfo) {
    response.model.clone_from(&info.model);
    response.created_at = unix_secs(info.created);
}

/// An answer's events ended without their last: the pipeline promises that this does not happen.
fn broken_off() -> ApiError {
    tracing::error!("an answer ended without its last event");
    ApiError::new(ErrorCode::Internal, "The answer broke off in the node. Retry.")
}

fn unix_now() -> u64 {
    unix_secs(SystemTime::now())
}

/// A clock before 1970 reads as 1970.
fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `<prefix>_<hex>` with 128 random bits: an id cannot be guessed.
fn random_id(prefix: &str) -> String {
    format!("{prefix}_{:032x}", rand::random::<u128>())
}
