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
mod signed;
mod turn;

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::{IntoResponse as _, Response},
    routing::any,
};
use http::HeaderMap;
use protocol::ApiError;

use self::{connection::Connection, identity::Identity};
use crate::{App, client_address::ClientAddress, connections::Wire, credentials, error::HttpError, origin, ws};

/// The protocol's one route.
pub(crate) fn routes() -> Router<Arc<App>> {
    // `any`, so that whatever is no upgrade is told what this route is.
    Router::new().route("/v1/ws", any(upgrade))
}

async fn upgrade(
    State(app): State<Arc<App>>,
    address: Option<Extension<ClientAddress>>,
    wire: Option<Extension<Arc<Wire>>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let identity = match admit(&app, &headers).await {
        Ok(identity) => identity,
        Err(error) => return HttpError(error).into_response(),
    };
    let serving = Arc::clone(&app);
    let address = address.map(|Extension(ClientAddress(address))| address);
    let stranger = wire.map(|Extension(wire)| wire).filter(|_| !identity.is_proven());
    ws::upgrade(app, stranger, upgrade, move |socket| Connection::new(serving, socket, identity, address).serve())
}

/// Decides about origin and token before a socket exists.
async fn admit(app: &App, headers: &HeaderMap) -> Result<Identity, ApiError> {
    origin::check(&app.settings(), headers)?;
    let bearer = credentials::bearer(headers)?;
    if bearer.is_none() && app.pipeline.auth_enabled() {
        return Ok(Identity::unknown());
    }
    app.pipeline.authenticate(bearer).await.map(Identity::proven)
}
