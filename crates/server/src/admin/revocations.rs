//! `/admin/v1/revocations`: tokens that are good no longer.

use std::sync::Arc;

use auth::{RevocationRow, Revocations, RevokeError, Revoked};
use axum::{
    Extension, Json,
    extract::{Query, Request, State, rejection::QueryRejection},
    response::{IntoResponse as _, Response},
};
use http::StatusCode;
use protocol::{ApiError, ErrorCode, RequestId, Subject};
use serde::{Deserialize, Serialize};

use super::{Answer, asked, limit};
use crate::{App, error::AdminError, http::body};

/// Longest `jti` that is taken, in bytes. The node's own have 32.
const JTI_BYTES_MAX: usize = 256;

/// What to revoke: one token, or what a subject was issued.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    jti: Option<String>,
    /// When that token ends by itself, Unix seconds: it need not be remembered longer.
    expires_at: Option<u64>,
    subject: Option<Subject>,
    /// Tokens issued then or before, Unix seconds; without it, all until now.
    issued_until: Option<u64>,
}

/// Which to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Those after this number.
    after: Option<i64>,
    limit: Option<u32>,
}

/// What is revoked, the oldest first.
#[derive(Debug, Serialize)]
pub(super) struct List {
    revocations: Vec<Shown>,
    /// Ask for those after this number, where there may be more.
    next: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    what: What,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum What {
    Token { jti: String },
    Subject { subject: Subject, issued_until: u64 },
}

impl From<RevocationRow> for Shown {
    fn from(row: RevocationRow) -> Self {
        let what = match row.revoked {
            Revoked::Token(jti) => What::Token { jti },
            Revoked::Subject { subject, issued_until } => What::Subject { subject, issued_until },
        };
        Self { what, revoked_at: Some(row.revoked_at) }
    }
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer<List> {
    let refused = |error| AdminError { error, request_id: id.to_string() };
    let which = asked(which, "`after` and `limit`, both numbers").map_err(refused)?;
    let limit = limit(which.limit).map_err(refused)?;
    let list = revocations(&app).map_err(refused)?;
    let rows = list.list(which.after.unwrap_or(0), limit).await.map_err(|error| refused(failed(&error)))?;
    let next = rows.last().filter(|_| rows.len() == limit as usize).map(|row| row.change);
    Ok(Json(List { revocations: rows.into_iter().map(Shown::from).collect(), next }))
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, AdminError> {
    let revoked = revoke_one(&app, &id, request).await;
    let what = revoked.map_err(|error| AdminError { error, request_id: id.to_string() })?;
    Ok((StatusCode::CREATED, Json(Shown { what, revoked_at: None })).into_response())
}

async fn revoke_one(app: &Arc<App>, id: &RequestId, request: Request) -> Result<What, ApiError> {
    let (operator, wish): (_, Wish) = body::receive_operator(app, request).await?;
    let list = revocations(app)?;
    let what = checked(&wish, jobs::now())?;
    match &what {
        What::Token { jti } => list.revoke_token(jti, wish.expires_at).await,
        What::Subject { subject, issued_until } => list.revoke_subject(subject, *issued_until).await,
    }
    .map_err(|error| match error {
        RevokeError::Full => ApiError::new(ErrorCode::RateLimit, error.to_string()),
        RevokeError::Store(error) => failed(&error),
    })?;
    tracing::info!(operator = %operator.subject(), request_id = %id, ?what, "revoked");
    Ok(what)
}

/// Exactly one of the two, and nothing that refuses tokens of the future.
fn checked(wish: &Wish, now: u64) -> Result<What, ApiError> {
    match (&wish.jti, &wish.subject) {
        (Some(_), None) if wish.issued_until.is_some() => {
            Err(ApiError::invalid("issued_until", "issued_until goes with subject."))
        }
        (None, Some(_)) if wish.expires_at.is_some() => {
            Err(ApiError::invalid("expires_at", "expires_at goes with jti."))
        }
        (Some(jti), None) if (1..=JTI_BYTES_MAX).contains(&jti.len()) => Ok(What::Token { jti: jti.clone() }),
        (Some(_), None) => Err(ApiError::invalid("jti", format!("jti must have 1 to {JTI_BYTES_MAX} bytes."))),
        (None, Some(_)) if wish.issued_until.is_some_and(|until| until > now) => Err(ApiError::invalid(
            "issued_until",
            "issued_until is in the future: tokens that are not issued yet would be refused.",
        )),
        (None, Some(subject)) => {
            Ok(What::Subject { subject: subject.clone(), issued_until: wish.issued_until.unwrap_or(now) })
        }
        _ => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "Say what to revoke: `jti` for one token, or `subject` for all that were issued to it.",
        )),
    }
}

fn revocations(app: &App) -> Result<&Revocations, ApiError> {
    app.pipeline.revocations().ok_or_else(|| {
        ApiError::new(ErrorCode::InvalidRequest, "auth.enabled is false: there are no tokens to revoke.")
    })
}

fn failed(error: &dyn std::error::Error) -> ApiError {
    tracing::error!(%error, "revocations");
    ApiError::new(ErrorCode::Internal, "The database failed; the node's log says how. Nothing was revoked.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let wish: Wish = serde_json::from_str(text).expect(text);
        let result = checked(&wish, 1000).map(|what| serde_json::to_string(&what).expect("serialises"));
        match (result, expected) {
            (Ok(what), Ok(expected)) => assert_eq!(what, expected, "{text}"),
            (Err(error), Err(param)) => assert_eq!(error.param.as_deref().unwrap_or(""), param, "{text}: {error}"),
            (result, _) => panic!("{text}: {result:?}"),
        }
    }

    #[test]
    fn what_is_ambiguous_revokes_nothing() {
        check("{}", Err(""));
        check(r#"{"jti":"a","subject":"b"}"#, Err(""));
        check(r#"{"jti":""}"#, Err("jti"));
        check(&format!(r#"{{"jti":"{}"}}"#, "x".repeat(257)), Err("jti"));
        check(r#"{"jti":"a","issued_until":5}"#, Err("issued_until"));
        check(r#"{"subject":"b","expires_at":5}"#, Err("expires_at"));
        check(r#"{"subject":"b","issued_until":1001}"#, Err("issued_until"));
    }

    #[test]
    fn a_token_or_a_subject_is_revoked() {
        check(r#"{"jti":"a","expires_at":5}"#, Ok(r#"{"kind":"token","jti":"a"}"#));
        check(r#"{"subject":"b"}"#, Ok(r#"{"kind":"subject","subject":"b","issued_until":1000}"#));
        check(r#"{"subject":"b","issued_until":7}"#, Ok(r#"{"kind":"subject","subject":"b","issued_until":7}"#));
    }
}
