//! The token service of a configuration: of a command, and of a node.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use auth::{
    Issuers, IssuersConfig, JwtSecret, Metrics, Permission, Permissions, Revocations, Secrets, TokenAlgorithm,
    TokenConfig, TokenService, keys::Keyring,
};
use store::Store;

use crate::{
    config::{self, Config, Right},
    data_dir::DataDir,
    keys,
};

/// Issues tokens as the node on this data directory does, and verifies its own.
pub(crate) fn service(config: &Config, dir: &DataDir) -> Result<TokenService> {
    Ok(TokenService::new(secrets(config, dir)?, settings(config)).with_keys(Arc::new(keys::at_rest(config, dir)?)))
}

/// Decides about tokens as the node on this data directory does.
pub(crate) async fn deciding(config: &Config, dir: &DataDir, store: Store) -> Result<TokenService> {
    let tokens = service(config, dir)?.with_revocations(Revocations::open(store).await?);
    Ok(match trusted(config, &Metrics::default())? {
        Some(issuers) => tokens.with_issuers(issuers),
        None => tokens,
    })
}

/// The service of a node, which notices what commands beside it change.
pub(crate) async fn of_node(
    config: &Config,
    dir: &DataDir,
    store: Store,
    keyring: Keyring,
    metrics: Metrics,
) -> Result<TokenService> {
    let issuers = trusted(config, &metrics)?;
    let tokens = TokenService::new(secrets(config, dir)?.watched(), settings(config))
        .with_keys(Arc::new(keyring))
        .with_revocations(Revocations::open(store).await?.watched())
        .with_metrics(metrics);
    Ok(match issuers {
        Some(issuers) => tokens.with_issuers(issuers.kept_fresh()),
        None => tokens,
    })
}

/// Other issuers, if any is trusted.
fn trusted(config: &Config, metrics: &Metrics) -> Result<Option<Issuers>> {
    if config.auth.issuers.is_empty() {
        return Ok(None);
    }
    Ok(Some(Issuers::new(issuers(config), metrics)?))
}

fn secrets(config: &Config, dir: &DataDir) -> Result<Secrets> {
    Ok(match configured(config)? {
        Some((current, previous)) => Secrets::configured(&current, previous.as_ref()),
        None => Secrets::generated(dir.jwt_secret())?,
    })
}

fn configured(config: &Config) -> Result<Option<(JwtSecret, Option<JwtSecret>)>> {
    let read =
        |secret: &Option<config::Secret>| secret.as_ref().map(|secret| JwtSecret::new(secret.expose())).transpose();
    let Some(current) = read(&config.auth.jwt_secret)? else { return Ok(None) };
    Ok(Some((current, read(&config.auth.jwt_secret_previous)?)))
}

/// Applies a new configuration to a running service.
pub(crate) fn reconfigure(tokens: &TokenService, config: &Config) {
    tokens.reconfigure(settings(config));
    match configured(config) {
        Ok(Some((current, previous))) if tokens.secrets().is_configured() => {
            tokens.secrets().reconfigure(&current, previous.as_ref());
        }
        Ok(None) if !tokens.secrets().is_configured() => {}
        Ok(_) => tracing::warn!("auth.jwt_secret was set or removed: that takes effect at the next start"),
        // Cannot be: the rules have looked at it.
        Err(error) => tracing::error!(%error, "the token secret stays as it is"),
    }
}

fn settings(config: &Config) -> TokenConfig {
    TokenConfig {
        name: config.auth.audience.clone(),
        lifetime: config.auth.token_expiry,
        leeway_secs: whole_seconds(config.auth.token_leeway),
        algorithm: match config.auth.token_algorithm {
            config::TokenAlgorithm::Hs256 => TokenAlgorithm::Hs256,
            config::TokenAlgorithm::Ed25519 => TokenAlgorithm::Ed25519,
        },
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn issuers(config: &Config) -> IssuersConfig {
    let auth = &config.auth;
    IssuersConfig {
        issuers: auth.issuers.iter().map(|issuer| issuer.as_str().to_owned()).collect(),
        audience: auth.audience.clone(),
        token_types: auth.issuer_token_types.clone(),
        permissions: Permissions::of(auth.issuer_permissions.iter().map(|right| match right {
            Right::Read => Permission::Read,
            Right::Write => Permission::Write,
            Right::Execute => Permission::Execute,
            Right::Admin => Permission::Admin,
        })),
        permissions_claim: auth.issuer_permissions_claim.clone(),
        subject_claim: auth.issuer_subject_claim.clone(),
        job_claim: auth.issuer_job_claim.clone(),
        keys_max_age: auth.issuer_keys_max_age,
        refresh_interval: auth.issuer_refresh_interval,
    }
}
