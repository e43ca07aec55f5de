//! Signatures of HTTP requests (RFC 9421), where a request has one for this node.

use bytes::Bytes;
use http::request::Parts;
use protocol::ApiError;
use signing::http::HttpSignature;

use crate::{
    App,
    pipeline::Authenticated,
    signatures::{Addressed, Proof, Refusal, SignatureMode, Statement, keep_for, read_refusal, window},
};

/// The label `transport` in metrics.
pub(crate) const TRANSPORT: &str = "http";

/// Verifies the signature that a request of `who` carries; `None` where it carries none. Whether it had to is for
/// the pipeline.
///
/// # Errors
/// `INVALID_SIGNATURE`, `UNKNOWN_KEY`, `WEAK_KEY`, `INVALID_HEX_ENCODING`, `REPLAYED_MESSAGE`.
pub(crate) async fn verify(
    app: &App,
    who: &Authenticated,
    head: &Parts,
    body: Bytes,
) -> Result<Option<Proof>, ApiError> {
    if app.settings().signature_mode == SignatureMode::Off {
        return Ok(None);
    }
    let result = match HttpSignature::read(&head.headers) {
        Ok(None) => return Ok(None),
        Ok(Some(signature)) => check(app, who, head, body, signature).await,
        Err(error) => Err(read_refusal(error)),
    };
    Ok(app.pipeline.signatures().counted(TRANSPORT, result).map(Some)?)
}

/// For a request without a body: verifies its signature, and refuses it where it had to have one.
///
/// # Errors
/// As [`verify`] and [`must_be_there`].
pub(crate) async fn require(app: &App, who: &Authenticated, head: &Parts, operators: bool) -> Result<(), ApiError> {
    let proof = verify(app, who, head, Bytes::new()).await?;
    must_be_there(app, who, proof.as_ref(), operators)
}

/// Refuses a request that had to be signed. `signature.required` is about clients: of operators it asks nothing, but a
/// token that is bound to a key is of no use to them either without it.
///
/// # Errors
/// `SIGNATURE_REQUIRED`.
pub(crate) fn must_be_there(
    app: &App,
    who: &Authenticated,
    proof: Option<&Proof>,
    operators: bool,
) -> Result<(), ApiError> {
    if operators && who.bound_key().is_none() {
        return Ok(());
    }
    app.pipeline.require_signature(who, proof, TRANSPORT)
}

async fn check(
    app: &App,
    who: &Authenticated,
    head: &Parts,
    body: Bytes,
    signature: HttpSignature,
) -> Result<Proof, Refusal> {
    let (settings, signatures) = (app.settings(), app.pipeline.signatures());
    let (age_max, nonce) = (settings.signature_age_max, signature.nonce().to_owned());
    signatures.check_time(signature.created(), age_max)?;
    let key = signatures.key(who, Some(signature.key_id())).await?;
    let request = Addressed::new(&head.method, &head.uri, &head.headers, &settings.signature_authorities)?;
    let statement = Statement::Request {
        signature: Box::new(signature),
        request: Box::new(request),
        body,
        window: window(age_max),
    };
    let proof = signatures.verify(who, key, statement).await?;
    // Only now: who cannot sign cannot use up nonces.
    signatures.take_nonce(proof.thumbprint(), &nonce, keep_for(age_max), settings.signature_nonces_max)?;
    Ok(proof)
}
