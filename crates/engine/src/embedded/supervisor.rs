mod deaths;
mod handover;

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use engine_ipc::{Event, FromWorker, ModelInfo, Refusal, SequenceEvent, StepStats, ToWorker, WorkerId};
use futures_util::{StreamExt, stream::FuturesUnordered};
use protocol::inference::FinishReason;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::deaths::Death;
use super::{
    Command, EmbeddedConfig,
    failures::Failures,
    launch::Launch,
    link::Link,
    live::{Interrupt, Live, Stage},
    suspects::Suspects,
};
use crate::{
    Metrics,
    assembler::Flow,
    backend::{BackendError, Readiness, ServedModel, ServedModels},
};

type Interrupts = FuturesUnordered<Pin<Box<dyn Future<Output = (WorkerId, Option<Interrupt>)> + Send>>>;

/// Frames that may wait for the worker beyond one submission of each live request: cancellations, and requests that
/// come and go faster than the socket takes them.
const OUTGOING_SLACK_FRAMES: usize = 1024;

/// Owns the worker and every live request. See the module essay of [`crate::embedded`].
pub(super) struct Supervisor {
    config: EmbeddedConfig,
    metrics: Metrics,
    launcher: Box<dyn Launch>,
    commands: mpsc::Receiver<Command>,
    readiness: watch::Sender<Readiness>,
    stop: CancellationToken,
    live: HashMap<WorkerId, Live>,
    /// Of those, who may have crashed a worker.
    suspects: Suspects,
    /// The worker that just died; it is buried before anything else happens.
    death: Option<Death>,
    interrupts: Interrupts,
    link: Option<Link>,
    model: Option<ModelInfo>,
    /// Why new requests are refused; `None` when they are taken (though perhaps they wait for the next worker).
    refusal: Option<String>,
    failures: Failures,
    /// When the next worker is started, while there is none.
    restart_at: Instant,
    /// Since when no worker is ready.
    down_since: Instant,
    /// The present worker's running totals, to count only what is new.
    totals: StepStats,
}

impl Supervisor {
    pub(super) fn new(
        config: EmbeddedConfig,
        metrics: Metrics,
        launcher: Box<dyn Launch>,
        commands: mpsc::Receiver<Command>,
        readiness: watch::Sender<Readiness>,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            metrics,
            launcher,
            commands,
            readiness,
            stop,
            live: HashMap::new(),
            suspects: Suspects::default(),
            death: None,
            interrupts: FuturesUnordered::new(),
            link: None,
            model: None,
            refusal: Some("the model is still loading".into()),
            failures: Failures::default(),
            restart_at: now,
            down_since: now,
            totals: StepStats::default(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let timer = self.next_timer();
            // Every branch is cancel-safe: channel receivers, a stream of futures that it keeps, a timer.
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some((id, interrupt)) = self.interrupts.next(), if !self.interrupts.is_empty() => {
                    if let Some(interrupt) = interrupt {
                        self.interrupt(id, interrupt);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.accept(command),
                    None => break,
                },
                frame = receive(self.link.as_mut()) => match frame {
                    Some(Ok(frame)) => self.handle(frame),
                    Some(Err(error)) if !error.is_closed() => self.worker_failed(error.to_string()),
                    Some(Err(_)) | None => self.worker_ended(),
                },
                () = tokio::time::sleep_until(timer) => self.on_timer(),
            }
            if let Some(death) = self.death.take() {
                self.bury(death).await;
            }
            self.publish_gauges();
        }
        self.shut_down().await;
    }

    fn is_ready(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.ready_at.is_some())
    }

    fn silence_max(&self) -> Duration {
        if self.is_ready() { self.config.silence_max } else { self.config.load_silence_max }
    }

    /// When something is due that no event announces.
    fn next_timer(&self) -> Instant {
        let mut timer = match &self.link {
            None => self.restart_at,
            Some(link) => link.heard_at + self.silence_max(),
        };
        if let Some(link) = self.link.as_ref().filter(|link| link.ready_at.is_some()) {
            timer = timer.min(link.ping_at);
        }
        if !self.is_ready() && self.refusal.is_none() {
            timer = timer.min(self.down_since + self.config.restart_wait_max);
        }
        timer
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        if !self.is_ready() && self.refusal.is_none() && now >= self.down_since + self.config.restart_wait_max {
            let seconds = self.config.restart_wait_max.as_secs();
            self.refuse(format!("no worker became ready within {seconds} s"));
        }
        let silence_max = self.silence_max();
        match &mut self.link {
            None if now >= self.restart_at => self.start_worker(),
            Some(link) if now >= link.heard_at + silence_max => {
                self.worker_failed(format!(
                    "the worker was silent for {} s and is taken for hung",
                    silence_max.as_secs()
                ));
            }
            Some(link) if link.ready_at.is_some() && now >= link.ping_at => {
                link.ping_at = now + self.config.ping_interval;
                self.send(ToWorker::Ping(0));
            }
            _ => {}
        }
    }

    fn start_worker(&mut self) {
        if self.failures.consecutive() > 0 {
            self.metrics.worker_restarts.inc();
        }
        self.totals = StepStats::default();
        match self.launcher.launch() {
            Ok(launched) => {
                self.link = Some(Link::new(launched, self.config.live_max().saturating_add(OUTGOING_SLACK_FRAMES)));
                let mut worker = self.config.worker.clone();
                // The engine enforces the limit. After a restart all live requests arrive before any has a sequence, so
                // the worker's own limit must hold them all.
                worker.queue_max = u32::try_from(self.config.live_max()).unwrap_or(u32::MAX);
                worker.memory_bytes = crate::memory::available_memory();
                self.send(ToWorker::Configure(Box::new(worker)));
            }
            Err(error) => self.worker_failed(format!("the worker cannot be started: {error}")),
        }
    }

    fn handle(&mut self, frame: FromWorker) {
        if let Some(link) = &mut self.link {
            link.heard_at = Instant::now();
        }
        match frame {
            FromWorker::Loading { per_mille } => {
                if !matches!(*self.readiness.borrow(), Readiness::Failed(_)) {
                    self.readiness.send_replace(Readiness::Starting { per_mille: per_mille.min(1000) });
                }
            }
            FromWorker::Ready(model) => self.on_ready(*model),
            FromWorker::LoadFailed { reason } => {
                self.refuse(reason.clone());
                self.worker_failed(format!("the model cannot be loaded: {reason}"));
            }
            FromWorker::Step { events, stats } => self.on_step(events, stats),
            FromWorker::Pong(_) => {}
        }
    }

    fn on_ready(&mut self, model: ModelInfo) {
        let Some(link) = &mut self.link else { return };
        let now = Instant::now();
        link.ready_at = Some(now);
        link.ping_at = now + self.config.ping_interval;
        self.refusal = None;
        tracing::info!(
            model = %model.name, architecture = %model.architecture, parameters = model.parameters,
            context_tokens = model.context_tokens, sequences = model.sequences, system = %model.system, "model loaded"
        );
        let served = ServedModel {
            name: self.config.model_name.clone().unwrap_or_else(|| model.name.clone()),
            context_tokens: Some(model.context_tokens),
            digest: self.config.model_digest.clone(),
        };
        self.model = Some(model);
        self.readiness.send_replace(Readiness::Ready(Arc::new(ServedModels { models: vec![served] })));
        if !self.live.is_empty() {
            tracing::info!(requests = self.live.len(), "handing live requests to the new worker");
        }
        self.hand_over();
    }

    fn send(&mut self, frame: ToWorker) {
        if self.link.as_ref().is_some_and(|link| link.send(frame).is_err()) {
            self.worker_failed("the worker does not read its socket and is taken for hung".into());
        }
    }

    fn accept(&mut self, command: Command) {
        let Command { live, accepted } = command;
        let answer = if let Some(reason) = &self.refusal {
            Err(BackendError::Unavailable(reason.clone()))
        } else if self.live.len() >= self.config.live_max() {
            self.metrics.refused.inc();
            Err(BackendError::Overloaded { queue_max: self.config.worker.queue_max })
        } else {
            Ok(())
        };
        if accepted.send(answer.clone()).is_err() || answer.is_err() {
            return;
        }
        let id = live.id();
        self.interrupts.push(Box::pin(live.interrupted()));
        self.live.insert(id, *live);
        if self.is_ready() && self.suspects.is_empty() {
            self.submit(id);
        }
    }

    fn interrupt(&mut self, id: WorkerId, interrupt: Interrupt) {
        let Some(live) = self.remove(id) else { return };
        match interrupt {
            Interrupt::Cancelled => self.metrics.cancelled.inc(),
            Interrupt::Deadline => self.metrics.timed_out.inc(),
        };
        live.interrupt(interrupt);
        self.cancel(id);
    }

    /// A loading worker has no requests and does not read its socket yet.
    fn cancel(&mut self, id: WorkerId) {
        if self.is_ready() {
            self.send(ToWorker::Cancel(id));
        }
    }

    fn on_step(&mut self, events: Vec<SequenceEvent>, stats: StepStats) {
        self.observe(&stats);
        let mut touched = HashSet::new();
        let mut unadmitted = false;
        for SequenceEvent { id, event } in events {
            // Events of a request that was just cancelled still arrive: they are of nobody.
            let Some(live) = self.live.get_mut(&id) else { continue };
            match event {
                Event::Prepared => self.reached(id, Stage::Queued),
                Event::Admitted { prompt_tokens, cached_tokens, trimmed_messages, starts_in_reasoning } => {
                    let model = self.model.as_ref();
                    if live.admitted(model, prompt_tokens, cached_tokens, trimmed_messages, starts_in_reasoning) {
                        self.metrics.prompt.inc_by(prompt_tokens.into());
                    }
                    self.reached(id, Stage::Running);
                }
                Event::Token { token, bytes, logprob } => {
                    self.metrics.generated.inc();
                    touched.insert(id);
                    match live.token(token, &bytes, logprob.map(|logprob| *logprob)) {
                        Some(Flow::Continue) => {}
                        Some(Flow::Stopped) => {
                            self.finish(id, FinishReason::Stop);
                            self.cancel(id);
                        }
                        None => unadmitted = true,
                    }
                    if self.suspects.remove(id) {
                        self.hand_over();
                    }
                }
                Event::Finished(reason) => self.finish(id, reason),
                Event::Refused(refusal) => {
                    if let Some(live) = self.remove(id) {
                        live.fail(refused(refusal));
                    }
                }
            }
        }
        for id in touched {
            if let Some(live) = self.live.get_mut(&id) {
                live.flush();
            }
        }
        if unadmitted {
            self.worker_failed("the worker sent a token before it admitted the request".into());
        }
    }

    fn finish(&mut self, id: WorkerId, reason: FinishReason) {
        if let Some(live) = self.remove(id) {
            live.finish(reason);
        }
    }

    fn observe(&mut self, stats: &StepStats) {
        let metrics = &self.metrics;
        metrics.kv_used.set(stats.kv_used_tokens.into());
        metrics.kv_capacity.set(stats.kv_capacity_tokens.into());
        metrics.active.set(stats.active.into());
        metrics.queued.set(stats.queued.into());
        if stats.decode_tokens + stats.prefill_tokens > 0 {
            metrics.batch.observe(f64::from(stats.decode_tokens) + f64::from(stats.prefill_tokens));
            metrics.step.observe(f64::from(stats.step_us) / 1e6);
            metrics.decode.inc_by(f64::from(stats.decode_us) / 1e6);
        }
        let new = |now: u64, before: u64| now.saturating_sub(before);
        metrics.prefix_cache_hits.inc_by(new(stats.cache_hit_tokens_total, self.totals.cache_hit_tokens_total));
        metrics.prefix_cache_evictions.inc_by(new(stats.cache_evictions_total, self.totals.cache_evictions_total));
        self.totals = *stats;
    }

    /// What the worker's last step cannot tell: between steps and between workers the live requests are the truth.
    fn publish_gauges(&self) {
        self.metrics.ready.set(self.is_ready().into());
        if !self.is_ready() || self.live.is_empty() {
            self.metrics.active.set(0);
            self.metrics.queued.set(i64::try_from(self.live.len()).unwrap_or(i64::MAX));
        }
    }

    async fn shut_down(mut self) {
        self.commands.close();
        self.refuse("the engine is shutting down".into());
        if let Some(link) = self.link.take() {
            link.shut_down(self.config.shutdown_grace).await;
        }
    }
}

async fn receive(link: Option<&mut Link>) -> Option<Result<FromWorker, engine_ipc::FrameError>> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

fn refused(refusal: Refusal) -> BackendError {
    match refusal {
        Refusal::ContextTooLarge { prompt_tokens, context_tokens } => {
            BackendError::ContextTooLarge { prompt_tokens, context_tokens }
        }
        Refusal::Invalid { param, message } => BackendError::Invalid { param, message },
        Refusal::QueueFull { queue_max } => BackendError::Overloaded { queue_max },
        Refusal::Internal { detail } => BackendError::Internal(detail),
    }
}
