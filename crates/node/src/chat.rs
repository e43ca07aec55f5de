//! `llm-node chat`: a conversation in the terminal.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use client::{
    Answer, AnswerEvent, Client, ClientError, ConnectOptions, Identity, PromptOptions, SecretKey, Session,
    SessionOptions, Signer, Tls, TokenRequest, Trust,
};
use jobs::{Jobs, JobsConfig};
use rustyline::{DefaultEditor, error::ReadlineError};
use store::Store;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::{
    cli::{Chat, Common},
    config::Inputs,
    data_dir::DataDir,
    output, quickstart, tokens,
};

const HELP: &str = "\
/new            forget the conversation
/system TEXT    begin anew with these instructions
/help           this
/exit           leave (as Ctrl-D)
Ctrl-C          stop the answer; at an empty prompt, leave";

/// Lines of history that are kept.
const HISTORY_LINES_MAX: usize = 1000;

pub(crate) fn run(common: &Common, arguments: Chat) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime can be started")?;
    let Reached { url, token, certificate } = runtime.block_on(reach(common, &arguments))?;
    let mut options = ConnectOptions::default();
    let has_token = token.is_some();
    if let Some(token) = token {
        options = options.token(token);
    }
    if let Some(tls) = tls(&arguments, certificate)? {
        options = options.tls(tls);
    }
    if let Some(path) = &arguments.key {
        let signer = read_key(path)?;
        if !has_token {
            let wish = TokenRequest { job_id: arguments.job.as_ref().map(ToString::to_string), expires_in: None };
            let bound = runtime
                .block_on(client::exchange(&url, &signer, &wish, &options))
                .with_context(|| format!("{url} gives no token for the key {}", signer.public_key().to_hex()))?;
            options = options.token(bound.token);
        }
        options = options.signer(signer);
    }
    let client = runtime
        .block_on(Client::connect_with(&url, &options))
        .with_context(|| format!("{url} cannot be reached as a node"))?;
    let conversation = Conversation {
        options: PromptOptions {
            model: arguments.model,
            max_tokens: arguments.max_tokens,
            temperature: arguments.temperature,
        },
        system: arguments.system,
        sessions: 0,
        session: None,
        client,
        runtime,
    };
    conversation.run(&url, common)
}

/// A node, and what to show it.
struct Reached {
    url: String,
    token: Option<String>,
    /// The file of the certificate that it has, where that is at hand.
    certificate: Option<PathBuf>,
}

/// As told, else the node of the data directory and a token of it.
async fn reach(common: &Common, arguments: &Chat) -> Result<Reached> {
    let given =
        arguments.token.clone().or_else(|| std::env::var("LLM_NODE_TOKEN").ok().filter(|token| !token.is_empty()));
    if let Some(url) = &arguments.url {
        return Ok(Reached { url: url.clone(), token: given, certificate: None });
    }
    let path = DataDir::locate(common.data_dir.clone())?;
    let config = Inputs::new(common.config_file(), &path, Vec::new()).load()?.config;
    let dir = DataDir::open(&path)?;
    let Some(addresses) = dir.addresses() else {
        bail!("no node runs on {}: start one with `llm-node serve`, or name one with --url", dir.path().display());
    };
    let scheme = if addresses.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}", addresses.public);
    // Its certificate is for other names than this address: it is known by its file.
    let certificate = config.server.tls_cert.clone().filter(|_| addresses.tls);
    if given.is_some() || arguments.key.is_some() || !config.auth.enabled {
        return Ok(Reached { url, token: given, certificate });
    }
    let tokens = tokens::service(&config, &dir)?;
    let jobs = Jobs::new(Store::open(&dir.database())?, JobsConfig::default(), jobs::Metrics::default());
    let (token, _) = quickstart::token(&jobs, &tokens).await?;
    Ok(Reached { url, token: Some(token), certificate })
}

/// The private key of a file.
fn read_key(path: &Path) -> Result<Arc<dyn Signer>> {
    let pem =
        Zeroizing::new(std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?);
    let key = SecretKey::from_pkcs8_pem(&pem).with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(Arc::new(key))
}

/// How to connect by TLS, where that is not as usual: by authorities that were named, or by the one certificate.
fn tls(arguments: &Chat, certificate: Option<PathBuf>) -> Result<Option<Tls>> {
    let read = |path: &Option<PathBuf>| {
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        path.as_ref().map(read).transpose()
    };
    let (authorities, certificate) = (read(&arguments.ca_file)?, read(&certificate)?);
    let identity = (read(&arguments.client_cert)?, read(&arguments.client_key)?);
    if authorities.is_none() && certificate.is_none() && identity.0.is_none() {
        return Ok(None);
    }
    let trust = match (&authorities, &certificate) {
        (Some(pem), _) => Trust::Authorities(pem),
        (None, Some(pem)) => Trust::Certificate(pem),
        (None, None) => Trust::PublicAuthorities,
    };
    let identity = match &identity {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        _ => None,
    };
    Ok(Some(Tls::new(trust, identity)?))
}

struct Conversation {
    runtime: Runtime,
    client: Client,
    options: PromptOptions,
    system: Option<String>,
    /// Sessions opened so far; each is a fresh conversation.
    sessions: u32,
    session: Option<Session>,
}

impl Conversation {
    fn run(mut self, url: &str, common: &Common) -> Result<ExitCode> {
        let mut editor = DefaultEditor::new().context("the terminal cannot be used")?;
        let history = DataDir::locate(common.data_dir.clone()).ok().map(|dir| dir.join("chat-history"));
        if let Some(history) = &history {
            // The first chat has none.
            let _ = editor.load_history(history);
        }
        let interactive = std::io::stdin().is_terminal();
        if interactive {
            output::complain(&format!("connected to {url}; /help lists the commands"));
        }
        let mut failed = false;
        loop {
            match editor.readline(if interactive { "> " } else { "" }) {
                Ok(line) => {
                    let line = line.trim();
                    if line.is_empty() {
                        continue;
                    }
                    let _ = editor.add_history_entry(line);
                    match self.act(line) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            failed = true;
                            output::complain(&format!("{error:#}"));
                            if self.client.end_cause().is_some() {
                                break;
                            }
                        }
                    }
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => break,
                Err(error) => return Err(error).context("the terminal cannot be read"),
            }
        }
        if let Some(history) = history.filter(|_| interactive) {
            let _ = rustyline::history::History::set_max_len(editor.history_mut(), HISTORY_LINES_MAX);
            if editor.save_history(&history).is_ok() {
                private(&history);
            }
        }
        self.runtime.block_on(self.client.close());
        Ok(if failed && !interactive { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Does what a line says; false to leave.
    fn act(&mut self, line: &str) -> Result<bool> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("/exit" | "/quit", _) => return Ok(false),
            ("/help", _) => output::complain(HELP),
            ("/new", _) => self.forget()?,
            ("/system", text) => {
                self.system = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
                self.forget()?;
            }
            (command, _) if command.starts_with('/') => output::complain("no such command; /help lists them"),
            _ => self.ask(line)?,
        }
        Ok(true)
    }

    fn forget(&mut self) -> Result<()> {
        if let Some(session) = self.session.take() {
            self.runtime.block_on(interruptible(session.end()))?;
        }
        Ok(())
    }

    fn ask(&mut self, prompt: &str) -> Result<()> {
        if self.session.is_none() {
            self.sessions += 1;
            let mut options = SessionOptions::new(format!("chat-{}", self.sessions));
            if let Some(system) = &self.system {
                options = options.system(system.clone());
            }
            self.session = Some(self.runtime.block_on(interruptible(self.client.session_init(options)))?);
        }
        let Some(session) = &self.session else { bail!("there is no session") };
        self.runtime.block_on(async {
            let asked = Instant::now();
            let answer = session.prompt(prompt, &self.options).await?;
            show(answer, asked).await
        })
    }
}

/// Prints an answer as it comes; Ctrl-C stops it.
async fn show(mut answer: Answer, asked: Instant) -> Result<()> {
    let mut first = None;
    let mut thinking = false;
    loop {
        let event = tokio::select! {
            event = answer.next() => event,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("Ctrl-C cannot be listened for")?;
                answer.cancel();
                continue;
            }
        };
        match event.transpose().map_err(explain)? {
            Some(AnswerEvent::Delta { text, reasoning, .. }) => {
                first.get_or_insert_with(Instant::now);
                if !reasoning.is_empty() {
                    thinking = true;
                    output::tell_part(&grey(&reasoning));
                }
                if !text.is_empty() {
                    if std::mem::take(&mut thinking) {
                        output::tell("");
                    }
                    output::print_part(&text)?;
                }
            }
            Some(AnswerEvent::Finished(end)) => {
                output::print("")?;
                let seconds = first.map_or(0.0, |first: Instant| first.elapsed().as_secs_f64());
                let tokens = end.usage.completion_tokens;
                let rate = if seconds > 0.0 { f64::from(tokens) / seconds } else { 0.0 };
                let wait = first.map_or(0, |first| first.duration_since(asked).as_millis());
                output::tell(&grey(&format!(
                    "[{tokens} tokens, {rate:.0}/s, first after {wait} ms, prompt {} ({} cached), {}]",
                    end.usage.prompt_tokens, end.usage.cached_tokens, end.finish_reason
                )));
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

fn explain(error: ClientError) -> anyhow::Error {
    // What was printed so far stands on a line of its own.
    let _ = output::print("");
    error.into()
}

/// Waits for a reply, or for Ctrl-C.
async fn interruptible<T>(reply: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
    tokio::select! {
        reply = reply => Ok(reply?),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("Ctrl-C cannot be listened for")?;
            bail!("interrupted")
        }
    }
}

/// What is about the answer, not of it: on standard error, grey on a terminal.
fn grey(text: &str) -> String {
    if std::io::stderr().is_terminal() { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

/// A conversation is nobody else's to read.
fn private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        output::complain(&format!("{} can be read by others: {error}", path.display()));
    }
}
