//! `/admin/v1/keys`: the public keys that sign for subjects, enrolled and withdrawn.

use std::sync::Arc;

use auth::{ClientKey, EnrolmentError};
use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
};
use protocol::{ApiError, ErrorCode, RequestId, Subject};
use serde::{Deserialize, Serialize};
use signing::{KeyError, PublicKey};

use super::{Answer, asked, limit};
use crate::{App, error::AdminError, gate::Caller, http::body};

/// Which to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    subject: Option<Subject>,
    limit: Option<u32>,
}

/// Whose key to withdraw.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Whose {
    subject: Subject,
}

/// A key to enrol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    subject: Subject,
    /// 64 hexadecimal digits.
    public_key: String,
    label: Option<String>,
    /// Take it also if it was withdrawn before.
    #[serde(default)]
    again: bool,
}

/// Keys, by subject and age.
#[derive(Debug, Serialize)]
pub(super) struct List {
    keys: Vec<Shown>,
}

/// A key as operators see it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    subject: Subject,
    /// RFC 7638 thumbprint: what a token's `cnf.jkt` holds.
    key_id: String,
    public_key: String,
    label: Option<String>,
    status: &'static str,
    enrolled_at: u64,
    withdrawn_at: Option<u64>,
}

impl From<ClientKey> for Shown {
    fn from(key: ClientKey) -> Self {
        Self {
            subject: key.subject,
            key_id: key.thumbprint,
            public_key: hex::encode(key.public_key),
            label: key.label,
            status: if key.withdrawn_at.is_none() { "active" } else { "withdrawn" },
            enrolled_at: key.enrolled_at,
            withdrawn_at: key.withdrawn_at,
        }
    }
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer<List> {
    let listed = async {
        let which = asked(which, "`subject` and `limit`, a number")?;
        let limit = limit(which.limit)?;
        let keys = app.pipeline.signatures().keys().list(which.subject.as_ref(), limit).await.map_err(refusal)?;
        Ok(Json(List { keys: keys.into_iter().map(Shown::from).collect() }))
    };
    listed.await.map_err(|error| AdminError { error, request_id: id.to_string() })
}

pub(super) async fn enrol(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Answer<Shown> {
    let enrolled = async {
        let (operator, new): (_, NewKey) = body::receive_operator(&app, request).await?;
        let key = PublicKey::from_hex(&new.public_key).map_err(bad_key)?;
        let keys = app.pipeline.signatures().keys();
        let key = keys.enrol(&new.subject, &key, new.label, new.again).await.map_err(refusal)?;
        tracing::info!(operator = %operator.subject(), subject = %key.subject, key = key.thumbprint, "a key was enrolled");
        Ok(Json(Shown::from(key)))
    };
    enrolled.await.map_err(|error| AdminError { error, request_id: id.to_string() })
}

pub(super) async fn withdraw(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    Extension(Caller(operator)): Extension<Caller>,
    Path(key): Path<String>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Answer<Shown> {
    let withdrawn = async {
        let Query(Whose { subject }) =
            whose.map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "Say whose key: `?subject=SUBJECT`."))?;
        let thumbprint = PublicKey::from_hex(&key).map_or(key, |key| key.thumbprint());
        let found = app.pipeline.signatures().keys().withdraw(&subject, &thumbprint).await.map_err(refusal)?;
        let key = found.ok_or_else(|| ApiError::new(ErrorCode::UnknownKey, "The subject has no such key."))?;
        tracing::info!(operator = %operator.subject(), %subject, key = key.thumbprint, "a key was withdrawn");
        Ok(Json(Shown::from(key)))
    };
    withdrawn.await.map_err(|error| AdminError { error, request_id: id.to_string() })
}

fn bad_key(error: KeyError) -> ApiError {
    let code = match error {
        KeyError::Weak => ErrorCode::WeakKey,
        KeyError::Length | KeyError::Hex => ErrorCode::InvalidHexEncoding,
        _ => ErrorCode::InvalidRequest,
    };
    ApiError::new(code, format!("The public key is refused: {error}.")).param("public_key")
}

fn refusal(error: EnrolmentError) -> ApiError {
    match error {
        EnrolmentError::Store(error) => {
            tracing::error!(%error, "the keys of clients cannot be reached");
            ApiError::new(ErrorCode::Internal, "The keys cannot be reached right now. Retry in a moment.")
                .retry_after(5)
        }
        EnrolmentError::Label => ApiError::invalid("label", format!("The label is refused: {error}.")),
        EnrolmentError::Withdrawn => ApiError::new(
            ErrorCode::InvalidRequest,
            "This key was withdrawn. Enrol another, or send `\"again\": true` to trust this one once more.",
        ),
        EnrolmentError::Full => ApiError::new(ErrorCode::InvalidRequest, format!("Not enrolled: {error}.")),
    }
}
