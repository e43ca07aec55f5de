//! Why a WebSocket message is refused, as the frame that says so. The socket stays usable.

use protocol::{
    ApiError, ErrorCode,
    openai::responses::{ErrorFrame, ErrorObject},
};

use super::lanes::{Full, IN_FLIGHT_MAX, Lane, NAMED_LANES_MAX, WAITING_MAX};
use crate::error::{openai_code, openai_type};

/// An error with the code that clients of WebSocket mode key their recovery on, where that mode has its own.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    error: ApiError,
    code: Option<&'static str>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self { error, code: None }
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        match full {
            Full::Lanes => Self {
                error: ApiError::invalid(
                    "stream_id",
                    format!(
                        "This connection has used {NAMED_LANES_MAX} stream ids, the most it may. \
                         Use one of them, or another connection."
                    ),
                ),
                code: Some("websocket_stream_limit_reached"),
            },
            Full::Requests => ApiError::new(
                ErrorCode::RateLimit,
                format!(
                    "{IN_FLIGHT_MAX} responses at once and {WAITING_MAX} more that wait are the most of one \
                     connection. Retry when some are over."
                ),
            )
            .into(),
            Full::Bytes => ApiError::new(
                ErrorCode::RateLimit,
                "The requests that wait on this connection are too large together. Retry when some are over.",
            )
            .into(),
        }
    }
}

impl Refusal {
    /// The lane's name is not one.
    pub(super) fn invalid_stream_id() -> Self {
        Self {
            error: ApiError::invalid(
                "stream_id",
                "stream_id must be 1 to 256 letters, digits, underscores, dots or dashes.",
            ),
            code: Some("invalid_stream_id"),
        }
    }

    /// The connection has lived long enough.
    pub(super) fn connection_limit() -> Self {
        Self {
            error: ApiError::new(
                ErrorCode::InvalidRequest,
                "This connection reached the limit of its lifetime. Open another to go on.",
            ),
            code: Some("websocket_connection_limit_reached"),
        }
    }

    /// The message is known, and what it does is not served.
    pub(super) fn unsupported(kind: &str) -> Self {
        Self {
            error: ApiError::invalid("type", format!("{kind} is not supported here. Send another response.create.")),
            code: Some("unsupported"),
        }
    }

    /// The message is not known.
    pub(super) fn unknown_type() -> Self {
        ApiError::invalid("type", "The type must be response.create or response.cancel.").into()
    }

    /// A binary frame.
    pub(super) fn binary() -> Self {
        ApiError::new(ErrorCode::InvalidRequest, "Messages are JSON in text frames; this was a binary frame.").into()
    }

    /// There is nothing to cancel.
    pub(super) fn not_active() -> Self {
        Self {
            error: ApiError::invalid("response_id", "No such response is being generated on this connection."),
            code: Some("response_not_active"),
        }
    }

    /// The client cancelled it before it began; nothing was charged.
    pub(super) fn cancelled() -> Self {
        Self {
            error: ApiError::new(ErrorCode::InvalidRequest, "The response was cancelled before it began."),
            code: Some("response_cancelled"),
        }
    }

    /// For `ws_errors_total`.
    pub(super) fn metric(&self) -> ErrorCode {
        self.error.code
    }

    /// The frame.
    pub(super) fn frame(self, lane: Lane) -> ErrorFrame {
        let Self { error, code } = self;
        ErrorFrame {
            kind: "error",
            status: error.code.http_status(),
            stream_id: lane,
            error: ErrorObject {
                kind: openai_type(error.code).to_owned(),
                code: code.map_or_else(|| openai_code(error.code), str::to_owned),
                message: error.message,
                param: error.param,
            },
        }
    }
}

/// The response that is to be continued is unknown, or someone else's: the two are not told apart.
pub(super) fn previous_response_not_found() -> ApiError {
    ApiError::new(
        ErrorCode::PreviousResponseNotFound,
        "The previous response is not known here, or no longer. Send the whole conversation without \
         previous_response_id.",
    )
    .param("previous_response_id")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn frame(refusal: impl Into<Refusal>, lane: Option<&str>) -> Value {
        serde_json::to_value(refusal.into().frame(lane.map(Into::into))).expect("serialises")
    }

    #[test]
    fn frames_have_exactly_the_documented_shape() {
        assert_eq!(
            frame(previous_response_not_found(), Some("a")),
            json!({
                "type": "error",
                "status": 400,
                "stream_id": "a",
                "error": {
                    "type": "invalid_request_error",
                    "code": "previous_response_not_found",
                    "message": "The previous response is not known here, or no longer. Send the whole conversation \
                                without previous_response_id.",
                    "param": "previous_response_id",
                },
            })
        );
        assert_eq!(frame(previous_response_not_found(), None).get("stream_id"), None);
    }

    #[test]
    fn codes_are_those_that_clients_key_on() {
        let check = |refusal: Refusal, status: u16, kind: &str, code: &str| {
            let frame = frame(refusal, None);
            assert_eq!(frame["status"], status, "{frame}");
            assert_eq!((&frame["error"]["type"], &frame["error"]["code"]), (&json!(kind), &json!(code)), "{frame}");
        };
        let invalid = "invalid_request_error";
        check(Refusal::invalid_stream_id(), 400, invalid, "invalid_stream_id");
        check(Full::Lanes.into(), 400, invalid, "websocket_stream_limit_reached");
        check(Refusal::connection_limit(), 400, invalid, "websocket_connection_limit_reached");
        check(Refusal::unsupported("response.steer"), 400, invalid, "unsupported");
        check(Refusal::binary(), 400, invalid, "invalid_request");
        check(Full::Requests.into(), 429, "rate_limit_error", "rate_limit_exceeded");
        check(ApiError::new(ErrorCode::TokenExpired, "expired").into(), 401, "authentication_error", "token_expired");
        check(
            ApiError::context_too_large(9, 8).with("prompt_tokens", 9).into(),
            400,
            invalid,
            "context_length_exceeded",
        );
    }
}
