//! What every HTTP answer has: `X-Request-Id`, safe headers, a count of errors, one line in the log.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::HeaderValue;
use protocol::{ErrorCode, RequestId};
use tracing::Instrument;
use uuid::Uuid;

use crate::{App, connections::Wire, headers};

/// A fresh request id: time-ordered, so that logs sort by it (RFC 9562 UUIDv7).
pub(crate) fn fresh() -> RequestId {
    RequestId::new(Uuid::now_v7().simple().to_string()).expect("hex digits are a valid id")
}

/// Middleware of both listeners.
pub(crate) async fn attach(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = fresh();
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    // The route, never the path: a path can hold what a client wrote.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
    let tls = request.extensions().get::<Arc<Wire>>().is_some_and(|wire| wire.is_tls());
    let started = Instant::now();
    let span = tracing::info_span!("http", request_id = %id);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(code) = response.extensions().get::<ErrorCode>() {
        app.metrics.http_error_sent(*code);
    }
    let status = response.status().as_u16();
    span.in_scope(|| {
        tracing::debug!(%method, route, status, duration_us = started.elapsed().as_micros(), "http request");
    });
    let headers = response.headers_mut();
    headers.insert("x-request-id", HeaderValue::from_str(id.as_str()).expect("hex digits are a valid header"));
    headers::secure(headers, tls, app.settings().hsts_max_age);
    response
}
