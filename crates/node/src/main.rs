//! `llm-node`: a language model on the open internet for clients who are not trusted.
//!
//! This crate reads the command line and the configuration, builds the parts, wires them, and waits for signals.

mod chat;
mod cli;
mod commands;
mod config;
mod data_dir;
mod doctor;
mod keys;
mod logging;
mod model;
mod output;
mod progress;
mod quickstart;
mod reload;
mod serve;
mod tokens;

use std::process::ExitCode;

use clap::Parser as _;

/// Exit code of a bad configuration (`EX_CONFIG` of sysexits.h). A usage error is 2, by clap; any other failure 1.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("{error:#}"));
            if error.is::<config::Problems>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}
