//! The keys of one issuer, fetched when they are needed, and not more often than that.
//!
//! One request at a time asks an issuer, however many wait for its answer. Tokens with unknown keys are how a rotation
//! at the issuer is noticed, and also what anybody can send: they cause one request in
//! [`IssuersConfig::refresh_interval`](super::IssuersConfig).

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    fetch::{FetchError, Fetcher},
    jwks::{Published, VerifyingKey},
};
use crate::{Metrics, TokenError, metrics::KeyFetch};

/// How long keys are good while their issuer does not answer.
const STALE_MAX: Duration = Duration::from_secs(3600);
/// Longest discovery document, in bytes.
const DISCOVERY_BYTES_MAX: usize = 64 * 1024;
/// Longest key set, in bytes.
const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Requests that wait for one issuer's keys; more of them are refused.
const WAITING_MAX: usize = 256;

/// OpenID Connect Discovery 1.0 section 3.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Keys as they were fetched.
struct KeySet {
    keys: HashMap<String, Arc<VerifyingKey>>,
    fetched: Instant,
}

impl KeySet {
    /// The key of that name; without a name, the only key.
    fn find(&self, kid: Option<&str>) -> Option<Arc<VerifyingKey>> {
        match kid {
            Some(kid) => self.keys.get(kid).map(Arc::clone),
            None if self.keys.len() == 1 => self.keys.values().next().map(Arc::clone),
            None => None,
        }
    }
}

/// The keys of one issuer.
pub(super) struct KeyCache {
    issuer: String,
    fetcher: Arc<Fetcher>,
    refresh_interval: Duration,
    metrics: Metrics,
    current: ArcSwapOption<KeySet>,
    /// When the issuer was asked last, whatever came of it.
    asked: Mutex<Option<Instant>>,
    /// The right to ask.
    flight: Arc<Semaphore>,
    waiting: Semaphore,
}

impl KeyCache {
    pub(super) fn new(issuer: String, fetcher: Arc<Fetcher>, refresh_interval: Duration, metrics: Metrics) -> Self {
        Self {
            issuer,
            fetcher,
            refresh_interval,
            metrics,
            current: ArcSwapOption::empty(),
            asked: Mutex::new(None),
            flight: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// The key that a token names.
    pub(super) async fn find(self: &Arc<Self>, kid: Option<&str>) -> Result<Arc<VerifyingKey>, TokenError> {
        if let Some(key) = self.fresh().and_then(|set| set.find(kid)) {
            return Ok(key);
        }
        self.refresh_if_due().await;
        let set = self.fresh().ok_or(TokenError::IssuerUnavailable)?;
        set.find(kid).ok_or(TokenError::UnknownKey)
    }

    fn fresh(&self) -> Option<Arc<KeySet>> {
        self.current.load_full().filter(|set| set.fetched.elapsed() < STALE_MAX)
    }

    fn is_due(&self) -> bool {
        self.asked.lock().is_none_or(|asked| asked.elapsed() >= self.refresh_interval)
    }

    /// Asks the issuer, or waits for whoever does.
    async fn refresh_if_due(self: &Arc<Self>) {
        let place = self.waiting.try_acquire();
        let in_flight = self.flight.available_permits() == 0;
        if place.is_err() || !(in_flight || self.is_due()) {
            return self.metrics.key_fetch(KeyFetch::Limited);
        }
        let permit = Arc::clone(&self.flight).acquire_owned().await.expect("the semaphore is never closed");
        if self.is_due() {
            self.fetch_holding(permit).await;
        } // else whoever was waited for has asked
    }

    /// Asks the issuer now, whenever it was asked last.
    async fn refresh(self: &Arc<Self>) {
        let permit = Arc::clone(&self.flight).acquire_owned().await.expect("the semaphore is never closed");
        self.fetch_holding(permit).await;
    }

    async fn fetch_holding(self: &Arc<Self>, permit: OwnedSemaphorePermit) {
        *self.asked.lock() = Some(Instant::now());
        let cache = Arc::clone(self);
        // A task of its own: the client that caused the request may hang up, others wait for the answer.
        let fetch = tokio::spawn(async move {
            cache.fetch().await;
            drop(permit);
        });
        if let Err(error) = fetch.await {
            tracing::error!(%error, "a fetch of issuer keys ended early");
        }
    }

    async fn fetch(&self) {
        match self.ask().await {
            Ok(keys) => {
                self.metrics.key_fetch(KeyFetch::Ok);
                tracing::debug!(issuer = self.issuer, keys = keys.len(), "fetched the keys of an issuer");
                let keys = keys.into_iter().map(|(kid, key)| (kid, Arc::new(key))).collect();
                self.current.store(Some(Arc::new(KeySet { keys, fetched: Instant::now() })));
            }
            Err(error) => {
                self.metrics.key_fetch(KeyFetch::Failed);
                tracing::warn!(issuer = self.issuer, %error, "the keys of an issuer cannot be fetched");
            }
        }
    }

    async fn ask(&self) -> Result<HashMap<String, VerifyingKey>, FetchError> {
        let discovery = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let discovery: Discovery = self.fetcher.json(&discovery, DISCOVERY_BYTES_MAX).await?;
        // Section 4.3: another issuer's document would bring another issuer's keys.
        if discovery.issuer != self.issuer {
            return Err(FetchError::OtherIssuer);
        }
        let published: Published = self.fetcher.json(&discovery.jwks_uri, JWKS_BYTES_MAX).await?;
        let keys = published.usable();
        if keys.is_empty() { Err(FetchError::NoKeys(discovery.jwks_uri)) } else { Ok(keys) }
    }
}

/// Fetches the keys now and every `interval`, for as long as somebody uses them.
pub(super) async fn keep_fresh(cache: Weak<KeyCache>, interval: Duration) {
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        cache.refresh().await;
    }
}
