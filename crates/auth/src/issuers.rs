//! Tokens of other issuers (OIDC providers, OAuth 2.0 authorization servers), by the keys that they publish.
//!
//! Which issuers are trusted, and what their tokens can mean, is configured; a token cannot say it. Safe defaults: no
//! issuer, and then no rights. A right that is not in [`IssuersConfig::permissions`] no token of theirs can carry, so
//! none of them makes an administrator unless the operator wrote so. Their subjects have the issuer's address in front
//! (`https://issuer|subject`): none can be mistaken for a subject of the node or of another issuer.
//!
//! Each issuer has a key set of its own, which is replaced as a whole: a key is found by issuer, address and `kid`, never
//! by `kid` alone (CVE-2026-49998).

mod claims;
mod fetch;
mod jwks;
mod key_set;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

pub use fetch::is_safe_url;
use protocol::Subject;

use self::{claims::ForeignClaims, fetch::Fetcher, key_set::KeyCache};
use crate::{Claims, Metrics, Permissions, TokenError, compact::Compact, token::now};

/// Between an issuer's address and its own name of a subject. No address has it.
const SEPARATOR: char = '|';

/// Whether a subject is one of another issuer's.
#[must_use]
pub fn is_foreign(subject: &Subject) -> bool {
    subject.as_str().split_once(SEPARATOR).is_some_and(|(issuer, _)| is_safe_url(issuer))
}

/// Most issuers that can be trusted.
pub const ISSUERS_MAX: usize = 32;

/// What tokens of other issuers mean.
#[derive(Debug, Clone)]
pub struct IssuersConfig {
    /// Their addresses, exactly as in `iss`; keys are found by OIDC discovery.
    pub issuers: Vec<String>,
    /// What `aud` must name.
    pub audience: String,
    /// Values of `typ` that are taken, without `application/`. An id token has another than an access token.
    pub token_types: Vec<String>,
    /// The most rights that a token can have.
    pub permissions: Permissions,
    /// The claim that says which of them it has, by name or by JSON pointer; `None`: all of them.
    pub permissions_claim: Option<String>,
    /// The claim that says who.
    pub subject_claim: String,
    /// The claim that names the job that is charged.
    pub job_claim: String,
    /// How often keys are fetched anew: so long a withdrawn key is still good.
    pub keys_max_age: Duration,
    /// Least time between two fetches that unknown keys cause, for each issuer.
    pub refresh_interval: Duration,
}

impl Default for IssuersConfig {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            audience: crate::NODE_NAME.to_owned(),
            token_types: vec!["at+jwt".to_owned()],
            permissions: Permissions::default(),
            permissions_claim: None,
            subject_claim: "sub".to_owned(),
            job_claim: "job_id".to_owned(),
            keys_max_age: Duration::from_secs(600),
            refresh_interval: Duration::from_secs(10),
        }
    }
}

/// Why issuers cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// An address that is neither https nor on this machine.
    #[error("the issuer {0} must have an https address (http is for this machine only)")]
    Address(String),
    /// More than [`ISSUERS_MAX`].
    #[error("at most {ISSUERS_MAX} issuers can be trusted")]
    TooMany,
    /// The HTTP client cannot be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// The issuers that are trusted. Clones share the keys.
#[derive(Clone)]
pub struct Issuers(Arc<Inner>);

struct Inner {
    config: IssuersConfig,
    keys: HashMap<String, Arc<KeyCache>>,
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuers").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Issuers {
    /// Trusts these. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`IssuersError`].
    pub fn new(config: IssuersConfig, metrics: &Metrics) -> Result<Self, IssuersError> {
        if config.issuers.len() > ISSUERS_MAX {
            return Err(IssuersError::TooMany);
        }
        let fetcher = Arc::new(Fetcher::new()?);
        let mut keys = HashMap::new();
        for issuer in &config.issuers {
            if !is_safe_url(issuer) {
                return Err(IssuersError::Address(issuer.clone()));
            }
            let cache = KeyCache::new(issuer.clone(), Arc::clone(&fetcher), config.refresh_interval, metrics.clone());
            keys.insert(issuer.clone(), Arc::new(cache));
        }
        Ok(Self(Arc::new(Inner { config, keys })))
    }

    /// Fetches the keys now and again and again, so that requests seldom wait for them and withdrawn keys end without
    /// traffic. Must be called in a tokio runtime; the tasks end when the last clone is dropped.
    #[must_use]
    pub fn kept_fresh(self) -> Self {
        for cache in self.0.keys.values() {
            tokio::spawn(key_set::keep_fresh(Arc::downgrade(cache), self.0.config.keys_max_age));
        }
        self
    }

    /// Verifies a token that says that `issuer` has issued it.
    pub(crate) async fn verify(
        &self,
        issuer: &str,
        token: &Compact<'_>,
        leeway_secs: u64,
    ) -> Result<Claims, TokenError> {
        let config = &self.0.config;
        let keys = self.0.keys.get(issuer).ok_or(TokenError::Claim("iss"))?;
        let kind = token.header.typ.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix("application/").unwrap_or(kind);
        // RFC 7515 section 4.1.9: names of media types are compared without regard to case.
        if !config.token_types.iter().any(|taken| taken.eq_ignore_ascii_case(kind)) {
            return Err(TokenError::Malformed("typ"));
        }
        let key = keys.find(token.header.kid.as_deref()).await?;
        if !key.allows(&token.header.alg) {
            return Err(TokenError::Malformed("alg"));
        }
        if !key.verifies(token.signed, &token.signature) {
            return Err(TokenError::Signature);
        }
        ForeignClaims::read(&token.payload)?.checked(issuer, token.signed, config, now(), leeway_secs)
    }
}
