//! The task of one connection.

use std::{net::IpAddr, sync::Arc, time::Duration};

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
    signed::SignedFrames,
};
use crate::{
    App,
    answering::Event,
    pipeline::{
        Received,
        permissions::{self, Access},
    },
    sessions::{Line, Transport},
    signatures::{Refusal, SignatureMode},
    token_watch::TokenWatch,
    ws::{CloseCode, Gone, Incoming, Socket},
};

mod ending;
mod opening;
mod prompting;
mod unwrapping;

/// How long running answers get to end before a connection that must go is closed.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// A connection and everything on it.
pub(super) struct Connection {
    app: Arc<App>,
    socket: Socket,
    identity: Identity,
    /// When the client must have proven who it is.
    proof_by: Instant,
    sessions: Sessions,
    signed: SignedFrames,
    /// By which its sessions are known to the node.
    line: Line,
    tokens: TokenWatch,
    /// The connection must go.
    closing: Option<Closing>,
    /// The running answers; as many as sessions at most.
    answers: SelectAll<BoxStream<'static, (SessionId, Event)>>,
}

/// How a connection that must go is closed, once what runs on it has ended.
struct Closing {
    code: CloseCode,
    reason: &'static str,
    /// What is asked meanwhile is refused with this.
    refusal: ApiError,
    by: Instant,
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
    pub(super) fn new(app: Arc<App>, socket: Socket, identity: Identity, address: Option<IpAddr>) -> Self {
        Self {
            proof_by: Instant::now() + app.settings().first_message_timeout,
            line: Line::new(Transport::NativeWs, address),
            tokens: TokenWatch::default(),
            closing: None,
            sessions: Sessions::default(),
            signed: SignedFrames::new(),
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
            let answering = self.sessions.is_answering();
            if let Some(closing) = self.closing.take_if(|closing| !answering || closing.by <= Instant::now()) {
                self.socket.close(closing.code, closing.reason).await;
                return Ok(());
            }
            if drain.is_cancelled() && !answering {
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
                () = self.line.rung() => self.end_lapsed().await?,
                event = self.tokens.next(&self.app, self.identity.proven_as()), if self.closing.is_none() => {
                    self.token_event(event).await?;
                }
                () = sleep_until(self.closing.as_ref().map_or_else(Instant::now, |closing| closing.by)),
                    if self.closing.is_some() => {}
                () = sleep_until(self.proof_by), if !self.identity.is_proven() => {
                    self.app.metrics.limit_hit("first_message_timeout");
                    self.socket.close(CloseCode::Policy, "no valid token came in time").await;
                    return Ok(());
                }
            }
            if self.identity.is_proven() {
                self.socket.known();
            } else if self.identity.is_hopeless() {
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
            nonce: &self.signed.nonce(),
            signature_required: self.app.settings().signature_mode == SignatureMode::Required,
            node_id: self.app.keyring.node_id(),
        };
        self.socket.send_json(&connected).await
    }

    async fn receive(&mut self, text: &str) -> Result<(), Gone> {
        let Envelope { id, message } = match native::parse(text) {
            Ok(envelope) => envelope,
            Err(rejected) => return self.refuse(rejected).await,
        };
        match message {
            ClientMessage::Signed(signed) => self.receive_signed(id, *signed).await,
            message => self.handle(Envelope { id, message }, Received::unsigned(text.as_bytes())).await,
        }
    }

    /// Does what a message asks, unsigned or out of its signed envelope.
    async fn handle(&mut self, envelope: Envelope, received: Received) -> Result<(), Gone> {
        let Envelope { id, message } = envelope;
        let (session_id, stream_promised) = match &message {
            ClientMessage::Prompt(prompt) => (prompt.session_id.clone(), prompt.stream),
            ClientMessage::SessionInit { session_id, .. }
            | ClientMessage::SessionResume { session_id, .. }
            | ClientMessage::SessionEnd { session_id } => (Some(session_id.clone()), false),
            ClientMessage::TokenRefresh { session_id, .. } => (session_id.clone(), false),
            ClientMessage::Auth { .. }
            | ClientMessage::StreamCancel { .. }
            | ClientMessage::Ping
            | ClientMessage::Signed(_) => (None, false),
        };
        let done = match &self.closing {
            Some(closing) => Err(Failure::Refused(closing.refusal.clone())),
            None => self.act(id.clone(), message, received).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(Failure::Gone) => Err(Gone),
            Err(Failure::Refused(error)) => self.refuse(Rejected { id, session_id, stream_promised, error }).await,
        }
    }

    async fn act(
        &mut self,
        id: Option<MessageId>,
        mut message: ClientMessage,
        received: Received,
    ) -> Result<(), Failure> {
        self.admit(&mut message).await?;
        match message {
            ClientMessage::Ping => Ok(self.socket.send_json(&ServerMessage::Pong { id: id.as_ref() }).await?),
            ClientMessage::Auth { token } => self.authenticate(id.as_ref(), &token).await,
            ClientMessage::SessionInit { session_id, job_id, chain_id, context, token: _ } => {
                let named = Named { session_id, job_id, chain_id, resume: false };
                self.session_init(id.as_ref(), named, context, &received).await
            }
            ClientMessage::SessionResume { session_id, job_id, chain_id, context, last_message_index, token: _ } => {
                let named = Named { session_id, job_id, chain_id, resume: true };
                self.session_resume(id.as_ref(), named, (context, last_message_index), &received).await
            }
            ClientMessage::SessionEnd { session_id } => self.session_end(id, session_id, &received).await,
            ClientMessage::TokenRefresh { session_id, token: _ } => {
                self.token_refresh(id.as_ref(), session_id, &received).await
            }
            ClientMessage::Prompt(prompt) => self.prompt(id, *prompt, received).await,
            ClientMessage::StreamCancel { session_id } => Ok(self.stream_cancel(session_id.as_ref(), &received)?),
            ClientMessage::Signed(_) => Err(ApiError::from(Refusal::Nested).into()),
        }
    }

    /// Takes the token that a message carries, then asks for the right that the message needs.
    async fn admit(&mut self, message: &mut ClientMessage) -> Result<(), ApiError> {
        if let Some(token) = message.take_token() {
            self.identity.take(&self.app, &token.0).await?;
        }
        match permissions::message(permissions::NATIVE, message.kind()) {
            Access::Open => Ok(()),
            access => self.identity.known()?.require(access),
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
