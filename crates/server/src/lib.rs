//! Listeners, transports and the pipeline.
//!
//! A transport only translates: its frames to a [`pipeline::Request`], [`pipeline::AnswerEvent`]s to its frames.
//! Everything that decides (who, may they, how much) is in [`pipeline`], and no transport can reach a backend
//! except through it.

mod admin;
mod answering;
pub mod app;
mod client_address;
mod connections;
mod cors;
mod credentials;
pub mod error;
mod forwarded;
mod gate;
mod headers;
mod health;
mod http;
pub mod listen;
pub mod metrics;
mod native_ws;
mod origin;
pub mod pipeline;
mod request_id;
mod responses;
pub mod sessions;
pub mod settings;
mod signatures;
pub mod tls;
mod token_watch;
mod well_known;
mod ws;

pub use app::App;
pub use connections::Connections;
pub use metrics::Metrics;
pub use responses::ResponseStore;
pub use sessions::Sessions;
pub use settings::{SessionPolicy, Settings};
pub use signatures::{Proof, SignatureMode, Signatures};
pub use tls::{Tls, TlsMetrics};
