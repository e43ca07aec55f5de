//! `llm-node client-keys`: whose public keys sign for whom.

use std::process::ExitCode;

use anyhow::{Result, bail};
use auth::{ClientKey, ClientKeys, EnrolmentError};
use serde_json::{Value, json};
use signing::PublicKey;
use store::Store;

use super::{load, runtime};
use crate::{
    cli::{ClientKeys as Command, Common},
    output,
};

/// Keys that a list shows.
const LISTED_MAX: u32 = 10_000;

pub(super) fn run(common: &Common, command: Command) -> Result<ExitCode> {
    let (_, dir) = load(common)?;
    runtime()?.block_on(async {
        let keys = ClientKeys::new(Store::open(&dir.database())?);
        match command {
            Command::List { subject, json } => list(&keys.list(subject.as_ref(), LISTED_MAX).await?, json),
            Command::Enrol { subject, key, label, again } => match keys.enrol(&subject, &key, label, again).await {
                Ok(key) => Ok(output::print(&key.thumbprint)?),
                Err(EnrolmentError::Withdrawn) => {
                    bail!("this key was withdrawn: take another, or trust it once more with --again")
                }
                Err(error) => Err(error.into()),
            },
            Command::Withdraw { subject, key } => {
                let thumbprint = PublicKey::from_hex(&key).map_or(key, |key| key.thumbprint());
                match keys.withdraw(&subject, &thumbprint).await? {
                    Some(key) => Ok(output::print(&format!("withdrawn: {}", key.thumbprint))?),
                    None => bail!("{subject} has no such key: `llm-node client-keys list --subject {subject}`"),
                }
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn list(keys: &[ClientKey], json: bool) -> Result<()> {
    if json {
        output::print_json(&keys.iter().map(to_json).collect::<Vec<_>>())?;
    } else if keys.is_empty() {
        output::complain("there are no keys: `llm-node client-keys enrol --subject SUBJECT HEX`");
    } else {
        let mut text = format!("{:<43} {:<9} {:<52} LABEL\n", "KEY", "STATUS", "SUBJECT");
        for key in keys {
            let (subject, label) = (key.subject.as_str(), key.label.as_deref().unwrap_or("-"));
            text += &format!("{:<43} {:<9} {subject:<52} {label}\n", key.thumbprint, status(key));
        }
        output::print(&text)?;
    }
    Ok(())
}

fn status(key: &ClientKey) -> &'static str {
    if key.withdrawn_at.is_none() { "active" } else { "withdrawn" }
}

fn to_json(key: &ClientKey) -> Value {
    let public_key = PublicKey::from_bytes(&key.public_key).map(|key| key.to_hex()).ok();
    json!({
        "subject": key.subject,
        "key_id": key.thumbprint,
        "public_key": public_key,
        "label": key.label,
        "status": status(key),
        "enrolled_at": key.enrolled_at,
        "withdrawn_at": key.withdrawn_at,
    })
}
