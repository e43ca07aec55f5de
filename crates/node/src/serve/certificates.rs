//! The certificates of both listeners: loaded at start, and again when their files change or SIGHUP comes.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration, time::SystemTime};

use anyhow::{Context as _, Result};
use server::{
    Tls, TlsMetrics,
    tls::{ClientAuth, TlsError, TlsFiles},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Problem, Problems, TlsClientAuth};

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// From so many days before its end, every reload and start warns of a certificate.
const WARN_DAYS: i64 = 14;

/// The files of both listeners; `None` where one has no TLS.
pub(crate) fn files(config: &Config) -> (Option<TlsFiles>, Option<TlsFiles>) {
    let files = |cert: &Option<PathBuf>, key: &Option<PathBuf>, client_ca: &Option<PathBuf>, mode: TlsClientAuth| {
        Some(TlsFiles {
            certificate: cert.clone()?,
            key: key.clone()?,
            client_ca: client_ca.clone(),
            client_auth: match mode {
                TlsClientAuth::Required => ClientAuth::Required,
                TlsClientAuth::Optional => ClientAuth::Optional,
            },
        })
    };
    let (server, admin) = (&config.server, &config.admin);
    (
        files(&server.tls_cert, &server.tls_key, &server.tls_client_ca, server.tls_client_auth),
        files(&admin.tls_cert, &admin.tls_key, &admin.tls_client_ca, admin.tls_client_auth),
    )
}

/// What the listeners present.
pub(super) struct Certificates {
    pub(super) public: Option<Arc<Tls>>,
    pub(super) admin: Option<Arc<Tls>>,
}

impl Certificates {
    /// Reads all files.
    ///
    /// # Errors
    /// [`Problems`]: everything that is wrong with any of them.
    pub(super) fn load(config: &Config, metrics: &TlsMetrics) -> Result<Self, Problems> {
        let (public, admin) = files(config);
        let mut problems = Vec::new();
        let mut load = |listener, section, files: Option<TlsFiles>| {
            let files = files?;
            match Tls::load(listener, files.clone(), metrics) {
                Ok(tls) => {
                    tell(&tls);
                    Some(Arc::new(tls))
                }
                Err(error) => {
                    let key = format!("{section}.{}", blamed(&error, &files));
                    problems.push(Problem::other(&key, None, error.to_string()));
                    None
                }
            }
        };
        let certificates = Self { public: load("public", "server", public), admin: load("admin", "admin", admin) };
        if problems.is_empty() { Ok(certificates) } else { Err(Problems(problems)) }
    }

    /// Starts the task that follows the files until `stop`.
    ///
    /// # Errors
    /// When SIGHUP cannot be listened for.
    pub(super) fn watch(&self, stop: CancellationToken) -> Result<()> {
        let hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be listened for")?;
        let watched: Vec<_> = [&self.public, &self.admin].into_iter().flatten().cloned().map(Watched::new).collect();
        if !watched.is_empty() {
            tokio::spawn(watch(watched, hangup, stop));
        }
        Ok(())
    }
}

/// The key of the file that an error is about.
fn blamed(error: &TlsError, files: &TlsFiles) -> &'static str {
    let path = match error {
        TlsError::Read { path, .. }
        | TlsError::TooLarge { path, .. }
        | TlsError::NoCertificate { path, .. }
        | TlsError::Key { path, .. }
        | TlsError::Ended { path } => path,
        TlsError::NoPair { key, .. } => key,
    };
    if *path == files.key && matches!(error, TlsError::Key { .. } | TlsError::NoPair { .. } | TlsError::Read { .. }) {
        "tls_key"
    } else if Some(path) == files.client_ca.as_ref() {
        "tls_client_ca"
    } else {
        "tls_cert"
    }
}

fn tell(tls: &Tls) {
    let (certificate, listener) = (tls.certificate(), tls.listener());
    let (names, days) = (certificate.names.join(", "), certificate.days_left(now_secs()));
    if certificate.has_ended(now_secs()) {
        tracing::error!(listener, names, days, "the certificate has ended: clients refuse it; replace its file");
    } else if days < WARN_DAYS {
        tracing::warn!(listener, names, days, "the certificate ends soon; replace its file");
    } else {
        tracing::info!(listener, names, days, "certificate loaded");
    }
}

fn now_secs() -> i64 {
    i64::try_from(jobs::now()).unwrap_or(i64::MAX)
}

/// What tells that a file is another one.
type Stamp = Option<(SystemTime, u64, u64)>;

struct Watched {
    tls: Arc<Tls>,
    /// The files as they were loaded, or as they were refused.
    taken: Vec<Stamp>,
    /// As they were when last looked at.
    seen: Vec<Stamp>,
}

impl Watched {
    fn new(tls: Arc<Tls>) -> Self {
        let now = stamps(&tls);
        Self { tls, taken: now.clone(), seen: now }
    }

    /// Whether the files changed and have been still since the last look: a certificate and its key are two files, and
    /// whoever replaces them needs a moment between.
    fn is_due(&mut self) -> bool {
        let now = stamps(&self.tls);
        let still = now == self.seen;
        self.seen = now;
        still && self.seen != self.taken
    }

    fn reload(&mut self) {
        self.taken = stamps(&self.tls);
        match self.tls.reload() {
            Ok(_) => tell(&self.tls),
            Err(error) => {
                let listener = self.tls.listener();
                tracing::error!(listener, %error, "the new certificate is not taken; the old one stays in force");
            }
        }
    }
}

fn stamps(tls: &Tls) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    tls.files().paths().map(stamp).collect()
}

async fn watch(mut watched: Vec<Watched>, mut hangup: Signal, stop: CancellationToken) {
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    loop {
        let asked = tokio::select! {
            received = hangup.recv() => received.is_some(),
            _ = poll.tick() => false,
            () = stop.cancelled() => return,
        };
        for one in &mut watched {
            if asked || one.is_due() {
                one.reload();
            }
        }
    }
}
