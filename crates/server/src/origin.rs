//! The allow-list of browser origins (RFC 6454): one for WebSockets and for [`crate::cors`].
//!
//! A browser lets any page open a WebSocket to any host and sends no preflight, so this header is all that stands
//! between a page that the operator's users happen to visit and a node on their loopback interface. The same holds for
//! every request where tokens are not asked for, and for the admin listener, where no page has business at all.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderValue, header::ORIGIN};
use protocol::{ApiError, ErrorCode};

use crate::{App, Settings, error::HttpError};

/// Lets every origin in.
const ANY: &str = "*";

/// Whether an upgrade with these headers may go on. No `Origin` means no browser, which the list is not about.
/// Several `Origin` headers, or one that is not text, are refused: RFC 6454 section 7.3 allows at most one.
fn allowed(settings: &Settings, headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    if origins.next().is_some() {
        return false;
    }
    is_listed(settings, origin)
}

/// Whether pages of this origin may use the node.
pub(crate) fn is_listed(settings: &Settings, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    // Scheme and host are case-insensitive (RFC 3986 section 6.2.2.1), and a serialised origin has nothing else.
    settings.allowed_origins.iter().any(|listed| listed == ANY || listed.eq_ignore_ascii_case(origin))
}

/// [`allowed`], as the refusal that a client hears.
pub(crate) fn check(settings: &Settings, headers: &HeaderMap) -> Result<(), ApiError> {
    if allowed(settings, headers) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::PermissionDenied,
        "Pages of this origin may not connect. The operator lists allowed origins in server.allowed_origins.",
    ))
}

/// Middleware of the public listener: where `auth.enabled = false`, the origin is all that keeps pages out. They reach
/// loopback addresses as well as their user does, by another name for them (DNS rebinding) even as their own origin.
pub(crate) async fn guard_open_node(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.pipeline.auth_enabled()
        && let Err(error) = check(&app.settings(), request.headers())
    {
        return HttpError(error).into_response();
    }
    next.run(request).await
}

/// Middleware of the admin listener.
pub(crate) async fn refuse_browsers(request: Request, next: Next) -> Response {
    if request.headers().contains_key(ORIGIN) {
        let message = "Pages may not use the admin listener. Call it from a program.";
        return HttpError(ApiError::new(ErrorCode::PermissionDenied, message)).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listed: &[&str], origins: &[&[u8]], expected: bool) {
        let settings = Settings {
            allowed_origins: listed.iter().map(|&origin| origin.to_owned()).collect(),
            ..Settings::default()
        };
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin).expect("a header value"));
        }
        assert_eq!(allowed(&settings, &headers), expected, "{listed:?} {origins:?}");
    }

    #[test]
    fn only_listed_origins_of_browsers_pass() {
        const APP: &str = "https://app.example";
        check(&[], &[b"https://app.example"], false);
        check(&[APP], &[b"https://evil.example"], false);
        check(&[APP], &[b"http://app.example"], false);
        check(&[APP], &[b"https://app.example:8443"], false);
        check(&[APP], &[b"https://app.example.evil.example"], false);
        check(&[APP], &[b"https://app.example/"], false);
        check(&[APP], &[b"null"], false);
        check(&[APP], &[b""], false);
        check(&[APP], &[b"*"], false);
        check(&[APP], &[b"https://app.example", b"https://evil.example"], false);
        check(&["*"], &[b"https://app.example", b"https://app.example"], false);
        check(&["*"], &[b"\xff"], false);

        check(&[APP], &[b"https://app.example"], true);
        check(&["https://other.example", APP], &[b"HTTPS://App.Example"], true);
        check(&["*"], &[b"null"], true);
    }

    #[test]
    fn no_origin_is_not_a_browser() {
        check(&[], &[], true);
        check(&["https://app.example"], &[], true);
    }
}
