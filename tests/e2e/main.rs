//! End to end: the real binary, real sockets, and where it matters the real model.
//!
//! These tests are written from the protocol's public description, not from the code. `scripted` answers (`w0 w1 w2 …`
//! at a set pace) where the model does not matter, so that a test of a limit takes milliseconds.

mod auth;
mod client_keys;
mod crash;
mod disk;
mod engine;
mod failures;
mod http;
mod jobs;
mod key_sessions;
mod keys;
mod limits;
mod native_ws;
mod operator;
mod permissions;
mod receipts;
mod responses;
mod responses_ws;
mod sdk;
mod sessions;
mod signatures;
mod signatures_http;
mod signer;
mod support;
mod token_life;
mod tokens;
mod transport;
