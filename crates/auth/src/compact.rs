//! The compact serialisation of a signed token (RFC 7515 section 7.1), read strictly and before anything is believed.
//!
//! Three segments of canonical base64url without padding. So JWE (five segments), JSON serialisation, padding,
//! line breaks and a second spelling of the same bytes are no tokens. The header may have `alg`, `typ`, `kid` and the
//! certificate thumbprints that some issuers add; `crit`, `jwk`, `jku`, `x5u`, `x5c` and PBES2's members, like
//! everything else and like a member that stands twice, make the token unreadable (RFC 8725 sections 3.1 and 3.10).

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

use crate::TokenError;

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// A header that names nothing dangerous. What it says is not believed: the key decides about the algorithm.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    /// What the sender says that the algorithm is.
    pub(crate) alg: String,
    /// What the sender says that the token is.
    pub(crate) typ: Option<String>,
    /// What the sender says that the key is called. Only ever compared.
    pub(crate) kid: Option<String>,
    /// Thumbprints of certificates say nothing that the issuer's key set does not.
    #[serde(rename = "x5t")]
    _x5t: Option<IgnoredAny>,
    #[serde(rename = "x5t#S256")]
    _x5t_sha256: Option<IgnoredAny>,
}

/// A token in its parts, unverified.
pub(crate) struct Compact<'a> {
    pub(crate) header: Header,
    /// Header and payload as sent: what the signature is over.
    pub(crate) signed: &'a [u8],
    pub(crate) payload: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl<'a> Compact<'a> {
    /// Takes a token apart.
    pub(crate) fn read(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let mut segments = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(TokenError::Malformed("not three segments"));
        };
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let (header, payload) = (decode_object(header)?, decode_object(payload)?);
        // A derived struct refuses a field that stands twice.
        let header =
            serde_json::from_slice(&header).map_err(|_| TokenError::Malformed("a header with other members"))?;
        Ok(Self { header, signed, payload, signature: decode(signature)? })
    }

    /// Who the token says has issued it. Decides which keys are asked, and nothing else.
    pub(crate) fn issuer(&self) -> Result<String, TokenError> {
        #[derive(Deserialize)]
        struct Issuer {
            iss: String,
        }
        let parsed: Issuer = serde_json::from_slice(&self.payload).map_err(|_| TokenError::Claim("iss"))?;
        Ok(parsed.iss)
    }
}

/// Decodes JSON that is an object. A derived struct would take a list of its fields as well.
fn decode_object(segment: &str) -> Result<Vec<u8>, TokenError> {
    let bytes = decode(segment)?;
    if bytes.first() == Some(&b'{') { Ok(bytes) } else { Err(TokenError::Malformed("not a JSON object")) }
}

fn decode(segment: &str) -> Result<Vec<u8>, TokenError> {
    // This engine refuses padding and bits beyond the last byte: a token has one spelling.
    BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| TokenError::Malformed("not base64url"))
}
