//! `llm-node keys`: the node's own keys.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use auth::keys::{
    BACKUP_BYTES_MAX, JWKS_MAX_AGE_SECS, KeyRecord, KeyStore, Opener, Origin, Passphrase, Ring, RingError, Sealer,
    SecretPlace, Selector, read_key_file, read_private,
};
use serde_json::{Value, json};

use super::load;
use crate::{
    cli::{Common, KeyFormat, KeyPlace, Keys, NewKey},
    config::Config,
    keys::{at_rest, new_key, passphrase},
    output,
};

pub(super) fn run(common: &Common, command: Keys) -> Result<ExitCode> {
    let (config, dir) = load(common)?;
    let store = at_rest(&config, &dir)?;
    match command {
        Keys::List { json } => list(store.ring()?.as_ref(), json)?,
        Keys::Generate { place, new } => {
            let origin = match place {
                Some(KeyPlace::File) => Origin::File,
                Some(KeyPlace::Token) => Origin::Token,
                None => new_key(&config),
            };
            add(&store, origin, &new)?;
        }
        Keys::Import { file, passphrase_file, token_label, token_id, new } => {
            let origin = import(&config, file.as_deref(), passphrase_file.as_deref(), token_label, token_id)?;
            add(&store, origin, &new)?;
        }
        Keys::Rotate { now, overlap, json } => {
            rotate(&store, &config, now, overlap.unwrap_or(config.auth.token_expiry.as_secs()), json)?;
        }
        Keys::Retire { kid, json } => {
            let record = store.retire(&kid, seconds_now())?;
            show(&record, json, || format!("{kid} is retired. What it signed stays verifiable."))?;
        }
        Keys::ExportPublic { kid, format } => export(&store.existing_ring()?, kid.as_deref(), format)?,
        Keys::Backup { file, passphrase_file, recipient } => {
            let sealer = match (passphrase_file, recipient) {
                (Some(path), _) => Sealer::passphrase(&read_passphrase(&path)?),
                (_, Some(recipient)) => Sealer::recipient(&recipient)?,
                _ => bail!("give --passphrase-file or --recipient"),
            };
            backup(&store, &file, &sealer)?;
        }
        Keys::Restore { file, passphrase_file, identity, replace, json } => {
            let opener = match (passphrase_file, identity) {
                (Some(path), _) => Opener::passphrase(&read_passphrase(&path)?),
                (_, Some(path)) => Opener::identity(&read_private(&path)?)?,
                _ => bail!("give --passphrase-file or --identity"),
            };
            restore(&store, &file, &opener, replace, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(ring: Option<&Ring>, json: bool) -> Result<()> {
    let keys = ring.map_or(&[][..], |ring| &ring.keys);
    if json {
        output::print_json(&keys.iter().map(to_json).collect::<Vec<_>>())?;
    } else if keys.is_empty() {
        output::complain("there are no keys yet: `llm-node serve` or `llm-node keys generate` makes the first");
    } else {
        let mut text = format!("{:<43} {:<8} {:<12} {:<12} SECRET\n", "KEY", "STATUS", "SIGNS FROM", "SIGNS UNTIL");
        for key in keys {
            let time = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
            let (from, until) = (time(key.active_from), time(key.retired_at));
            text +=
                &format!("{:<43} {:<8} {from:<12} {until:<12} {}\n", key.kid, key.status.as_str(), place(&key.secret));
        }
        output::print(&text)?;
    }
    Ok(())
}

fn import(
    config: &Config,
    file: Option<&Path>,
    passphrase_file: Option<&Path>,
    label: Option<String>,
    id: Option<String>,
) -> Result<Origin> {
    if let Some(file) = file {
        let given = passphrase_file.map(read_passphrase).transpose()?;
        return Ok(Origin::Import(read_key_file(file, given.or_else(|| passphrase(config)).as_ref())?));
    }
    let id = id.map(|id| Selector::from_hex_id(&id).context("--token-id is not hexadecimal")).transpose()?;
    let selector = id.or(label.map(Selector::Label));
    selector.map(Origin::Existing).context("give a key file, --token-label or --token-id")
}

fn add(store: &KeyStore, origin: Origin, new: &NewKey) -> Result<()> {
    let record = store.add(origin, !new.without_statement, seconds_now())?;
    if record.active_from.is_none() {
        output::tell(&format!(
            "It is published as the next key. `llm-node keys rotate` makes it the active one, in {JWKS_MAX_AGE_SECS} seconds or later."
        ));
    }
    show(&record, new.json, || record.kid.clone())
}

fn rotate(store: &KeyStore, config: &Config, now: bool, overlap_secs: u64, json: bool) -> Result<()> {
    if now && store.existing_ring()?.next().is_none() {
        store.add(new_key(config), true, seconds_now())?;
    }
    let ahead_secs = if now { 0 } else { JWKS_MAX_AGE_SECS };
    let rotated = store.rotate(overlap_secs, ahead_secs, seconds_now())?;
    if json {
        output::print_json(&json!({ "active": to_json(&rotated.active), "retired": to_json(&rotated.retired) }))?;
    } else {
        let (active, retired) = (&rotated.active.kid, &rotated.retired.kid);
        output::print(&format!(
            "{active} signs now. {retired} is retired; its tokens stay valid for {overlap_secs} s."
        ))?;
    }
    Ok(())
}

fn export(ring: &Ring, kid: Option<&str>, format: KeyFormat) -> Result<()> {
    let record = match kid {
        Some(kid) => ring.find(kid).ok_or_else(|| RingError::NoSuchKey(kid.to_owned()))?,
        None => ring.active(),
    };
    match format {
        KeyFormat::Pem => output::print(&record.public_key.to_spki_pem())?,
        KeyFormat::Hex => output::print(&record.public_key.to_hex())?,
        KeyFormat::Jwk => output::print_json(&record.to_jwk())?,
        KeyFormat::Jwks => output::print_json(&ring.jwks())?,
    }
    Ok(())
}

fn backup(store: &KeyStore, file: &Path, sealer: &Sealer) -> Result<()> {
    let bytes = store.backup(sealer)?;
    // A backup is never written over: it may be the only one.
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut out| out.write_all(&bytes).and_then(|()| out.sync_all()))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    let ring = store.existing_ring()?;
    let elsewhere = ring.keys.iter().filter(|key| matches!(key.secret, SecretPlace::Pkcs11 { .. })).count();
    if elsewhere > 0 {
        output::tell(&format!("{elsewhere} secrets are in a hardware token and not in the backup."));
    }
    output::tell(&format!("{} holds {} keys of the node {}.", file.display(), ring.keys.len(), ring.node_id));
    Ok(())
}

fn restore(store: &KeyStore, file: &Path, opener: &Opener, replace: bool, json: bool) -> Result<()> {
    let mut bytes = Vec::new();
    fs::File::open(file)
        .and_then(|found| found.take(BACKUP_BYTES_MAX).read_to_end(&mut bytes))
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let restored = store.restore(&bytes, opener, replace, seconds_now())?;
    let node_id = &restored.ring.node_id;
    if json {
        let keys: Vec<_> = restored.ring.keys.iter().map(to_json).collect();
        output::print_json(&json!({ "node_id": node_id, "keys": keys }))?;
    } else {
        let (keys, secrets) = (restored.ring.keys.len(), restored.secrets);
        output::print(&format!(
            "The node {node_id} has {keys} keys, {secrets} of them with a secret from the backup."
        ))?;
    }
    Ok(())
}

fn read_passphrase(path: &Path) -> Result<Passphrase> {
    let passphrase = Passphrase::new(std::mem::take(&mut *read_private(path)?));
    if passphrase.is_empty() {
        bail!("{} is empty: an empty passphrase protects nothing", path.display())
    }
    Ok(passphrase)
}

fn show(record: &KeyRecord, json: bool, text: impl FnOnce() -> String) -> Result<()> {
    if json {
        output::print_json(&to_json(record))?
    } else {
        output::print(&text())?
    }
    Ok(())
}

fn to_json(key: &KeyRecord) -> Value {
    json!({
        "kid": key.kid,
        "public_key": key.public_key,
        "status": key.status,
        "created_at": key.created_at,
        "active_from": key.active_from,
        "retired_at": key.retired_at,
        "tokens_accepted_until": key.accepted_until,
        "secret": place(&key.secret),
    })
}

fn place(secret: &SecretPlace) -> String {
    match secret {
        SecretPlace::File => "file".to_owned(),
        SecretPlace::Pkcs11 { token, id } => format!("token {token}, id {id}"),
        SecretPlace::Gone => "none".to_owned(),
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
