//! Receipts: signing, hashing and verifying [`protocol::receipt`].
//!
//! What is signed is the receipt's canonical JSON (RFC 8785) without the member `signature`; what the job's next receipt
//! calls `previous` is the SHA-256 of the canonical JSON with it. Nothing but the node's JWKS is needed to verify one.

mod chain;
mod error;
#[cfg(test)]
mod tests;

pub use chain::{Chain, ChainError, check_chains};
pub use error::ReceiptError;
use protocol::receipt::{Digest, RECEIPT_BYTES_MAX, Receipt, SignedReceipt, VERSION};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{Jwk, JwkSet, PublicKey, SignError, Signature, Signer, canonical};

/// How much later than the end of its key a receipt may say that it was made, in seconds: clocks differ.
pub const RETIREMENT_LEEWAY_SECS: u64 = 60;
/// The largest whole number that every JSON reader holds exactly (RFC 7493 section 2.2).
const INTEGER_MAX: u64 = (1 << 53) - 1;
/// The member that is not signed.
const SIGNATURE: &str = "signature";

/// Signs `receipt` by the key `key_id`; what it says of key and signature is replaced.
///
/// # Errors
/// [`SignError`] when the key's keeper fails.
pub fn sign(mut receipt: Receipt, key_id: String, signer: &dyn Signer) -> Result<SignedReceipt, SignError> {
    receipt.key_id = key_id;
    receipt.signature = signer.sign(&signed_bytes(&receipt))?.to_string();
    let json = canonical_text(&receipt);
    let hash = digest(json.as_bytes());
    Ok(SignedReceipt::new(receipt, json, hash))
}

/// Verifies one receipt, offline. It must have exactly the members of version 1.
///
/// Keys that are retired verify what they signed, for ever.
///
/// # Errors
/// [`ReceiptError`]: what is wrong with it.
pub fn verify(json: &[u8], keys: &JwkSet) -> Result<Receipt, ReceiptError> {
    let receipt = parse(json)?;
    verify_parsed(&receipt, keys)?;
    Ok(receipt)
}

/// As [`verify`], for one that was read already.
///
/// # Errors
/// [`ReceiptError`].
pub fn verify_parsed(receipt: &Receipt, keys: &JwkSet) -> Result<(), ReceiptError> {
    // Version first: in another version the rest may mean something else.
    if receipt.version != VERSION {
        return Err(ReceiptError::Version { found: receipt.version });
    }
    exact(receipt)?;
    let signature = signature(receipt)?;
    let Some(jwk) = keys.find(&receipt.key_id) else {
        let known = keys.keys.iter().filter_map(|jwk| jwk.kid.clone()).collect();
        return Err(ReceiptError::UnknownKey { key_id: receipt.key_id.clone(), known });
    };
    let key = public_key(jwk, &receipt.key_id)?;
    if key.verify(&signed_bytes(receipt), &signature).is_err() {
        return Err(explain(receipt, &signature, keys));
    }
    if let Some(retired_at) = jwk.retired_at
        && receipt.finished_at / 1000 > retired_at.saturating_add(RETIREMENT_LEEWAY_SECS)
    {
        let (key_id, finished_at) = (receipt.key_id.clone(), receipt.finished_at);
        return Err(ReceiptError::AfterRetirement { key_id, retired_at, finished_at });
    }
    Ok(())
}

/// Reads a receipt without verifying it.
///
/// # Errors
/// [`ReceiptError::TooLarge`], [`ReceiptError::Malformed`].
pub fn parse(json: &[u8]) -> Result<Receipt, ReceiptError> {
    if json.len() > RECEIPT_BYTES_MAX {
        return Err(ReceiptError::TooLarge { bytes: json.len() });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let receipt =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| ReceiptError::malformed(&error))?;
    deserializer.end().map_err(|error| ReceiptError::Malformed(error.to_string()))?;
    exact(&receipt)?;
    Ok(receipt)
}

/// Canonical JSON has no whole numbers above 2^53: two that differ would be signed as one.
fn exact(receipt: &Receipt) -> Result<(), ReceiptError> {
    let Receipt { started_at, finished_at, sequence, .. } = *receipt;
    for (name, value) in [("started_at", started_at), ("finished_at", finished_at), ("sequence", sequence)] {
        if value > INTEGER_MAX {
            return Err(ReceiptError::Malformed(format!("`{name}`: more than {INTEGER_MAX}")));
        }
    }
    Ok(())
}

/// What the signature covers.
#[must_use]
pub fn signed_bytes(receipt: &Receipt) -> Vec<u8> {
    let mut document = document(receipt);
    if let Value::Object(members) = &mut document {
        members.remove(SIGNATURE);
    }
    canonical::to_vec(&document).expect("text, whole numbers and null are always canonical JSON")
}

/// What the job's next receipt calls `previous`.
#[must_use]
pub fn hash(receipt: &Receipt) -> Digest {
    digest(canonical_text(receipt).as_bytes())
}

/// SHA-256 as receipts write it: of the request's bytes, of the answer's text.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// The hash of an answer while it comes, piece by piece: reasoning and content in the order of generation.
#[derive(Debug, Clone, Default)]
pub struct OutputHash(Sha256);

impl OutputHash {
    /// More of it.
    pub fn push(&mut self, text: &str) {
        self.0.update(text);
    }

    /// The hash of all that came.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest::new(self.0.finalize().into())
    }
}

/// Compares the text that was received with what the receipt says.
///
/// # Errors
/// [`ReceiptError::Output`].
pub fn check_output(receipt: &Receipt, text: &[u8]) -> Result<(), ReceiptError> {
    let found = digest(text);
    if found == receipt.output_hash {
        return Ok(());
    }
    // Editors and shells end a file with a line break.
    let trimmed = text.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text));
    let line_break = trimmed.is_some_and(|text| digest(text) == receipt.output_hash);
    Err(ReceiptError::Output { expected: receipt.output_hash, found, line_break })
}

/// Compares the bytes that were sent with what the receipt says.
///
/// # Errors
/// [`ReceiptError::Request`].
pub fn check_request(receipt: &Receipt, bytes: &[u8]) -> Result<(), ReceiptError> {
    let found = digest(bytes);
    if found == receipt.request_hash {
        return Ok(());
    }
    let line_break = bytes.strip_suffix(b"\n").is_some_and(|bytes| digest(bytes) == receipt.request_hash);
    Err(ReceiptError::Request { expected: receipt.request_hash, found, line_break })
}

fn document(receipt: &Receipt) -> Value {
    serde_json::to_value(receipt).expect("a receipt has text keys and serialises")
}

fn canonical_text(receipt: &Receipt) -> String {
    let bytes = canonical::to_vec(receipt).expect("text, whole numbers and null are always canonical JSON");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

fn signature(receipt: &Receipt) -> Result<Signature, ReceiptError> {
    // One spelling only, because `previous` is a hash of the text.
    if receipt.signature.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReceiptError::Signature("its digits must be in lower case".to_owned()));
    }
    Signature::from_hex(&receipt.signature).map_err(|error| ReceiptError::Signature(error.to_string()))
}

fn public_key(jwk: &Jwk, key_id: &str) -> Result<PublicKey, ReceiptError> {
    jwk.public_key().map_err(|error| ReceiptError::BadKey { key_id: key_id.to_owned(), reason: error.to_string() })
}

/// Why a signature does not verify, as far as that can be known: by another key of the set over this receipt, by one
/// over this receipt with its own name in it, or by nobody.
fn explain(receipt: &Receipt, signature: &Signature, keys: &JwkSet) -> ReceiptError {
    let named = receipt.key_id.clone();
    for jwk in &keys.keys {
        let (Some(kid), Ok(key)) = (&jwk.kid, jwk.public_key()) else { continue };
        if key.verify(&signed_bytes(receipt), signature).is_ok() {
            return ReceiptError::WrongKey { named, actual: kid.clone() };
        }
        let renamed = Receipt { key_id: kid.clone(), ..receipt.clone() };
        if key.verify(&signed_bytes(&renamed), signature).is_ok() {
            return ReceiptError::AlteredKeyId { named, actual: kid.clone() };
        }
    }
    ReceiptError::Altered { key_id: named }
}
