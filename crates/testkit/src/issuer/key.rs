//! A signing key of an issuer.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Where the modulus stands in the DER of a 2048-bit RSA key with the exponent 65537 (RFC 8017 appendix A.1.1).
const RSA_MODULUS: std::ops::Range<usize> = 9..265;

enum Pair {
    Rs256(Box<RsaKeyPair>),
    Es256(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key pair with a name.
pub struct IssuerKey {
    kid: String,
    pair: Pair,
}

impl std::fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerKey").field("kid", &self.kid).field("alg", &self.alg()).finish_non_exhaustive()
    }
}

impl IssuerKey {
    /// An RSA key of 2048 bits.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn rs256(kid: &str) -> Self {
        Self::new(kid, Pair::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("randomness"))))
    }

    /// A key on P-256.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn es256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness");
        Self::new(kid, Pair::Es256(Box::new(pair)))
    }

    /// An Ed25519 key.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Pair::Ed25519(Box::new(Ed25519KeyPair::generate().expect("randomness"))))
    }

    fn new(kid: &str, pair: Pair) -> Self {
        Self { kid: kid.to_owned(), pair }
    }

    /// The algorithm's name in a header.
    #[must_use]
    pub const fn alg(&self) -> &'static str {
        match self.pair {
            Pair::Rs256(_) => "RS256",
            Pair::Es256(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// The public key as the issuer publishes it (RFC 7517).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.pair {
            Pair::Rs256(pair) => {
                json!({ "kty": "RSA", "n": encode(&pair.public_key().as_ref()[RSA_MODULUS]), "e": "AQAB" })
            }
            Pair::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref()) })
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(self.alg());
        jwk
    }

    /// A token with the header that belongs to this key.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.token_with_header(&json!({ "alg": self.alg(), "typ": "at+jwt", "kid": self.kid }), claims)
    }

    /// A token with any header.
    #[must_use]
    pub fn token_with_header(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// Signs any bytes.
    ///
    /// # Panics
    /// When the library fails.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("it signs");
                signature
            }
            Pair::Es256(pair) => pair.sign(&random, message).expect("it signs").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }
}
