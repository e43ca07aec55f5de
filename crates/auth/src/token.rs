//! Issue and verification of the node's own tokens: HS256 (RFC 7515), shape RFC 9068, attacks of RFC 8725 in mind.
//!
//! The library verifies the MAC and the dates. What it leaves open is closed here: the size is capped before anything
//! is parsed, the header may hold `alg`, `typ` and `kid` and nothing else (so no `crit`, `jwk`, `jku`, `x5u`), the
//! algorithm and `typ` are fixed, duplicate members and wrong-typed dates do not parse, the leeway is ours.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use rand::TryRng;
use serde::Deserialize;

use crate::{Claims, Confirmation, Grant, JwtSecret};

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// Clock difference that is tolerated, in seconds.
pub const LEEWAY_SECS: u64 = 30;
/// RFC 9068 section 2.1.
const TOKEN_TYPE: &str = "at+jwt";
/// `iss` and `aud`.
const NODE: &str = "llm-node";

/// Why a token is refused. The distinction is for the log; clients hear "invalid" or "expired".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`TOKEN_BYTES_MAX`].
    #[error("the token is over {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not a compact JWS with the header that the node issues.
    #[error("the token is malformed or its header is not allowed: {0}")]
    Malformed(&'static str),
    /// The MAC does not fit.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Issued by or for someone else, or a claim is missing or of the wrong type.
    #[error("a claim is missing or wrong: {0}")]
    Claim(String),
    /// The token cannot be made.
    #[error("the token cannot be issued: {0}")]
    Issue(String),
}

/// A token with its end.
#[derive(Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The compact serialisation.
    pub token: String,
    /// Unix seconds.
    pub expires_at: u64,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictHeader {
    alg: String,
    typ: String,
    #[serde(rename = "kid")]
    _kid: Option<String>,
}

/// Decides about tokens.
pub struct TokenService {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    lifetime: Duration,
}

impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl TokenService {
    /// A service over the node's secret; tokens live for `lifetime` where a grant does not say.
    #[must_use]
    pub fn new(secret: &JwtSecret, lifetime: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECS;
        validation.validate_nbf = true;
        validation.set_audience(&[NODE]);
        validation.set_issuer(&[NODE]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        Self {
            encoding: EncodingKey::from_secret(secret.bytes()),
            decoding: DecodingKey::from_secret(secret.bytes()),
            validation,
            lifetime,
        }
    }

    /// Issues a token.
    ///
    /// # Errors
    /// [`TokenError::Issue`] when the random source fails or the token would be too long.
    pub fn issue(&self, grant: &Grant) -> Result<IssuedToken, TokenError> {
        let mut jti = [0_u8; 16];
        rand::rngs::SysRng.try_fill_bytes(&mut jti).map_err(|error| TokenError::Issue(error.to_string()))?;
        let now = now();
        let expires_at = now.saturating_add(grant.lifetime.unwrap_or(self.lifetime).as_secs());
        let claims = Claims {
            iss: NODE.to_owned(),
            aud: NODE.to_owned(),
            sub: grant.subject.clone(),
            iat: now,
            nbf: now,
            exp: expires_at,
            jti: hex::encode(jti),
            session_id: grant.session.clone(),
            job_id: grant.job.clone(),
            permissions: grant.permissions.clone(),
            cnf: grant.bound_key.clone().map(|jkt| Confirmation { jkt }),
        };
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TOKEN_TYPE.to_owned());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding)
            .map_err(|error| TokenError::Issue(error.to_string()))?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Issue(format!("it would be over {TOKEN_BYTES_MAX} bytes")));
        }
        Ok(IssuedToken { token, expires_at })
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// [`TokenError`], never with a part of the token in it.
    #[expect(clippy::unused_async, reason = "tokens of other issuers may need their keys fetched")]
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let header = strict_header(token)?;
        if header.alg != "HS256" {
            return Err(TokenError::Malformed("alg"));
        }
        if header.typ != TOKEN_TYPE {
            return Err(TokenError::Malformed("typ"));
        }
        let data = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).map_err(|error| {
            match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::ImmatureSignature => TokenError::NotYet,
                ErrorKind::InvalidToken | ErrorKind::Base64(_) | ErrorKind::Utf8(_) => {
                    TokenError::Malformed("not a compact JWS")
                }
                // The library's messages name claims, never values.
                ErrorKind::Json(_) => TokenError::Claim("a claim has the wrong type, or stands twice".to_owned()),
                other => TokenError::Claim(format!("{other:?}")),
            }
        })?;
        Ok(data.claims)
    }
}

fn strict_header(token: &str) -> Result<StrictHeader, TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(TokenError::Malformed("not three segments"));
    };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed("header encoding"))?;
    // A derived struct refuses a field that stands twice, and `deny_unknown_fields` everything that is not listed.
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed("header members"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
