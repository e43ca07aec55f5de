//! Keys as JSON (RFC 7517) and the set that a node publishes at `/.well-known/jwks.json`.

use serde::{Deserialize, Deserializer, Serialize};

use crate::{KeyError, PublicKey};

/// Most keys that are read from a set. A node that rotates each week for ten years has half as many.
pub const JWKS_KEYS_MAX: usize = 1024;

/// What a node does with one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStatus {
    /// Published ahead; signs nothing yet.
    Next,
    /// Signs.
    Active,
    /// Signs no more; what it signed stays valid.
    Retired,
}

impl KeyStatus {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// A public Ed25519 key as a JWK (RFC 8037). Members that are not known are ignored (RFC 7517 section 4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `OKP`.
    pub kty: String,
    /// `Ed25519`.
    pub crv: String,
    /// The key's 32 bytes in base64url.
    pub x: String,
    /// Its name; for keys of a node the thumbprint (RFC 7638).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// `sig`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#use: Option<String>,
    /// `Ed25519` (RFC 9864), or `EdDSA` from older issuers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// Ours: what the node does with the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<KeyStatus>,
    /// Ours: since when it signs, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_from: Option<u64>,
    /// Ours: since when it signs no more, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<u64>,
}

impl Jwk {
    /// Only the members that are required.
    #[must_use]
    pub(crate) fn bare(x: String) -> Self {
        Self {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x,
            kid: None,
            r#use: None,
            alg: None,
            status: None,
            active_from: None,
            retired_at: None,
        }
    }

    /// The key.
    ///
    /// # Errors
    /// As [`PublicKey::from_jwk`].
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_jwk(self)
    }
}

/// A set of keys (RFC 7517 section 5). Keys of other types in it are skipped, as that section asks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JwkSet {
    /// Its Ed25519 keys.
    #[serde(deserialize_with = "ed25519_keys")]
    pub keys: Vec<Jwk>,
}

impl JwkSet {
    /// The key of that name. Where two have it, none: which of them is meant would be the attacker's choice.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&Jwk> {
        let mut named = self.keys.iter().filter(|jwk| jwk.kid.as_deref() == Some(kid));
        let first = named.next()?;
        named.next().is_none().then_some(first)
    }
}

fn ed25519_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Jwk>, D::Error> {
    let members = Vec::<serde_json::Value>::deserialize(deserializer)?;
    if members.len() > JWKS_KEYS_MAX {
        return Err(serde::de::Error::custom(format_args!("more than {JWKS_KEYS_MAX} keys")));
    }
    let ours = |value: &serde_json::Value| value["kty"] == "OKP" && value["crv"] == "Ed25519";
    members
        .into_iter()
        .filter(ours)
        .map(|value| serde_json::from_value(value).map_err(serde::de::Error::custom))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{SecretKey, Signer as _};

    fn jwk(seed: u8) -> Jwk {
        SecretKey::from_seed(&[seed; 32]).unwrap().public_key().to_jwk()
    }

    #[test]
    fn keys_of_other_types_are_skipped() {
        let set: JwkSet = serde_json::from_value(json!({ "keys": [
            { "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "r" },
            { "kty": "OKP", "crv": "X25519", "x": "AA" },
            { "kty": "none" }, 7,
            jwk(1),
        ], "more": true }))
        .unwrap();
        assert_eq!(set.keys, [jwk(1)]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in [
            json!({}),
            json!({ "keys": {} }),
            json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519" }] }),
            json!({ "keys": vec![0; JWKS_KEYS_MAX + 1] }),
        ] {
            assert!(serde_json::from_value::<JwkSet>(bad.clone()).is_err());
        }
    }

    #[test]
    fn a_name_that_two_keys_have_is_nobodys() {
        let mut second = jwk(2);
        second.kid = jwk(1).kid;
        let set = JwkSet { keys: vec![jwk(1), second, jwk(3)] };
        let name = |seed| jwk(seed).kid.unwrap();
        assert_eq!(set.find(&name(1)), None);
        assert_eq!(set.find(&name(2)), None);
        assert_eq!(set.find(&name(3)), Some(&jwk(3)));
    }

    #[test]
    fn it_is_written_as_the_specification_says() {
        let written = serde_json::to_value(Jwk {
            status: Some(KeyStatus::Retired),
            active_from: Some(1),
            retired_at: Some(2),
            ..jwk(1)
        })
        .unwrap();
        let expected = json!({
            "kty": "OKP", "crv": "Ed25519", "x": jwk(1).x, "kid": jwk(1).kid, "use": "sig", "alg": "Ed25519",
            "status": "retired", "active_from": 1, "retired_at": 2,
        });
        assert_eq!(written, expected);
    }
}
