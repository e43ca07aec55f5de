//! `GET /v1/models` and `GET /v1/models/{id}`.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use engine::ServedModel;
use protocol::openai::models::{List, Model};

use super::unix_secs;
use crate::{App, error::HttpError};

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Response, HttpError> {
    let served = app.pipeline.ready()?;
    let created = serving_since(&app);
    let list: List<'_> = served.models.iter().map(|model| describe(model, created)).collect();
    Ok(Json(list).into_response())
}

pub(super) async fn retrieve(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, HttpError> {
    let served = app.pipeline.ready()?;
    let model = served.require(&id)?;
    Ok(Json(describe(model, serving_since(&app))).into_response())
}

fn describe(model: &ServedModel, created: u64) -> Model<'_> {
    Model::new(&model.name, created, model.context_tokens, model.digest.as_deref())
}

/// When the node started, in Unix seconds.
fn serving_since(app: &App) -> u64 {
    unix_secs(SystemTime::now().checked_sub(app.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH))
}
