use protocol::inference::{Message, Role};

use crate::{
    answer::Answer,
    driver::Client,
    error::ClientError,
    message::{ClientMessage, ServerMessage},
    receipt,
};

/// How a session begins.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Its name on this connection.
    pub id: String,
    /// The job to charge; without one, that of the token.
    pub job_id: Option<String>,
    /// Messages that the conversation begins with.
    pub context: Vec<Message>,
}

impl SessionOptions {
    /// An empty conversation called `id`.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// Begins the conversation with a system message.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.context.insert(0, Message { role: Role::System, content: text.into() });
        self
    }
}

/// How a prompt is to be answered.
#[derive(Debug, Clone)]
pub struct PromptOptions {
    /// Model name; `default` is the node's own choice.
    pub model: String,
    /// Most tokens of the answer; the node's default where `None`.
    pub max_tokens: Option<u32>,
    /// 0 (greedy) to 2; the node's default where `None`.
    pub temperature: Option<f32>,
}

impl Default for PromptOptions {
    fn default() -> Self {
        Self { model: "default".into(), max_tokens: None, temperature: None }
    }
}

/// A conversation whose history the node keeps.
#[derive(Debug)]
pub struct Session {
    client: Client,
    id: String,
    job_id: Option<String>,
}

impl Session {
    pub(crate) async fn init(client: Client, options: SessionOptions) -> Result<Self, ClientError> {
        let SessionOptions { id, job_id, context } = options;
        let request = client.fresh_id();
        let message = ClientMessage::SessionInit {
            id: &request,
            session_id: &id,
            job_id: job_id.as_deref(),
            conversation_context: &context,
        };
        match client.call("session_init", &request, message.outgoing()).await? {
            ServerMessage::SessionInitAck {} => Ok(Self { client, id, job_id }),
            _ => Err(ClientError::Protocol("session_init was not acknowledged".into())),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Asks, and streams the answer. A session answers one prompt at a time (`STREAM_IN_PROGRESS` otherwise).
    ///
    /// # Errors
    /// The connection's failure; what the node has against the prompt is the answer's first event.
    pub async fn prompt(&self, prompt: &str, options: &PromptOptions) -> Result<Answer, ClientError> {
        let request = self.client.fresh_id();
        let message = ClientMessage::Prompt {
            id: &request,
            session_id: &self.id,
            job_id: self.job_id.as_deref(),
            model: &options.model,
            prompt,
            max_tokens: options.max_tokens,
            temperature: options.temperature,
            stream: true,
        };
        let message = message.outgoing();
        let sent = receipt::digest(message.text.as_bytes());
        let replies = self.client.request(&request, message).await?;
        // The cancel carries the prompt's own id: whichever id the node echoes, the end of the stream finds us.
        let cancel = ClientMessage::StreamCancel { id: &request, session_id: &self.id }.outgoing();
        Ok(Answer::new(self.client.clone(), replies, cancel, sent))
    }

    /// Ends the session; the node forgets its history.
    ///
    /// # Errors
    /// [`ClientError::Node`] with the node's reason, or the connection's failure.
    pub async fn end(self) -> Result<(), ClientError> {
        let request = self.client.fresh_id();
        let message = ClientMessage::SessionEnd { id: &request, session_id: &self.id };
        self.client.call("session_end", &request, message.outgoing()).await.map(drop)
    }
}
