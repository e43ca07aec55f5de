//! Commands, but `serve`, `chat` and `doctor`, which have modules of their own.

mod client_keys;
mod job;
mod keys;
mod receipt;
mod token;
mod worker;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use jobs::{Jobs, JobsConfig};
use serde_json::json;
use store::Store;

use crate::{
    chat,
    cli::{Cli, Command, Common, Config as ConfigCommand},
    config::{Config, Inputs, Loaded, docs},
    data_dir::DataDir,
    doctor, output, serve,
};

/// Runs one.
///
/// # Errors
/// What the user is told; [`crate::config::Problems`] for a bad configuration.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { common, command } = cli;
    match command {
        Command::Serve(arguments) => serve::run(&common, &arguments),
        Command::Token(command) => token::run(&common, command),
        Command::Job(command) => job::run(&common, command),
        Command::Keys(command) => keys::run(&common, command),
        Command::ClientKeys(command) => client_keys::run(&common, command),
        Command::Receipt(command) => receipt::run(&common, command),
        Command::Config(command) => config(&common, &command),
        Command::Chat(arguments) => chat::run(&common, arguments),
        Command::Doctor { json } => doctor::run(&common, json),
        Command::Version { json } => version(json),
        Command::Worker(arguments) => worker::run(arguments),
    }
}

/// The configuration of a command that runs beside a node.
fn load(common: &Common) -> Result<(Config, DataDir)> {
    let path = DataDir::locate(common.data_dir.clone())?;
    let Loaded { config, .. } = Inputs::new(common.config_file(), &path, Vec::new()).load()?;
    Ok((config, DataDir::open(&path)?))
}

/// Runs `work` with the jobs of this data directory, whether a node runs on it or not.
fn with_jobs<T>(dir: &DataDir, work: impl AsyncFnOnce(Jobs) -> Result<T>) -> Result<T> {
    runtime()?.block_on(async {
        let store = Store::open(&dir.database())?;
        // The journal has nothing to do here: a command reserves nothing.
        let config = JobsConfig { journal_interval: Duration::from_secs(3600), ..JobsConfig::default() };
        work(Jobs::new(store, config, jobs::Metrics::default())).await
    })
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime can be started")
}

fn config(common: &Common, command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Example => output::print(&docs::example())?,
        ConfigCommand::Docs => output::print(&docs::markdown())?,
        ConfigCommand::Check { json } => {
            let path = DataDir::locate(common.data_dir.clone())?;
            let inputs = Inputs::new(common.config_file(), &path, Vec::new());
            let loaded = inputs.load();
            if *json {
                let problems = loaded.as_ref().err().map(|problems| &problems.0);
                output::print_json(&json!({ "valid": loaded.is_ok(), "errors": problems.unwrap_or(&Vec::new()) }))?;
                return Ok(if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(crate::EXIT_CONFIG) });
            }
            let loaded = loaded?;
            let read = inputs.file.map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
            let mut text = format!("The configuration is valid ({read}).\n");
            for (key, value) in loaded.config.shown() {
                if let Some(origin) = loaded.origins.get(&key) {
                    text += &format!("{key} = {value}    # {origin}\n");
                }
            }
            output::print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn version(json: bool) -> Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        output::print_json(&json!({ "name": "llm-node", "version": version }))?;
    } else {
        output::print(&format!("llm-node {version}"))?;
    }
    Ok(ExitCode::SUCCESS)
}
