//! `--quickstart`: a job for a first try, and what to type.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use auth::{Grant, Permission, Permissions, TokenService};
use jobs::{JobStatus, Jobs, NewJob};
use protocol::{JobId, Subject};
use server::Tls;
use store::StoreError;

use crate::{data_dir::DataDir, output};

/// The job and its owner.
pub(crate) const QUICKSTART: &str = "quickstart";
/// Its budget in tokens: enough for a day of trying, not for a forgotten node.
const MAX_TOKENS: u64 = 1_000_000;
/// Once it is used up, closed or someone else's, the next is `quickstart-2`, up to this.
const JOBS_MAX: u32 = 1000;

/// A token for the quickstart job, and the job's id. The job is created where there is none that can be used.
///
/// # Errors
/// When the store fails or the token cannot be made.
pub(crate) async fn token(jobs: &Jobs, tokens: &TokenService) -> Result<(String, JobId)> {
    let subject = Subject::new(QUICKSTART).context("a valid id")?;
    let job = usable_job(jobs, &subject).await.context("the quickstart job cannot be created")?;
    let permissions = Permissions::of([Permission::Read, Permission::Write, Permission::Execute]);
    let grant = Grant { subject, job: Some(job.clone()), session: None, permissions, lifetime: None, bound_key: None };
    Ok((tokens.issue(&grant)?.token, job))
}

async fn usable_job(jobs: &Jobs, owner: &Subject) -> Result<JobId> {
    for number in 1..=JOBS_MAX {
        let name = if number == 1 { QUICKSTART.to_owned() } else { format!("{QUICKSTART}-{number}") };
        let id = JobId::new(name).context("a valid id")?;
        let job = NewJob {
            id: id.clone(),
            owner: owner.clone(),
            model: None,
            max_tokens: MAX_TOKENS,
            created_at: jobs::now(),
            expires_at: None,
            signature_required: false,
        };
        match jobs.create(job).await {
            Ok(()) => return Ok(id),
            Err(StoreError::Exists) => {}
            Err(error) => return Err(error.into()),
        }
        let found = jobs.find(&id).await?;
        if found.is_some_and(|job| job.owner == *owner && job.status(jobs::now()) == JobStatus::Active) {
            return Ok(id);
        }
    }
    bail!("{JOBS_MAX} quickstart jobs are used up: create a job with `llm-node job create`")
}

/// What clients put before a route: the address, or with TLS the first name that the certificate is for.
pub(crate) fn base_url(public: SocketAddr, tls: Option<&Tls>) -> String {
    let Some(tls) = tls else { return format!("http://{public}") };
    let names = tls.certificate().names;
    match names.iter().find(|name| !name.contains('*')) {
        Some(name) if name.contains(':') => format!("https://[{name}]:{}", public.port()),
        Some(name) => format!("https://{name}:{}", public.port()),
        None => format!("https://{public}"),
    }
}

/// Prints what to type.
///
/// # Errors
/// As [`token`].
pub(crate) async fn print(jobs: &Jobs, tokens: Option<&TokenService>, base: &str, dir: &DataDir) -> Result<()> {
    let (token_line, header) = match tokens {
        Some(tokens) => {
            let (token, job) = token(jobs, tokens).await?;
            (format!("Token (job {job}):\n{token}\n\n"), format!("  -H 'Authorization: Bearer {token}' \\\n"))
        }
        None => (String::new(), String::new()),
    };
    let program = std::env::current_exe().map_or_else(|_| "llm-node".into(), |path| path.display().to_string());
    output::print(&format!(
        "{token_line}Ask it something:\n\
         curl -N {base}/v1/chat/completions \\\n{header}  -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\":\"default\",\"stream\":true,\"temperature\":0,\"messages\":[{{\"role\":\"user\",\"content\":\"Write one sentence about the sea.\"}}]}}'\n\n\
         Chat with it, in another terminal:\n{program} chat --data-dir {}\n",
        dir.path().display(),
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use jobs::{JobsConfig, Metrics};
    use store::Store;

    use super::*;

    #[tokio::test]
    async fn a_job_that_cannot_be_used_is_followed_by_another() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::open(&folder.path().join("jobs.sqlite")).expect("opens");
        let jobs = Jobs::new(store, JobsConfig::default(), Metrics::default());
        let owner = Subject::new(QUICKSTART).expect("valid");
        let usable = async || usable_job(&jobs, &owner).await.expect("a job").to_string();
        assert_eq!(usable().await, "quickstart");
        assert_eq!(usable().await, "quickstart", "later starts use the same");
        let close = async |id: &str| jobs.close(&JobId::new(id).expect("valid")).await.expect("closes");
        close("quickstart").await;
        assert_eq!(usable().await, "quickstart-2");
        // A job of that name which is someone else's is left alone.
        close("quickstart-2").await;
        let foreign = NewJob {
            id: JobId::new("quickstart-3").expect("valid"),
            owner: Subject::new("alice").expect("valid"),
            model: None,
            max_tokens: 1,
            created_at: jobs::now(),
            expires_at: None,
            signature_required: false,
        };
        jobs.create(foreign).await.expect("creates");
        assert_eq!(usable().await, "quickstart-4");
    }
}
