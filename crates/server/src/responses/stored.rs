//! `GET` and `DELETE /v1/responses/{id}`.

use std::{sync::Arc, time::Instant};

use auth::Permission;
use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header::CONTENT_TYPE};
use protocol::{ApiError, ErrorCode, openai::responses::Deleted};

use super::store::{Limits, Owner};
use crate::{App, error::HttpError, request_id::bearer};

pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let who = app.pipeline.authenticate(bearer(&headers)).await?;
    if !who.can(Permission::Read) {
        return Err(denied("read").into());
    }
    let found = app.responses.get(&Owner::of(&who), &id, Limits::from(&*app.settings()), Instant::now());
    let json = found.and_then(|stored| stored.json.clone()).ok_or_else(not_found)?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Json<Deleted>, HttpError> {
    let who = app.pipeline.authenticate(bearer(&headers)).await?;
    // Who may make a response may also have it forgotten.
    if !who.can(Permission::Write) && !who.can(Permission::Execute) {
        return Err(denied("write").into());
    }
    if !app.responses.remove(&Owner::of(&who), &id, Limits::from(&*app.settings()), Instant::now()) {
        return Err(not_found().into());
    }
    Ok(Json(Deleted { id, object: "response", deleted: true }))
}

fn denied(permission: &str) -> ApiError {
    ApiError::new(
        ErrorCode::PermissionDenied,
        format!("The token does not allow this. Ask for one with the permission `{permission}`."),
    )
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "No response with this id is stored here, or no longer.").param("response_id")
}
