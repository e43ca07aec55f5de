//! `llm-node token`.

use std::{io::Read as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use auth::{Grant, TOKEN_BYTES_MAX};
use protocol::{JobId, Subject};

use super::{load, runtime, token_service, with_jobs};
use crate::{
    cli::{Common, Token},
    data_dir::DataDir,
    output,
};

pub(super) fn run(common: &Common, command: Token) -> Result<ExitCode> {
    let (config, dir) = load(common)?;
    let tokens = token_service(&config, &dir)?;
    match command {
        Token::Issue { subject, job, permissions, ttl } => {
            let grant = Grant {
                subject,
                job: Some(job),
                session: None,
                permissions,
                lifetime: ttl.map(Duration::from_secs),
                bound_key: None,
            };
            let token = tokens.issue(&grant)?.token;
            let (subject, job) = (grant.subject, grant.job);
            if let Some(job) = job {
                hint(&dir, &subject, &job);
            }
            output::print(&token)?;
        }
        Token::Inspect { token, json } => {
            let token = token.map_or_else(read_token, Ok)?;
            let claims =
                runtime()?.block_on(tokens.verify(token.trim())).context("this node does not accept the token")?;
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

/// Says why the token will not be of use yet. It is issued all the same: the job may come later.
fn hint(dir: &DataDir, subject: &Subject, job: &JobId) {
    match with_jobs(dir, async |jobs| Ok(jobs.check(job, subject, None).await)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => output::complain(&format!("this token cannot be used now: job {job}: {error}")),
        Err(error) => output::complain(&format!("whether job {job} can be used is not known: {error:#}")),
    }
}

fn read_token() -> Result<String> {
    let mut token = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES_MAX as u64 + 2)
        .read_to_string(&mut token)
        .context("the token cannot be read from standard input")?;
    Ok(token)
}
