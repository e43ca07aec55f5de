//! The HTTP routes that answer a model: OpenAI's Chat Completions, Completions and Models, and the native family's
//! `/v1/inference`. Each only translates; [`body`], [`sse`] and [`steps`] are what they share.

pub(crate) mod body;
mod chat;
mod completions;
mod inference;
mod models;
pub(crate) mod receipt;
mod sessions;
pub(crate) mod signature;
pub(crate) mod sse;
pub(crate) mod steps;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    routing::{get, post},
};

use crate::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/inference", post(inference::handle))
        .route("/v1/sessions", post(sessions::handle))
        .route("/v1/receipts/{id}", get(receipt::retrieve))
        .route("/v1/models", get(models::list))
        // A model's name may have slashes (`owner/name`), and SDKs do not escape them.
        .route("/v1/models/{*id}", get(models::retrieve))
}

/// Unix seconds; 0 for a clock before 1970.
pub(crate) fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
