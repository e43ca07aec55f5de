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
    extract::State,
    response::IntoResponse,
    routing::{delete, get},
};
use http::{HeaderMap, header};
use telemetry::Format;

use crate::{App, error::AdminError, health};

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

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(header::CONTENT_TYPE, format.content_type())], app.exposition.render(format))
}
