use std::time::Duration;

use serde_json::{Map, Value};

/// Why a call failed. Cloneable, because a lost connection fails every call that waits on it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClientError {
    /// The address is not one that can be connected to.
    #[error("{url:?} is not the address of a node: {reason}")]
    InvalidUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token cannot be an HTTP header's value. It is not repeated here.
    #[error("the token has characters that no token has; was it copied completely?")]
    InvalidToken,
    /// Certificates or keys that were given cannot be used.
    #[error("the TLS settings cannot be used: {0}")]
    InvalidTls(String),
    /// No connection came to be.
    #[error("no connection to {url}: {reason}")]
    Connect {
        /// Where to.
        url: String,
        /// What the operating system, TLS or the WebSocket handshake said.
        reason: String,
    },
    /// The node answered the handshake with an HTTP error.
    #[error("the node refused the connection with status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code (`INVALID_TOKEN`), where the body had one.
        code: Option<String>,
        /// The node's sentence, or the status's reason.
        message: String,
    },
    /// The node answered with an error.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The connection was closed; `code` is that of RFC 6455 section 7.4.
    #[error("the connection was closed{}", describe_close(*code, reason))]
    Closed {
        /// Close code, where a close frame was sent.
        code: Option<u16>,
        /// Close reason; may be empty.
        reason: String,
    },
    /// No reply in time.
    #[error("no reply to {what} within {} s", after.as_secs())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// Nothing was signed, so nothing was sent.
    #[error("the message cannot be signed: {0}")]
    Sign(String),
    /// The node said something that this protocol does not have.
    #[error("the node broke the protocol: {0}")]
    Protocol(String),
    /// More calls wait for replies than one connection may have.
    #[error("more than {max} calls wait for a reply on this connection")]
    TooManyPending {
        /// [`crate::REQUESTS_PENDING_MAX`].
        max: usize,
    },
}

impl ClientError {
    /// The node's stable error code, where it gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Node(error) => Some(&error.code),
            Self::Refused { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// Whether only a new connection can help.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Connect { .. } | Self::Timeout { .. } | Self::Protocol(_))
    }
}

/// An `error` message of the node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct NodeError {
    /// Stable code (`RATE_LIMIT`).
    pub code: String,
    /// A sentence that says what to do.
    pub message: String,
    /// Numbers to act on; may be empty.
    pub details: Map<String, Value>,
}

fn describe_close(code: Option<u16>, reason: &str) -> String {
    let meaning = match code {
        Some(1000) => " normally",
        Some(1001 | 1012) => ": the node is shutting down or restarting",
        Some(1008) => ": the node refused by policy",
        Some(1009) => ": a message was too large",
        Some(1013) => ": the node is overloaded; retry later",
        _ => "",
    };
    let mut text = meaning.to_owned();
    if !reason.is_empty() {
        text.push_str(&format!(" ({reason})"));
    } else if let Some(code) = code {
        text.push_str(&format!(" (code {code})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_connection_says_why() {
        let check = |code, reason: &str, expected: &str| {
            assert_eq!(ClientError::Closed { code, reason: reason.into() }.to_string(), expected);
        };
        check(None, "", "the connection was closed");
        check(Some(1000), "", "the connection was closed normally (code 1000)");
        check(Some(1012), "restart", "the connection was closed: the node is shutting down or restarting (restart)");
        check(Some(4000), "", "the connection was closed (code 4000)");
    }
}
