//! The worker with the real model, over a real socket pair, as the engine uses it.
//! `LLM_NODE_TEST_MODEL` names the model (scripts/test.sh sets it).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod cache;
mod harness;
mod hostile;
mod loading;
