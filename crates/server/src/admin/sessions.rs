//! `/admin/v1/sessions`: which are open, and their end.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use protocol::{ApiError, ErrorCode, RequestId};
use serde::{Deserialize, Serialize};

use super::{Answer, asked, limit};
use crate::{
    App,
    error::AdminError,
    gate::Caller,
    sessions::{Found, SessionInfo},
};

/// Which to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    subject: Option<String>,
    limit: Option<u32>,
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
    let which = asked(which, "`subject` and `limit`, a number").map_err(refused)?;
    let limit = limit(which.limit).map_err(refused)?;
    let (sessions, total) = app.sessions.list(which.subject.as_deref(), limit as usize);
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
