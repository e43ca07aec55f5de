//! Errors as clients see them: a stable code, a safe sentence that says what to do, and bounded details.
//!
//! Codes are those that native clients key on. Only `server` turns a code into a status, a close code or a frame.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// Whose fault it is: decides the log level and whether an operator must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client must change something.
    Client,
    /// The model backend failed.
    Backend,
    /// The node itself failed.
    Us,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $blame:ident;)*) => {
        /// A stable error code. The set is closed, so it can be a metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, for pre-created metric series and documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that says the same.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }
        }
    };
}

codes! {
    /// No credentials, or credentials of an unknown kind.
    AuthFailed = "AUTH_FAILED", 401, Client;
    /// The token is malformed, forged, or not for this node.
    InvalidToken = "INVALID_TOKEN", 401, Client;
    /// The token was valid and is no longer.
    TokenExpired = "TOKEN_EXPIRED", 401, Client;
    /// The token was revoked by the node's operator.
    TokenRevoked = "TOKEN_REVOKED", 401, Client;
    /// The message signature does not verify.
    InvalidSignature = "INVALID_SIGNATURE", 401, Client;
    /// This message must be signed and is not.
    SignatureRequired = "SIGNATURE_REQUIRED", 401, Client;
    /// The signature is good and was seen before, or is too old to know.
    ReplayedMessage = "REPLAYED_MESSAGE", 401, Client;
    /// A signed message came after one with a higher sequence number.
    SequenceOutOfOrder = "SEQUENCE_OUT_OF_ORDER", 401, Client;
    /// The key is none of the speaker's.
    UnknownKey = "UNKNOWN_KEY", 401, Client;
    /// The key is one that anybody can sign with (of small order).
    WeakKey = "WEAK_KEY", 400, Client;
    /// A key or signature is not written in hexadecimal digits, or not in so many.
    InvalidHexEncoding = "INVALID_HEX_ENCODING", 400, Client;
    /// The proof of a key must be made again over the nonce that comes with this answer (RFC 9449 section 8).
    UseDpopNonce = "USE_DPOP_NONCE", 400, Client;
    /// The proof of a key is not one for this request (RFC 9449 section 4.3).
    InvalidDpopProof = "INVALID_DPOP_PROOF", 400, Client;
    /// The token does not carry the right that this needs.
    PermissionDenied = "PERMISSION_DENIED", 403, Client;
    /// Too many requests, connections or streams.
    RateLimit = "RATE_LIMIT", 429, Client;
    /// The user has as many sessions open as allowed.
    SessionLimit = "SESSION_LIMIT", 429, Client;
    /// The session is unknown on this connection.
    SessionNotFound = "SESSION_NOT_FOUND", 404, Client;
    /// The session was open and is no longer.
    SessionExpired = "SESSION_EXPIRED", 401, Client;
    /// The session belongs to someone else.
    SessionAuthDenied = "SESSION_AUTH_DENIED", 403, Client;
    /// The job is closed, expired, exhausted or someone else's.
    InvalidJob = "INVALID_JOB", 403, Client;
    /// The job id is not an id.
    InvalidJobId = "INVALID_JOB_ID", 400, Client;
    /// The job does not exist.
    JobNotFound = "JOB_NOT_FOUND_ON_CHAIN", 404, Client;
    /// The chain is not served here.
    UnsupportedChain = "UNSUPPORTED_CHAIN", 400, Client;
    /// The chain differs from the session's.
    ChainMismatch = "CHAIN_MISMATCH", 400, Client;
    /// The model is not loaded yet, or its backend is down. Worth a retry.
    ModelUnavailable = "MODEL_UNAVAILABLE", 503, Backend;
    /// The job does not allow this model.
    ModelUnauthorized = "MODEL_UNAUTHORIZED", 403, Client;
    /// No such model here.
    ModelNotFound = "MODEL_NOT_FOUND", 404, Client;
    /// The prompt does not fit the context.
    ContextTooLarge = "CONTEXT_TOO_LARGE", 400, Client;
    /// The request asks for more tokens than are left or allowed.
    TokenLimitExceeded = "TOKEN_LIMIT_EXCEEDED", 403, Client;
    /// A field is missing, of the wrong type or out of range.
    InvalidRequest = "INVALID_REQUEST", 400, Client;
    /// The message index does not follow the conversation.
    InvalidMessageIndex = "INVALID_MESSAGE_INDEX", 400, Client;
    /// There is nothing to answer.
    EmptyPrompt = "EMPTY_PROMPT", 400, Client;
    /// A stream is already running on this session.
    StreamInProgress = "STREAM_IN_PROGRESS", 409, Client;
    /// The continued response is unknown here.
    PreviousResponseNotFound = "PREVIOUS_RESPONSE_NOT_FOUND", 400, Client;
    /// No such route or object.
    NotFound = "NOT_FOUND", 404, Client;
    /// The route exists, the method does not.
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, Client;
    /// The body or frame is over its limit.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", 413, Client;
    /// Every backend is failing; the node refuses quickly.
    CircuitOpen = "CIRCUIT_OPEN", 503, Backend;
    /// A deadline passed.
    Timeout = "TIMEOUT", 504, Backend;
    /// The keys of the token's issuer cannot be fetched now. Worth a retry.
    IssuerUnavailable = "ISSUER_UNAVAILABLE", 503, Backend;
    /// The node is shutting down and takes no new work.
    ShuttingDown = "SHUTTING_DOWN", 503, Us;
    /// The node cannot record usage (a full disk), so it answers nothing.
    StorageUnavailable = "STORAGE_UNAVAILABLE", 503, Us;
    /// This node does not serve the encrypted variant.
    EncryptionNotSupported = "ENCRYPTION_NOT_SUPPORTED", 400, Client;
    /// Something broke in the node; the log has the detail under the request id.
    Internal = "INTERNAL_ERROR", 500, Us;
}

impl ErrorCode {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimit
                | Self::SessionLimit
                | Self::ModelUnavailable
                | Self::CircuitOpen
                | Self::IssuerUnavailable
                | Self::Timeout
                | Self::ShuttingDown
                | Self::StorageUnavailable
                | Self::StreamInProgress
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// An error on its way to a client. `message` is safe to show: it never holds a prompt, a token or a path.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened and what to do, in one or two sentences.
    pub message: String,
    /// The request field at fault, in the client's own spelling (`messages[0].content`).
    pub param: Option<String>,
    /// Numbers that a client can act on (`prompt_tokens`, `context_window_size`, `models`).
    pub details: Map<String, Value>,
    /// Seconds after which a retry makes sense (RFC 9110 section 10.2.3).
    pub retry_after_secs: Option<u64>,
}

impl ApiError {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, details: Map::new(), retry_after_secs: None }
    }

    /// [`ErrorCode::InvalidRequest`] for one field.
    #[must_use]
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(ErrorCode::InvalidRequest, message) }
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// Names the field at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says when to retry.
    #[must_use]
    pub fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    /// The prompt does not fit: both numbers, so that a client can trim.
    #[must_use]
    pub fn context_too_large(prompt_tokens: u32, context_window_size: u32) -> Self {
        Self::new(
            ErrorCode::ContextTooLarge,
            format!(
                "The prompt has {prompt_tokens} tokens and the context holds {context_window_size}, the answer included. \
                 Shorten the prompt or the conversation."
            ),
        )
        .with("prompt_tokens", prompt_tokens)
        .with("context_window_size", context_window_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_their_status_is_an_error() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert_eq!(code.http_status() >= 500, code.blame() != Blame::Client, "{code}: status and blame disagree");
        }
    }
}
