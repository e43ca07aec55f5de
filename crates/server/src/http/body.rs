//! Reads a request's JSON body, bounded in bytes and time.
//!
//! The gate has checked the token before the first byte of the body is awaited, so strangers cost no memory.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, Request, header::CONTENT_LENGTH, header::CONTENT_TYPE};
use protocol::{ApiError, ErrorCode};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::signature;
use crate::{
    App, gate,
    pipeline::{Authenticated, Received},
};

/// Bytes over the limit that are still read and thrown away, so that a client which sends first and reads later gets
/// the 413 and not a broken pipe.
const DISCARD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads `T` from the body and verifies its signature, where it has one.
///
/// # Errors
/// 401 as [`crate::pipeline::Pipeline::authenticate`] says; `PAYLOAD_TOO_LARGE` past `body_bytes_max`;
/// those of [`signature::verify`]; `INVALID_REQUEST` for another content type, a body that does not arrive in time, or one that is not a `T` (then
/// `param` names the field).
pub(crate) async fn receive<T: DeserializeOwned>(
    app: &Arc<App>,
    request: Request<Body>,
) -> Result<(Authenticated, Received, T), ApiError> {
    let (head, body) = request.into_parts();
    let who = gate::caller(&head.extensions)?;
    let settings = app.settings();
    let limits = Limits { bytes_max: settings.body_bytes_max, timeout: settings.first_message_timeout };
    let text = read_counted(app, &head.headers, body, limits).await?;
    let proof = signature::verify(app, &who, &head, text.clone()).await?;
    Ok((who, Received::new(&text, proof), protocol::json::parse(&text)?))
}

/// Reads `T` from the body of an operator's request, signed where its token is bound to a key.
///
/// # Errors
/// As [`receive`], and `SIGNATURE_REQUIRED`.
pub(crate) async fn receive_operator<T: DeserializeOwned>(
    app: &Arc<App>,
    request: Request<Body>,
) -> Result<(Authenticated, T), ApiError> {
    let (who, received, value) = receive(app, request).await?;
    signature::must_be_there(app, &who, received.proof.as_ref(), true)?;
    Ok((who, value))
}

/// Reads `T` from a body of at most `bytes_max`, whoever sends it.
///
/// # Errors
/// As [`receive`], without what is about the sender.
pub(crate) async fn receive_small<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<T, ApiError> {
    let settings = app.settings();
    let bytes_max = bytes_max.min(settings.body_bytes_max);
    let limits = Limits { bytes_max, timeout: settings.first_message_timeout };
    protocol::json::parse(&read_counted(app, headers, body, limits).await?)
}

async fn read_counted(app: &App, headers: &HeaderMap, body: Body, limits: Limits) -> Result<Bytes, ApiError> {
    read(headers, body, limits).await.map_err(|refusal| {
        if let Some(limit) = refusal.limit() {
            app.metrics.limit_hit(limit);
        }
        ApiError::from(refusal)
    })
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes_max: usize,
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotJson,
    TooLarge { bytes_max: usize },
    TooSlow { timeout: Duration },
    Broken,
}

impl Refusal {
    /// The settings key of the limit that was hit.
    const fn limit(self) -> Option<&'static str> {
        match self {
            Self::TooLarge { .. } => Some("body_bytes_max"),
            Self::TooSlow { .. } => Some("first_message_timeout"),
            Self::NotJson | Self::Broken => None,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotJson => Self::new(
                ErrorCode::InvalidRequest,
                "The body must be JSON. Send it with the header Content-Type: application/json.",
            ),
            Refusal::TooLarge { bytes_max } => Self::new(
                ErrorCode::PayloadTooLarge,
                format!("The body is over the limit of {bytes_max} bytes. Shorten the prompt or the conversation."),
            )
            .with("body_bytes_max", bytes_max),
            Refusal::TooSlow { timeout } => Self::new(
                ErrorCode::InvalidRequest,
                format!("The body did not arrive within {} s. Check the connection and retry.", timeout.as_secs()),
            ),
            Refusal::Broken => Self::new(ErrorCode::InvalidRequest, "The body ended before it was complete. Retry."),
        }
    }
}

async fn read(headers: &HeaderMap, body: Body, limits: Limits) -> Result<Bytes, Refusal> {
    // Also what keeps web pages out: a form or text body needs no CORS preflight, JSON does.
    if !is_json(headers) {
        return Err(Refusal::NotJson);
    }
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut data = body.into_data_stream();
    let deadline = Instant::now() + limits.timeout;
    let collected = if announced.is_some_and(|bytes| bytes > limits.bytes_max) {
        Ok(Err(Refusal::TooLarge { bytes_max: limits.bytes_max }))
    } else {
        timeout_at(deadline, collect(&mut data, announced, limits.bytes_max)).await
    };
    let result = collected.unwrap_or_else(|_: Elapsed| Err(Refusal::TooSlow { timeout: limits.timeout }));
    if matches!(result, Err(Refusal::TooLarge { .. }))
        && announced.is_none_or(|bytes| bytes <= limits.bytes_max.saturating_add(DISCARD_BYTES_MAX))
    {
        // Best effort: whether the client stopped, broke off or ran into the deadline, the answer is the same 413.
        let _ = timeout_at(deadline, discard(&mut data)).await;
    }
    result
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = value.split_once(';').map_or(value, |(essence, _)| essence).trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

async fn collect(data: &mut BodyDataStream, announced: Option<usize>, bytes_max: usize) -> Result<Bytes, Refusal> {
    /// Bytes reserved on the client's word alone.
    const RESERVE_BYTES_MAX: usize = 64 * 1024;
    let mut text = BytesMut::with_capacity(announced.unwrap_or(0).min(RESERVE_BYTES_MAX));
    while let Some(chunk) = data.next().await {
        let chunk = chunk.map_err(|_| Refusal::Broken)?;
        if text.len() + chunk.len() > bytes_max {
            return Err(Refusal::TooLarge { bytes_max });
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text.freeze())
}

async fn discard(data: &mut BodyDataStream) {
    let mut left = DISCARD_BYTES_MAX;
    while let Some(Ok(chunk)) = data.next().await {
        let Some(rest) = left.checked_sub(chunk.len()) else { return };
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::HeaderValue;

    use super::*;

    const LIMITS: Limits = Limits { bytes_max: 8, timeout: Duration::from_secs(10) };

    fn headers(pairs: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn json() -> HeaderMap {
        headers(&[(CONTENT_TYPE, "application/json")])
    }

    fn chunks(chunks: &[&'static str]) -> Body {
        let chunks: Vec<_> =
            chunks.iter().map(|text| Ok::<_, std::io::Error>(Bytes::from_static(text.as_bytes()))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn bodies_are_bounded_however_they_arrive() {
        let too_large = Err(Refusal::TooLarge { bytes_max: 8 });
        assert_eq!(read(&json(), chunks(&["123456789"]), LIMITS).await, too_large);
        assert_eq!(read(&json(), chunks(&["1234", "5678", "9"]), LIMITS).await, too_large);
        let announced = headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, "9")]);
        assert_eq!(read(&announced, chunks(&["1"]), LIMITS).await, too_large, "refused on its word");
        assert_eq!(read(&json(), chunks(&["1234", "5678"]), LIMITS).await, Ok(Bytes::from_static(b"12345678")));
        assert_eq!(read(&json(), Body::empty(), LIMITS).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn what_is_over_the_limit_is_read_to_its_end_within_bounds() {
        let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&taken);
        let endless = stream::repeat_with(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1024 * 1024]))
        });
        let result = read(&json(), Body::from_stream(endless), LIMITS).await;
        assert_eq!(result, Err(Refusal::TooLarge { bytes_max: 8 }));
        let mebibytes = taken.load(std::sync::atomic::Ordering::Relaxed);
        assert!((16..=18).contains(&mebibytes), "{mebibytes} MiB were read");
    }

    #[tokio::test]
    async fn a_body_that_stops_is_refused_at_the_deadline() {
        let limits = Limits { timeout: Duration::from_millis(20), ..LIMITS };
        let silent = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) }).chain(stream::pending());
        let result =
            tokio::time::timeout(Duration::from_secs(10), read(&json(), Body::from_stream(silent), limits)).await;
        assert_eq!(result.expect("it ends by itself"), Err(Refusal::TooSlow { timeout: limits.timeout }));
        let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
        assert_eq!(read(&json(), Body::from_stream(broken), LIMITS).await, Err(Refusal::Broken));
    }

    #[test]
    fn only_json_content_types_pass() {
        for value in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", ""]
        {
            assert!(!is_json(&headers(&[(CONTENT_TYPE, value)])), "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
        for value in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_json(&headers(&[(CONTENT_TYPE, value)])), "{value}");
        }
    }
}
