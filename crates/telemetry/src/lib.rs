//! The metric registry and its exposition formats.
//!
//! Code that counts owns its metrics struct and registers it; this crate owns how they are shown.

mod classic;
mod exposition;
mod process;

pub use exposition::{Exposition, Format};
pub use prometheus_client::registry::Registry;

/// Buckets of a latency histogram in seconds, from 1 ms to 60 s (those of OpenTelemetry's GenAI conventions,
/// extended below 10 ms).
pub const LATENCY_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 60.0];

/// Buckets of a message size histogram in bytes.
pub const SIZE_BYTES: [f64; 6] = [100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0];
