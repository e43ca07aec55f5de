//! The child process that alone links llama.cpp.
//!
//! Threads: a **reader** takes frames off the socket; two **prepare** threads (one for long prompts) render templates,
//! tokenize, trim history and compile grammars; one **step** thread owns the context, the scheduler and the writing
//! end. Each turn of the step thread is one batch and one frame.
//!
//! A failed assertion in llama.cpp aborts the process. So whatever could trip one is checked here first (batch sizes,
//! sequence numbers, vocabulary bounds, the GGUF's header), and the rest is what the supervisor is for.

mod decoder;
mod error;
mod ffi;
mod gguf;
mod load;
mod prepare;
mod prompt;
mod repack;
mod run;
mod sampling;
mod scheduler;
mod schema;
pub mod template;

pub use error::{QuantizeError, WorkerError};
pub use repack::{RepackMode, RepackTarget, quantize, repack_plan};
pub use run::run;
