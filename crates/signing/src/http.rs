//! Signatures of HTTP requests (RFC 9421) with their `Content-Digest` (RFC 9530).
//!
//! One profile: a signature with the tag `llm-node` and the algorithm `ed25519`, with `created`, `nonce` and `keyid`,
//! that covers `@method`, the whole target (`@target-uri`, or `@authority` with `@path` and `@query`), `content-digest`
//! where there is a body, and `authorization` where there is one. It may cover more. Signatures with other tags are
//! other parties' (a proxy's) and are left alone.

mod base;
mod digest;
mod fields;
#[cfg(test)]
mod tests;

use ::http::{HeaderMap, HeaderValue, Method, Uri};
pub(crate) use base::resource;
pub use digest::content_digest;
use sfv::{FieldType as _, InnerList, Item, KeyRef, ListEntry, StringRef};

use crate::{BadSignature, PublicKey, SignError, Signature, Signer, Window};

/// The value of `tag` that marks signatures for the node.
pub const TAG: &str = "llm-node";
/// The algorithm's name in the HTTP Signature Algorithms registry.
const ALGORITHM: &str = "ed25519";
/// Accepted length of `nonce` in characters: a UUID without hyphens has 32.
pub const NONCE_LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;
/// Longest `keyid` in characters.
pub const KEY_ID_LENGTH_MAX: usize = 128;

/// Why a request's signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpSignatureError {
    /// The headers cannot be read, or lack what the profile needs.
    #[error("{0}")]
    Malformed(&'static str),
    /// Something that must not be changed on the way is not covered.
    #[error("the signature must cover `{0}`")]
    NotCovered(&'static str),
    /// It covers what the request has not, or what nothing here can derive.
    #[error("the signature covers `{0}`, which the request has not or which is not supported")]
    NoSuchComponent(String),
    /// `created` or `expires`.
    #[error("the signature's `created` or `expires` is outside of the accepted time")]
    OutsideWindow,
    /// The body is not the one that was signed.
    #[error("`Content-Digest` does not fit the body")]
    WrongDigest,
    /// The signature is not by this key over this request.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
    /// The signer failed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// What a signature can cover of a request.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target in absolute form, with scheme and authority, as the client addressed it.
    pub target: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// A signature for the node that was read from a request's headers, and is not verified yet.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSignature {
    covered: InnerList,
    names: Vec<String>,
    key_id: String,
    nonce: String,
    created: u64,
    expires: Option<u64>,
    signature: Signature,
}

impl HttpSignature {
    /// Reads `Signature-Input` and `Signature`. `None` when no signature has [`TAG`].
    ///
    /// # Errors
    /// [`HttpSignatureError::Malformed`].
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, HttpSignatureError> {
        fields::read(headers)
    }

    /// Which key it claims.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What makes it unique; whoever verifies it remembers this until the window has passed.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// When it was made, in seconds since 1970.
    #[must_use]
    pub const fn created(&self) -> u64 {
        self.created
    }

    /// Verifies it by `key`, which is the one that [`Self::key_id`] names: what is covered, the time, the body's digest,
    /// then the signature.
    ///
    /// # Errors
    /// [`HttpSignatureError`].
    pub fn verify(
        &self,
        message: &Message<'_>,
        body: &[u8],
        key: &PublicKey,
        window: Window,
    ) -> Result<(), HttpSignatureError> {
        self.check_coverage(message, body)?;
        if !window.contains(self.created) || self.expires.is_some_and(|expires| expires < window.now) {
            return Err(HttpSignatureError::OutsideWindow);
        }
        if self.covers("content-digest") {
            digest::check(message.headers, body)?;
        }
        let base = base::build(message, &self.covered)?;
        Ok(key.verify(base.as_bytes(), &self.signature)?)
    }

    fn check_coverage(&self, message: &Message<'_>, body: &[u8]) -> Result<(), HttpSignatureError> {
        let need = |name| if self.covers(name) { Ok(()) } else { Err(HttpSignatureError::NotCovered(name)) };
        need("@method")?;
        if !self.covers("@target-uri") {
            for name in ["@authority", "@path", "@query"] {
                // An authority with path and query is the target; the scheme is the connection's.
                need(name).map_err(|_| HttpSignatureError::NotCovered("@target-uri"))?;
            }
        }
        if !body.is_empty() {
            need("content-digest")?;
        }
        if message.headers.contains_key(::http::header::AUTHORIZATION) {
            need("authorization")?;
        }
        Ok(())
    }

    fn covers(&self, name: &str) -> bool {
        self.names.iter().any(|covered| covered == name)
    }
}

/// What a client says in its signature.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// Now, in seconds since 1970.
    pub created: u64,
    /// Never used before; [`NONCE_LENGTHS`].
    pub nonce: &'a str,
    /// The key's thumbprint.
    pub key_id: &'a str,
}

/// The headers that a signed request carries besides its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureHeaders {
    /// `Signature-Input`.
    pub input: HeaderValue,
    /// `Signature`.
    pub signature: HeaderValue,
}

/// Signs a request: method, target, and of its headers `content-digest`, `content-type` and `authorization` where it
/// has them. A request with a body has a `Content-Digest` ([`content_digest`]) already.
///
/// # Errors
/// [`HttpSignatureError`]: a target without authority, parameters that no header can hold, a signer that fails.
pub fn sign(
    message: &Message<'_>,
    parameters: &Parameters<'_>,
    signer: &dyn Signer,
) -> Result<SignatureHeaders, HttpSignatureError> {
    let malformed = |_| HttpSignatureError::Malformed("a parameter is no ASCII text or too large a number");
    let text = |text| StringRef::from_str(text).map(ToOwned::to_owned).map_err(malformed);
    let has = |name: &&str| name.starts_with('@') || message.headers.contains_key(*name);
    let names = ["@method", "@target-uri", "content-digest", "content-type", "authorization"];
    let items = names.into_iter().filter(has).map(|name| text(name).map(Item::new)).collect::<Result<Vec<_>, _>>()?;
    let created = i64::try_from(parameters.created)
        .ok()
        .and_then(|created| sfv::Integer::try_from(created).ok())
        .ok_or(HttpSignatureError::Malformed("a parameter is no ASCII text or too large a number"))?;
    let mut covered = InnerList::new(items);
    covered.params.insert(key("created"), created.into());
    covered.params.insert(key("nonce"), text(parameters.nonce)?.into());
    covered.params.insert(key("keyid"), text(parameters.key_id)?.into());
    covered.params.insert(key("alg"), text(ALGORITHM)?.into());
    covered.params.insert(key("tag"), text(TAG)?.into());
    let signature = signer.sign(base::build(message, &covered)?.as_bytes())?;
    let header = |entry: ListEntry| {
        let value = sfv::Dictionary::from_iter([(key(TAG), entry)]).serialize().unwrap_or_default();
        HeaderValue::from_str(&value).map_err(|_| HttpSignatureError::Malformed("not a header's value"))
    };
    Ok(SignatureHeaders {
        input: header(covered.into())?,
        signature: header(Item::new(signature.as_bytes().as_slice()).into())?,
    })
}

fn key(name: &'static str) -> sfv::Key {
    KeyRef::from_str(name).expect("lowercase letters and hyphens").to_owned()
}
