//! The node's keys as the configuration says: for the commands, and for a running node.

use anyhow::{Context as _, Result, bail};
use auth::keys::{KeyMetrics, KeyStore, Keyring, KeysConfig, Origin, Passphrase, Pkcs11Config, read_key_file};
use signing::{PublicKey, Signer as _};
use telemetry::Registry;

use crate::{config::Config, data_dir::DataDir};

/// The keys at rest, for a command.
pub(crate) fn at_rest(config: &Config, dir: &DataDir) -> Result<KeyStore> {
    Ok(KeyStore::open(&settings(config, dir))?)
}

/// The keys of a node, which follows what commands beside it change. Makes the first key on the first start. Blocks for
/// as long as a passphrase takes.
///
/// # Errors
/// The active key cannot be used, or is not the one that the configuration asks for.
pub(crate) fn of_node(config: &Config, dir: &DataDir, registry: &mut Registry) -> Result<Keyring> {
    let metrics = KeyMetrics::register(registry);
    let configured = configured_key(config)?;
    let wanted = configured.as_ref().map(|key| key.public_key());
    let origin = configured.map_or_else(|| new_key(config), Origin::Import);
    let (keyring, made) = Keyring::open(&settings(config, dir), origin, metrics)
        .context("the node's keys cannot be used (`llm-node keys list` shows them)")?;
    if made {
        tracing::info!(
            node_id = keyring.node_id(),
            "this node has its first key; back it up with `llm-node keys backup`"
        );
    }
    check(config, &keyring, wanted)?;
    Ok(keyring.watched())
}

/// Where a new key is made when nobody says: in the hardware token, if there is one.
pub(crate) fn new_key(config: &Config) -> Origin {
    if config.signature.pkcs11_module.is_some() { Origin::Token } else { Origin::File }
}

fn check(config: &Config, keyring: &Keyring, wanted: Option<PublicKey>) -> Result<()> {
    if let Some(key) = wanted
        && keyring.verifying_key(&key.thumbprint()).is_none()
    {
        bail!(
            "signature.private_key is a key that this node does not have: bring it in with `llm-node keys import FILE` and \
             `llm-node keys rotate`, or remove the setting"
        );
    }
    let active = keyring.signer().1.public_key().to_hex();
    match &config.signature.public_key {
        Some(expected) if expected.as_str() != active => bail!(
            "the active key is {active}, and signature.public_key says {}: change the setting, or restore the key that it \
             names",
            expected.as_str()
        ),
        _ => Ok(()),
    }
}

fn configured_key(config: &Config) -> Result<Option<signing::SecretKey>> {
    let Some(path) = &config.signature.private_key else { return Ok(None) };
    let passphrase = passphrase(config);
    Ok(Some(read_key_file(path, passphrase.as_ref()).context("signature.private_key cannot be used")?))
}

/// What encrypts the key files, if anything does.
pub(crate) fn passphrase(config: &Config) -> Option<Passphrase> {
    let secret = config.signature.private_key_passphrase.as_ref()?;
    Some(Passphrase::new(secret.expose().to_owned()))
}

fn settings(config: &Config, dir: &DataDir) -> KeysConfig {
    let signature = &config.signature;
    let pkcs11 = match (&signature.pkcs11_module, &signature.pkcs11_token, &signature.pkcs11_pin) {
        (Some(module), Some(token), Some(pin)) => Some(Pkcs11Config {
            module: module.clone(),
            token: token.clone(),
            pin: Passphrase::new(pin.expose().to_owned()),
        }),
        _ => None,
    };
    KeysConfig { dir: dir.keys(), passphrase: passphrase(config), pkcs11 }
}
