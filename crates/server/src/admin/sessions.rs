//! `/admin/v1/sessions`: which are open, and their end.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use protocol::{ApiError, ErrorCode, RequestId};
use serde::{Deserialize, Serialize};

use super::Answer;
use crate::{
    App,
    error::AdminError,
    gate::Caller,
    sessions::{Found, SessionInfo},
};

/// Sessions of one answer, unless the operator says.
const LISTED_DEFAULT: usize = 1000;
/// Most sessions of one answer.
const LISTED_MAX: usize = 10_000;

/// Which to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    subject: Option<String>,
    limit: Option<usize>,
}

/// Open sessions, the oldest first.
#[derive(Debug, Serialize)]
pub(super) struct List {
    sessions: Vec<SessionInfo>,
    /// How many there are, listed or not.
    total: usize,
}

/// What was ended.
#[derive(Debug, Serialize)]
pub(super) struct Ended {
    id: String,
    ended: bool,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer<List> {
    let refused = |error| AdminError { error, request_id: id.to_string() };
    let Query(which) = which.map_err(|_| {
        refused(ApiError::new(ErrorCode::InvalidRequest, "The query may have `subject` and `limit`, a number."))
    })?;
    let limit = which.limit.unwrap_or(LISTED_DEFAULT);
    if !(1..=LISTED_MAX).contains(&limit) {
        return Err(refused(ApiError::invalid("limit", format!("limit must be 1 to {LISTED_MAX}."))));
    }
    let (sessions, total) = app.sessions.list(which.subject.as_deref(), limit);
    Ok(Json(List { sessions, total }))
}

pub(super) async fn end(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(Caller(operator)): Extension<Caller>,
    Path(session): Path<String>,
) -> Answer<Ended> {
    let refused = |code, message| AdminError { error: ApiError::new(code, message), request_id: id.to_string() };
    match app.sessions.end(&session) {
        Found::Ended => {
            tracing::info!(operator = %operator.subject(), request_id = %id, "a session was ended by the operator");
            Ok(Json(Ended { id: session, ended: true }))
        }
        Found::Nothing => Err(refused(ErrorCode::SessionNotFound, "No open session has this id.")),
        Found::Several => Err(refused(
            ErrorCode::InvalidRequest,
            "Several open sessions have this name. Use the `id` that GET /admin/v1/sessions shows.",
        )),
    }
}
