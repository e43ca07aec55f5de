use protocol::{ApiError, ErrorCode};
use store::StoreError;

/// Why a job cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JobError {
    /// No such job.
    #[error("the job does not exist")]
    Unknown,
    /// It belongs to someone else.
    #[error("the job belongs to another subject")]
    NotOwner,
    /// It was closed.
    #[error("the job is closed")]
    Closed,
    /// Its time is over.
    #[error("the job has expired")]
    Expired,
    /// Its budget is used up or reserved.
    #[error("the job's token budget is used up or reserved")]
    Exhausted,
    /// It allows another model only.
    #[error("the job does not allow this model")]
    ModelNotAllowed,
    /// The store failed: fail closed.
    #[error("the job cannot be checked: {0}")]
    Store(StoreError),
}

impl JobError {
    /// Every reason, as a metric label.
    pub(crate) const REASONS: [&'static str; 7] =
        ["unknown", "not_owner", "closed", "expired", "exhausted", "model", "store"];

    pub(crate) const fn reason(&self) -> &'static str {
        Self::REASONS[match self {
            Self::Unknown => 0,
            Self::NotOwner => 1,
            Self::Closed => 2,
            Self::Expired => 3,
            Self::Exhausted => 4,
            Self::ModelNotAllowed => 5,
            Self::Store(_) => 6,
        }]
    }
}

impl From<JobError> for ApiError {
    /// What a client hears: each refusal with the code that native clients know for it.
    fn from(error: JobError) -> Self {
        match error {
            JobError::Unknown => Self::new(ErrorCode::JobNotFound, "There is no such job. Check the job id."),
            JobError::NotOwner => {
                Self::new(ErrorCode::InvalidJob, "The job is not yours. Use a token whose subject owns the job.")
            }
            JobError::Closed => Self::new(ErrorCode::InvalidJob, "The job is closed. Open a new one."),
            JobError::Expired => Self::new(ErrorCode::InvalidJob, "The job has expired. Open a new one."),
            JobError::Exhausted => Self::new(
                ErrorCode::TokenLimitExceeded,
                "The job's token budget is used up, or reserved by answers that are running. Open a new job, or retry when they end.",
            ),
            JobError::ModelNotAllowed => Self::new(
                ErrorCode::ModelUnauthorized,
                "The job does not allow this model. Use the model it was opened for.",
            ),
            JobError::Store(_) => Self::new(
                ErrorCode::StorageUnavailable,
                "The node cannot record usage right now, so it answers nothing. Retry in a moment, or on another node.",
            )
            .retry_after(5),
        }
    }
}
