//! `llm-node chat`: a conversation in the terminal.

use std::{io::IsTerminal as _, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result, bail};
use client::{Answer, AnswerEvent, Client, ClientError, PromptOptions, Session, SessionOptions};
use jobs::{Jobs, JobsConfig};
use rustyline::{DefaultEditor, error::ReadlineError};
use store::Store;
use tokio::runtime::Runtime;

use crate::{
    cli::{Chat, Common},
    commands::token_service,
    config::Inputs,
    data_dir::DataDir,
    output, quickstart,
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
    let (url, token) = runtime.block_on(reach(common, &arguments))?;
    let client = runtime
        .block_on(Client::connect(&url, token.as_deref()))
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

/// Where the node is and what to show it: as told, else the node of the data directory and a token of it.
async fn reach(common: &Common, arguments: &Chat) -> Result<(String, Option<String>)> {
    let given =
        arguments.token.clone().or_else(|| std::env::var("LLM_NODE_TOKEN").ok().filter(|token| !token.is_empty()));
    if let Some(url) = &arguments.url {
        return Ok((url.clone(), given));
    }
    let path = DataDir::locate(common.data_dir.clone())?;
    let config = Inputs::new(common.config_file(), &path, Vec::new()).load()?.config;
    let dir = DataDir::open(&path)?;
    let Some(addresses) = dir.addresses() else {
        bail!("no node runs on {}: start one with `llm-node serve`, or name one with --url", dir.path().display());
    };
    let url = format!("http://{}", addresses.public);
    if given.is_some() || !config.auth.enabled {
        return Ok((url, given));
    }
    let tokens = token_service(&config, &dir)?;
    let jobs = Jobs::new(Store::open(&dir.database())?, JobsConfig::default(), jobs::Metrics::default());
    let (token, _) = quickstart::token(&jobs, &tokens).await?;
    Ok((url, Some(token)))
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
