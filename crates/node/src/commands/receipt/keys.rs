//! The public keys that receipts are verified by.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use signing::JwkSet;

use super::input;
use crate::{
    cli::Common,
    commands::{load as load_config, runtime},
    keys::at_rest,
    output,
};

/// Largest key set, in bytes: more than its 1024 keys take.
const JWKS_BYTES_MAX: u64 = 1024 * 1024;
/// Time to fetch one.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// The keys at `place` (a file or URL), or those of this data directory.
pub(super) fn load(common: &Common, place: Option<&str>) -> Result<JwkSet> {
    let Some(place) = place else { return own(common) };
    let bytes = match Url::parse(place) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => runtime()?.block_on(fetch(url))?,
        _ => input::read(Path::new(place), JWKS_BYTES_MAX)?,
    };
    serde_json::from_slice(&bytes).with_context(|| format!("{place} is not a key set (RFC 7517)"))
}

/// The keys of the node on this data directory, retired ones too.
fn own(common: &Common) -> Result<JwkSet> {
    let (config, dir) = load_config(common)?;
    let ring = at_rest(&config, &dir)?.ring()?;
    ring.map(|ring| ring.jwks()).context("this data directory has no keys; name the node's key set with --jwks")
}

async fn fetch(url: Url) -> Result<Vec<u8>> {
    if url.scheme() == "http" && !is_loopback(&url) {
        output::complain("the keys come over plain HTTP: whoever sits between could give you keys of their own");
    }
    let client = reqwest::Client::builder().timeout(FETCH_TIMEOUT).build().context("no HTTP client can be made")?;
    let mut response = client.get(url.clone()).send().await.with_context(|| format!("{url} does not answer"))?;
    if !response.status().is_success() {
        bail!("{url} answers with status {}", response.status());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.with_context(|| format!("{url} broke off"))? {
        if (bytes.len() + chunk.len()) as u64 > JWKS_BYTES_MAX {
            bail!("{url} sends more than {JWKS_BYTES_MAX} bytes");
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
