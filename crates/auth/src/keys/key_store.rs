//! The node's keys at rest, and every step that changes them. A running node notices each within a second.

mod archive;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use archive::{BACKUP_BYTES_MAX, Opener, Restored, Sealer};
use signing::{KeyStatement, PublicKey, SecretKey, Signer};

use super::{
    KeyRecord, KeysError, Passphrase, Ring, RingError, SecretPlace,
    files::{Files, Lock, Stamp, read_private},
    pkcs11::{Pkcs11Config, Selector, Token},
};

/// What a step signs to see that a key works before it is relied on. No other purpose's bytes begin so.
const PROBE: &[u8] = b"llm-node/v1/probe\0";

/// Where the keys are and what opens them.
#[derive(Debug, Clone)]
pub struct KeysConfig {
    /// The directory.
    pub dir: PathBuf,
    /// Opens the key files, and encrypts new ones.
    pub passphrase: Option<Passphrase>,
    /// A hardware token.
    pub pkcs11: Option<Pkcs11Config>,
}

/// The keys at rest.
#[derive(Debug, Clone)]
pub struct KeyStore {
    files: Files,
    passphrase: Option<Passphrase>,
    token: Option<Arc<Token>>,
}

/// Where a new key comes from.
#[derive(Debug)]
pub enum Origin {
    /// Generated, into a file.
    File,
    /// Generated in the hardware token; its secret never leaves it.
    Token,
    /// A key that somebody made, to be copied into a file.
    Import(SecretKey),
    /// A key that is in the hardware token.
    Existing(Selector),
}

/// What became of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Signs now.
    pub active: KeyRecord,
    /// Signed until now.
    pub retired: KeyRecord,
}

impl KeyStore {
    /// Opens the directory; creates it where it is missing. The token is only opened when it is needed.
    ///
    /// # Errors
    /// [`KeysError::Io`].
    pub fn open(config: &KeysConfig) -> Result<Self, KeysError> {
        Ok(Self {
            files: Files::open(&config.dir)?,
            passphrase: config.passphrase.clone(),
            token: config.pkcs11.clone().map(|config| Arc::new(Token::new(config))),
        })
    }

    /// The keyring; `None` where there is none yet.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn ring(&self) -> Result<Option<Ring>, KeysError> {
        self.files.read_ring()
    }

    /// The keyring.
    ///
    /// # Errors
    /// [`KeysError::NoKeys`] where there is none yet.
    pub fn existing_ring(&self) -> Result<Ring, KeysError> {
        self.ring()?.ok_or_else(|| KeysError::NoKeys(self.files.path().to_owned()))
    }

    pub(super) fn stamp(&self) -> Result<Option<Stamp>, KeysError> {
        self.files.stamp()
    }

    /// The keyring; makes the first key where there is none. Whether it was made now.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeysError::NoRing`] rather than a new identity beside old keys.
    pub fn ring_or_first(&self, origin: Origin, now: u64) -> Result<(Ring, bool), KeysError> {
        let lock = self.files.lock()?;
        match self.files.read_ring()? {
            Some(ring) => Ok((ring, false)),
            None => self.first(origin, now, &lock).map(|ring| (ring, true)),
        }
    }

    fn first(&self, origin: Origin, now: u64, lock: &Lock) -> Result<Ring, KeysError> {
        let names = self.files.key_names()?;
        let (key, place) = match (names.as_slice(), &origin) {
            ([], _) => self.bring_in(origin, lock)?,
            // A process that ended between the two files of a first key left this one; and with a single key, the
            // ring that was lost can only have said that it is the first.
            ([name], Origin::File) => (self.open_file(name)?.public_key(), SecretPlace::File),
            _ => return Err(KeysError::NoRing(self.files.path().to_owned())),
        };
        let ring = Ring::first(key, place, now);
        self.files.write_ring(&ring, lock)?;
        Ok(ring)
    }

    /// Publishes a key ahead, with a statement of the active key that it is the node's; the first key is active at once.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeysError::NoStatement`] when the active key cannot sign and `statement` is asked for.
    pub fn add(&self, origin: Origin, statement: bool, now: u64) -> Result<KeyRecord, KeysError> {
        let lock = self.files.lock()?;
        let Some(mut ring) = self.files.read_ring()? else {
            return self.first(origin, now, &lock).map(|ring| ring.active().clone());
        };
        // Before a key is made that would have no place.
        ring.check_room("")?;
        let signer = if statement { Some(self.active_signer(&ring)?) } else { None };
        let (key, place) = self.bring_in(origin, &lock)?;
        ring.check_room(&key.thumbprint())?;
        let statement = signer
            .map(|signer| KeyStatement::sign(&ring.node_id, key, now, &*signer))
            .transpose()
            .map_err(|error| KeysError::NoStatement(error.to_string()))?;
        let record = ring.add_next(key, place, statement, now)?.clone();
        self.files.write_ring(&ring, &lock)?;
        Ok(record)
    }

    fn active_signer(&self, ring: &Ring) -> Result<Arc<dyn Signer>, KeysError> {
        self.signer(ring.active()).map_err(|error| KeysError::NoStatement(error.to_string()))
    }

    /// The next key becomes the active one; the old one is retired. Tokens of the old one are accepted for
    /// `overlap_secs` more. The next key must have been published for `ahead_secs`.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changes when the next key cannot sign.
    pub fn rotate(&self, overlap_secs: u64, ahead_secs: u64, now: u64) -> Result<Rotated, KeysError> {
        let lock = self.files.lock()?;
        let mut ring = self.existing_ring()?;
        let next = ring.next().ok_or(RingError::NoNext)?.clone();
        let retired = ring.active().kid.clone();
        ring.rotate(overlap_secs, ahead_secs, now)?;
        let signature = self.signer(&next)?.sign(PROBE)?;
        if next.public_key.verify(PROBE, &signature).is_err() {
            return Err(KeysError::OtherKey { path: self.files.key_file(&next.kid) });
        }
        self.files.write_ring(&ring, &lock)?;
        let retired = ring.find(&retired).ok_or(RingError::NoSuchKey(retired.clone()))?.clone();
        Ok(Rotated { active: ring.active().clone(), retired })
    }

    /// Drops a next key or ends the overlap of a retired one, and deletes its secret file. What is in a hardware token
    /// stays there.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn retire(&self, kid: &str, now: u64) -> Result<KeyRecord, KeysError> {
        let lock = self.files.lock()?;
        let mut ring = self.existing_ring()?;
        let place = ring.retire(kid, now)?;
        self.files.write_ring(&ring, &lock)?;
        if place == SecretPlace::File {
            self.files.remove_key(kid, &lock)?;
        }
        ring.find(kid).cloned().ok_or_else(|| RingError::NoSuchKey(kid.to_owned()).into())
    }

    /// Whoever signs by this key.
    ///
    /// # Errors
    /// [`KeysError`]: no secret, a wrong passphrase, a token that is not there.
    pub fn signer(&self, record: &KeyRecord) -> Result<Arc<dyn Signer>, KeysError> {
        match &record.secret {
            SecretPlace::File => Ok(Arc::new(self.open_file(&record.kid)?)),
            SecretPlace::Pkcs11 { token, id } => Ok(Arc::new(self.token()?.signer(token, id, record.public_key)?)),
            SecretPlace::Gone => Err(KeysError::Gone(record.kid.clone())),
        }
    }

    fn open_file(&self, kid: &str) -> Result<SecretKey, KeysError> {
        let path = self.files.key_file(kid);
        let key = open_pem(&path, &self.files.read_key(kid)?, self.passphrase.as_ref())?;
        if key.public_key().thumbprint() == kid { Ok(key) } else { Err(KeysError::OtherKey { path }) }
    }

    fn bring_in(&self, origin: Origin, lock: &Lock) -> Result<(PublicKey, SecretPlace), KeysError> {
        let key = match origin {
            Origin::File => SecretKey::generate()?,
            Origin::Import(key) => key,
            Origin::Token => return Ok(self.token()?.generate()?),
            Origin::Existing(selector) => return Ok(self.token()?.find(&selector)?),
        };
        self.write_secret(&key, lock)?;
        Ok((key.public_key(), SecretPlace::File))
    }

    fn write_secret(&self, key: &SecretKey, lock: &Lock) -> Result<(), KeysError> {
        let kid = key.public_key().thumbprint();
        match &self.passphrase {
            Some(passphrase) => {
                self.files.write_key(&kid, &key.to_encrypted_pem(passphrase.expose().as_bytes())?, lock)
            }
            None => self.files.write_key(&kid, &key.to_pkcs8_pem()?, lock),
        }
    }

    fn token(&self) -> Result<&Arc<Token>, KeysError> {
        Ok(self.token.as_ref().ok_or(super::TokenError::NotConfigured)?)
    }
}

/// Reads a key from a PEM file that is no others' to read, by its passphrase where it has one.
///
/// # Errors
/// [`KeysError::Exposed`], [`KeysError::KeyFile`], [`KeysError::Io`].
pub fn read_key_file(path: &Path, passphrase: Option<&Passphrase>) -> Result<SecretKey, KeysError> {
    open_pem(path, &read_private(path)?, passphrase)
}

fn open_pem(path: &Path, pem: &str, passphrase: Option<&Passphrase>) -> Result<SecretKey, KeysError> {
    let opened = match (SecretKey::from_pkcs8_pem(pem), passphrase) {
        (Err(signing::KeyError::Encrypted), Some(passphrase)) => {
            SecretKey::from_encrypted_pem(pem, passphrase.expose().as_bytes())
        }
        (opened, _) => opened,
    };
    opened.map_err(|source| KeysError::KeyFile { path: path.to_owned(), source })
}
