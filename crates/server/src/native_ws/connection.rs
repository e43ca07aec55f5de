//! The task of one connection.

use std::sync::Arc;

use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use protocol::{
    ApiError, ErrorCode, SessionId,
    native::{
        self, ClientMessage, Envelope, ErrorFrame, MessageId, Rejected, ServerMessage, StreamEnd, StreamEndReason,
    },
};
use tokio::time::{Instant, sleep_until};

use self::opening::Named;
use super::{
    identity::{Identity, now_secs},
    sessions::Sessions,
};
use crate::{
    App, Metrics,
    answering::Event,
    ws::{CloseCode, Gone, Incoming, Socket},
};

mod opening;
mod prompting;

/// A connection and everything on it.
pub(super) struct Connection {
    app: Arc<App>,
    socket: Socket,
    identity: Identity,
    /// When the client must have proven who it is.
    proof_by: Instant,
    sessions: Sessions,
    counted: CountedSessions,
    /// The running answers; as many as sessions at most.
    answers: SelectAll<BoxStream<'static, (SessionId, Event)>>,
}

/// Why a message was not done.
enum Failure {
    /// The client hears why.
    Refused(ApiError),
    /// There is nobody left to hear.
    Gone,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<Gone> for Failure {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl Connection {
    pub(super) fn new(app: Arc<App>, socket: Socket, identity: Identity) -> Self {
        Self {
            proof_by: Instant::now() + app.settings().first_message_timeout,
            counted: CountedSessions { metrics: app.metrics.clone(), open: 0 },
            sessions: Sessions::default(),
            answers: SelectAll::new(),
            app,
            socket,
            identity,
        }
    }

    /// Serves the connection to its end. Whatever ends it, running answers are dropped and thereby cancelled.
    pub(super) async fn serve(mut self) {
        // Gone means that the client closed or does not read: nothing is left to do for it.
        let _ = self.run().await;
    }

    async fn run(&mut self) -> Result<(), Gone> {
        self.greet().await?;
        let (drain, stop) = (self.app.drain.clone(), self.app.stop.clone());
        loop {
            self.counted.set(self.sessions.len());
            if drain.is_cancelled() && self.answers.is_empty() {
                self.socket.close(CloseCode::Restart, "the node is shutting down; reconnect").await;
                return Ok(());
            }
            // Not biased: neither a fast answer nor a busy client may starve the other.
            tokio::select! {
                () = stop.cancelled() => {
                    self.socket.close(CloseCode::Restart, "the node has shut down; reconnect").await;
                    return Ok(());
                }
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                Some((session, event)) = self.answers.next() => self.report(session, event).await?,
                incoming = self.socket.recv() => match incoming {
                    Incoming::Text(text) => self.receive(&text).await?,
                    Incoming::Binary => {
                        let error = ApiError::new(ErrorCode::InvalidRequest, "Binary frames are not part of this protocol. Send JSON as text.");
                        self.refuse(Rejected { id: None, session_id: None, stream_promised: false, error }).await?;
                    }
                    Incoming::Closed => return Ok(()),
                },
                () = sleep_until(self.proof_by), if !self.identity.is_proven() => {
                    self.app.metrics.limit_hit("first_message_timeout");
                    self.socket.close(CloseCode::Policy, "no valid token came in time").await;
                    return Ok(());
                }
            }
            if self.identity.is_hopeless() {
                self.socket.close(CloseCode::Policy, "too many messages without a valid token").await;
                return Ok(());
            }
        }
    }

    async fn greet(&mut self) -> Result<(), Gone> {
        let served = self.app.pipeline.ready().ok();
        let connected = ServerMessage::Connected {
            version: env!("CARGO_PKG_VERSION"),
            model: served.as_ref().and_then(|served| served.models.first()).map(|model| model.name.as_str()),
            server_time: now_secs(),
            auth_required: !self.identity.is_proven(),
        };
        self.socket.send_json(&connected).await
    }

    async fn receive(&mut self, text: &str) -> Result<(), Gone> {
        let Envelope { id, message } = match native::parse(text) {
            Ok(envelope) => envelope,
            Err(rejected) => return self.refuse(rejected).await,
        };
        let (session_id, stream_promised) = match &message {
            ClientMessage::Prompt(prompt) => (prompt.session_id.clone(), prompt.stream),
            ClientMessage::SessionInit { session_id, .. }
            | ClientMessage::SessionResume { session_id, .. }
            | ClientMessage::SessionEnd { session_id } => (Some(session_id.clone()), false),
            ClientMessage::TokenRefresh { session_id, .. } => (session_id.clone(), false),
            ClientMessage::Auth { .. } | ClientMessage::StreamCancel { .. } | ClientMessage::Ping => (None, false),
        };
        match self.act(id.clone(), message).await {
            Ok(()) => Ok(()),
            Err(Failure::Gone) => Err(Gone),
            Err(Failure::Refused(error)) => self.refuse(Rejected { id, session_id, stream_promised, error }).await,
        }
    }

    async fn act(&mut self, id: Option<MessageId>, message: ClientMessage) -> Result<(), Failure> {
        match message {
            ClientMessage::Ping => Ok(self.socket.send_json(&ServerMessage::Pong { id: id.as_ref() }).await?),
            ClientMessage::Auth { token } => self.authenticate(id.as_ref(), &token).await,
            ClientMessage::SessionInit { session_id, job_id, chain_id, token, context } => {
                let named = Named { session_id, job_id, chain_id };
                self.session_init(id.as_ref(), named, token, context).await
            }
            ClientMessage::SessionResume { session_id, job_id, chain_id, token, context, last_message_index } => {
                let named = Named { session_id, job_id, chain_id };
                self.session_resume(id.as_ref(), named, token, context, last_message_index).await
            }
            ClientMessage::SessionEnd { session_id } => self.session_end(id, session_id).await,
            ClientMessage::TokenRefresh { session_id, token } => {
                self.token_refresh(id.as_ref(), session_id, token).await
            }
            ClientMessage::Prompt(prompt) => self.prompt(id, *prompt).await,
            ClientMessage::StreamCancel { session_id } => Ok(self.stream_cancel(session_id.as_ref())?),
        }
    }

    /// Answers a message that leads nowhere.
    async fn refuse(&mut self, rejected: Rejected) -> Result<(), Gone> {
        let Rejected { id, session_id, stream_promised, error } = rejected;
        let (id, session_id) = (id.as_ref(), session_id.as_ref());
        self.app.metrics.error_sent(error.code);
        self.socket.send_json(&ServerMessage::Error(ErrorFrame::new(&error, id, session_id, None))).await?;
        if stream_promised {
            let end = StreamEnd {
                reason: StreamEndReason::Error,
                finish_reason: None,
                tokens_used: 0,
                usage: None,
                message_index: None,
                max_tokens: None,
                request_id: None,
                id,
                session_id,
            };
            self.socket.send_json(&ServerMessage::StreamEnd(end)).await?;
        }
        Ok(())
    }
}

/// Keeps the gauge of open sessions, also when the connection's task is dropped.
struct CountedSessions {
    metrics: Metrics,
    open: usize,
}

impl CountedSessions {
    fn set(&mut self, open: usize) {
        for _ in self.open..open {
            self.metrics.session_opened();
        }
        for _ in open..self.open {
            self.metrics.session_closed();
        }
        self.open = open;
    }
}

impl Drop for CountedSessions {
    fn drop(&mut self) {
        self.set(0);
    }
}
