//! Stage 1: who speaks.

use auth::{Grant, LEEWAY_SECS, Permission, Permissions, TokenError, TokenService};
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
    issued_at: Option<u64>,
    bound_key: Option<String>,
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

    /// Refuses an identity whose token has ended. Connections outlive tokens.
    ///
    /// # Errors
    /// `TOKEN_EXPIRED`.
    pub fn still_valid(&self) -> Result<(), ApiError> {
        if self.expires_at.is_some_and(|at| at.saturating_add(LEEWAY_SECS) <= jobs::now()) {
            return Err(expired());
        }
        Ok(())
    }

    /// What a fresh token for the same identity carries: the same rights, never more.
    pub(super) fn grant(&self, session: Option<&SessionId>) -> Grant {
        Grant {
            subject: self.subject.clone(),
            job: self.job.clone(),
            session: session.cloned(),
            permissions: self.permissions.clone(),
            lifetime: None,
            bound_key: self.bound_key.clone(),
        }
    }
}

pub(super) async fn authenticate(
    tokens: Option<&TokenService>,
    bearer: Option<&str>,
) -> Result<Authenticated, ApiError> {
    let Some(tokens) = tokens else {
        return Ok(Authenticated {
            subject: Subject::new(LOCAL).expect("a valid id"),
            job: None,
            permissions: Permissions::of([Permission::Read, Permission::Write, Permission::Execute]),
            expires_at: None,
            jti: None,
            issued_at: None,
            bound_key: None,
            anonymous: true,
        });
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
        issued_at: Some(claims.iat),
        bound_key: claims.cnf.map(|cnf| cnf.jkt),
        anonymous: false,
    })
}

fn expired() -> ApiError {
    ApiError::new(
        ErrorCode::TokenExpired,
        "The token has expired. Get a new one from the node's operator, or refresh earlier.",
    )
}
