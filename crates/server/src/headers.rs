//! Headers that every answer has.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that do not depend on anything. The node serves no pages: what a browser is made to take for one may load and
/// frame nothing.
const FIXED: [(HeaderName, HeaderValue); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
];

/// Adds them. Answers are nobody's to store unless their handler says otherwise; over TLS, browsers are told to come back
/// by no other way for `hsts_max_age` (RFC 6797), unless that is zero.
pub(crate) fn secure(headers: &mut HeaderMap, tls: bool, hsts_max_age: Duration) {
    for (name, value) in FIXED {
        headers.insert(name, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if tls && !hsts_max_age.is_zero() {
        let value = format!("max-age={}", hsts_max_age.as_secs());
        let value = HeaderValue::from_str(&value).expect("digits are a valid header value");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
}
