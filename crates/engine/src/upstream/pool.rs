use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use reqwest::{
    Client, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect,
};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{UpstreamConfig, UpstreamError};
use crate::{
    Metrics,
    backend::{Readiness, ServedModel, ServedModels},
};

/// Largest model list that is read, and the most models taken of it.
const MODELS_BYTES_MAX: usize = 1 << 20;
const MODELS_MAX: usize = 1000;
/// Longest model name that is taken.
const NAME_BYTES_MAX: usize = 256;

/// One server.
#[derive(Debug)]
pub(super) struct Address {
    /// Without a trailing slash and without `/v1`.
    pub(super) base: String,
    in_flight: AtomicU32,
    health: Mutex<Health>,
}

#[derive(Debug, Clone, PartialEq)]
enum Health {
    Unknown,
    Up(Vec<ServedModel>),
    Down(String),
}

/// The servers and what is known of them.
#[derive(Debug)]
pub(super) struct Pool {
    config: UpstreamConfig,
    client: Client,
    addresses: Vec<Arc<Address>>,
    readiness: watch::Sender<Readiness>,
    metrics: Metrics,
}

/// A request's place at an address.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) address: Arc<Address>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.address.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<ModelEntry>,
}

#[derive(Deserialize)]
struct ModelEntry {
    id: String,
    /// vLLM and SGLang.
    max_model_len: Option<u32>,
    /// llama-server.
    meta: Option<ModelMeta>,
}

#[derive(Deserialize)]
struct ModelMeta {
    n_ctx: Option<u32>,
}

impl Pool {
    pub(super) fn new(config: UpstreamConfig, metrics: Metrics) -> Result<Self, UpstreamError> {
        if config.addresses.is_empty() {
            return Err(UpstreamError::NoAddress);
        }
        let addresses = config.addresses.iter().map(|address| base(address)).collect::<Result<Vec<_>, _>>()?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.api_key {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", key.0)).map_err(|_invalid| UpstreamError::ApiKey)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .default_headers(headers)
            .connect_timeout(config.connect_timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()?;
        let addresses = addresses
            .into_iter()
            .map(|base| {
                let health = Mutex::new(Health::Unknown);
                Arc::new(Address { base, in_flight: AtomicU32::new(0), health })
            })
            .collect();
        let readiness = watch::Sender::new(Readiness::Starting { per_mille: 0 });
        Ok(Self { config, client, addresses, readiness, metrics })
    }

    pub(super) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// The model that a client's name stands for.
    pub(super) fn model_name(&self, name: &str) -> Option<String> {
        match &*self.readiness.borrow() {
            Readiness::Ready(models) => models.find(name).map(|model| model.name.clone()),
            _ => None,
        }
    }

    /// The healthy address with the least in flight that serves the model and was not tried yet.
    pub(super) fn lease(&self, model: &str, tried: &[Arc<Address>]) -> Option<Lease> {
        let serves = |address: &Address| match &*address.health.lock() {
            Health::Up(models) => models.iter().any(|served| served.name == model),
            Health::Unknown | Health::Down(_) => false,
        };
        let address = self
            .addresses
            .iter()
            .filter(|address| !tried.iter().any(|tried| Arc::ptr_eq(tried, address)) && serves(address))
            .min_by_key(|address| address.in_flight.load(Ordering::Relaxed))?;
        address.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lease { address: Arc::clone(address) })
    }

    /// A request could not connect: nothing goes there until the next health check.
    pub(super) fn mark_down(&self, address: &Address, reason: &str) {
        self.set_health(address, Health::Down(reason.to_owned()));
        self.publish();
    }

    /// Checks all addresses now and then, until stopped.
    pub(super) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let checks = self.addresses.iter().map(|address| self.check(address));
            tokio::select! {
                () = stop.cancelled() => return,
                _ = futures_util::future::join_all(checks) => self.publish(),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.config.health_interval) => {}
            }
        }
    }

    pub(super) fn close(&self) {
        self.metrics.ready.set(0);
        self.readiness.send_replace(Readiness::Failed("the engine is shutting down".into()));
    }

    async fn check(&self, address: &Address) {
        let health = match tokio::time::timeout(self.config.health_timeout, self.models(address)).await {
            Ok(Ok(models)) => Health::Up(models),
            Ok(Err(reason)) => Health::Down(reason),
            Err(_elapsed) => Health::Down(format!("no answer within {} s", self.config.health_timeout.as_secs_f64())),
        };
        self.set_health(address, health);
    }

    async fn models(&self, address: &Address) -> Result<Vec<ServedModel>, String> {
        let mut response =
            self.client.get(format!("{}/v1/models", address.base)).send().await.map_err(|error| cause(&error))?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err("it refuses the API key".into()),
            status => return Err(format!("GET /v1/models answered with status {status}")),
        }
        let body = read_bounded(&mut response, MODELS_BYTES_MAX).await.map_err(|error| cause(&error))?;
        let list: ModelList =
            serde_json::from_slice(&body).map_err(|_| "GET /v1/models answered with something else".to_owned())?;
        let mut models: Vec<ServedModel> = list
            .data
            .into_iter()
            .filter(|entry| (1..=NAME_BYTES_MAX).contains(&entry.id.len()))
            .take(MODELS_MAX)
            .map(|entry| ServedModel {
                name: entry.id,
                context_tokens: entry.max_model_len.or(entry.meta.and_then(|meta| meta.n_ctx)),
                digest: None,
            })
            .collect();
        if let Some(wanted) = &self.config.model {
            if !models.iter().any(|model| model.name == *wanted) {
                let listed: Vec<&str> = models.iter().map(|model| model.name.as_str()).take(10).collect();
                return Err(format!("it does not serve `{wanted}`, but: {}", listed.join(", ")));
            }
            models.retain(|model| model.name == *wanted);
        }
        if models.is_empty() { Err("it serves no model".into()) } else { Ok(models) }
    }

    /// Logs a change once.
    fn set_health(&self, address: &Address, health: Health) {
        let before = std::mem::replace(&mut *address.health.lock(), health.clone());
        match (&before, &health) {
            (Health::Down(before), Health::Down(now)) if before == now => {}
            (_, Health::Down(reason)) => tracing::warn!(address = %address.base, %reason, "upstream is down"),
            (Health::Unknown | Health::Down(_), Health::Up(models)) => {
                tracing::info!(address = %address.base, models = models.len(), "upstream is up");
            }
            _ => {}
        }
    }

    /// Readiness is the union of what healthy addresses serve, in their order.
    fn publish(&self) {
        let mut models: Vec<ServedModel> = Vec::new();
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match &*address.health.lock() {
                Health::Up(served) => {
                    let new = served.iter().filter(|model| !models.iter().any(|known| known.name == model.name));
                    let new: Vec<_> = new.cloned().collect();
                    models.extend(new);
                }
                Health::Down(reason) => reasons.push(format!("{}: {reason}", address.base)),
                Health::Unknown => reasons.push(format!("{}: not checked yet", address.base)),
            }
        }
        let readiness = if models.is_empty() {
            Readiness::Failed(reasons.join("; "))
        } else {
            Readiness::Ready(Arc::new(ServedModels { models }))
        };
        self.metrics.ready.set(matches!(readiness, Readiness::Ready(_)).into());
        self.readiness.send_if_modified(|now| {
            let is_new = *now != readiness;
            *now = readiness;
            is_new
        });
    }
}

/// Checks an address and brings it to one form. Operators write OpenAI base URLs with `/v1`.
fn base(address: &str) -> Result<String, UpstreamError> {
    let error = || UpstreamError::Address(address.to_owned());
    let url = Url::parse(address).map_err(|_invalid| error())?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none();
    // Credentials belong into the key setting: an address shows up in logs.
    if !is_plain || !url.username().is_empty() || url.password().is_some() {
        return Err(error());
    }
    let text = url.as_str().trim_end_matches('/');
    Ok(text.strip_suffix("/v1").unwrap_or(text).to_owned())
}

/// The deepest cause: reqwest's own words repeat the address.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The first `bytes_max` bytes of a body.
pub(super) async fn read_bounded(response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = bytes_max - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == bytes_max {
            break;
        }
    }
    Ok(body)
}

/// Longest time for an error body; its status is known already.
pub(super) const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        let good = |address: &str, expected: &str| assert_eq!(base(address).expect(address), expected);
        good("http://host:8000", "http://host:8000");
        good("http://host:8000/", "http://host:8000");
        good("https://host/v1", "https://host");
        good("https://host/v1/", "https://host");
        good("https://host/prefix/v1", "https://host/prefix");
        for bad in ["", "host:8000", "ftp://host", "http://", "file:///x", "http://user:secret@host", "http://host?a=b"]
        {
            assert!(matches!(base(bad), Err(UpstreamError::Address(_))), "{bad}");
        }
    }
}
