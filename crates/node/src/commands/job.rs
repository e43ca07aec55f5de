//! `llm-node job`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use auth::{ClientKeys, subject_of};
use jobs::{Job, Jobs, NewJob};
use protocol::{JobId, Subject};
use serde_json::{Value, json};
use store::{Store, StoreError};

use super::{load, with_jobs};
use crate::{
    cli::{Common, Job as Command, JobOwner},
    data_dir::DataDir,
    output,
};

pub(super) fn run(common: &Common, command: Command) -> Result<ExitCode> {
    let (_, dir) = load(common)?;
    with_jobs(&dir, async |jobs| match command {
        Command::Create { owner, max_tokens, id, model, expires_in, signature_required, json } => {
            let now = jobs::now();
            let owner = owner_of(&dir, owner).await?;
            let expires_at = expires_in.map(|secs| now.saturating_add(secs));
            let job = |id: JobId| NewJob {
                id,
                owner: owner.clone(),
                model: model.clone(),
                max_tokens,
                created_at: now,
                expires_at,
                signature_required,
            };
            let id = match id {
                Some(id) => match jobs.create(job(id.clone())).await {
                    Ok(()) => id,
                    Err(StoreError::Exists) => bail!("there is a job {id} already: choose another --id"),
                    Err(error) => return Err(error.into()),
                },
                None => create_numbered(&jobs, job).await?,
            };
            if json {
                show(&find(&jobs, &id).await?, true)?;
            } else {
                output::print(id.as_str())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::List { json } => {
            let all = jobs.list().await?;
            if json {
                output::print_json(&all.iter().map(to_json).collect::<Vec<_>>())?;
            } else if all.is_empty() {
                output::complain("there are no jobs: `llm-node job create --owner SUBJECT --max-tokens N`");
            } else {
                let row = |cells: [&str; 6]| {
                    format!(
                        "{:<24} {:<20} {:<10} {:>14} {:>14} {:>14}\n",
                        cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
                    )
                };
                let mut text = row(["ID", "OWNER", "STATUS", "MAX", "USED", "RESERVED"]);
                for job in &all {
                    text += &row([
                        job.id.as_str(),
                        job.owner.as_str(),
                        job.status(jobs::now()).as_str(),
                        &job.max_tokens.to_string(),
                        &job.used_tokens.to_string(),
                        &job.reserved_tokens.to_string(),
                    ]);
                }
                output::print(&text)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id, json } => {
            show(&find(&jobs, &id).await?, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Close { id, json } => {
            let Some(job) = jobs.close(&id).await? else { bail!("there is no job {id}") };
            show(&job, json)?;
            Ok(ExitCode::SUCCESS)
        }
    })
}

/// The owner's subject. An owner that is a key is enrolled, so that messages can be verified by it.
async fn owner_of(dir: &DataDir, owner: JobOwner) -> Result<Subject> {
    match owner {
        JobOwner { owner: Some(subject), .. } => Ok(subject),
        JobOwner { owner_key: Some(key), .. } => {
            let subject = subject_of(&key);
            ClientKeys::new(Store::open(&dir.database())?).enrol(&subject, &key, None, false).await?;
            Ok(subject)
        }
        JobOwner { owner: None, owner_key: None } => bail!("say who owns the job: --owner or --owner-key"),
    }
}

/// Takes the next number that is free; another process may take one at the same moment.
async fn create_numbered(jobs: &Jobs, job: impl Fn(JobId) -> NewJob) -> Result<JobId> {
    let numbers = jobs.list().await?;
    let highest = numbers.iter().filter_map(|job| job.id.as_str().parse::<u64>().ok()).max().unwrap_or(0);
    for number in highest.saturating_add(1).. {
        let id = JobId::new(number.to_string())?;
        match jobs.create(job(id.clone())).await {
            Ok(()) => return Ok(id),
            Err(StoreError::Exists) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("all numbers are taken: choose an --id")
}

async fn find(jobs: &Jobs, id: &JobId) -> Result<Job> {
    match jobs.find(id).await? {
        Some(job) => Ok(job),
        None => bail!("there is no job {id}: `llm-node job list` shows those that there are"),
    }
}

fn show(job: &Job, json: bool) -> Result<()> {
    let value = to_json(job);
    if json {
        output::print_json(&value)?;
        return Ok(());
    }
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &format!("{name:<16} {}\n", if value.is_null() { "-" } else { &shown });
    }
    Ok(output::print(&text)?)
}

fn to_json(job: &Job) -> Value {
    json!({
        "id": job.id.as_str(),
        "owner": job.owner.as_str(),
        "status": job.status(jobs::now()).as_str(),
        "model": job.model,
        "max_tokens": job.max_tokens,
        "used_tokens": job.used_tokens,
        "reserved_tokens": job.reserved_tokens,
        "remaining_tokens": job.remaining_tokens(),
        "created_at": job.created_at,
        "expires_at": job.expires_at,
        "signature_required": job.signature_required,
        "closed_at": job.closed_at,
    })
}
