//! `--quickstart`: a job for a first try, and what to type.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use auth::{Grant, Permission, Permissions, TokenService};
use jobs::{Jobs, NewJob};
use protocol::{JobId, Subject};
use store::StoreError;

use crate::{data_dir::DataDir, output};

/// The job and its owner.
pub(crate) const QUICKSTART: &str = "quickstart";
/// Its budget in tokens: enough for a day of trying, not for a forgotten node.
const MAX_TOKENS: u64 = 1_000_000;

/// A token for the quickstart job, which is created where it is missing.
///
/// # Errors
/// When the store fails or the token cannot be made.
pub(crate) async fn token(jobs: &Jobs, tokens: &TokenService) -> Result<String> {
    let job = NewJob {
        id: JobId::new(QUICKSTART).context("a valid id")?,
        owner: Subject::new(QUICKSTART).context("a valid id")?,
        model: None,
        max_tokens: MAX_TOKENS,
        created_at: jobs::now(),
        expires_at: None,
    };
    let (id, subject) = (job.id.clone(), job.owner.clone());
    match jobs.create(job).await {
        Ok(()) | Err(StoreError::Exists) => {}
        Err(error) => return Err(error).context("the quickstart job cannot be created"),
    }
    let permissions = Permissions::of([Permission::Read, Permission::Write, Permission::Execute]);
    let grant = Grant { subject, job: Some(id), session: None, permissions, lifetime: None };
    Ok(tokens.issue(&grant)?.token)
}

/// Prints what to type.
///
/// # Errors
/// As [`token`].
pub(crate) async fn print(jobs: &Jobs, tokens: Option<&TokenService>, public: SocketAddr, dir: &DataDir) -> Result<()> {
    let (token_line, header) = match tokens {
        Some(tokens) => {
            let token = token(jobs, tokens).await?;
            (format!("Token (job {QUICKSTART}):\n{token}\n\n"), format!("  -H 'Authorization: Bearer {token}' \\\n"))
        }
        None => (String::new(), String::new()),
    };
    let program = std::env::current_exe().map_or_else(|_| "llm-node".into(), |path| path.display().to_string());
    output::print(&format!(
        "{token_line}Ask it something:\n\
         curl -N http://{public}/v1/chat/completions \\\n{header}  -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\":\"default\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Write one sentence about the sea.\"}}]}}'\n\n\
         Chat with it, in another terminal:\n{program} chat --data-dir {}\n",
        dir.path().display(),
    ))?;
    Ok(())
}
