//! The one place that decides about tokens, for every transport and every command.
//!
//! Shape RFC 9068, attacks of RFC 8725 in mind. Who issued the token (`iss`) decides which keys are asked, `kid` which
//! of them, and the key decides about the algorithm; the header must only agree. Then the signature, then the dates and
//! the other claims, then revocation. [`compact`](crate::compact) is strict before anything is believed.
//!
//! | issued by | key | algorithm |
//! |---|---|---|
//! | the node | its secret ([`Secrets`]) | HS256 |
//! | the node | its Ed25519 key ([`NodeKeys`]) | Ed25519, also named EdDSA (RFC 9864) |
//! | a configured issuer | its JWKS ([`Issuers`]) | RS256, ES256, Ed25519 |
//!
//! No library is between this and the cryptography (aws-lc-rs): what the known ones leave open (`crit`, sizes, header
//! members, `alg: Ed25519`, dates) would have to be checked around them, and then nothing of them is left. `jsonwebtoken`
//! is the second opinion in the tests.
//!
//! Nothing is looked up by subject before the signature was verified, and signatures are compared in constant time: the
//! answer to a forged token takes as long for a subject that exists as for one that does not.

mod check;
mod error;
mod issue;
mod node_keys;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
pub use check::LIFETIME_SECS_MAX;
pub(crate) use check::{dates, is_ed25519};
pub use error::{IssueError, TokenError};
pub use issue::{IssuedToken, TokenAlgorithm};
pub use node_keys::{KeyVerdict, NodeKeys};
use signing::Signature;

use crate::{Claims, Issuers, Metrics, Revocations, Secrets, compact::Compact};

/// Clock difference that is tolerated where the configuration says nothing, in seconds.
pub const LEEWAY_SECS: u64 = 30;
/// What the node is called in tokens where the configuration says nothing.
pub const NODE_NAME: &str = "llm-node";
/// RFC 9068 section 2.1.
const TOKEN_TYPE: &str = "at+jwt";

/// What can change while the node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// `iss` and `aud` of the node's own tokens, and `aud` of others'.
    pub name: String,
    /// How long a token is valid whose grant does not say.
    pub lifetime: Duration,
    /// Clock difference that is tolerated, in seconds.
    pub leeway_secs: u64,
    /// What signs tokens whose issue does not say.
    pub algorithm: TokenAlgorithm,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            name: NODE_NAME.to_owned(),
            lifetime: Duration::from_secs(24 * 3600),
            leeway_secs: LEEWAY_SECS,
            algorithm: TokenAlgorithm::Hs256,
        }
    }
}

/// Decides about tokens.
pub struct TokenService {
    secrets: Secrets,
    config: ArcSwap<TokenConfig>,
    keys: Option<Arc<dyn NodeKeys>>,
    issuers: Option<Issuers>,
    revocations: Option<Revocations>,
    metrics: Metrics,
}

impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService").field("config", &self.config).finish_non_exhaustive()
    }
}

impl TokenService {
    /// A service over the node's secrets alone.
    #[must_use]
    pub fn new(secrets: Secrets, config: TokenConfig) -> Self {
        Self {
            secrets,
            config: ArcSwap::from_pointee(config),
            keys: None,
            issuers: None,
            revocations: None,
            metrics: Metrics::default(),
        }
    }

    /// Also signs and takes tokens by the node's Ed25519 keys.
    #[must_use]
    pub fn with_keys(mut self, keys: Arc<dyn NodeKeys>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Also takes tokens of other issuers.
    #[must_use]
    pub fn with_issuers(mut self, issuers: Issuers) -> Self {
        self.issuers = Some(issuers);
        self
    }

    /// Refuses what was revoked.
    #[must_use]
    pub fn with_revocations(mut self, revocations: Revocations) -> Self {
        self.revocations = Some(revocations);
        self
    }

    /// Counts in these series.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Takes another configuration; tokens that are issued or come from now on obey it.
    pub fn reconfigure(&self, config: TokenConfig) {
        self.config.store(Arc::new(config));
    }

    /// The node's secrets.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What was revoked, where that is known.
    #[must_use]
    pub fn revocations(&self) -> Option<&Revocations> {
        self.revocations.as_ref()
    }

    /// How long a token is valid whose grant does not say, and any that a client asks for at most.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.config.load().lifetime
    }

    /// Clock difference that is tolerated now, in seconds.
    #[must_use]
    pub fn leeway_secs(&self) -> u64 {
        self.config.load().leeway_secs
    }

    /// Verifies a token. Waits only where another issuer's keys must be fetched.
    ///
    /// # Errors
    /// [`TokenError`], never with a part of the token in it.
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let result = self.verify_uncounted(token).await;
        if let Err(error) = &result {
            self.metrics.refused(error);
        }
        result
    }

    async fn verify_uncounted(&self, token: &str) -> Result<Claims, TokenError> {
        let token = Compact::read(token)?;
        let issuer = token.issuer()?;
        let config = self.config.load_full();
        let claims = if issuer == config.name {
            self.verify_own(&token, &config)?
        } else {
            let issuers = self.issuers.as_ref().ok_or(TokenError::Claim("iss"))?;
            issuers.verify(&issuer, &token, config.leeway_secs).await?
        };
        let ids = [Some(&claims.jti), claims.origin.as_ref()];
        let revoked =
            |list: &Revocations| ids.into_iter().flatten().any(|id| list.is_revoked(id, &claims.sub, claims.iat));
        if self.revocations.as_ref().is_some_and(revoked) {
            return Err(TokenError::Revoked);
        }
        Ok(claims)
    }

    /// A token that says that it is the node's own.
    fn verify_own(&self, token: &Compact<'_>, config: &TokenConfig) -> Result<Claims, TokenError> {
        if token.header.typ.as_deref() != Some(TOKEN_TYPE) {
            return Err(TokenError::Malformed("typ"));
        }
        let now = now();
        self.verify_own_signature(token, now)?;
        // A derived struct refuses a field that stands twice, and dates that are not whole numbers.
        let claims: Claims =
            serde_json::from_slice(&token.payload).map_err(|_| TokenError::Claim("missing, twice, or its type"))?;
        if claims.iss != config.name {
            return Err(TokenError::Claim("iss"));
        }
        if claims.aud != config.name {
            return Err(TokenError::Claim("aud"));
        }
        dates(claims.iat, claims.nbf, claims.exp, now, config.leeway_secs)?;
        Ok(claims)
    }

    fn verify_own_signature(&self, token: &Compact<'_>, now: u64) -> Result<(), TokenError> {
        let kid = token.header.kid.as_deref();
        let mut ring = self.secrets.ring();
        if let Some(kid) = kid
            && !ring.knows(kid, now)
        {
            match self.verify_by_node_key(kid, token) {
                Err(TokenError::UnknownKey) => {}
                verdict => return verdict,
            }
            self.secrets.look_if_due();
            ring = self.secrets.ring();
            if !ring.knows(kid, now) {
                return Err(TokenError::UnknownKey);
            }
        }
        if token.header.alg != "HS256" {
            return Err(TokenError::Malformed("alg"));
        }
        // Tokens that name no secret are those of earlier versions, and of operators who share it with their own issuer.
        if ring.verify(kid, token.signed, &token.signature, now) { Ok(()) } else { Err(TokenError::Signature) }
    }

    fn verify_by_node_key(&self, kid: &str, token: &Compact<'_>) -> Result<(), TokenError> {
        let keys = self.keys.as_ref().ok_or(TokenError::UnknownKey)?;
        if !is_ed25519(&token.header.alg) {
            // A key of the node is for Ed25519 alone, and no secret has its name.
            return Err(TokenError::UnknownKey);
        }
        let signature = Signature::from_bytes(&token.signature).map_err(|_| TokenError::Signature)?;
        match keys.verify(kid, token.signed, &signature) {
            KeyVerdict::Valid => Ok(()),
            KeyVerdict::Invalid => Err(TokenError::Signature),
            KeyVerdict::Retired => Err(TokenError::RetiredKey),
            KeyVerdict::Unknown => Err(TokenError::UnknownKey),
        }
    }
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
