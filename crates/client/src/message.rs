use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{driver::Outgoing, error::NodeError};

/// Tokens of one answer, as the node counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, the session's history included.
    pub prompt_tokens: u32,
    /// Of those, tokens that the node had cached.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
    /// Context of the model, where the node says.
    pub context_window_size: Option<u32>,
}

/// What a node sends. Unknown types and fields are ignored: a newer node may say more.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerMessage {
    Connected {},
    SessionInitAck {},
    SessionResumeAck {},
    SessionEndAck {},
    TokenRefreshed {},
    Pong {},
    StreamChunk {
        #[serde(default)]
        content: String,
        #[serde(default)]
        reasoning: String,
        #[serde(default)]
        tokens: u32,
    },
    StreamEnd {
        #[serde(default)]
        reason: String,
        #[serde(default)]
        finish_reason: Option<String>,
        #[serde(default)]
        usage: Usage,
    },
    Receipt {
        #[serde(default)]
        receipt: Value,
    },
    Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        details: Option<Map<String, Value>>,
    },
    #[serde(other)]
    Unknown,
}

/// A server message with the id that it answers.
pub(crate) struct Envelope {
    pub(crate) id: Option<String>,
    pub(crate) message: ServerMessage,
}

impl Envelope {
    /// Reads a text frame.
    ///
    /// # Errors
    /// A sentence, when it is not a JSON object with a `type`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("a frame is not JSON: {error}"))?;
        let id = match value.get("id") {
            Some(Value::String(id)) => Some(id.clone()),
            Some(Value::Number(id)) => Some(id.to_string()),
            _ => None,
        };
        let message =
            serde_json::from_value(value).map_err(|error| format!("a message cannot be understood: {error}"))?;
        Ok(Self { id, message })
    }
}

impl ServerMessage {
    /// Whether no further message has the same id.
    pub(crate) fn is_last(&self) -> bool {
        !matches!(self, Self::StreamChunk { .. } | Self::Receipt { .. } | Self::Unknown | Self::Connected {})
    }

    /// The node's error, if it is one.
    pub(crate) fn into_result(self) -> Result<Self, NodeError> {
        match self {
            Self::Error { code, message, details } => {
                Err(NodeError { code, message, details: details.unwrap_or_default() })
            }
            other => Ok(other),
        }
    }
}

/// What a client sends.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ClientMessage<'a> {
    SessionInit {
        id: &'a str,
        session_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<&'a str>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        conversation_context: &'a [protocol::inference::Message],
    },
    SessionEnd {
        id: &'a str,
        session_id: &'a str,
    },
    Prompt {
        id: &'a str,
        session_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<&'a str>,
        model: &'a str,
        prompt: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_tokens: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f32>,
        stream: bool,
    },
    StreamCancel {
        id: &'a str,
        session_id: &'a str,
    },
    Ping {
        id: &'a str,
    },
}

impl ClientMessage<'_> {
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }

    /// The message as the connection sends it.
    pub(crate) fn outgoing(&self) -> Outgoing {
        let session = match self {
            Self::SessionInit { session_id, .. }
            | Self::SessionEnd { session_id, .. }
            | Self::Prompt { session_id, .. }
            | Self::StreamCancel { session_id, .. } => Some((*session_id).to_owned()),
            Self::Ping { .. } => None,
        };
        Outgoing { session, text: self.to_text() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_not_messages_are_refused() {
        for bad in ["", "{", "[]", "1", "{\"id\":\"1\"}", "{\"type\":7}", "{\"type\":\"stream_chunk\",\"tokens\":-1}"] {
            assert!(Envelope::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_read_as_text_and_unknown_types_are_tolerated() {
        let check = |text: &str, id: Option<&str>, last: bool| {
            let envelope = Envelope::parse(text).expect(text);
            assert_eq!((envelope.id.as_deref(), envelope.message.is_last()), (id, last), "{text}");
        };
        check(r#"{"type":"pong","id":"a"}"#, Some("a"), true);
        check(r#"{"type":"pong","id":7,"more":[1]}"#, Some("7"), true);
        check(r#"{"type":"stream_chunk","content":"x","tokens":1,"id":"a"}"#, Some("a"), false);
        check(r#"{"type":"stream_end","reason":"complete","id":"a"}"#, Some("a"), true);
        check(r#"{"type":"receipt","receipt":{"version":9},"id":"a"}"#, Some("a"), false);
        check(r#"{"type":"newer_than_us","id":"a"}"#, Some("a"), false);
        check(r#"{"type":"connected"}"#, None, false);
    }

    #[test]
    fn requests_have_the_shape_of_the_protocol() {
        let check = |message: ClientMessage<'_>, expected: &str| assert_eq!(message.to_text(), expected);
        check(ClientMessage::Ping { id: "1" }, r#"{"type":"ping","id":"1"}"#);
        check(
            ClientMessage::SessionInit { id: "1", session_id: "s", job_id: None, conversation_context: &[] },
            r#"{"type":"session_init","id":"1","session_id":"s"}"#,
        );
        check(
            ClientMessage::Prompt {
                id: "2",
                session_id: "s",
                job_id: Some("7"),
                model: "default",
                prompt: "hi",
                max_tokens: Some(5),
                temperature: None,
                stream: true,
            },
            r#"{"type":"prompt","id":"2","session_id":"s","job_id":"7","model":"default","prompt":"hi","max_tokens":5,"stream":true}"#,
        );
    }
}
