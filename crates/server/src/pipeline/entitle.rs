//! Stage 3: the job allows it.

use jobs::{Job, Jobs};
use protocol::{ApiError, ErrorCode, JobId};

use super::{Authenticated, Request, Verified, authenticate::LOCAL};
use crate::signatures::{Refusal, Why};

/// Proof that there is a job of this speaker that allows this model now.
#[derive(Debug)]
pub struct Entitled {
    pub(super) who: Authenticated,
    pub(super) request: Request,
    pub(super) model: engine::ServedModel,
    pub(super) job: JobId,
}

pub(super) async fn entitle(jobs: &Jobs, verified: Verified) -> Result<Entitled, ApiError> {
    let Verified { who, request, model } = verified;
    let job = charged(&who, request.job.as_ref())?;
    let found = jobs.check(&job, who.subject(), Some(&model.name)).await?;
    check_signed(&found, request.received.proof.is_some())?;
    Ok(Entitled { who, request, model, job })
}

pub(super) async fn check_job(
    jobs: &Jobs,
    who: &Authenticated,
    named: Option<&JobId>,
    signed: bool,
) -> Result<JobId, ApiError> {
    let job = charged(who, named)?;
    let found = jobs.check(&job, who.subject(), None).await?;
    check_signed(&found, signed)?;
    Ok(job)
}

/// A job may ask for signatures where the node does not.
fn check_signed(job: &Job, signed: bool) -> Result<(), ApiError> {
    if job.signature_required && !signed { Err(Refusal::Missing(Why::Job).into()) } else { Ok(()) }
}

/// The job that is charged. A token that names a job can charge no other; without authentication everything is
/// charged to the local job, and the job that a client names is only a name.
fn charged(who: &Authenticated, named: Option<&JobId>) -> Result<JobId, ApiError> {
    if named.is_some_and(|job| job.as_str() == JobId::NONE) {
        return Err(ApiError::new(
            ErrorCode::InvalidJobId,
            "Job id 0 is not a job. Name the job that pays for this session.",
        ));
    }
    if who.is_anonymous() {
        return Ok(JobId::new(LOCAL).expect("a valid id"));
    }
    match (who.job(), named) {
        (Some(own), Some(named)) if own != named => Err(ApiError::new(
            ErrorCode::InvalidJob,
            "The token is for another job. Use the token's job, or get a token for this one.",
        )),
        (Some(job), _) | (None, Some(job)) => Ok(job.clone()),
        (None, None) => Err(ApiError::new(
            ErrorCode::InvalidJobId,
            "No job. Use a token that names one (`llm-node token issue --job ID`), or name it in the request.",
        )),
    }
}
