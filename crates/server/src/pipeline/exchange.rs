//! A key for a token: the way in for a client that has nothing but its key.

use auth::{Grant, IssuedToken, Permission, Permissions, subject_of};
use jobs::{Job, JobStatus};
use protocol::{ApiError, ErrorCode, JobId, Subject};
use serde::Deserialize;

use super::Pipeline;
use crate::signatures::{ProvenKey, Refusal};

/// Where keys are proven, as a metric label.
pub(crate) const DPOP: &str = "dpop";
/// Jobs of one key that are looked through for the one that is open.
const JOBS_MAX: u32 = 1000;

/// What the holder of a key wants.
#[derive(Debug, Default, Deserialize)]
pub struct TokenWish {
    /// The job to charge; may be left out where the key has one open job.
    pub job_id: Option<JobId>,
    /// Rights; `execute` and `read` where none are named. Never `admin`: keys of clients do not administer.
    pub permissions: Option<Vec<Permission>>,
    /// Seconds that the token is valid, at most `auth.token_expiry`.
    pub expires_in: Option<u64>,
}

/// A token that is bound to a key.
#[derive(Debug)]
pub struct BoundToken {
    /// The token.
    pub issued: IssuedToken,
    /// Whose it is: the job's owner.
    pub subject: Subject,
    /// What it is charged to.
    pub job: JobId,
    /// Its rights.
    pub permissions: Permissions,
}

impl Pipeline {
    /// Issues a token of the owner of a job, bound to a key of that owner.
    ///
    /// # Errors
    /// `INVALID_JOB` where the key has no such job (whether there is none or it is another's is not told), or the job's
    /// state; `INVALID_JOB_ID` where the key has several and none was named; `PERMISSION_DENIED`; `NOT_FOUND` where
    /// this node takes no tokens.
    pub async fn exchange(&self, key: &ProvenKey, wish: TokenWish) -> Result<BoundToken, ApiError> {
        let Some(tokens) = &self.parts.tokens else {
            return Err(ApiError::new(ErrorCode::NotFound, "This node takes requests without a token."));
        };
        let permissions = wish.permissions.unwrap_or_else(|| vec![Permission::Execute, Permission::Read]);
        if permissions.contains(&Permission::Admin) {
            return Err(ApiError::new(ErrorCode::PermissionDenied, "A key of a client gets no token with `admin`."));
        }
        let job = self.job_of(key, wish.job_id).await?;
        // The same check that a request must pass: a job that is closed or used up gets no tokens.
        self.parts.jobs.check(&job.id, &job.owner, None).await?;
        let signatures = &self.parts.signatures;
        signatures.counted(DPOP, signatures.use_up(key, &self.parts.settings.load()))?;
        let grant = Grant {
            subject: job.owner,
            job: Some(job.id.clone()),
            session: None,
            permissions: Permissions::of(permissions),
            lifetime: wish.expires_in.map(|secs| tokens.lifetime().min(std::time::Duration::from_secs(secs.max(1)))),
            bound_key: Some(key.thumbprint().to_owned()),
        };
        let issued = tokens.issue(&grant).map_err(|error| {
            tracing::error!(%error, "a token cannot be issued");
            ApiError::new(ErrorCode::Internal, "No token can be issued now. Retry later.")
        })?;
        Ok(BoundToken { issued, subject: grant.subject, job: job.id, permissions: grant.permissions })
    }

    /// The job that a key asks for, if the key is its owner's.
    async fn job_of(&self, key: &ProvenKey, id: Option<JobId>) -> Result<Job, ApiError> {
        let jobs = &self.parts.jobs;
        let job = match id {
            Some(id) => jobs.find(&id).await.map_err(jobs::JobError::Store)?,
            None => {
                let mut own = jobs.of(&subject_of(key.key()), JOBS_MAX).await.map_err(jobs::JobError::Store)?;
                own.retain(|job| job.status(jobs::now()) == JobStatus::Active);
                if own.len() > 1 {
                    return Err(ApiError::new(
                        ErrorCode::InvalidJobId,
                        "The key has several open jobs. Name one with `job_id`.",
                    )
                    .param("job_id"));
                }
                own.pop()
            }
        };
        // A key that may not sign for the owner hears what one hears whose job does not exist.
        let refused = || ApiError::new(ErrorCode::InvalidJob, "The key owns no such job on this node.");
        let job = job.ok_or_else(refused)?;
        let keys = self.parts.signatures.keys().of(&job.owner).await.map_err(Refusal::from)?;
        if let Err(reason) = keys.check(key.key()) {
            // Counted and logged; the client hears what hides whether there is such a job.
            return self.parts.signatures.counted(DPOP, Err(reason.into())).map_err(|_: Refusal| refused());
        }
        Ok(job)
    }
}
