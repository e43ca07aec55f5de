//! Who produces the tokens: the [`Backend`] trait and its three implementations.
//!
//! - [`embedded`]: a supervised llama.cpp worker process on this machine. The default.
//! - [`upstream`]: any OpenAI-compatible server, at one address or several.
//! - [`scripted`]: deterministic tokens at a set pace, for tests and benchmarks.
//!
//! [`models`] finds, downloads and verifies the weights before a worker loads them.

pub mod assembler;
pub mod backend;
mod cgroup;
pub mod embedded;
mod memory;
mod metrics;
pub mod models;
pub mod scripted;
pub mod stream;
mod threads;
mod trim;
pub mod upstream;

pub use backend::{
    Backend, BackendError, GenerateRequest, Generation, GenerationEvent, Readiness, ServedModel, ServedModels,
};
pub use metrics::Metrics;
pub use threads::available_threads;
