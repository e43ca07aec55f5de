use std::fmt;

use serde::Serialize;
use serde_json::Number;

use super::SignedMessage;
use crate::{
    JobId, SessionId,
    inference::{Message, Sampling},
};

/// A request's `id` as the client wrote it; every reply to the request repeats it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MessageId {
    /// A string of at most [`super::MESSAGE_ID_BYTES_MAX`] bytes.
    Text(String),
    /// A number.
    Number(Number),
}

/// A JWT that a client sent in a frame. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken(pub String);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// A client's message with the id that its replies carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// None where the client gave none.
    pub id: Option<MessageId>,
    /// What is asked.
    pub message: ClientMessage,
}

/// What a client asks. Types and ranges of the protocol itself are checked; sampling ranges are checked by
/// [`crate::inference::InferenceRequest::validate`].
#[derive(Debug, Clone, PartialEq)]
pub enum ClientMessage {
    /// Says who speaks, where the upgrade had no `Authorization` header.
    Auth {
        /// The JWT.
        token: BearerToken,
    },
    /// Opens a session, or begins it anew.
    SessionInit {
        /// Its name on this connection.
        session_id: SessionId,
        /// What is charged; without one, the token's job.
        job_id: Option<JobId>,
        /// The chain of the job.
        chain_id: Option<u64>,
        /// As in [`Self::Auth`].
        token: Option<BearerToken>,
        /// The conversation so far.
        context: Vec<Message>,
    },
    /// Opens a session with a conversation that another connection had.
    SessionResume {
        /// Its name on this connection.
        session_id: SessionId,
        /// What is charged; without one, the token's job.
        job_id: Option<JobId>,
        /// The chain of the job.
        chain_id: Option<u64>,
        /// As in [`Self::Auth`].
        token: Option<BearerToken>,
        /// The conversation so far.
        context: Vec<Message>,
        /// Messages in `context`, or 0 to skip the check.
        last_message_index: u64,
    },
    /// Forgets a session.
    SessionEnd {
        /// Which.
        session_id: SessionId,
    },
    /// Asks for an answer (`prompt` and `inference`).
    Prompt(Box<PromptMessage>),
    /// Stops the running answer of a session, or of every session.
    StreamCancel {
        /// Which; every one where `None`.
        session_id: Option<SessionId>,
    },
    /// Asks for a token with a fresh expiry.
    TokenRefresh {
        /// The session that the token will name.
        session_id: Option<SessionId>,
        /// The current token.
        token: Option<BearerToken>,
    },
    /// Asks for a sign of life.
    Ping,
    /// Any of the others, signed.
    Signed(Box<SignedMessage>),
}

impl ClientMessage {
    /// Every `type` that a client may send; `inference` is another word for `prompt`.
    pub const KINDS: &'static [&'static str] = &[
        "auth",
        "session_init",
        "session_resume",
        "session_end",
        "prompt",
        "inference",
        "stream_cancel",
        "token_refresh",
        "ping",
        "signed",
    ];

    /// The token that the message carries beside what it asks; [`Self::Auth`] is about its token and keeps it.
    pub fn take_token(&mut self) -> Option<BearerToken> {
        match self {
            Self::SessionInit { token, .. } | Self::SessionResume { token, .. } | Self::TokenRefresh { token, .. } => {
                token.take()
            }
            _ => None,
        }
    }

    /// The `type` of this message, one of [`Self::KINDS`].
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Auth { .. } => "auth",
            Self::SessionInit { .. } => "session_init",
            Self::SessionResume { .. } => "session_resume",
            Self::SessionEnd { .. } => "session_end",
            Self::Prompt(_) => "prompt",
            Self::StreamCancel { .. } => "stream_cancel",
            Self::TokenRefresh { .. } => "token_refresh",
            Self::Ping => "ping",
            Self::Signed(_) => "signed",
        }
    }
}

impl ClientMessage {
    /// The session that it names.
    #[must_use]
    pub fn session_id(&self) -> Option<&SessionId> {
        match self {
            Self::SessionInit { session_id, .. }
            | Self::SessionResume { session_id, .. }
            | Self::SessionEnd { session_id } => Some(session_id),
            Self::StreamCancel { session_id } | Self::TokenRefresh { session_id, .. } => session_id.as_ref(),
            Self::Prompt(prompt) => prompt.session_id.as_ref(),
            Self::Signed(signed) => Some(&signed.session_id),
            Self::Auth { .. } | Self::Ping => None,
        }
    }

    /// The token that it brings.
    #[must_use]
    pub fn token(&self) -> Option<&BearerToken> {
        match self {
            Self::Auth { token } => Some(token),
            Self::SessionInit { token, .. } | Self::SessionResume { token, .. } | Self::TokenRefresh { token, .. } => {
                token.as_ref()
            }
            Self::SessionEnd { .. } | Self::Prompt(_) | Self::StreamCancel { .. } | Self::Ping | Self::Signed(_) => {
                None
            }
        }
    }

    /// This message about `session`, where it names none and would be about one or about all.
    #[must_use]
    pub fn about(mut self, session: SessionId) -> Self {
        match &mut self {
            Self::Prompt(prompt) => {
                prompt.session_id.get_or_insert(session);
            }
            Self::StreamCancel { session_id } => {
                session_id.get_or_insert(session);
            }
            _ => {}
        }
        self
    }
}

/// A prompt, flat or under `request`.
#[derive(Clone, PartialEq)]
pub struct PromptMessage {
    /// The session that it continues.
    pub session_id: Option<SessionId>,
    /// What is charged.
    pub job_id: Option<JobId>,
    /// The chain of the job.
    pub chain_id: Option<u64>,
    /// Model name; `default` where none is given.
    pub model: String,
    /// The user's words; not blank.
    pub prompt: String,
    /// The conversation before them, where the client keeps it itself; `None` continues the node's.
    pub context: Option<Vec<Message>>,
    /// Most tokens of the answer, at least 1.
    pub max_tokens: Option<u32>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Strings at which to stop.
    pub stop: Vec<String>,
    /// Chunks, or one `response`.
    pub stream: bool,
    /// Place of the prompt in the conversation, from 1; 0 skips the check.
    pub message_index: u64,
}

impl fmt::Debug for PromptMessage {
    /// Never prints the words: prompts do not reach logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptMessage")
            .field("session_id", &self.session_id)
            .field("job_id", &self.job_id)
            .field("chain_id", &self.chain_id)
            .field("model", &self.model)
            .field("prompt_bytes", &self.prompt.len())
            .field("context", &self.context)
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("stop_count", &self.stop.len())
            .field("stream", &self.stream)
            .field("message_index", &self.message_index)
            .finish()
    }
}
