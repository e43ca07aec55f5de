//! The native WebSocket protocol on `/v1/ws` (docs/protocol.md): its frames to pipeline requests, answers to its frames.
//!
//! One task owns one connection: its socket, its sessions and the answers that run on them. Sessions live and die with
//! the connection. Several may stream side by side, each one answer at a time.
//!
//! Who speaks is decided before the upgrade where it carries `Authorization`, otherwise by the first messages (`auth`, or
//! `session_init` with a `token`), within [`first_message_timeout`](crate::Settings::first_message_timeout).

mod connection;
mod history;
mod identity;
mod sessions;
mod turn;

use std::sync::Arc;

use axum::{
    Router,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::{IntoResponse as _, Response},
    routing::any,
};
use http::{HeaderMap, header::AUTHORIZATION};
use protocol::ApiError;

use self::{connection::Connection, identity::Identity};
use crate::{App, error::HttpError, origin, request_id, ws};

/// The protocol's one route.
pub(crate) fn routes() -> Router<Arc<App>> {
    // `any`, because over HTTP/2 the upgrade is a CONNECT (RFC 8441).
    Router::new().route("/v1/ws", any(upgrade))
}

async fn upgrade(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let identity = match admit(&app, &headers) {
        Ok(identity) => identity,
        Err(error) => return HttpError(error).into_response(),
    };
    let serving = Arc::clone(&app);
    ws::upgrade(app, upgrade, |socket| Connection::new(serving, socket, identity).serve())
}

/// Decides about origin and token before a socket exists.
fn admit(app: &App, headers: &HeaderMap) -> Result<Identity, ApiError> {
    origin::check(&app.settings(), headers)?;
    let bearer = request_id::bearer(headers);
    if bearer.is_none() && app.pipeline.auth_enabled() && !headers.contains_key(AUTHORIZATION) {
        return Ok(Identity::unknown());
    }
    // Credentials of another kind than Bearer are refused here like none.
    app.pipeline.authenticate(bearer).map(Identity::proven)
}
