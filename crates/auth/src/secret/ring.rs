//! The secrets whose tokens are valid: one signs, earlier ones verify until their overlap ends.

use aws_lc_rs::hmac;

use super::JwtSecret;

/// Bytes of a secret's name: enough that two secrets of one node never share it.
const KID_BYTES: usize = 8;

/// A secret, ready for use. The library clears its memory.
pub(crate) struct Keyed {
    kid: String,
    key: hmac::Key,
}

impl Keyed {
    pub(super) fn new(secret: &JwtSecret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.bytes());
        // A MAC, not a hash: it tells nothing that a token of the secret would not. No token is MACed as this text,
        // because it has no dot.
        let name = hmac::sign(&key, b"llm-node/v1/kid");
        Self { kid: hex::encode(&name.as_ref()[..KID_BYTES]), key }
    }
}

/// An earlier secret.
pub(super) struct Earlier {
    pub(super) keyed: Keyed,
    /// Unix seconds; `None`: for as long as it is configured.
    pub(super) until: Option<u64>,
}

/// The secrets of one moment.
pub(crate) struct Ring {
    current: Keyed,
    earlier: Vec<Earlier>,
}

impl Ring {
    pub(super) fn new(current: &JwtSecret, earlier: Vec<Earlier>) -> Self {
        Self { current: Keyed::new(current), earlier }
    }

    /// The name of the secret that signs.
    pub(crate) fn kid(&self) -> &str {
        &self.current.kid
    }

    /// HMAC-SHA256 by the current secret.
    pub(crate) fn sign(&self, message: &[u8]) -> hmac::Tag {
        hmac::sign(&self.current.key, message)
    }

    /// Whether a secret of that name is valid at `now`.
    pub(crate) fn knows(&self, kid: &str, now: u64) -> bool {
        self.valid(now).any(|keyed| keyed.kid == kid)
    }

    /// Whether `tag` is by the secret named `kid`, or by any where the token names none. In constant time.
    pub(crate) fn verify(&self, kid: Option<&str>, message: &[u8], tag: &[u8], now: u64) -> bool {
        self.valid(now)
            .filter(|keyed| kid.is_none_or(|kid| keyed.kid == kid))
            .any(|keyed| hmac::verify(&keyed.key, message, tag).is_ok())
    }

    fn valid(&self, now: u64) -> impl Iterator<Item = &Keyed> {
        let earlier = self.earlier.iter().filter(move |earlier| earlier.until.is_none_or(|until| now < until));
        std::iter::once(&self.current).chain(earlier.map(|earlier| &earlier.keyed))
    }
}
