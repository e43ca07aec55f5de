//! The native WebSocket protocol of `/v1/ws`: what clients send ([`parse`]) and what the node sends ([`ServerMessage`]).
//!
//! Reading is tolerant where existing clients differ (two spellings, numbers as strings, fields that we do not know)
//! and strict where a guess could charge or answer the wrong thing: types, ranges, one value a field. It keeps only
//! what it knows: a message costs memory in proportion to its text, however its JSON is nested.

mod context;
mod fields;
mod parse;
mod request;
mod scalar;
mod server;
mod shape;
mod signed;
#[cfg(test)]
mod tests;

pub use parse::{Rejected, parse};
pub use request::{BearerToken, ClientMessage, Envelope, MessageId, PromptMessage};
pub use server::{ErrorFrame, ServerMessage, StreamChunk, StreamEnd, StreamEndReason, UsageFrame};
pub use signed::SignedMessage;

/// Longest `id` that is echoed, in bytes. Every chunk of an answer repeats it.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;
/// Longest decimal job or chain id: a `uint256` has 78 digits.
pub const DECIMAL_DIGITS_MAX: usize = 78;
