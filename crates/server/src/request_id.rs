//! What every HTTP answer has: `X-Request-Id`, safe headers, a count of errors, one line in the log.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, header};
use protocol::{ErrorCode, RequestId};
use tracing::Instrument;
use uuid::Uuid;

use crate::App;

/// A fresh request id: time-ordered, so that logs sort by it (RFC 9562 UUIDv7).
pub(crate) fn fresh() -> RequestId {
    RequestId::new(Uuid::now_v7().simple().to_string()).expect("hex digits are a valid id")
}

/// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1; the scheme's case does not matter).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Middleware of both listeners.
pub(crate) async fn attach(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = fresh();
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    // The route, never the path: a path can hold what a client wrote.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unmatched".to_owned());
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
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_holds_a_token() {
        let check = |value: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            assert_eq!(bearer(&headers), expected, "{value}");
        };
        check("Basic abc", None);
        check("Bearer", None);
        check("abc", None);
        check("Bearer abc", Some("abc"));
        check("bearer  abc ", Some("abc"));
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
