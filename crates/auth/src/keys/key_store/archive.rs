//! Backups: the keyring and every secret that is in a file, encrypted by age (<https://age-encryption.org/v1>) for a
//! passphrase or a recipient, as text. The program `age` reads them too.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read as _, Write as _},
};

use age::{
    armor::{ArmoredReader, ArmoredWriter, Format},
    secrecy::SecretString,
};
use serde::{Deserialize, Serialize};
use signing::{SecretKey, Signer as _};
use zeroize::Zeroizing;

use super::KeyStore;
use crate::keys::{KeysError, Passphrase, Ring, SecretPlace, ring::KEYS_MAX};

/// The only form of a backup so far.
const VERSION: u32 = 1;
/// Largest backup, in bytes.
pub const BACKUP_BYTES_MAX: u64 = 4 << 20;
/// Hardest passphrase that is tried: scrypt with 2^20, some seconds and a gigabyte.
const WORK_FACTOR_MAX: u8 = 20;

/// Who can open a backup.
pub struct Sealer(Box<dyn age::Recipient + Send>);

/// What opens a backup.
pub struct Opener(Box<dyn age::Identity>);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(…)")
    }
}

impl Sealer {
    /// Whoever knows the passphrase.
    #[must_use]
    pub fn passphrase(passphrase: &Passphrase) -> Self {
        Self(Box::new(age::scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()))))
    }

    /// Whoever has the identity of this recipient (`age1…`).
    ///
    /// # Errors
    /// [`KeysError::Backup`] when it is none.
    pub fn recipient(text: &str) -> Result<Self, KeysError> {
        let recipient: age::x25519::Recipient = text
            .trim()
            .parse()
            .map_err(|error| KeysError::Backup(format!("{text} is no recipient of age (age1…): {error}")))?;
        Ok(Self(Box::new(recipient)))
    }
}

impl Opener {
    /// The passphrase.
    #[must_use]
    pub fn passphrase(passphrase: &Passphrase) -> Self {
        let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
        identity.set_max_work_factor(WORK_FACTOR_MAX);
        Self(Box::new(identity))
    }

    /// An identity file, as `age-keygen` writes it: the first line `AGE-SECRET-KEY-…`.
    ///
    /// # Errors
    /// [`KeysError::Backup`] when there is none.
    pub fn identity(file: &str) -> Result<Self, KeysError> {
        let line = file.lines().map(str::trim).find(|line| line.starts_with("AGE-SECRET-KEY-"));
        let identity = line.and_then(|line| line.parse::<age::x25519::Identity>().ok());
        let none =
            || KeysError::Backup("no line of the identity file is an identity of age (AGE-SECRET-KEY-1…)".into());
        Ok(Self(Box::new(identity.ok_or_else(none)?)))
    }
}

/// What is encrypted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Archive {
    version: u32,
    ring: Ring,
    /// PKCS#8 PEM by `kid`, not encrypted: the backup is.
    secrets: BTreeMap<String, String>,
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.secrets.values_mut().for_each(zeroize::Zeroize::zeroize);
    }
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The keyring now.
    pub ring: Ring,
    /// How many secrets came with it.
    pub secrets: usize,
}

impl KeyStore {
    /// A backup of everything, for `sealer`. Secrets in a hardware token are not in it: they do not leave it.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn backup(&self, sealer: &Sealer) -> Result<Vec<u8>, KeysError> {
        let _lock = self.files.lock()?;
        let ring = self.existing_ring()?;
        let mut secrets = BTreeMap::new();
        for record in ring.keys.iter().filter(|record| record.secret == SecretPlace::File) {
            let mut pem = self.open_file(&record.kid)?.to_pkcs8_pem()?;
            secrets.insert(record.kid.clone(), std::mem::take(&mut *pem));
        }
        let archive = Archive { version: VERSION, ring, secrets };
        let json = Zeroizing::new(serde_json::to_vec(&archive).map_err(failed)?);
        let encryptor =
            age::Encryptor::with_recipients(std::iter::once(&*sealer.0 as &dyn age::Recipient)).map_err(failed)?;
        let armored = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).map_err(failed)?;
        let mut writer = encryptor.wrap_output(armored).map_err(failed)?;
        writer.write_all(&json).map_err(failed)?;
        writer.finish().and_then(ArmoredWriter::finish).map_err(failed)
    }

    /// Puts back what a backup holds. Where there are keys already, only with `replace`; keys of the same node that the
    /// backup does not know are kept, retired, so that nothing that they signed becomes unverifiable.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changes then.
    pub fn restore(&self, backup: &[u8], opener: &Opener, replace: bool, now: u64) -> Result<Restored, KeysError> {
        let mut archive = open(backup, opener)?;
        let mut keys = Vec::with_capacity(archive.secrets.len());
        for (kid, pem) in &archive.secrets {
            let key = SecretKey::from_pkcs8_pem(pem)?;
            let named = archive.ring.find(kid).is_some_and(|record| record.public_key == key.public_key());
            if !named {
                return Err(KeysError::Backup("a key in the backup is not the one that its name says".into()));
            }
            keys.push(key);
        }
        let lock = self.files.lock()?;
        let present = self.files.read_ring()?;
        if let Some(present) = &present {
            if !replace {
                return Err(KeysError::NotEmpty(present.node_id.clone()));
            }
            if present.node_id == archive.ring.node_id {
                archive.ring.keep_keys_of(present, now);
            }
        }
        for key in &keys {
            self.write_secret(key, &lock)?;
        }
        self.files.write_ring(&archive.ring, &lock)?;
        Ok(Restored { ring: archive.ring.clone(), secrets: keys.len() })
    }
}

fn open(backup: &[u8], opener: &Opener) -> Result<Archive, KeysError> {
    let decryptor = age::Decryptor::new(ArmoredReader::new(backup))
        .map_err(|error| KeysError::Backup(format!("not a backup by `llm-node keys backup`: {error}")))?;
    let reader = decryptor
        .decrypt(std::iter::once(&*opener.0))
        .map_err(|error| KeysError::Backup(format!("the backup cannot be opened: {error}")))?;
    let mut json = Zeroizing::new(Vec::with_capacity(backup.len()));
    reader.take(BACKUP_BYTES_MAX).read_to_end(&mut json).map_err(failed)?;
    let archive: Archive = serde_json::from_slice(&json)
        .map_err(|_| KeysError::Backup("the backup was opened, but is not of keys of this version".into()))?;
    let ring = serde_json::to_vec(&archive.ring).map_err(failed)?;
    Ring::from_json(&ring)?;
    if archive.version != VERSION || archive.secrets.len() > KEYS_MAX {
        return Err(KeysError::Backup("the backup is of another version".into()));
    }
    Ok(archive)
}

fn failed(error: impl fmt::Display) -> KeysError {
    KeysError::Backup(format!("the backup failed: {error}"))
}
