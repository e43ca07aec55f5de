//! Issue of the node's own tokens.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rand::TryRng;
use serde::Serialize;

use super::{IssueError, TOKEN_TYPE, TokenService, now};
use crate::{Claims, Confirmation, Grant, TOKEN_BYTES_MAX};

/// What signs a token of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenAlgorithm {
    /// The node's secret: only the node can verify it.
    #[default]
    Hs256,
    /// The node's key: everybody can verify it by the node's JWKS.
    Ed25519,
}

impl TokenAlgorithm {
    /// Its name in a header (RFC 7518 section 3.1, RFC 9864).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Ed25519 => "Ed25519",
        }
    }
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

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

impl TokenService {
    /// Issues a token, signed as the configuration says.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(&self, grant: &Grant) -> Result<IssuedToken, IssueError> {
        let algorithm = self.config.load().algorithm;
        self.issue_signed_by(grant, algorithm)
    }

    /// Issues a token in place of another, the first of them with the id `origin`: revoking that one revokes all that
    /// came of it.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn reissue(&self, grant: &Grant, origin: &str) -> Result<IssuedToken, IssueError> {
        let algorithm = self.config.load().algorithm;
        self.issue_as(grant, algorithm, Some(origin.to_owned()))
    }

    /// Issues a token, signed as told.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue_signed_by(&self, grant: &Grant, algorithm: TokenAlgorithm) -> Result<IssuedToken, IssueError> {
        self.issue_as(grant, algorithm, None)
    }

    fn issue_as(
        &self,
        grant: &Grant,
        algorithm: TokenAlgorithm,
        origin: Option<String>,
    ) -> Result<IssuedToken, IssueError> {
        let mut jti = [0_u8; 16];
        rand::rngs::SysRng.try_fill_bytes(&mut jti).map_err(|error| IssueError::Random(error.to_string()))?;
        let config = self.config.load();
        let now = now();
        let expires_at = now.saturating_add(grant.lifetime.unwrap_or(config.lifetime).as_secs());
        let claims = Claims {
            iss: config.name.clone(),
            aud: config.name.clone(),
            sub: grant.subject.clone(),
            iat: now,
            nbf: now,
            exp: expires_at,
            jti: hex::encode(jti),
            origin,
            session_id: grant.session.clone(),
            job_id: grant.job.clone(),
            permissions: grant.permissions.clone(),
            cnf: grant.bound_key.clone().map(|jkt| Confirmation { jkt }),
        };
        let token = match algorithm {
            TokenAlgorithm::Hs256 => {
                let ring = self.secrets.ring();
                let signed = signing_input(algorithm, ring.kid(), &claims);
                let tag = ring.sign(signed.as_bytes());
                append(signed, tag.as_ref())
            }
            TokenAlgorithm::Ed25519 => {
                let keys = self.keys.as_ref().ok_or_else(|| IssueError::Key("this node has none".to_owned()))?;
                let (kid, signer) = keys.active().map_err(IssueError::Key)?;
                let signed = signing_input(algorithm, &kid, &claims);
                let signature = signer.sign(signed.as_bytes()).map_err(|error| IssueError::Key(error.to_string()))?;
                append(signed, signature.as_bytes())
            }
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(IssueError::TooLong);
        }
        Ok(IssuedToken { token, expires_at })
    }
}

fn signing_input(algorithm: TokenAlgorithm, kid: &str, claims: &Claims) -> String {
    let encode = |json: Result<Vec<u8>, serde_json::Error>| {
        BASE64_URL_SAFE_NO_PAD.encode(json.expect("text, numbers and lists of them are always JSON"))
    };
    let header = encode(serde_json::to_vec(&Header { alg: algorithm.as_str(), typ: TOKEN_TYPE, kid }));
    format!("{header}.{}", encode(serde_json::to_vec(claims)))
}

fn append(mut signed: String, signature: &[u8]) -> String {
    signed.push('.');
    BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut signed);
    signed
}
