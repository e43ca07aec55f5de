//! `POST /v1/inference`: the native family's answer for clients that hold no socket.
//!
//! The request has the native frames' names (`prompt` with `conversation_context`) or a chat's (`messages`); the
//! answer is one body, or the native stream's frames as server-sent events. The conversation is the client's to keep.

mod reply;
mod request;

pub use reply::{Body, Reply, StreamEvent};
pub use request::Request;

#[cfg(test)]
mod tests;
