//! Who speaks: tokens and the secret behind them.
//!
//! [`TokenService`] is the one module that decides about tokens, for every transport and every command.

mod claims;
mod secret;
mod token;

pub use claims::{Claims, Grant, Permission, Permissions};
pub use secret::{JwtSecret, SECRET_BYTES_MIN, SecretError};
pub use token::{IssuedToken, LEEWAY_SECS, TOKEN_BYTES_MAX, TokenError, TokenService};
