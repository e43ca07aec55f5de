//! One byte string for one JSON value (RFC 8785, JCS), so that it can be signed and hashed.

use serde::Serialize;

/// The value has no canonical form: a number that is not finite, a map key that is not text.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no canonical JSON: {0}")]
pub struct CanonicalError(String);

/// The canonical JSON of `value`: members sorted by their UTF-16 names, numbers as ECMAScript writes them, no spaces.
///
/// Numbers are IEEE doubles there: an integer above 2^53 loses its last digits, so such values must be text.
///
/// # Errors
/// [`CanonicalError`].
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    serde_json_canonicalizer::to_vec(value).map_err(|error| CanonicalError(error.to_string()))
}
