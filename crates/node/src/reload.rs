//! New settings for a running node: on SIGHUP, and when the configuration file changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use auth::TokenService;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use server::{SessionPolicy, Settings, SignatureMode};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    config::{self, Config, Inputs, Reload},
    logging::LogHandle,
    tokens,
};

/// How often the file is looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Counts reloads by outcome.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reloads(Family<[(&'static str, &'static str); 1], Counter>);

impl Reloads {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let reloads = Self::default();
        registry.register("llm_node_config_reloads", "Configuration reloads by outcome", reloads.0.clone());
        for outcome in ["applied", "unchanged", "invalid"] {
            drop(reloads.0.get_or_create(&[("outcome", outcome)]));
        }
        reloads
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// The server's settings in a configuration.
pub(crate) fn settings(config: &Config) -> Settings {
    let (server, auth, jobs) = (&config.server, &config.auth, &config.jobs);
    let signature = &config.signature;
    Settings {
        allowed_origins: server.allowed_origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        trusted_proxies: server.trusted_proxies.clone(),
        hsts_max_age: server.hsts_max_age,
        unauthenticated_bytes_max: server.unauthenticated_bytes_max.bytes(),
        connections_max: server.connections_max,
        connections_per_address_max: server.connections_per_address_max,
        handshake_timeout: server.handshake_timeout,
        first_message_timeout: server.first_message_timeout,
        idle_timeout: server.idle_timeout,
        ping_interval: server.ping_interval,
        write_timeout: server.write_timeout,
        body_bytes_max: server.body_bytes_max.bytes(),
        frame_bytes_max: server.frame_bytes_max.bytes(),
        message_bytes_max: server.message_bytes_max.bytes(),
        request_timeout: server.request_timeout,
        token_expiry_warning: auth.token_expiry_warning,
        token_expiry_grace: auth.token_expiry_grace,
        max_sessions_per_user: auth.max_sessions_per_user,
        session_policy: match auth.session_policy {
            config::SessionPolicy::Refuse => SessionPolicy::Refuse,
            config::SessionPolicy::ReplaceOldest => SessionPolicy::ReplaceOldest,
        },
        session_idle_timeout: auth.session_idle_timeout,
        session_lifetime: auth.session_lifetime,
        sessions_per_connection_max: server.sessions_per_connection_max,
        history_messages_max: server.history_messages_max,
        history_bytes_max: server.history_bytes_max.bytes(),
        responses_stored_max: server.responses_stored_max,
        responses_stored_bytes_max: server.responses_stored_bytes_max.bytes(),
        responses_stored_for: server.responses_stored_for,
        responses_connection_lifetime: server.responses_connection_lifetime,
        signature_mode: match (signature.enabled, signature.required) {
            (false, _) => SignatureMode::Off,
            (true, false) => SignatureMode::Optional,
            (true, true) => SignatureMode::Required,
        },
        signature_age_max: signature.max_age,
        signature_nonces_max: signature.nonces_max,
        signature_authorities: signature.authorities.iter().map(|host| host.as_str().to_owned()).collect(),
        max_tokens_per_request: jobs.max_tokens_per_request,
        max_tokens_default: jobs.max_tokens_default,
    }
}

/// Starts the task that reloads; the result shows the configuration in force.
pub(crate) fn watch(
    inputs: Inputs,
    trigger: Trigger,
    config: Config,
    settings: Arc<ArcSwap<Settings>>,
    tokens: Option<Arc<TokenService>>,
    log: LogHandle,
    reloads: Reloads,
) -> watch::Receiver<Config> {
    let (live, receiver) = watch::channel(config);
    let reloader = Reloader { inputs, live, settings, tokens, log, reloads };
    tokio::spawn(reloader.run(trigger));
    receiver
}

struct Reloader {
    inputs: Inputs,
    live: watch::Sender<Config>,
    settings: Arc<ArcSwap<Settings>>,
    tokens: Option<Arc<TokenService>>,
    log: LogHandle,
    reloads: Reloads,
}

/// What tells that a file is another one: its time and size.
type Stamp = Option<(std::time::SystemTime, u64)>;

fn stamp(path: Option<&PathBuf>) -> Stamp {
    let metadata = std::fs::metadata(path?).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// What asks for a reload. It is armed before the node has anything to reload, so that nothing is missed and SIGHUP,
/// whose default is to kill, never does.
pub(crate) struct Trigger {
    hangup: Signal,
    seen: Stamp,
}

impl Trigger {
    /// Listens for SIGHUP, and remembers the file as it is now.
    ///
    /// # Errors
    /// When the signal cannot be listened for.
    pub(crate) fn listen(inputs: &Inputs) -> Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?;
        Ok(Self { hangup, seen: stamp(inputs.file.as_ref()) })
    }
}

impl Reloader {
    async fn run(self, Trigger { mut hangup, mut seen }: Trigger) {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        loop {
            let asked = tokio::select! {
                received = hangup.recv() => received.is_some(),
                _ = poll.tick() => false,
                () = self.live.closed() => return,
            };
            let now = stamp(self.inputs.file.as_ref());
            if asked || now != seen {
                seen = now;
                self.reload();
            }
        }
    }

    fn reload(&self) {
        let new = match self.inputs.load() {
            Ok(loaded) => loaded.config,
            Err(problems) => {
                self.reloads.count("invalid");
                tracing::error!(%problems, "the new configuration is not valid; the old one stays in force");
                return;
            }
        };
        let old = self.live.borrow().clone();
        let changes = old.changes(&new);
        let keys = |reload| -> Vec<String> {
            changes.iter().filter(|change| change.reload == reload).map(|change| change.key.clone()).collect()
        };
        let (applied, waiting) = (keys(Reload::Live), keys(Reload::Restart));
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "these changes take effect at the next start");
        }
        if applied.is_empty() {
            self.reloads.count("unchanged");
            return;
        }
        let merged = old.with_live(&new);
        self.settings.store(Arc::new(settings(&merged)));
        if let Some(tokens) = &self.tokens {
            tokens::reconfigure(tokens, &merged);
        }
        if let Err(error) = self.log.set_level(&merged.log.level) {
            tracing::error!(%error, "the log level stays as it is");
        }
        self.live.send_replace(merged);
        self.reloads.count("applied");
        tracing::info!(keys = applied.join(", "), "the configuration was reloaded");
    }
}
