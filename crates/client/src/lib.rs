//! Rust client: connect, stream, cancel.
