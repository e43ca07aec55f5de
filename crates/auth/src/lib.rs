//! Who speaks: tokens and the secret behind them.
//!
//! [`TokenService`] is the one module that decides about tokens, for every transport and every command.

mod claims;
mod enrolment;
mod secret;
mod token;

pub use claims::{Claims, Confirmation, Grant, Permission, Permissions};
pub use enrolment::{
    ClientKey, ClientKeys, EnrolmentError, KeyRefusal, LABEL_BYTES_MAX, SubjectKeys, subject_of,
};
pub use secret::{JwtSecret, SECRET_BYTES_MIN, SecretError};
pub use token::{IssuedToken, LEEWAY_SECS, TOKEN_BYTES_MAX, TokenError, TokenService};
