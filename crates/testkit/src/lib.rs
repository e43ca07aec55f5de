//! The real binary as a test fixture.
//!
//! [`TestNode`] starts `llm-node` on free ports of the loopback with a data directory of its own; [`Socket`] and [`sse`]
//! speak to it as a client would, from the wire up: nothing here shares code with the node, so a test cannot agree with
//! it by accident. Failures panic with what was expected and what came, and the node's log is printed.

mod cli;
mod config;
mod issuer;
mod metrics;
mod node;
mod process;
mod shards;
mod socket;
pub mod sse;
mod wait;

pub use cli::{Finished, run_to_exit, run_with_input};
pub use config::Config;
pub use issuer::{Issuer, IssuerKey, IssuerMood};
pub use metrics::Metrics;
pub use node::TestNode;
pub use shards::split_model;
pub use socket::{Answer, Handshake, Received, Socket};
pub use wait::{DEADLINE, eventually};

/// The variable that names the model for tests of the real engine.
pub const MODEL_VARIABLE: &str = "LLM_NODE_TEST_MODEL";

/// The model file for tests of the real engine.
///
/// # Panics
/// When [`MODEL_VARIABLE`] names no file.
#[must_use]
pub fn model() -> std::path::PathBuf {
    let path = std::env::var_os(MODEL_VARIABLE)
        .unwrap_or_else(|| panic!("{MODEL_VARIABLE} must name a GGUF file; `make test` sets it"));
    let path = std::path::PathBuf::from(path);
    assert!(path.is_file(), "{MODEL_VARIABLE} names {}, which is no file", path.display());
    path
}
