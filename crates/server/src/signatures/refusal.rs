//! Why a signed message, or one that had to be signed, is refused.

use auth::{EnrolmentError, KeyRefusal};
use protocol::{ApiError, ErrorCode};
use signing::dpop::DpopError;

/// Every outcome of a check, as a metric label.
pub(crate) const OUTCOMES: [&str; 16] = [
    "ok",
    "off",
    "missing",
    "malformed",
    "hex",
    "invalid",
    "unknown_key",
    "weak_key",
    "replayed",
    "out_of_order",
    "stale",
    "other_session",
    "nested",
    "other_request",
    "nonce",
    "unavailable",
];

/// Why. `Display` is for the log.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The node takes no signatures.
    #[error("signatures are off")]
    Off,
    /// There is none, and there must be.
    #[error("it must be signed")]
    Missing(Why),
    /// The envelope is not one.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The body is not the one that was signed.
    #[error("the digest does not fit the body")]
    Digest,
    /// The key proof is none, or none for this.
    #[error(transparent)]
    Proof(#[from] DpopError),
    /// There is no key proof.
    #[error("there is no key proof")]
    NoProof,
    /// The key proof has not the node's nonce.
    #[error("the key proof has no nonce of now")]
    NoNonce,
    /// The request's host is none by which clients reach this node.
    #[error("the request is addressed to another host")]
    OtherHost,
    /// The signature is not 128 hexadecimal digits.
    #[error("the signature is not 128 hexadecimal digits")]
    Hex,
    /// It does not fit the key and what is signed.
    #[error("the signature is wrong")]
    Invalid,
    /// The key may not sign this.
    #[error(transparent)]
    Key(#[from] KeyRefusal),
    /// It was seen before.
    #[error("it was seen before")]
    Replayed,
    /// It came after a later one.
    #[error("it came after one with a higher sequence number")]
    OutOfOrder,
    /// It was made too long ago.
    #[error("it was made too long ago, or before this node started")]
    Stale {
        /// The node's clock.
        now: u64,
    },
    /// It is from the future.
    #[error("it is from the future")]
    Future {
        /// The node's clock.
        now: u64,
    },
    /// Envelope and message name different sessions.
    #[error("the envelope and the message in it name different sessions")]
    OtherSession,
    /// A signed message in a signed message.
    #[error("a signed message in a signed message")]
    Nested,
    /// There is no room to remember its nonce.
    #[error("the memory of nonces is full")]
    Full,
    /// The keys cannot be read.
    #[error("the store failed: {0}")]
    Store(String),
}

/// Why a signature is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The token is bound to a key.
    Bound,
    /// The node says so.
    Node,
    /// The job says so.
    Job,
}

impl From<EnrolmentError> for Refusal {
    fn from(error: EnrolmentError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Refusal {
    /// The metric label.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Missing(_) | Self::NoProof => "missing",
            Self::Malformed(_) | Self::Proof(DpopError::Malformed | DpopError::Key) => "malformed",
            Self::Proof(DpopError::OutsideWindow) => "stale",
            Self::Proof(DpopError::OtherRequest | DpopError::OtherToken) | Self::OtherHost => "other_request",
            Self::NoNonce => "nonce",
            Self::Hex | Self::Key(KeyRefusal::Malformed) => "hex",
            Self::Invalid | Self::Digest | Self::Proof(DpopError::Signature) => "invalid",
            Self::Key(KeyRefusal::Weak) => "weak_key",
            Self::Key(_) => "unknown_key",
            Self::Replayed => "replayed",
            Self::OutOfOrder => "out_of_order",
            Self::Stale { .. } | Self::Future { .. } => "stale",
            Self::OtherSession => "other_session",
            Self::Nested => "nested",
            Self::Full | Self::Store(_) => "unavailable",
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        use ErrorCode as Code;
        match refusal {
            Refusal::Off => {
                Self::new(Code::InvalidRequest, "This node takes no signatures. Send the message unsigned.")
            }
            Refusal::Missing(why) => Self::new(
                Code::SignatureRequired,
                match why {
                    Why::Bound => "The token is bound to a key: sign the message with it.",
                    Why::Node => "This node takes signed messages only: sign it with a key that its operator enrolled.",
                    Why::Job => "The job takes signed messages only: sign it with a key of the job's owner.",
                },
            ),
            Refusal::Malformed(what) => {
                Self::new(Code::InvalidSignature, format!("The signature is malformed: {what}."))
            }
            Refusal::Hex => {
                Self::new(Code::InvalidHexEncoding, "A signature is 128 hexadecimal digits.").param("signature")
            }
            Refusal::Key(KeyRefusal::Malformed) => Self::new(
                Code::InvalidHexEncoding,
                "A key id is 64 hexadecimal digits, or the key's thumbprint (RFC 7638).",
            )
            .param("key_id"),
            Refusal::Key(KeyRefusal::Weak) => {
                Self::new(Code::WeakKey, "The key is weak: anybody could sign with it. Generate another.")
                    .param("key_id")
            }
            Refusal::Key(KeyRefusal::Ambiguous) => {
                Self::new(Code::UnknownKey, "You have several keys here: say which one signed.").param("key_id")
            }
            Refusal::Key(KeyRefusal::NotBound | KeyRefusal::Unknown | KeyRefusal::Withdrawn) => Self::new(
                Code::UnknownKey,
                "The key may not sign for this token. Use the key that it is bound to, or one that the node's operator enrolled for its subject.",
            ),
            Refusal::Invalid => Self::new(
                Code::InvalidSignature,
                "The signature does not fit what was sent. Sign exactly the bytes that are sent, with this connection's nonce.",
            ),
            Refusal::Digest => Self::new(
                Code::InvalidSignature,
                "Content-Digest does not fit the body. Send exactly the bytes that were signed.",
            ),
            // The reason is one of a closed set, and says nothing of the node.
            Refusal::Proof(why) => Self::new(Code::InvalidDpopProof, format!("The key proof is refused: {why}.")),
            Refusal::NoProof => Self::new(
                Code::InvalidDpopProof,
                "Prove the key: send one header DPoP with a proof (RFC 9449) for this request.",
            ),
            Refusal::NoNonce => {
                Self::new(Code::UseDpopNonce, "Make the key proof again with the nonce in the header DPoP-Nonce.")
            }
            Refusal::OtherHost => {
                Self::new(Code::InvalidSignature, "The request is addressed to a host that is not this node.")
            }
            Refusal::Replayed => {
                Self::new(Code::ReplayedMessage, "This signed message was received before. Sign a new one.")
            }
            Refusal::OutOfOrder => Self::new(
                Code::SequenceOutOfOrder,
                "A signed message with a higher seq came before this one. Let seq rise.",
            )
            .param("seq"),
            Refusal::Stale { now } => Self::new(
                Code::ReplayedMessage,
                "It was signed too long ago, or before the node started. Sign it again; check the clock.",
            )
            .with("server_time", now),
            Refusal::Future { now } => {
                Self::new(Code::InvalidSignature, "It was signed in the future. Check the clock.")
                    .with("server_time", now)
            }
            Refusal::OtherSession => Self::new(
                Code::SessionAuthDenied,
                "The envelope is signed for another session than the message in it names.",
            )
            .param("session_id"),
            Refusal::Nested => Self::invalid("payload", "A signed message cannot hold another."),
            Refusal::Full => Self::new(Code::RateLimit, "Too many signed requests. Retry in a minute.").retry_after(60),
            Refusal::Store(_) => {
                Self::new(Code::Internal, "The key cannot be checked right now. Retry in a moment.").retry_after(5)
            }
        }
    }
}
