//! Key proofs (RFC 9449, DPoP): a client shows that it holds a key, for one request to one address.
//!
//! A proof is a JWS with its own public key in the header. It proves possession, not identity: whoever verifies it
//! decides what the key may. The nonce and the one use of `jti` are for the verifier to check, which gave the one and
//! remembers the other.

#[cfg(test)]
mod tests;

use ::http::Uri;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Jwk, PublicKey, SignError, Signature, Signer, Window, http::resource};

/// Longest proof read, in bytes. One has about 500.
pub const PROOF_BYTES_MAX: usize = 4096;
/// Longest `jti` and `nonce`, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// The type in the header (RFC 9449 section 4.2).
const TYPE: &str = "dpop+jwt";
/// RFC 9864; RFC 8037's name for it is accepted too.
const ALGORITHM: &str = "Ed25519";

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DpopError {
    /// No JWS in compact form, or without its members.
    #[error("not a DPoP proof: a JWS of type dpop+jwt with its public Ed25519 key, `jti`, `htm`, `htu` and `iat`")]
    Malformed,
    /// The key in the header is none, weak, or a private one.
    #[error("the proof's `jwk` must be a public Ed25519 key")]
    Key,
    /// The signature is not by that key.
    #[error("the proof's signature does not fit")]
    Signature,
    /// Made for another method or address.
    #[error("the proof is for another method or address (`htm`, `htu`)")]
    OtherRequest,
    /// Too old, or from the future.
    #[error("the proof's `iat` is outside of the accepted time")]
    OutsideWindow,
    /// For another access token.
    #[error("the proof is for another access token (`ath`)")]
    OtherToken,
}

/// What a proof must be for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's address in absolute form; its query is ignored (RFC 9449 section 4.3).
    pub target: &'a Uri,
    /// The access token that comes with it, if one does.
    pub access_token: Option<&'a str>,
    /// The accepted times.
    pub window: Window,
}

/// A proof that holds. Who accepts it checks [`Proof::nonce`] and that [`Proof::jti`] is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The key that was proved.
    pub key: PublicKey,
    /// What makes it unique.
    pub jti: String,
    /// When it was made, in seconds since 1970.
    pub issued_at: u64,
    /// The nonce that the server gave, if it names one.
    pub nonce: Option<String>,
}

/// What a client proves.
#[derive(Debug, Clone, Copy)]
pub struct NewProof<'a> {
    /// Of the request.
    pub method: &'a str,
    /// Of the request, in absolute form.
    pub target: &'a Uri,
    /// Never used before.
    pub jti: &'a str,
    /// Now, in seconds since 1970.
    pub issued_at: u64,
    /// The server's last nonce.
    pub nonce: Option<&'a str>,
    /// The access token that the request carries.
    pub access_token: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: ProofKey,
    /// Whatever it says must be understood is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct ProofKey {
    kty: String,
    crv: String,
    x: String,
    /// A private key sent by mistake: refused, so that somebody notices (RFC 9449 section 4.3 point 7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
}

/// Makes a proof.
///
/// # Errors
/// [`SignError`] when the signer fails, or the target has no scheme and authority.
pub fn make(proof: &NewProof<'_>, signer: &dyn Signer) -> Result<String, SignError> {
    let Jwk { kty, crv, x, .. } = signer.public_key().to_jwk();
    let header =
        Header { typ: TYPE.to_owned(), alg: ALGORITHM.to_owned(), jwk: ProofKey { kty, crv, x, d: None }, crit: None };
    let claims = Claims {
        jti: proof.jti.to_owned(),
        htm: proof.method.to_owned(),
        htu: resource(proof.target).ok_or_else(|| SignError("the target is not an absolute URI".to_owned()))?,
        iat: proof.issued_at,
        nonce: proof.nonce.map(ToOwned::to_owned),
        ath: proof.access_token.map(token_hash),
    };
    let mut text = format!("{}.{}", encode(&header)?, encode(&claims)?);
    let signature = signer.sign(text.as_bytes())?;
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(signature.as_bytes()));
    Ok(text)
}

/// Verifies a proof by the key in it (RFC 9449 section 4.3).
///
/// # Errors
/// [`DpopError`].
pub fn verify(proof: &str, expected: &Expected<'_>) -> Result<Proof, DpopError> {
    if proof.len() > PROOF_BYTES_MAX {
        return Err(DpopError::Malformed);
    }
    let mut parts = proof.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(DpopError::Malformed);
    };
    let signed = &proof[..header.len() + 1 + claims.len()];
    let header: Header = decode(header)?;
    let known = header.alg == ALGORITHM || header.alg == "EdDSA";
    if header.typ != TYPE || !known || header.crit.is_some() {
        return Err(DpopError::Malformed);
    }
    let key = key(header.jwk)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| DpopError::Malformed)?;
    let signature = Signature::from_bytes(&signature).map_err(|_| DpopError::Malformed)?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| DpopError::Signature)?;

    let claims: Claims = decode(claims)?;
    let Claims { jti, htm, htu, iat, nonce, ath } = claims;
    if jti.is_empty() || jti.len() > ID_BYTES_MAX || nonce.as_ref().is_some_and(|nonce| nonce.len() > ID_BYTES_MAX) {
        return Err(DpopError::Malformed);
    }
    let target = htu.parse().ok().and_then(|uri: Uri| resource(&uri));
    if htm != expected.method || target.is_none() || target != resource(expected.target) {
        return Err(DpopError::OtherRequest);
    }
    if !expected.window.contains(iat) {
        return Err(DpopError::OutsideWindow);
    }
    // A proof with `ath` and no token, or the reverse, is for another request too.
    if ath != expected.access_token.map(token_hash) {
        return Err(DpopError::OtherToken);
    }
    Ok(Proof { key, jti, issued_at: iat, nonce })
}

fn key(jwk: ProofKey) -> Result<PublicKey, DpopError> {
    if jwk.d.is_some() {
        return Err(DpopError::Key);
    }
    let jwk = Jwk { kty: jwk.kty, crv: jwk.crv, ..Jwk::bare(jwk.x) };
    PublicKey::from_jwk(&jwk).map_err(|_| DpopError::Key)
}

/// `ath`: base64url of the token's SHA-256.
fn token_hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token))
}

fn encode(part: &impl Serialize) -> Result<String, SignError> {
    let json = serde_json::to_vec(part).map_err(|error| SignError(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, DpopError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| DpopError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| DpopError::Malformed)
}
