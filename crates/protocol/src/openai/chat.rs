//! Chat Completions: `POST /v1/chat/completions`.

mod content;
mod request;
mod response;

pub use request::{MESSAGES_MAX, Request};
pub use response::{Chunk, Completion, Reply};

#[cfg(test)]
mod tests;
