//! Completions, the API before chat: `POST /v1/completions`. The prompt is continued as it is, without a template.

mod logprobs;
mod prompt;
mod request;
mod response;

pub use request::{LOGPROBS_MAX, MAX_TOKENS_DEFAULT, Request};
pub use response::{Completion, Reply};

#[cfg(test)]
mod tests;
