use tokio::sync::mpsc;

use crate::{
    driver::{Client, Outgoing, Reply},
    error::ClientError,
    message::{ServerMessage, Usage},
    receipt::{AnswerReceipt, Digest, OutputHash},
};

/// A piece of an answer, or its end.
#[derive(Clone, PartialEq)]
pub enum AnswerEvent {
    /// More text.
    Delta {
        /// Text of the answer; may be empty.
        text: String,
        /// Text of a reasoning model's thoughts; mostly empty.
        reasoning: String,
        /// Tokens that it accounts for.
        tokens: u32,
    },
    /// The end, once.
    Finished(AnswerEnd),
}

impl std::fmt::Debug for AnswerEvent {
    /// Never prints the text: answers do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Delta { text, reasoning, tokens } => {
                write!(f, "Delta({} bytes, {} reasoning bytes, {tokens} tokens)", text.len(), reasoning.len())
            }
            Self::Finished(end) => write!(f, "Finished({end:?})"),
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerEnd {
    /// `stop`, `length` or `cancelled`.
    pub finish_reason: String,
    /// What was counted.
    pub usage: Usage,
    /// What the node signed about it; none from a node that signs nothing.
    pub receipt: Option<AnswerReceipt>,
}

/// A running answer. Dropping it before its end asks the node to stop generating.
#[derive(Debug)]
pub struct Answer {
    client: Client,
    replies: mpsc::Receiver<Reply>,
    cancel: Outgoing,
    ended: bool,
    sent: Digest,
    received: OutputHash,
    receipt: Option<AnswerReceipt>,
}

impl Answer {
    /// `sent` is the hash of the prompt's message.
    pub(crate) fn new(client: Client, replies: mpsc::Receiver<Reply>, cancel: Outgoing, sent: Digest) -> Self {
        Self { client, replies, cancel, ended: false, sent, received: OutputHash::default(), receipt: None }
    }

    /// The next event; `None` after the end or an error. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<AnswerEvent, ClientError>> {
        if self.ended {
            return None;
        }
        let message = loop {
            match self.replies.recv().await {
                Some(Ok(ServerMessage::Receipt { receipt })) => {
                    let received = self.received.clone().finish();
                    self.receipt = Some(AnswerReceipt::new(receipt, self.sent, received));
                }
                other => break other,
            }
        };
        let event = match message {
            Some(Ok(ServerMessage::StreamChunk { content, reasoning, tokens })) => {
                self.received.push(&reasoning);
                self.received.push(&content);
                return Some(Ok(AnswerEvent::Delta { text: content, reasoning, tokens }));
            }
            Some(Ok(ServerMessage::StreamEnd { reason, finish_reason, usage })) => {
                let finish_reason = finish_reason.unwrap_or(reason);
                Ok(AnswerEvent::Finished(AnswerEnd { finish_reason, usage, receipt: self.receipt.take() }))
            }
            Some(Ok(_)) => Err(ClientError::Protocol("a prompt was answered with another kind of message".into())),
            Some(Err(error)) => Err(error),
            None => Err(self.client.lost()),
        };
        self.ended = true;
        Some(event)
    }

    /// Asks the node to stop; the end follows with `cancelled` and what was counted until then.
    pub fn cancel(&self) {
        if !self.ended {
            self.client.notify(self.cancel.clone());
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel();
    }
}
