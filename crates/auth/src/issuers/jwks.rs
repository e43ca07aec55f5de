//! Keys of an issuer's set (RFC 7517): which of them can verify a token, and how each does.

use std::collections::HashMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;
use signing::{PublicKey, Signature};

use crate::token::is_ed25519;

/// Most keys of one issuer that are looked at.
const KEYS_MAX: usize = 64;
/// Longest name of a key, in bytes.
const KID_BYTES_MAX: usize = 256;
/// RSA moduli, in bytes (RFC 7518 section 3.3; larger ones take too long to verify).
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Longest RSA exponent, in bytes.
const EXPONENT_BYTES_MAX: usize = 4;
/// Bytes of a coordinate on P-256.
const P256_BYTES: usize = 32;

/// A key set as published; keys are read one by one, because one that is not understood must not spoil the others.
#[derive(Deserialize)]
pub(super) struct Published {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// A key that can verify. Its type fixes the algorithm.
pub(crate) enum VerifyingKey {
    Rs256(RsaPublicKeyComponents<Vec<u8>>),
    Es256(ParsedPublicKey),
    Ed25519(PublicKey),
}

impl VerifyingKey {
    /// Whether a header that names this algorithm agrees with the key.
    pub(crate) fn allows(&self, alg: &str) -> bool {
        match self {
            Self::Rs256(_) => alg == "RS256",
            Self::Es256(_) => alg == "ES256",
            Self::Ed25519(_) => is_ed25519(alg),
        }
    }

    /// Whether `signature` is by this key over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rs256(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok(),
            Self::Es256(key) => key.verify_sig(message, signature).is_ok(),
            Self::Ed25519(key) => {
                Signature::from_bytes(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
        }
    }
}

impl Published {
    /// The keys that can verify tokens, by name. Where two have one name, neither: which is meant would be open.
    pub(super) fn usable(self) -> HashMap<String, VerifyingKey> {
        let mut keys = HashMap::new();
        let mut twice = Vec::new();
        for value in self.keys.into_iter().take(KEYS_MAX) {
            let Some((kid, key)) = usable(value) else { continue };
            if keys.insert(kid.clone(), key).is_some() {
                twice.push(kid);
            }
        }
        twice.iter().for_each(|kid| drop(keys.remove(kid)));
        keys
    }
}

fn usable(value: Value) -> Option<(String, VerifyingKey)> {
    // Secrets, and private keys that were published by mistake, vouch for nothing.
    if ["d", "k", "p", "q"].iter().any(|private| value.get(private).is_some()) {
        return None;
    }
    let member: Member = serde_json::from_value(value).ok()?;
    if member.r#use.as_deref().is_some_and(|r#use| r#use != "sig")
        || member.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|name| name == "verify"))
    {
        return None;
    }
    let kid = member.kid.clone().filter(|kid| (1..=KID_BYTES_MAX).contains(&kid.len()))?;
    let key = match member.kty.as_str() {
        "RSA" => rsa(&member)?,
        "EC" => p256(&member)?,
        "OKP" => ed25519(&member)?,
        _ => return None,
    };
    // A key that is for PS256 does not verify RS256.
    if member.alg.as_deref().is_some_and(|alg| !key.allows(alg)) { None } else { Some((kid, key)) }
}

fn rsa(member: &Member) -> Option<VerifyingKey> {
    let (n, e) = (number(member.n.as_deref())?, number(member.e.as_deref())?);
    let sane_exponent = e.len() <= EXPONENT_BYTES_MAX && e.last()? % 2 == 1 && *e != [1];
    (RSA_BYTES.contains(&n.len()) && sane_exponent).then_some(VerifyingKey::Rs256(RsaPublicKeyComponents { n, e }))
}

fn p256(member: &Member) -> Option<VerifyingKey> {
    if member.crv.as_deref() != Some("P-256") {
        return None;
    }
    let (x, y) = (decode(member.x.as_deref())?, decode(member.y.as_deref())?);
    if x.len() != P256_BYTES || y.len() != P256_BYTES {
        return None;
    }
    // SEC 1 section 2.3.3: an uncompressed point. That it is on the curve, the library checks.
    let point = [&[4], x.as_slice(), &y].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok().map(VerifyingKey::Es256)
}

fn ed25519(member: &Member) -> Option<VerifyingKey> {
    if member.crv.as_deref() != Some("Ed25519") {
        return None;
    }
    PublicKey::from_bytes(&decode(member.x.as_deref())?).ok().map(VerifyingKey::Ed25519)
}

fn decode(text: Option<&str>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text?).ok()
}

/// A number without leading zeros, which some issuers send (RFC 7518 section 2 forbids them).
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = decode(text)?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[first..].to_vec())
}
