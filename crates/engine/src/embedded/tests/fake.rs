use std::io;

use engine_ipc::{
    Event, FromWorker, GpuConfig, ModelInfo, SequenceEvent, StepStats, Submit, ToWorker, Token, decode, encode,
};
use protocol::{
    RequestId, TenantId,
    inference::{InferenceRequest, Usage},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{
    super::launch::{Launch, Launched},
    *,
};

const PIPE_BYTES: usize = 1 << 20;

/// Starts workers that the test plays.
struct Launcher {
    workers: Option<mpsc::UnboundedSender<FakeWorker>>,
}

impl Launch for Launcher {
    fn launch(&mut self) -> io::Result<Launched> {
        let workers = self.workers.as_ref().ok_or_else(|| io::Error::other("no program"))?;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let _ = workers.send(FakeWorker { stream: theirs });
        let (reader, writer) = tokio::io::split(ours);
        Ok(Launched { reader: Box::new(reader), writer: Box::new(writer), child: None })
    }
}

/// A backend and the workers that it starts.
pub(super) struct Harness {
    pub(super) backend: Embedded,
    pub(super) metrics: Metrics,
    workers: mpsc::UnboundedReceiver<FakeWorker>,
}

impl Harness {
    pub(super) fn start(change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let (sender, workers) = mpsc::unbounded_channel();
        Self::with(Launcher { workers: Some(sender) }, workers, change)
    }

    pub(super) fn without_program() -> Self {
        let (_sender, workers) = mpsc::unbounded_channel();
        Self::with(Launcher { workers: None }, workers, |_| {})
    }

    fn with(
        launcher: Launcher,
        workers: mpsc::UnboundedReceiver<FakeWorker>,
        change: impl FnOnce(&mut EmbeddedConfig),
    ) -> Self {
        let worker = WorkerConfig {
            model: "x.gguf".into(),
            sequences: 16,
            context_tokens: 0,
            batch_tokens: 512,
            queue_max: 64,
            threads: 1,
            prefix_cache: true,
            gpu: GpuConfig::default(),
            chat_template: None,
            memory_bytes: None,
        };
        let mut config = EmbeddedConfig::new(WorkerCommand { program: "unused".into(), args: vec![] }, worker);
        change(&mut config);
        let metrics = Metrics::default();
        Self { backend: Embedded::start_with(launcher, config, metrics.clone()), metrics, workers }
    }

    pub(super) async fn next_worker(&mut self) -> FakeWorker {
        self.workers.recv().await.expect("the launcher lives")
    }

    /// Resolves when no worker will ever be started again.
    pub(super) async fn no_more_workers(&mut self) {
        assert!(self.workers.recv().await.is_none(), "another worker was started");
    }

    pub(super) async fn next_ready_worker(&mut self) -> FakeWorker {
        let mut worker = self.next_worker().await;
        assert!(matches!(worker.receive().await, ToWorker::Configure(_)));
        worker.send(FromWorker::Ready(Box::new(model()))).await;
        self.until_ready().await;
        worker
    }

    pub(super) async fn until_readiness(&self, is_it: impl FnMut(&Readiness) -> bool) -> Readiness {
        self.backend.readiness().wait_for(is_it).await.expect("the supervisor lives").clone()
    }

    pub(super) async fn until_ready(&self) -> Readiness {
        self.until_readiness(|readiness| matches!(readiness, Readiness::Ready(_))).await
    }
}

/// The worker's end of the pipe. Dropping it is `kill -9`.
pub(super) struct FakeWorker {
    stream: DuplexStream,
}

impl FakeWorker {
    pub(super) async fn receive(&mut self) -> ToWorker {
        let length = self.stream.read_u32_le().await.expect("a frame");
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).await.expect("a whole frame");
        decode(&body).expect("a valid frame")
    }

    /// The next frame that is no ping.
    pub(super) async fn receive_work(&mut self) -> ToWorker {
        loop {
            match self.receive().await {
                ToWorker::Ping(_) => {}
                frame => return frame,
            }
        }
    }

    pub(super) async fn next_submit(&mut self) -> Submit {
        loop {
            match self.receive_work().await {
                ToWorker::Submit(submit) => return *submit,
                ToWorker::Configure(_) => {}
                other => panic!("a submission, not {other:?}"),
            }
        }
    }

    pub(super) async fn send(&mut self, frame: FromWorker) {
        self.send_bytes(&encode(&frame).expect("encodes")).await;
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the supervisor reads");
    }

    pub(super) async fn step(&mut self, events: Vec<(WorkerId, Event)>) {
        let events = events.into_iter().map(|(id, event)| SequenceEvent { id, event }).collect();
        self.send(FromWorker::Step { events, stats: StepStats::default() }).await;
    }

    pub(super) async fn event(&mut self, id: WorkerId, event: Event) {
        self.step(vec![(id, event)]).await;
    }

    pub(super) async fn admit(&mut self, id: WorkerId, prompt_tokens: u32, cached_tokens: u32) {
        let admitted =
            Event::Admitted { prompt_tokens, cached_tokens, trimmed_messages: 0, starts_in_reasoning: false };
        self.event(id, admitted).await;
    }

    pub(super) async fn token(&mut self, id: WorkerId, id_in_vocabulary: Token, text: &str) {
        self.event(id, token(id_in_vocabulary, text)).await;
    }
}

pub(super) fn token(token: Token, text: &str) -> Event {
    Event::Token { token, bytes: text.into(), logprob: None }
}

pub(super) fn model() -> ModelInfo {
    ModelInfo {
        name: "fake".into(),
        architecture: "llama".into(),
        parameters: 1,
        size_bytes: 1,
        context_tokens: 2048,
        trained_context_tokens: 2048,
        vocabulary: 100,
        sequences: 16,
        reasoning_tags: None,
        has_chat_template: true,
        system: String::new(),
    }
}

pub(super) fn request(max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        request_id: RequestId::new("request").expect("valid"),
        tenant: TenantId::new("tenant").expect("valid"),
        inference: InferenceRequest::new("default", Prompt::Text("Once".into())),
        max_tokens,
        deadline: None,
        cancel: CancellationToken::new(),
    }
}

/// All that one generation reported.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) started: u32,
    pub(super) text: String,
    pub(super) reasoning: String,
    pub(super) tokens: u32,
    pub(super) end: Option<GenerationEvent>,
}

impl Answer {
    pub(super) fn usage(&self) -> Usage {
        match &self.end {
            Some(GenerationEvent::Finished { usage, .. }) => *usage,
            other => panic!("finished, not {other:?}"),
        }
    }
}

pub(super) async fn collect(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = generation.next().await {
        match event {
            GenerationEvent::Started { .. } => answer.started += 1,
            GenerationEvent::Delta(delta) => {
                answer.text.push_str(&delta.text);
                answer.reasoning.push_str(&delta.reasoning);
                answer.tokens += delta.tokens;
            }
            end => answer.end = Some(end),
        }
    }
    answer
}
