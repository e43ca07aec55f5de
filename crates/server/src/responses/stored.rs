//! `GET` and `DELETE /v1/responses/{id}`.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::header::CONTENT_TYPE;
use protocol::{ApiError, ErrorCode, openai::responses::Deleted};

use super::store::{Limits, Owner};
use crate::{App, error::HttpError, gate::Caller};

pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Extension(Caller(who)): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, HttpError> {
    let found = app.responses.get(&Owner::of(&who), &id, Limits::from(&*app.settings()), Instant::now());
    let json = found.and_then(|stored| stored.json.clone()).ok_or_else(not_found)?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Extension(Caller(who)): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, HttpError> {
    if !app.responses.remove(&Owner::of(&who), &id, Limits::from(&*app.settings()), Instant::now()) {
        return Err(not_found().into());
    }
    Ok(Json(Deleted { id, object: "response", deleted: true }))
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "No response with this id is stored here, or no longer.").param("response_id")
}
