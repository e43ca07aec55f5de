//! Whose request it is, and that client's place under `connections_per_address_max`.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use protocol::{ApiError, ErrorCode};

use crate::{
    App,
    connections::{AddressPlace, Wire},
    error::HttpError,
    forwarded,
};

/// Seconds after which a client over its cap may try again.
const RETRY_AFTER_SECS: u64 = 1;

/// The address of the client itself, whether a proxy stands between or not: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Middleware of the public listener: finds the client, and holds its place until the answer has ended.
pub(crate) async fn attach(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(wire) = request.extensions().get::<Arc<Wire>>().cloned() else { return next.run(request).await };
    let (settings, peer) = (app.settings(), wire.peer());
    if !wire.is_proxied() {
        request.extensions_mut().insert(ClientAddress(peer));
        return next.run(request).await;
    }
    let Ok(client) = forwarded::client(&settings.trusted_proxies, peer, request.headers()) else {
        tracing::info!(proxy = %peer, "a trusted proxy sent an X-Forwarded-For that is no list of addresses");
        return HttpError(ApiError::new(ErrorCode::InvalidRequest, forwarded::Malformed.to_string())).into_response();
    };
    request.extensions_mut().insert(ClientAddress(client));
    if client == peer {
        // The proxy's own requests: its health checks.
        return next.run(request).await;
    }
    let place = match app.connections.admit_client(client, &settings) {
        Ok(place) => place,
        Err(limit) => {
            tracing::debug!(limit, "a request was refused");
            let error = ApiError::new(ErrorCode::RateLimit, "Too many requests of your address are open. Retry later.");
            return HttpError(error.retry_after(RETRY_AFTER_SECS)).into_response();
        }
    };
    let response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        wire.keep(place);
        return response;
    }
    response.map(|body| Body::new(Placed { body, _place: place }))
}

/// An answer's body with its client's place.
struct Placed {
    body: Body,
    _place: AddressPlace,
}

impl HttpBody for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
