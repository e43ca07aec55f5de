//! Who produces the tokens: the [`Backend`] trait and its three implementations.

pub mod backend;
pub mod stream;

pub use backend::{Backend, BackendError, GenerateRequest, Generation, GenerationEvent, Readiness};
