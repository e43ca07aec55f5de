//! Rust client of a node's native WebSocket protocol (`/v1/ws`): connect with a token, open a session, stream
//! answers, cancel them.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::ClientError> {
//! use client::{AnswerEvent, Client, PromptOptions, SessionOptions};
//!
//! let client = Client::connect("http://127.0.0.1:8080", Some("the token")).await?;
//! let session = client.session_init(SessionOptions::new("greeting")).await?;
//! let mut answer = session.prompt("Say hello.", &PromptOptions::default()).await?;
//! while let Some(event) = answer.next().await {
//!     match event? {
//!         AnswerEvent::Delta { text, .. } => eprint!("{text}"),
//!         AnswerEvent::Finished(end) => eprintln!("\n{} tokens", end.usage.completion_tokens),
//!     }
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is a cheap handle; one background task owns the socket, answers the node's pings and routes each
//! message to the call that waits for it.

mod answer;
mod connect;
mod driver;
mod error;
mod exchange;
mod message;
pub mod receipt;
mod session;
mod signed;
mod tls;

pub use answer::{Answer, AnswerEnd, AnswerEvent};
pub use connect::{CONNECT_TIMEOUT, ConnectOptions, MESSAGE_BYTES_MAX, NATIVE_PATH};
pub use driver::{Client, KEEPALIVE_INTERVAL, REPLY_TIMEOUT, REQUESTS_PENDING_MAX, SILENCE_MAX};
pub use error::{ClientError, NodeError};
pub use exchange::{BoundToken, TokenRequest, exchange};
pub use message::Usage;
pub use protocol::inference::{Message, Role};
pub use session::{PromptOptions, Session, SessionOptions};
pub use signing::{SecretKey, Signer};
pub use tls::{Identity, Tls, Trust};
