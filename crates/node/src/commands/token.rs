//! `llm-node token`.

use std::{io::Read as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use auth::{Grant, TOKEN_BYTES_MAX};

use super::{load, token_service};
use crate::{
    cli::{Common, Token},
    output,
};

pub(super) fn run(common: &Common, command: Token) -> Result<ExitCode> {
    let (config, dir) = load(common)?;
    let tokens = token_service(&config, &dir)?;
    match command {
        Token::Issue { subject, job, permissions, ttl } => {
            let grant =
                Grant { subject, job: Some(job), session: None, permissions, lifetime: ttl.map(Duration::from_secs) };
            output::print(&tokens.issue(&grant)?.token)?;
        }
        Token::Inspect { token, json } => {
            let token = token.map_or_else(read_token, Ok)?;
            let claims = tokens.verify(token.trim()).context("this node does not accept the token")?;
            if json {
                output::print_json(&claims)?;
            } else {
                let job = claims.job_id.as_ref().map_or("none", |job| job.as_str());
                output::print(&format!(
                    "subject      {}\njob          {job}\npermissions  {}\nexpires      in {} s\nid           {}",
                    claims.sub,
                    claims.permissions,
                    claims.exp.saturating_sub(jobs::now()),
                    claims.jti,
                ))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_token() -> Result<String> {
    let mut token = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES_MAX as u64 + 2)
        .read_to_string(&mut token)
        .context("the token cannot be read from standard input")?;
    Ok(token)
}
