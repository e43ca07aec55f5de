//! [`ApiError`] in the shapes of the protocols. The only place that turns a code into a status.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use protocol::{ApiError, Blame, ErrorCode};
use serde_json::{Value, json};

use crate::{http::receipt, pipeline::RECEIPT_ID};

/// An [`ApiError`] that answers an HTTP request in OpenAI's shape. Handlers return `Result<_, HttpError>`.
#[derive(Debug)]
pub struct HttpError(pub ApiError);

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        respond(&self.0, json!({ "error": openai(&self.0) }))
    }
}

/// An [`ApiError`] in the shape of the native family's HTTP routes (`/v1/inference`, `/v1/health`).
#[derive(Debug)]
pub struct NativeHttpError {
    /// What is wrong.
    pub error: ApiError,
    /// The request's id, which clients read from the body.
    pub request_id: String,
}

impl IntoResponse for NativeHttpError {
    fn into_response(self) -> Response {
        let body = json!({
            "error_type": self.error.code.as_str(),
            "message": self.error.message,
            "request_id": self.request_id,
            "details": self.error.details,
        });
        respond(&self.error, body)
    }
}

/// An [`ApiError`] of the operators' API: the stable code as it is, and the request's id to look for in the log.
#[derive(Debug)]
pub(crate) struct AdminError {
    pub(crate) error: ApiError,
    pub(crate) request_id: String,
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let body = json!({ "error": {
            "code": self.error.code,
            "message": self.error.message,
            "param": self.error.param,
            "details": self.error.details,
            "request_id": self.request_id,
        }});
        respond(&self.error, body)
    }
}

/// An error in the shape that the clients of `route` read.
pub(crate) fn shaped(route: &str, error: ApiError, request_id: String) -> Response {
    if route.starts_with("/admin/") {
        AdminError { error, request_id }.into_response()
    } else if route == "/v1/inference" {
        NativeHttpError { error, request_id }.into_response()
    } else {
        HttpError(error).into_response()
    }
}

pub(crate) fn respond(error: &ApiError, body: Value) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    response.extensions_mut().insert(error.code); // counted by the middleware in `request_id`
    if let Some(secs) = error.retry_after_secs {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
    }
    if let Some(id) = error.details.get(RECEIPT_ID).and_then(Value::as_str)
        && let Ok(id) = HeaderValue::from_str(id)
    {
        response.headers_mut().insert(receipt::HEADER, id);
    }
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750 section 3.
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// OpenAI's `error` object. `code` is lower case, as their SDKs' users compare it; details are added beside.
#[must_use]
pub fn openai(error: &ApiError) -> Value {
    let mut object = json!({
        "message": error.message,
        "type": openai_type(error.code),
        "param": error.param,
        "code": openai_code(error.code),
    });
    if let Value::Object(fields) = &mut object {
        for (key, value) in &error.details {
            fields.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    object
}

/// The `type` of an error as OpenAI's clients know it.
pub(crate) fn openai_type(code: ErrorCode) -> &'static str {
    match code.http_status() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        _ if code.blame() == Blame::Client => "invalid_request_error",
        _ => "server_error",
    }
}

/// The code as OpenAI's clients know it, where they do.
#[must_use]
pub fn openai_code(code: ErrorCode) -> String {
    match code {
        ErrorCode::InvalidToken | ErrorCode::AuthFailed => "invalid_api_key".to_owned(),
        ErrorCode::ContextTooLarge => "context_length_exceeded".to_owned(),
        ErrorCode::RateLimit => "rate_limit_exceeded".to_owned(),
        ErrorCode::TokenLimitExceeded => "insufficient_quota".to_owned(),
        other => other.as_str().to_ascii_lowercase(),
    }
}
