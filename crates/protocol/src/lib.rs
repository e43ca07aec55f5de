//! Wire types shared by every crate: ids, errors, the inference request and its events, native messages and the
//! OpenAI shapes. Nothing here does I/O.
//!
//! [`inference`] is the vocabulary *inside* the node: a transport translates its own frames to it, a backend answers
//! in it. [`native`] and [`openai`] are the vocabularies outside.

pub mod error;
pub mod ids;
pub mod inference;
pub mod json;
pub mod native;
pub mod native_http;
pub mod openai;
pub mod receipt;

pub use error::{ApiError, Blame, ErrorCode};
pub use ids::{InvalidId, JobId, ReceiptId, RequestId, SessionId, Subject, TenantId};
