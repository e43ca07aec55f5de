//! The admin listener: metrics and health. Loopback by default; it answers no client.

use std::sync::Arc;

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{HeaderMap, header};
use telemetry::Format;

use crate::{App, health};

/// The admin routes; `metrics_endpoint` is `None` where `metrics.enabled = false`.
pub(crate) fn routes(metrics_endpoint: Option<&str>) -> Router<Arc<App>> {
    let routes = health::routes();
    match metrics_endpoint {
        Some(path) => routes.route(path, get(metrics)),
        None => routes,
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::accepted(headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()));
    ([(header::CONTENT_TYPE, format.content_type())], app.exposition.render(format))
}
