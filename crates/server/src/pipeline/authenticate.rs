//! Stage 1: who speaks.

use std::time::Duration;

use auth::{Grant, Permission, Permissions, Revocations, TokenError, TokenService};
use protocol::{ApiError, ErrorCode, JobId, SessionId, Subject, TenantId};

/// The subject, and the job that is charged, where `auth.enabled = false`.
pub const LOCAL: &str = "local";

/// Proof that the speaker is known. Held by a connection for as long as its token is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    subject: Subject,
    job: Option<JobId>,
    permissions: Permissions,
    expires_at: Option<u64>,
    jti: Option<String>,
    origin: Option<String>,
    issued_at: Option<u64>,
    bound_key: Option<String>,
    /// Clock difference that was tolerated when the token came, in seconds.
    leeway_secs: u64,
    revocations: Option<Revocations>,
    anonymous: bool,
}

impl Authenticated {
    /// Who.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whose cached prefixes may be shared.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        TenantId::of(&self.subject)
    }

    /// The job that the token names.
    #[must_use]
    pub fn job(&self) -> Option<&JobId> {
        self.job.as_ref()
    }

    /// When the token ends (Unix seconds); `None` where there is no token.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// The token's own id; `None` where there is no token.
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.jti.as_deref()
    }

    /// The id of the first token of those that this one was refreshed from, or its own.
    pub(super) fn origin(&self) -> Option<&str> {
        self.origin.as_deref().or(self.jti())
    }

    /// When the token was issued (Unix seconds); `None` where there is no token.
    #[must_use]
    pub fn issued_at(&self) -> Option<u64> {
        self.issued_at
    }

    /// RFC 7638 thumbprint of the key that must sign what comes with this token (RFC 7800 `cnf`), if it is bound to one.
    #[must_use]
    pub fn bound_key(&self) -> Option<&str> {
        self.bound_key.as_deref()
    }

    /// Whether the token carries the right.
    #[must_use]
    pub fn can(&self, permission: Permission) -> bool {
        self.permissions.allow(permission)
    }

    /// Whether authentication is off and everybody is [`LOCAL`]: a job named by such a client only names.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// When the token is taken no more (Unix seconds): its end and the tolerated clock difference; `None` where there is
    /// no token.
    #[must_use]
    pub fn valid_until(&self) -> Option<u64> {
        self.expires_at.map(|at| at.saturating_add(self.leeway_secs))
    }

    /// Refuses an identity whose token has ended or was revoked. Connections outlive tokens.
    ///
    /// # Errors
    /// `TOKEN_EXPIRED`, `TOKEN_REVOKED`.
    pub fn still_valid(&self) -> Result<(), ApiError> {
        if let (Some(list), Some(issued_at)) = (&self.revocations, self.issued_at)
            && [&self.jti, &self.origin].into_iter().flatten().any(|id| list.is_revoked(id, &self.subject, issued_at))
        {
            return Err(revoked());
        }
        if self.valid_until().is_some_and(|until| until <= jobs::now()) {
            return Err(expired());
        }
        Ok(())
    }

    /// Waits until the token is revoked, however long: `TOKEN_REVOKED`. Cancel-safe.
    pub(crate) async fn until_revoked(&self) -> ApiError {
        let Some(mut changes) = self.revocations.as_ref().map(Revocations::changed) else {
            return std::future::pending().await;
        };
        loop {
            match self.still_valid() {
                Err(error) if error.code == ErrorCode::TokenRevoked => return error,
                _ if changes.changed().await.is_ok() => {}
                // Nobody revokes any more: the node ends.
                _ => return std::future::pending().await,
            }
        }
    }

    /// Where there is no authentication.
    pub(crate) fn local() -> Self {
        Self {
            subject: Subject::new(LOCAL).expect("a valid id"),
            job: None,
            permissions: Permissions::of([Permission::Read, Permission::Write, Permission::Execute]),
            expires_at: None,
            jti: None,
            origin: None,
            issued_at: None,
            bound_key: None,
            leeway_secs: 0,
            revocations: None,
            anonymous: true,
        }
    }

    /// Who has proven to be `subject` with a token that is bound to this key, or to none.
    #[cfg(test)]
    pub(crate) fn of(subject: &str, bound_key: Option<&str>) -> Self {
        Self {
            subject: Subject::new(subject).expect("a valid id"),
            bound_key: bound_key.map(str::to_owned),
            anonymous: false,
            ..Self::local()
        }
    }

    /// How long the token is valid yet.
    fn remaining(&self) -> Duration {
        Duration::from_secs(self.expires_at.unwrap_or(0).saturating_sub(jobs::now()))
    }

    /// What a fresh token for the same identity carries: the same rights, never more.
    pub(super) fn grant(&self, session: Option<&SessionId>) -> Grant {
        Grant {
            subject: self.subject.clone(),
            job: self.job.clone(),
            session: session.cloned(),
            permissions: self.permissions.clone(),
            // What another issuer vouched for until then, the node does not vouch for longer.
            lifetime: auth::is_foreign(&self.subject).then(|| self.remaining()),
            bound_key: self.bound_key.clone(),
        }
    }
}

pub(super) async fn authenticate(
    tokens: Option<&TokenService>,
    bearer: Option<&str>,
) -> Result<Authenticated, ApiError> {
    let Some(tokens) = tokens else {
        return Ok(Authenticated::local());
    };
    let Some(token) = bearer else {
        return Err(ApiError::new(
            ErrorCode::AuthFailed,
            "No token. Send `Authorization: Bearer <token>`; the node's operator issues tokens with `llm-node token issue`.",
        ));
    };
    let claims = tokens.verify(token).await.map_err(|error| {
        tracing::info!(reason = %error, "a token was refused");
        match error {
            TokenError::Expired => expired(),
            TokenError::Revoked => revoked(),
            TokenError::IssuerUnavailable => ApiError::new(
                ErrorCode::IssuerUnavailable,
                "The token cannot be checked now, because its issuer does not answer. Retry in a few seconds.",
            )
            .retry_after(5),
            _ => ApiError::new(
                ErrorCode::InvalidToken,
                "The token is not valid on this node. Ask its operator for another.",
            ),
        }
    })?;
    Ok(Authenticated {
        subject: claims.sub,
        job: claims.job_id,
        permissions: claims.permissions,
        expires_at: Some(claims.exp),
        jti: Some(claims.jti),
        origin: claims.origin,
        issued_at: Some(claims.iat),
        bound_key: claims.cnf.map(|cnf| cnf.jkt),
        leeway_secs: tokens.leeway_secs(),
        revocations: tokens.revocations().cloned(),
        anonymous: false,
    })
}

fn revoked() -> ApiError {
    ApiError::new(ErrorCode::TokenRevoked, "The token was revoked. Ask the node's operator for another.")
}

fn expired() -> ApiError {
    ApiError::new(
        ErrorCode::TokenExpired,
        "The token has expired. Get a new one from the node's operator, or refresh earlier.",
    )
}
