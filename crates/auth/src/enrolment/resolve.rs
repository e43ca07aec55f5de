//! Which of a subject's keys a message means, and whether it may sign this one.

use protocol::Subject;
use signing::{KeyError, PublicKey};
use store::ClientKeyRow;

/// Digits of a key in hexadecimal.
const KEY_HEX_DIGITS: usize = 64;
/// Characters of a SHA-256 thumbprint in base64url without padding.
const THUMBPRINT_CHARACTERS: usize = 43;

/// Why a key may not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// It is not 64 hexadecimal digits, nor a thumbprint.
    #[error("the key id is neither 64 hexadecimal digits nor a thumbprint")]
    Malformed,
    /// It is a key that anybody can sign with.
    #[error("the key is weak")]
    Weak,
    /// It is no key of the subject, or only its thumbprint is known.
    #[error("the key is not enrolled for the subject")]
    Unknown,
    /// It was withdrawn.
    #[error("the key was withdrawn")]
    Withdrawn,
    /// The token is bound to another.
    #[error("the token is bound to another key")]
    NotBound,
    /// The subject has several keys, and the message does not say which.
    #[error("the subject has several keys and none was named")]
    Ambiguous,
}

/// The keys of one subject.
#[derive(Debug, Clone, Default)]
pub struct SubjectKeys {
    /// Thumbprint and key.
    active: Vec<(String, PublicKey)>,
    withdrawn: Vec<String>,
    /// The thumbprint that the subject itself consists of.
    own: Option<String>,
}

impl SubjectKeys {
    pub(super) fn new(subject: &Subject, rows: Vec<ClientKeyRow>) -> Self {
        let own = subject.as_str().strip_prefix(super::KEY_SUBJECT_PREFIX).map(str::to_owned);
        let mut keys = Self { own, ..Self::default() };
        for row in rows {
            if row.withdrawn_at.is_some() {
                keys.withdrawn.push(row.thumbprint);
            // A key that today's rules refuse was enrolled by nobody who followed them.
            } else if let Ok(key) = PublicKey::from_bytes(&row.public_key) {
                keys.active.push((key.thumbprint(), key));
            }
        }
        keys
    }

    /// The key that a message names, if it may sign for the subject. `named` is its 64 hexadecimal digits or its
    /// thumbprint; without a name it is the bound key, or the only one. Where the token is bound (`bound` is the
    /// thumbprint in its `cnf.jkt`), only that key may sign.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn resolve(&self, named: Option<&str>, bound: Option<&str>) -> Result<PublicKey, KeyRefusal> {
        let given = named.filter(|name| name.len() != THUMBPRINT_CHARACTERS).map(read_hex).transpose()?;
        let thumbprint = match (&given, named, bound) {
            (Some(key), _, _) => key.thumbprint(),
            (None, Some(thumbprint), _) | (None, None, Some(thumbprint)) => thumbprint.to_owned(),
            (None, None, None) => self.only()?.to_owned(),
        };
        if bound.is_some_and(|bound| bound != thumbprint) {
            return Err(KeyRefusal::NotBound);
        }
        if self.withdrawn.contains(&thumbprint) {
            return Err(KeyRefusal::Withdrawn);
        }
        if let Some((_, key)) = self.active.iter().find(|(enrolled, _)| *enrolled == thumbprint) {
            return Ok(*key);
        }
        // A whole key proves itself where its hash is what is trusted: the token's `cnf`, or the subject's name.
        let is_trusted = bound.is_some() || self.own.as_ref() == Some(&thumbprint);
        given.filter(|_| is_trusted).ok_or(KeyRefusal::Unknown)
    }

    fn only(&self) -> Result<&str, KeyRefusal> {
        match self.active.as_slice() {
            [(thumbprint, _)] => Ok(thumbprint),
            [] => Err(KeyRefusal::Unknown),
            _ => Err(KeyRefusal::Ambiguous),
        }
    }

    /// Whether `key` may sign for the subject, for what begins with the key alone (a session by key proof).
    ///
    /// # Errors
    /// [`KeyRefusal::Withdrawn`] or [`KeyRefusal::Unknown`].
    pub fn check(&self, key: &PublicKey) -> Result<(), KeyRefusal> {
        self.resolve(Some(&key.to_hex()), None).map(drop)
    }
}

fn read_hex(text: &str) -> Result<PublicKey, KeyRefusal> {
    if text.len() != KEY_HEX_DIGITS {
        return Err(KeyRefusal::Malformed);
    }
    PublicKey::from_hex(text).map_err(|error| match error {
        KeyError::Weak => KeyRefusal::Weak,
        _ => KeyRefusal::Malformed,
    })
}
