//! `Content-Digest` (RFC 9530): SHA-256 and SHA-512.

use ::http::{HeaderMap, HeaderValue};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sfv::{Dictionary, ListEntry, Parser};
use sha2::{Digest as _, Sha256, Sha512};

use super::{HttpSignatureError, fields::combined};

/// Longest value read, in bytes: a few algorithms.
const FIELD_BYTES_MAX: usize = 1024;

/// The header's value for `body`, by SHA-256.
#[must_use]
pub fn content_digest(body: &[u8]) -> HeaderValue {
    HeaderValue::from_str(&format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body))))
        .expect("base64 is printable ASCII")
}

/// Whether the header fits `body`: at least one digest by an algorithm that is known and sound, and each of those right.
pub(super) fn check(headers: &HeaderMap, body: &[u8]) -> Result<(), HttpSignatureError> {
    let malformed = HttpSignatureError::Malformed("`Content-Digest` cannot be read (RFC 9530)");
    let Ok(Some(value)) = combined(headers, "content-digest") else { return Err(malformed) };
    if value.len() > FIELD_BYTES_MAX {
        return Err(malformed);
    }
    let Ok(digests) = Parser::new(&value).parse::<Dictionary>() else { return Err(malformed) };
    let mut known = 0;
    for (algorithm, entry) in &digests {
        let expected = match algorithm.as_str() {
            "sha-256" => Sha256::digest(body).to_vec(),
            "sha-512" => Sha512::digest(body).to_vec(),
            _ => continue,
        };
        let ListEntry::Item(item) = entry else { return Err(malformed) };
        if item.bare_item.as_byte_sequence() != Some(expected.as_slice()) {
            return Err(HttpSignatureError::WrongDigest);
        }
        known += 1;
    }
    if known == 0 { Err(HttpSignatureError::Malformed("`Content-Digest` needs sha-256 or sha-512")) } else { Ok(()) }
}
