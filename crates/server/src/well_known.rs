//! What the node says about itself to whoever asks: its public keys, and where things are (RFC 8615).

use std::sync::Arc;

use auth::keys::JWKS_MAX_AGE_SECS;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, header},
    routing::get,
};
use serde_json::{Value, json};
use signing::JwkSet;

use crate::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new().route("/.well-known/jwks.json", get(jwks)).route("/.well-known/llm-node", get(node))
}

fn cached() -> [(HeaderName, String); 1] {
    [(header::CACHE_CONTROL, format!("public, max-age={JWKS_MAX_AGE_SECS}"))]
}

async fn jwks(State(app): State<Arc<App>>) -> ([(HeaderName, String); 1], Json<JwkSet>) {
    (cached(), Json(app.keyring.jwks()))
}

/// `key_statements` lead from the first key, whose thumbprint `node_id` is, to the one that signs now.
async fn node(State(app): State<Arc<App>>) -> ([(HeaderName, String); 1], Json<Value>) {
    let (key_id, _) = app.keyring.signer();
    let body = json!({
        "node_id": app.keyring.node_id(),
        "version": env!("CARGO_PKG_VERSION"),
        "key_id": key_id,
        "key_statements": app.keyring.statements(),
        "endpoints": {
            "jwks": "/.well-known/jwks.json",
            "websocket": "/v1/ws",
            "inference": "/v1/inference",
            "responses": "/v1/responses",
            "chat_completions": "/v1/chat/completions",
            "completions": "/v1/completions",
            "models": "/v1/models",
            "sessions": "/v1/sessions",
            "receipts": "/v1/receipts/{id}",
            "health": "/health",
        },
    });
    (cached(), Json(body))
}
