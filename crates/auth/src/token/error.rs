//! Why tokens are refused.

use crate::TOKEN_BYTES_MAX;

/// Why a token is refused. The distinction is for the log and the operator; clients hear little of it. No variant holds
/// a part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Over [`TOKEN_BYTES_MAX`].
    #[error("the token is over {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not a compact JWS with a header that is allowed, or its algorithm is not the key's.
    #[error("the token is malformed or its header is not allowed: {0}")]
    Malformed(&'static str),
    /// No key of its issuer has that name.
    #[error("the token names a key that its issuer does not have")]
    UnknownKey,
    /// The key signs no more, and the time in which its tokens were still good is over.
    #[error("the token is by a key that was retired")]
    RetiredKey,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Issued by or for someone else, or a claim is missing, absurd or of the wrong type: which.
    #[error("a claim is missing or wrong: {0}")]
    Claim(&'static str),
    /// It was revoked, or all tokens of its subject from that time were.
    #[error("the token was revoked")]
    Revoked,
    /// The keys of its issuer cannot be had now.
    #[error("the keys of the token's issuer cannot be fetched now")]
    IssuerUnavailable,
}

impl TokenError {
    /// Every reason, for pre-created metric series.
    pub const REASONS: [&'static str; 10] = [
        "too_long",
        "malformed",
        "unknown_key",
        "retired_key",
        "signature",
        "expired",
        "not_yet",
        "claim",
        "revoked",
        "issuer_unavailable",
    ];

    /// The reason as a metric label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::RetiredKey => "retired_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYet => "not_yet",
            Self::Claim(_) => "claim",
            Self::Revoked => "revoked",
            Self::IssuerUnavailable => "issuer_unavailable",
        }
    }
}

/// Why a token was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The system has no randomness.
    #[error("the system's random source failed: {0}")]
    Random(String),
    /// The node's key cannot sign.
    #[error("the node's key cannot sign: {0}")]
    Key(String),
    /// It would be over [`TOKEN_BYTES_MAX`].
    #[error("the token would be over {TOKEN_BYTES_MAX} bytes")]
    TooLong,
}
