//! The operators' listener: metrics, health, and the API under `/admin/v1`. Loopback by default; it answers no client.
//!
//! Every route of the API needs a token with the right `admin` ([`crate::gate`]), but where `auth.enabled = false`. Its
//! answers are JSON objects, its errors [`AdminError`].

mod client_keys;
mod revocations;
mod sessions;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    response::IntoResponse,
    routing::{delete, get},
};
use http::{HeaderMap, header};
use protocol::{ApiError, ErrorCode};
use telemetry::Format;

use crate::{App, error::AdminError, health};

/// Items of one answer, unless the operator says.
const LISTED_DEFAULT: u32 = 1000;
/// Most items of one answer.
const LISTED_MAX: u32 = 10_000;

/// What a handler of the API returns.
type Answer<T> = Result<axum::Json<T>, AdminError>;

/// The admin routes; `metrics_endpoint` is `None` where `metrics.enabled = false`.
pub(crate) fn routes(metrics_endpoint: Option<&str>) -> Router<Arc<App>> {
    let routes = health::routes()
        .route("/admin/v1/keys", get(client_keys::list).post(client_keys::enrol))
        .route("/admin/v1/keys/{id}", delete(client_keys::withdraw))
        .route("/admin/v1/sessions", get(sessions::list))
        .route("/admin/v1/sessions/{id}", delete(sessions::end))
        .route("/admin/v1/revocations", get(revocations::list).post(revocations::revoke));
    match metrics_endpoint {
        Some(path) => routes.route(path, get(metrics)),
        None => routes,
    }
}

/// What a query asks for; `takes` says what it may hold.
///
/// # Errors
/// `INVALID_REQUEST`.
fn asked<T>(query: Result<Query<T>, QueryRejection>, takes: &str) -> Result<T, ApiError> {
    let refused = |_| ApiError::new(ErrorCode::InvalidRequest, format!("The query may have {takes}."));
    query.map(|Query(asked)| asked).map_err(refused)
}

/// How many items to list.
///
/// # Errors
/// `INVALID_REQUEST`.
fn limit(asked: Option<u32>) -> Result<u32, ApiError> {
    let limit = asked.unwrap_or(LISTED_DEFAULT);
    if (1..=LISTED_MAX).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::invalid("limit", format!("limit must be 1 to {LISTED_MAX}.")))
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(header::CONTENT_TYPE, format.content_type())], app.exposition.render(format))
}
