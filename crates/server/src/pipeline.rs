//! One pipeline for every transport: authenticate → verify → entitle → admit → generate → settle.
//!
//! [`Pipeline::answer`] reads top to bottom. Each stage takes the witness of the one before and returns its own
//! ([`Authenticated`] → [`Verified`] → [`Entitled`] → [`Admitted`] → [`Answer`] → [`Settled`]); their fields are
//! private to their stage, so a request that skipped a check does not compile.
//!
//! An [`Admitted`] that is dropped gives its reservation back. A running answer is driven by a task of its own that
//! owns the reservation: whatever the transport does (finish, cancel, vanish), the task settles what was delivered,
//! and only then reports [`AnswerEvent::Finished`].

mod admit;
mod answer;
mod authenticate;
mod entitle;
mod exchange;
pub mod permissions;
mod receipt;
mod received;
mod verify;

use std::{sync::Arc, time::SystemTime};

pub use admit::Admitted;
pub(crate) use answer::RECEIPT_ID;
pub use answer::{Answer, AnswerEvent, AnswerInfo, Settled};
use arc_swap::{ArcSwap, ArcSwapOption};
use auth::TokenService;
pub use authenticate::{Authenticated, LOCAL};
use engine::{Backend, Readiness, ServedModels};
pub use entitle::Entitled;
pub(crate) use exchange::DPOP;
pub use exchange::{BoundToken, TokenWish};
use jobs::{JobError, Jobs};
use protocol::{ApiError, ErrorCode, JobId, ReceiptId, RequestId, SessionId, inference::InferenceRequest};
pub use receipt::ReceiptSigner;
pub use received::Received;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
pub use verify::Verified;

use crate::{
    Metrics, Settings,
    signatures::{Proof, Signatures},
};

/// A request as a transport hands it over.
#[derive(Debug, Clone)]
pub struct Request {
    /// For logs and the `X-Request-Id` header.
    pub id: RequestId,
    /// The route or message that it came by; a metric label, so one of a fixed set.
    pub endpoint: &'static str,
    /// What exactly came, and who signed it.
    pub received: Received,
    /// The native session that it belongs to.
    pub session: Option<SessionId>,
    /// The job that the message names; must be the token's, if the token has one.
    pub job: Option<JobId>,
    /// What to answer.
    pub inference: InferenceRequest,
}

/// What the pipeline is built from.
pub struct Parts {
    /// Decides about tokens; `None` where `auth.enabled = false`.
    pub tokens: Option<Arc<TokenService>>,
    /// Verifies what clients signed.
    pub signatures: Signatures,
    /// Signs what was answered and counted.
    pub receipts: ReceiptSigner,
    /// Decides about jobs.
    pub jobs: Jobs,
    /// Produces tokens.
    pub backend: Arc<dyn Backend>,
    /// Live limits.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What is counted.
    pub metrics: Metrics,
    /// New work is refused once this fires.
    pub drain: CancellationToken,
    /// Answers are cancelled and settled once this fires.
    pub stop: CancellationToken,
    /// Settlements that must end before the process does.
    pub tasks: TaskTracker,
}

/// See the [module](self).
pub struct Pipeline {
    parts: Parts,
    /// What was served last: while a worker is replaced, requests go on to the engine, which lets them wait.
    served: ArcSwapOption<ServedModels>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, served: ArcSwapOption::empty() }
    }

    /// Decides who speaks. `bearer` is the token of an `Authorization` header or of a native frame.
    ///
    /// # Errors
    /// `AUTH_FAILED` without a token, `INVALID_TOKEN`, `TOKEN_EXPIRED`, `TOKEN_REVOKED`, `ISSUER_UNAVAILABLE`.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Authenticated, ApiError> {
        let result = authenticate::authenticate(self.parts.tokens.as_deref(), bearer).await;
        self.parts.metrics.token_checked(result.as_ref().err().map(|error| error.code));
        result
    }

    /// Issues a token with the rights of `who` (never more) and a fresh expiry, for a native session.
    ///
    /// Returns `None` where `auth.enabled = false`: there is nothing to refresh.
    ///
    /// # Errors
    /// `INTERNAL_ERROR` when the token cannot be made.
    pub fn refresh(
        &self,
        who: &Authenticated,
        session: Option<&SessionId>,
    ) -> Result<Option<auth::IssuedToken>, ApiError> {
        let Some(tokens) = &self.parts.tokens else { return Ok(None) };
        let grant = who.grant(session);
        // Who is authenticated by tokens has one, so this is never a token without an origin.
        let origin = who.origin().unwrap_or_default();
        tokens.reissue(&grant, origin).map(Some).map_err(|error| {
            tracing::error!(%error, "a token cannot be issued");
            ApiError::new(ErrorCode::Internal, "The token cannot be refreshed now. Retry later.")
        })
    }

    /// Checks that `who` may use `job`, without reserving anything (`session_init` tells early).
    ///
    /// # Errors
    /// The job's own code: `INVALID_JOB_ID`, `JOB_NOT_FOUND_ON_CHAIN`, `INVALID_JOB`, `TOKEN_LIMIT_EXCEEDED`.
    pub async fn check_job(
        &self,
        who: &Authenticated,
        job: Option<&JobId>,
        received: &Received,
    ) -> Result<JobId, ApiError> {
        let signed = received.proof.as_ref().is_some_and(|proof| proof.subject() == who.subject());
        let result = entitle::check_job(&self.parts.jobs, who, job, signed).await;
        if matches!(&result, Err(error) if error.code == ErrorCode::SignatureRequired) {
            self.parts.metrics.signature_checked("native_ws", "missing");
        }
        result
    }

    /// Verifies what clients signed.
    #[must_use]
    pub fn signatures(&self) -> &Signatures {
        &self.parts.signatures
    }

    /// Refuses a message that must be signed by a key of `who` and is not: because their token is bound to a key, or
    /// because this node takes no other messages.
    ///
    /// # Errors
    /// `SIGNATURE_REQUIRED`.
    pub fn require_signature(
        &self,
        who: &Authenticated,
        proof: Option<&Proof>,
        transport: &'static str,
    ) -> Result<(), ApiError> {
        let mode = self.parts.settings.load().signature_mode;
        match verify::signed_by(who, proof, mode) {
            Ok(_) => Ok(()),
            refused => Ok(self.parts.signatures.counted(transport, refused.map(drop))?),
        }
    }

    /// Answers a request. The one path to a backend.
    ///
    /// # Errors
    /// The stage's error; nothing was generated and nothing is reserved.
    pub async fn answer(&self, who: &Authenticated, request: Request) -> Result<Answer, ApiError> {
        let started = SystemTime::now();
        let endpoint = request.endpoint;
        let result = async {
            let verified = self.verify(who, request)?;
            let entitled = entitle::entitle(&self.parts.jobs, verified).await?;
            let admitted = admit::admit(&self.parts, entitled).await?;
            answer::generate(&self.parts, admitted, started).await
        }
        .await;
        if let Err(error) = &result {
            self.parts.metrics.refused(endpoint, error.code);
            if error.code == ErrorCode::SignatureRequired {
                self.parts.metrics.signature_checked(transport_of(endpoint), "missing");
            }
        }
        result
    }

    /// Checks a request as [`Pipeline::answer`] does, without reserving or generating anything (a warm-up).
    /// Returns the served model's name.
    ///
    /// # Errors
    /// The stage's error.
    pub async fn check(&self, who: &Authenticated, request: Request) -> Result<String, ApiError> {
        let verified = self.verify(who, request)?;
        let entitled = entitle::entitle(&self.parts.jobs, verified).await?;
        Ok(entitled.model.name)
    }

    fn verify(&self, who: &Authenticated, request: Request) -> Result<Verified, ApiError> {
        let mode = self.parts.settings.load().signature_mode;
        verify::verify(who, request, &*self.ready()?, mode)
    }

    /// The canonical text of a receipt of `who`: of their subject, and of the token's job where it names one (two jobs
    /// of one subject are two parties).
    ///
    /// # Errors
    /// `STORAGE_UNAVAILABLE`. `Ok(None)`: there is none, or none of theirs.
    pub async fn receipt(&self, who: &Authenticated, id: &str) -> Result<Option<String>, ApiError> {
        let Ok(id) = ReceiptId::new(id) else { return Ok(None) };
        Ok(self.parts.jobs.receipt(&id, who.subject(), who.job()).await.map_err(JobError::Store)?)
    }

    /// The models that are served now.
    ///
    /// # Errors
    /// `MODEL_UNAVAILABLE` while nothing is, `SHUTTING_DOWN` while draining.
    pub fn ready(&self) -> Result<Arc<ServedModels>, ApiError> {
        if self.parts.drain.is_cancelled() {
            return Err(ApiError::new(
                ErrorCode::ShuttingDown,
                "The node is shutting down and takes no new work. Retry on another node, or in a minute.",
            )
            .retry_after(10));
        }
        match &*self.parts.backend.readiness().borrow() {
            Readiness::Ready(models) => {
                if self.served.load().as_ref().is_none_or(|served| !Arc::ptr_eq(served, models)) {
                    self.served.store(Some(Arc::clone(models)));
                }
                Ok(Arc::clone(models))
            }
            Readiness::Preparing { .. } | Readiness::Starting { .. } => self.served.load_full().ok_or_else(|| {
                ApiError::new(ErrorCode::ModelUnavailable, "The model is being loaded. Retry in a few seconds.")
                    .retry_after(2)
            }),
            Readiness::Failed(_) => {
                Err(ApiError::new(ErrorCode::ModelUnavailable, "The model is not available right now. Retry later.")
                    .retry_after(10))
            }
        }
    }

    /// The backend's own word on its state, for `/health`.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.parts.backend.readiness().borrow().clone()
    }

    /// Why usage cannot be recorded now, for `/health`: then nothing is answered.
    #[must_use]
    pub fn storage_failure(&self) -> Option<&'static str> {
        self.parts.jobs.failure()
    }

    /// Revoked tokens; `None` where `auth.enabled = false`.
    pub(crate) fn revocations(&self) -> Option<&auth::Revocations> {
        self.parts.tokens.as_ref()?.revocations()
    }

    /// Whether tokens are checked at all.
    #[must_use]
    pub fn auth_enabled(&self) -> bool {
        self.parts.tokens.is_some()
    }
}

/// Where messages of an endpoint are signed, as a metric label.
fn transport_of(endpoint: &str) -> &'static str {
    match endpoint {
        "native_ws" => "native_ws",
        "responses_ws" => "responses_ws",
        _ => "http",
    }
}
