//! Plays the engine's part.

use std::{env, os::unix::net::UnixStream, path::PathBuf, thread, time::Duration};

use engine_ipc::{
    Event, FromWorker, GpuConfig, ModelInfo, Refusal, StepStats, Submit, ToWorker, Token, WorkerConfig, WorkerId,
    read_frame, write_frame,
};
use llama_worker::WorkerError;
use protocol::{
    TenantId,
    inference::{FinishReason, Message, Prompt, ResponseFormat, Role, Sampling, TokenLogprob},
};

/// How long a frame may take; a machine that is busy with builds is slow.
const FRAME_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn model() -> PathBuf {
    env::var_os("LLM_NODE_TEST_MODEL").expect("set LLM_NODE_TEST_MODEL to a GGUF file, or use `make test`").into()
}

pub(crate) fn config() -> WorkerConfig {
    WorkerConfig {
        model: model(),
        sequences: 4,
        context_tokens: 512,
        batch_tokens: 64,
        queue_max: 8,
        // More would spin against the other tests' threads.
        threads: 1,
        prefix_cache: true,
        gpu: GpuConfig::default(),
        chat_template: None,
        memory_bytes: None,
    }
}

pub(crate) fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..Sampling::default() }
}

pub(crate) fn chat(turns: &[(Role, &str)]) -> Prompt {
    let messages =
        turns.iter().map(|(role, content)| Message { role: *role, content: (*content).to_owned() }).collect();
    Prompt::Chat { messages, trim_oldest: false }
}

pub(crate) fn ask(text: &str) -> Prompt {
    chat(&[(Role::User, text)])
}

/// What became of one request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) trimmed_messages: u32,
    pub(crate) tokens: Vec<Token>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) finished: Option<FinishReason>,
    pub(crate) refused: Option<Refusal>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Prepared => {}
            Event::Admitted { prompt_tokens, cached_tokens, trimmed_messages, .. } => {
                (self.prompt_tokens, self.cached_tokens) = (prompt_tokens, cached_tokens);
                self.trimmed_messages = trimmed_messages;
            }
            Event::Token { token, bytes, logprob } => {
                self.tokens.push(token);
                self.bytes.extend(bytes);
                self.logprobs.extend(logprob.map(|logprob| *logprob));
            }
            Event::Finished(reason) => self.finished = Some(reason),
            Event::Refused(refusal) => self.refused = Some(refusal),
        }
    }
}

pub(crate) struct Worker {
    pub(crate) socket: UnixStream,
    thread: thread::JoinHandle<Result<(), WorkerError>>,
    pub(crate) info: ModelInfo,
    next_id: u64,
}

impl Worker {
    pub(crate) fn start(config: WorkerConfig) -> Self {
        Self::try_start(config).unwrap_or_else(|reason| panic!("the model must load: {reason}"))
    }

    /// The reason where the model cannot be loaded.
    pub(crate) fn try_start(config: WorkerConfig) -> Result<Self, String> {
        let (mut socket, end) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(FRAME_TIMEOUT)).unwrap();
        let thread = thread::spawn(move || llama_worker::run(end));
        write_frame(&mut socket, &ToWorker::Configure(Box::new(config))).unwrap();
        loop {
            match read_frame(&mut socket).unwrap() {
                FromWorker::Loading { per_mille } => assert!(per_mille <= 1000),
                FromWorker::Ready(info) => return Ok(Self { socket, thread, info: *info, next_id: 0 }),
                FromWorker::LoadFailed { reason } => {
                    assert!(thread.join().unwrap().is_err(), "and the worker says so to its caller");
                    return Err(reason);
                }
                other => panic!("nothing else comes before Ready: {other:?}"),
            }
        }
    }

    pub(crate) fn send(&mut self, frame: &ToWorker) {
        write_frame(&mut self.socket, frame).unwrap();
    }

    pub(crate) fn submit(&mut self, tenant: &str, prompt: Prompt, change: impl FnOnce(&mut Submit)) -> WorkerId {
        self.next_id += 1;
        let id = WorkerId(self.next_id);
        let mut submit = Submit {
            id,
            tenant: TenantId::new(tenant).unwrap(),
            prompt,
            generated: Vec::new(),
            max_tokens: 16,
            sampling: greedy(),
            seed: 7,
            response_format: ResponseFormat::Text,
            logprobs: None,
        };
        change(&mut submit);
        self.send(&ToWorker::Submit(Box::new(submit)));
        id
    }

    pub(crate) fn frame(&mut self) -> FromWorker {
        read_frame(&mut self.socket).unwrap()
    }

    /// The next step's events of `id`, and the state after it.
    pub(crate) fn step(&mut self, id: WorkerId, answer: &mut Answer) -> StepStats {
        match self.frame() {
            FromWorker::Step { events, stats } => {
                for event in events.into_iter().filter(|event| event.id == id) {
                    answer.take(event.event);
                }
                stats
            }
            other => panic!("only steps are expected: {other:?}"),
        }
    }

    pub(crate) fn wait(&mut self, id: WorkerId) -> Answer {
        let mut answer = Answer::default();
        while answer.finished.is_none() && answer.refused.is_none() {
            self.step(id, &mut answer);
        }
        answer
    }

    pub(crate) fn answer(&mut self, tenant: &str, prompt: Prompt, change: impl FnOnce(&mut Submit)) -> Answer {
        let id = self.submit(tenant, prompt, change);
        self.wait(id)
    }

    /// Proves that the worker lives, and ends it.
    pub(crate) fn stop(mut self) {
        self.send(&ToWorker::Ping(42));
        while !matches!(self.frame(), FromWorker::Pong(42)) {}
        self.send(&ToWorker::Shutdown);
        self.thread.join().unwrap().unwrap();
    }

    /// Goes away as a dead engine does.
    pub(crate) fn abandon(self) -> Result<(), WorkerError> {
        drop(self.socket);
        self.thread.join().unwrap()
    }
}
