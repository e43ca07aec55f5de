//! Which keys a node has and what it does with each: the content of `keys/keyring.json`, and the steps in it.
//!
//! A key is *next* (published, signs nothing), then *active* (the one that signs), then *retired*. A retired key verifies
//! receipts for ever and tokens until the overlap ends. Nothing here does I/O or knows a secret.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use signing::{Jwk, JwkSet, KeyStatement, KeyStatus, PublicKey};

/// Most keys of a node, all that ever were included.
pub const KEYS_MAX: usize = 512;
/// The only form of the file so far.
const VERSION: u32 = 1;

/// Where the secret half of a key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretPlace {
    /// In the file `<kid>.pem` beside the keyring.
    File,
    /// In a PKCS#11 token.
    Pkcs11 {
        /// The token's label.
        token: String,
        /// `CKA_ID` of the key's objects, hexadecimal.
        id: String,
    },
    /// Destroyed, or never here.
    Gone,
}

/// One key of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its name: its thumbprint.
    pub kid: String,
    /// The key.
    pub public_key: PublicKey,
    /// What the node does with it.
    pub status: KeyStatus,
    /// When it came into the keyring, and so into the JWKS, in seconds since 1970.
    pub created_at: u64,
    /// Since when it signs; none if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_from: Option<u64>,
    /// Since when it signs no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_at: Option<u64>,
    /// Until when tokens that it signed are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_until: Option<u64>,
    /// Where its secret half is.
    pub secret: SecretPlace,
}

/// Why a step is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The keyring has none of that name.
    #[error("the keyring has no key {0}: `llm-node keys list` shows those that it has")]
    NoSuchKey(String),
    /// The key is in it already.
    #[error("the keyring has the key {0} already")]
    Known(String),
    /// One next key at a time.
    #[error(
        "{0} is published as the next key already: `keys rotate` makes it the active one, `keys retire {0}` drops it"
    )]
    HasNext(String),
    /// Nothing to rotate to.
    #[error(
        "there is no next key: `keys generate` publishes one ahead, or `keys rotate --now` makes one and uses it at once"
    )]
    NoNext,
    /// Others may not have seen the next key yet.
    #[error(
        "the next key is published for {published_secs} s, and others may keep the JWKS for {needed_secs} s: \
         wait {} s, or rotate with --now and have them refuse it until they ask again", needed_secs - published_secs
    )]
    TooEarly {
        /// How long it is published.
        published_secs: u64,
        /// How long it must be.
        needed_secs: u64,
    },
    /// The active key only goes when another comes.
    #[error("{0} is the active key: `keys rotate` retires it and makes the next one active")]
    IsActive(String),
    /// Too many.
    #[error("the keyring holds {KEYS_MAX} keys and takes no more")]
    Full,
    /// The file was changed by hand, or damaged.
    #[error("the keyring is damaged ({0}): restore it with `llm-node keys restore`")]
    Damaged(&'static str),
}

/// All keys of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    version: u32,
    /// The thumbprint of the first key, for ever.
    pub node_id: String,
    /// In the order in which they came.
    pub keys: Vec<KeyRecord>,
    /// Keys that vouch for their successors.
    pub statements: Vec<KeyStatement>,
}

impl Ring {
    /// A ring of one key, which is active.
    #[must_use]
    pub fn first(key: PublicKey, secret: SecretPlace, now: u64) -> Self {
        let record =
            KeyRecord { status: KeyStatus::Active, active_from: Some(now), ..KeyRecord::next(key, secret, now) };
        Self { version: VERSION, node_id: record.kid.clone(), keys: vec![record], statements: Vec::new() }
    }

    /// Reads one, strictly.
    ///
    /// # Errors
    /// [`RingError::Damaged`].
    pub fn from_json(json: &[u8]) -> Result<Self, RingError> {
        let ring: Self = serde_json::from_slice(json).map_err(|_| RingError::Damaged("not what this version wrote"))?;
        ring.check()?;
        Ok(ring)
    }

    fn check(&self) -> Result<(), RingError> {
        let count = |status| self.keys.iter().filter(|key| key.status == status).count();
        let mut names: Vec<_> = self.keys.iter().map(|key| &key.kid).collect();
        names.sort_unstable();
        names.dedup();
        let damaged = [
            (self.version != VERSION, "written by another version"),
            (self.keys.len() > KEYS_MAX, "too many keys"),
            (count(KeyStatus::Active) != 1, "not exactly one active key"),
            (count(KeyStatus::Next) > 1, "more than one next key"),
            (names.len() != self.keys.len(), "a key is in it twice"),
            (self.keys.iter().any(|key| key.kid != key.public_key.thumbprint()), "a name does not fit its key"),
            (self.keys.first().is_none_or(|key| key.kid != self.node_id), "the first key is not the node's"),
        ];
        damaged.into_iter().find(|(is, _)| *is).map_or(Ok(()), |(_, why)| Err(RingError::Damaged(why)))
    }

    /// The key that signs.
    #[must_use]
    pub fn active(&self) -> &KeyRecord {
        self.with_status(KeyStatus::Active).expect("checked when the ring was read, and kept by every step")
    }

    /// The key that is published ahead.
    #[must_use]
    pub fn next(&self) -> Option<&KeyRecord> {
        self.with_status(KeyStatus::Next)
    }

    /// The key of that name.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// Publishes `key` ahead.
    ///
    /// # Errors
    /// [`RingError::HasNext`], [`RingError::Known`], [`RingError::Full`].
    pub fn add_next(
        &mut self,
        key: PublicKey,
        secret: SecretPlace,
        statement: Option<KeyStatement>,
        now: u64,
    ) -> Result<&KeyRecord, RingError> {
        let record = KeyRecord::next(key, secret, now);
        self.check_room(&record.kid)?;
        self.statements.extend(statement);
        self.keys.push(record);
        Ok(&self.keys[self.keys.len() - 1])
    }

    /// Whether a key could be published ahead now.
    ///
    /// # Errors
    /// As [`Self::add_next`].
    pub fn check_room(&self, kid: &str) -> Result<(), RingError> {
        if self.find(kid).is_some() {
            return Err(RingError::Known(kid.to_owned()));
        }
        if let Some(next) = self.next() {
            return Err(RingError::HasNext(next.kid.clone()));
        }
        if self.keys.len() >= KEYS_MAX { Err(RingError::Full) } else { Ok(()) }
    }

    /// The next key becomes the active one. Tokens of the old one are accepted for `overlap_secs` more.
    ///
    /// # Errors
    /// [`RingError::NoNext`]; [`RingError::TooEarly`] when it has been published for less than `ahead_secs`.
    pub fn rotate(&mut self, overlap_secs: u64, ahead_secs: u64, now: u64) -> Result<(), RingError> {
        let next = self.next().ok_or(RingError::NoNext)?;
        let published_secs = now.saturating_sub(next.created_at);
        if published_secs < ahead_secs {
            return Err(RingError::TooEarly { published_secs, needed_secs: ahead_secs });
        }
        for key in &mut self.keys {
            match key.status {
                KeyStatus::Active => key.retire(now, now.saturating_add(overlap_secs)),
                KeyStatus::Next => (key.status, key.active_from) = (KeyStatus::Active, Some(now)),
                KeyStatus::Retired => {}
            }
        }
        Ok(())
    }

    /// Drops a next key, or ends the overlap of a retired one. Its secret is no longer needed.
    ///
    /// # Errors
    /// [`RingError::NoSuchKey`], [`RingError::IsActive`].
    pub fn retire(&mut self, kid: &str, now: u64) -> Result<SecretPlace, RingError> {
        let key =
            self.keys.iter_mut().find(|key| key.kid == kid).ok_or_else(|| RingError::NoSuchKey(kid.to_owned()))?;
        match key.status {
            KeyStatus::Active => return Err(RingError::IsActive(kid.to_owned())),
            KeyStatus::Next => key.retire(now, now),
            KeyStatus::Retired => key.accepted_until = Some(key.accepted_until.map_or(now, |until| until.min(now))),
        }
        Ok(std::mem::replace(&mut key.secret, SecretPlace::Gone))
    }

    /// Takes over what `other`, another state of the same node, knows and this one does not: its keys, retired.
    pub fn keep_keys_of(&mut self, other: &Self, now: u64) {
        for key in &other.keys {
            if self.find(&key.kid).is_none() && self.keys.len() < KEYS_MAX {
                let mut key = key.clone();
                if key.status != KeyStatus::Retired {
                    key.retire(now, now);
                }
                self.keys.push(key);
            }
        }
        for statement in &other.statements {
            if !self.statements.contains(statement) {
                self.statements.push(statement.clone());
            }
        }
    }

    /// What the node publishes: every key that signs, will, or did.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        // A key that was dropped before it signed anything can vouch for nothing.
        let published = self.keys.iter().filter(|key| key.status != KeyStatus::Retired || key.active_from.is_some());
        JwkSet { keys: published.map(KeyRecord::to_jwk).collect() }
    }

    fn with_status(&self, status: KeyStatus) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.status == status)
    }
}

impl KeyRecord {
    fn next(key: PublicKey, secret: SecretPlace, now: u64) -> Self {
        Self {
            kid: key.thumbprint(),
            public_key: key,
            status: KeyStatus::Next,
            created_at: now,
            active_from: None,
            retired_at: None,
            accepted_until: None,
            secret,
        }
    }

    fn retire(&mut self, now: u64, accepted_until: u64) {
        (self.status, self.retired_at, self.accepted_until) = (KeyStatus::Retired, Some(now), Some(accepted_until));
    }

    /// Its entry in the JWKS.
    #[must_use]
    pub fn to_jwk(&self) -> Jwk {
        Jwk {
            status: Some(self.status),
            active_from: self.active_from,
            retired_at: self.retired_at,
            ..self.public_key.to_jwk()
        }
    }

    /// Whether a token that it signed is accepted at `now`.
    #[must_use]
    pub fn vouches_at(&self, now: u64) -> bool {
        match self.status {
            // Signs nothing yet, so nothing signed by it can be genuine.
            KeyStatus::Next => false,
            KeyStatus::Active => true,
            KeyStatus::Retired => self.active_from.is_some() && self.accepted_until.is_some_and(|until| now < until),
        }
    }
}
