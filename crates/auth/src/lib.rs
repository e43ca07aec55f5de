//! Who speaks: tokens, and the secrets and keys behind them.
//!
//! [`TokenService`] is the one module that decides about tokens, for every transport and every command.

mod claims;
mod compact;
mod enrolment;
mod issuers;
pub mod keys;
mod metrics;
mod revocation;
mod secret;
mod token;

pub use claims::{Claims, Confirmation, Grant, Permission, Permissions};
pub use compact::TOKEN_BYTES_MAX;
pub use enrolment::{ClientKey, ClientKeys, EnrolmentError, KeyRefusal, LABEL_BYTES_MAX, SubjectKeys, subject_of};
pub use issuers::{ISSUERS_MAX, Issuers, IssuersConfig, IssuersError, is_foreign, is_safe_url};
pub use metrics::Metrics;
pub use revocation::{Revocations, RevokeError};
pub use secret::{EARLIER_SECRETS_MAX, JwtSecret, Rotated, SECRET_BYTES_MIN, SecretError, Secrets};
pub use store::{RevocationRow, Revoked};
pub use token::{
    IssueError, IssuedToken, KeyVerdict, LEEWAY_SECS, LIFETIME_SECS_MAX, NODE_NAME, NodeKeys, TokenAlgorithm,
    TokenConfig, TokenError, TokenService,
};
