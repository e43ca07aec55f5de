//! `POST /v1/sessions`: a token for the holder of a key, by a proof of possession (RFC 9449).
//!
//! The answer's token is bound to the key: every message that comes with it must be signed by the key. Refusals have
//! the shape of OAuth's (RFC 6749 section 5.2) with the node's own code beside; each answer brings the nonce for the
//! next proof.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use protocol::{ApiError, ErrorCode};
use serde_json::json;

use super::body;
use crate::{
    App,
    pipeline::{DPOP, TokenWish},
    signatures::{Addressed, ProvenKey, Refusal, SignatureMode},
};

/// Largest body: it names a job and some rights.
const BODY_BYTES_MAX: usize = 4096;
const PROOF: HeaderName = HeaderName::from_static("dpop");
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut response = match exchange(&app, request).await {
        Ok(token) => token,
        Err(error) => refusal(&error),
    };
    let nonce = app.pipeline.signatures().proof_nonce();
    response.headers_mut().insert(NONCE, HeaderValue::from_str(&nonce).expect("hex digits are a header value"));
    response
}

async fn exchange(app: &Arc<App>, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let key = match prove(app, &head.method, &head.uri, &head.headers).await {
        // It is counted when it is used up.
        Ok(key) => key,
        refused => app.pipeline.signatures().counted(DPOP, refused)?,
    };
    // Only the holder of a key gets so far that a body is awaited.
    let wish: TokenWish = body::receive_small(app, &head.headers, body, BODY_BYTES_MAX).await?;
    let token = app.pipeline.exchange(&key, wish).await?;
    let expires_in = token.issued.expires_at.saturating_sub(jobs::now());
    let body = json!({
        "access_token": token.issued.token,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "expires_at": token.issued.expires_at,
        "subject": token.subject,
        "job_id": token.job,
        "scope": token.permissions.to_string().replace(',', " "),
        "cnf": { "jkt": key.thumbprint() },
    });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn prove(app: &App, method: &http::Method, uri: &http::Uri, headers: &HeaderMap) -> Result<ProvenKey, Refusal> {
    let settings = app.settings();
    if settings.signature_mode == SignatureMode::Off {
        return Err(Refusal::Off);
    }
    let mut proofs = headers.get_all(PROOF).iter();
    let proof = match (proofs.next(), proofs.next()) {
        (Some(proof), None) => proof.to_str().map_err(|_| Refusal::Proof(signing::dpop::DpopError::Malformed))?,
        (None, _) => return Err(Refusal::NoProof),
        (Some(_), Some(_)) => return Err(Refusal::Proof(signing::dpop::DpopError::Malformed)),
    };
    let request = Addressed::new(method, uri, headers, &settings.signature_authorities)?;
    app.pipeline.signatures().verify_possession(proof, request, &settings).await
}

fn refusal(error: &ApiError) -> Response {
    let oauth = match error.code {
        ErrorCode::UseDpopNonce => "use_dpop_nonce",
        ErrorCode::InvalidDpopProof | ErrorCode::InvalidSignature | ErrorCode::ReplayedMessage | ErrorCode::WeakKey => {
            "invalid_dpop_proof"
        }
        ErrorCode::InvalidJob | ErrorCode::TokenLimitExceeded | ErrorCode::JobNotFound => "invalid_grant",
        ErrorCode::PermissionDenied => "invalid_scope",
        code if code.http_status() >= 500 => "server_error",
        _ => "invalid_request",
    };
    let body = json!({
        "error": oauth,
        "error_description": error.message,
        "code": error.code.as_str(),
        "details": error.details,
    });
    crate::error::respond(error, body)
}
