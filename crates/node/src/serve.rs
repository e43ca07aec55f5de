//! `llm-node serve`: builds the parts, wires them, waits for signals.

mod backend;
pub(crate) mod certificates;
mod late;
mod listeners;
mod shutdown;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use auth::{ClientKeys, keys::Keyring};
use engine::{Backend, Readiness};
use jobs::{Jobs, JobsConfig, NewJob};
use protocol::{JobId, Subject};
use server::{
    App, Connections, ResponseStore, Sessions, Signatures,
    pipeline::{LOCAL, Parts, Pipeline, ReceiptSigner},
};
use store::{Store, StoreError};
use telemetry::Exposition;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cli::{Common, Serve},
    config::{Config, EngineKind, Inputs, Override},
    data_dir::{Addresses, DataDir},
    keys,
    logging::{self, LogHandle},
    progress::Steps,
    quickstart, reload, tokens,
};

/// Time that a download or digest gets to notice the end; then the process goes without it. What arrived is kept.
const BLOCKING_END_TIMEOUT: Duration = Duration::from_millis(200);

/// Runs the node until a signal ends it.
///
/// # Errors
/// What keeps it from starting, and what to do.
pub(crate) fn run(common: &Common, arguments: &Serve) -> Result<ExitCode> {
    let path = DataDir::locate(common.data_dir.clone())?;
    let inputs = Inputs::new(common.config_file(), &path, overrides(arguments));
    let loaded = inputs.load()?;
    let log = logging::init(&loaded.config.log)?;
    let dir = DataDir::open(&path)?;
    dir.probe()?;
    let _lock = dir.lock()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no runtime can be started; check the limits of processes and memory")?;
    let ended = runtime.block_on(serve(inputs, loaded.config, &dir, log, arguments.quickstart));
    // Dropping the runtime would wait for a blocking download, for as long as that takes.
    runtime.shutdown_timeout(BLOCKING_END_TIMEOUT);
    ended
}

fn overrides(arguments: &Serve) -> Vec<Override> {
    let flags = [
        ("server.listen", "--listen", &arguments.listen),
        ("admin.listen", "--admin-listen", &arguments.admin_listen),
        ("engine.model", "--model", &arguments.model),
    ];
    flags.into_iter().filter_map(|(key, flag, value)| Some(Override { key, flag, value: value.clone()? })).collect()
}

async fn serve(inputs: Inputs, config: Config, dir: &DataDir, log: LogHandle, quickstart: bool) -> Result<ExitCode> {
    // First of all: a signal during a download must end the process, not be lost; and SIGHUP must not end it.
    let mut signals = shutdown::Signals::listen()?;
    let trigger = reload::Trigger::listen(&inputs)?;
    let listeners = listeners::bind(&config).await?;
    let public = listeners.public.local_addr().context("the public listener has no address")?;
    let admin = listeners.admin.local_addr().context("the operators' listener has no address")?;

    let mut registry = telemetry::Registry::default();
    let metrics = server::Metrics::register(&mut registry, env!("CARGO_PKG_VERSION"));
    let engine_metrics = engine::Metrics::default();
    engine_metrics.register(&mut registry);
    let job_metrics = jobs::Metrics::register(&mut registry);
    let reloads = reload::Reloads::register(&mut registry);
    let certificates = certificates::Certificates::load(&config, &server::TlsMetrics::register(&mut registry))?;

    let keyring = keys::of_node(&config, dir, &mut registry)?;
    let store = Store::open(&dir.database())?;
    let token_metrics = auth::Metrics::register(&mut registry);
    let tokens = if config.auth.enabled {
        Some(Arc::new(tokens::of_node(&config, dir, store.clone(), keyring.clone(), token_metrics).await?))
    } else {
        None
    };
    let signatures = Signatures::new(ClientKeys::new(store.clone()).watched(), metrics.clone());
    let jobs = open_jobs(&config, store.clone(), job_metrics).await?;
    let (backend, started) = backend::begin(&config, dir, engine_metrics);

    let (drain, stop, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
    let settings = Arc::new(ArcSwap::from_pointee(reload::settings(&config)));
    if let Some(retention) = config.jobs.receipt_retention {
        tokio::spawn(stop.clone().run_until_cancelled_owned(jobs.forget_receipts(retention)));
    }
    let pipeline = Pipeline::new(Parts {
        tokens: tokens.clone(),
        signatures,
        receipts: receipt_signer(&keyring),
        jobs: jobs.clone(),
        backend: Arc::clone(&backend),
        settings: Arc::clone(&settings),
        metrics: metrics.clone(),
        drain: drain.clone(),
        stop: stop.clone(),
        tasks: tasks.clone(),
    });
    let sessions = Sessions::new(metrics.clone());
    tokio::spawn(sessions.clone().keep_lifetimes(Arc::clone(&settings), stop.clone()));
    let app = Arc::new(App {
        pipeline,
        settings: Arc::clone(&settings),
        keyring: keyring.clone(),
        connections: Connections::new(metrics.clone()),
        metrics,
        sessions: sessions.clone(),
        responses: ResponseStore::default(),
        drain,
        stop,
        tasks,
        exposition: Exposition::new(registry),
        started: Instant::now(),
    });
    certificates.watch(app.stop.clone())?;
    let tls = certificates.public.clone();
    let listening = listeners::serve(listeners, &app, &config, certificates);
    let announcement = dir.announce(&Addresses { public, admin, pid: std::process::id(), tls: tls.is_some() })?;
    tracing::info!(%public, %admin, tls = tls.is_some(), auth = config.auth.enabled, "listening");
    if config.server.behind_proxy && config.server.trusted_proxies.is_empty() {
        tracing::warn!(
            "server.behind_proxy is set and server.trusted_proxies is empty: all clients count as the proxy's one address"
        );
    }
    let kind = config.engine.kind;
    let live = reload::watch(inputs, trigger, config, settings, tokens.clone(), log, reloads);

    let ready = tokio::select! {
        ready = async {
            started.await?;
            until_ready(&*backend, kind).await
        } => ready.map(|()| true),
        () = signals.recv() => Ok(false),
    };
    let ended = match ready {
        Ok(true) => {
            let base = quickstart::base_url(public, tls.as_deref());
            let told = if quickstart { quickstart::print(&jobs, tokens.as_deref(), &base, dir).await } else { Ok(()) };
            if told.is_ok() {
                signals.recv().await;
            }
            told
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    shutdown::drain(&app, &*backend, live.borrow().server.drain_timeout, &mut signals, listening).await;
    drop(announcement);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Receipts are signed by whichever key is the active one at that moment.
fn receipt_signer(keyring: &Keyring) -> ReceiptSigner {
    let keys = keyring.clone();
    ReceiptSigner::new(keyring.node_id(), move || keys.signer())
}

async fn open_jobs(config: &Config, store: Store, metrics: jobs::Metrics) -> Result<Jobs> {
    let journal =
        JobsConfig { journal_tokens: config.jobs.journal_tokens, journal_interval: config.jobs.journal_interval };
    let jobs = Jobs::new(store, journal, metrics);
    let recovered = jobs.recover().await.context("what an earlier process left open cannot be settled")?;
    if recovered.reservations > 0 {
        tracing::warn!(
            requests = recovered.reservations,
            tokens = recovered.tokens,
            "an earlier process ended in the middle of answers; what they delivered is charged"
        );
    }
    if !config.auth.enabled {
        let local = NewJob {
            id: JobId::new(LOCAL).context("a valid id")?,
            owner: Subject::new(LOCAL).context("a valid id")?,
            model: None,
            max_tokens: i64::MAX as u64,
            created_at: jobs::now(),
            expires_at: None,
            signature_required: false,
        };
        match jobs.create(local).await {
            Ok(()) | Err(StoreError::Exists) => {}
            Err(error) => return Err(error.into()),
        }
        tracing::warn!("auth.enabled = false: everybody on this machine can use the node");
    }
    Ok(jobs)
}

/// Waits until the backend answers for the first time, and shows how it goes.
///
/// # Errors
/// Why the model cannot be loaded: a file that is broken now will not mend itself. An upstream that does not answer may
/// only be starting: it is waited for. Nor do later failures end the node; it keeps trying.
async fn until_ready(backend: &dyn Backend, kind: EngineKind) -> Result<()> {
    let mut readiness = backend.readiness();
    let steps = Steps::default();
    if kind == EngineKind::Embedded {
        steps.start_per_mille("loading the model");
    }
    let ended = loop {
        let now = readiness.borrow_and_update().clone();
        match now {
            Readiness::Preparing { .. } => {}
            Readiness::Starting { per_mille } => steps.set(u64::from(per_mille)),
            Readiness::Ready(models) => break Ok(models),
            Readiness::Failed(reason) if kind == EngineKind::Upstream => {
                tracing::warn!(reason, "no upstream answers yet; the node is not ready and keeps asking");
            }
            Readiness::Failed(reason) => break Err(anyhow!("the model cannot be served: {reason}")),
        }
        if readiness.changed().await.is_err() {
            break Err(anyhow!("the engine ended while the model was loading"));
        }
    };
    engine::models::Progress::finish(&steps);
    let models = ended?;
    let names: Vec<&str> = models.models.iter().map(|model| model.name.as_str()).collect();
    tracing::info!(models = names.join(", "), "ready");
    Ok(())
}
