use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_tungstenite::tungstenite::{self, Message as Frame};

use crate::{
    connect::{self, ConnectOptions, Socket},
    error::ClientError,
    message::{ClientMessage, Envelope, ServerMessage},
    session::{Session, SessionOptions},
    signed::Signing,
};

/// Longest wait for the reply to anything but a prompt.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// A ping is sent this often, so that neither side's idle timeout fires.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A node that is silent for this long, pongs included, is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Most calls that wait for a reply on one connection.
pub const REQUESTS_PENDING_MAX: usize = 64;
/// Messages of one answer that wait for their consumer; a slower consumer slows the connection down.
const REPLIES_WAITING_MAX: usize = 256;
/// Commands that wait for the socket.
const COMMANDS_WAITING_MAX: usize = 64;
/// Longest wait for the node's half of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) enum Command {
    /// Send, and route every message with this id to `reply` until the last.
    Request { id: String, outgoing: Outgoing, reply: mpsc::Sender<Reply> },
    /// Send; nobody waits for an answer of its own.
    Notify(Outgoing),
    /// Close the connection.
    Close,
}

/// A message to send.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    /// The session that it is about. A message about none is not signed.
    pub(crate) session: Option<String>,
    pub(crate) text: String,
}

pub(crate) type Reply = Result<ServerMessage, ClientError>;

/// A connection to a node. Clones share it; it closes when [`Client::close`] is called or the last clone is gone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("ended", &self.shared.end.get()).finish_non_exhaustive()
    }
}

struct Shared {
    commands: mpsc::Sender<Command>,
    next_id: AtomicU64,
    /// Why the connection ended; set before the waiting calls learn that it did.
    end: Arc<OnceLock<ClientError>>,
    /// Closed by the driver's end.
    ended: watch::Receiver<()>,
}

impl Client {
    /// Connects and completes the WebSocket handshake. `url` may be `http(s)://` or `ws(s)://`; without a path it
    /// is [`crate::NATIVE_PATH`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node says no (a bad token), otherwise what failed on the way there.
    pub async fn connect(url: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let options = ConnectOptions { token: token.map(str::to_owned), ..ConnectOptions::default() };
        Self::connect_with(url, &options).await
    }

    /// As [`Self::connect`], with certificates of one's own.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(url: &str, options: &ConnectOptions) -> Result<Self, ClientError> {
        let mut socket = connect::connect(url, options).await?;
        let signing = match &options.signer {
            Some(signer) => Some(Signing::begin(&mut socket, Arc::clone(signer)).await?),
            None => None,
        };
        Ok(Self::drive(socket, signing))
    }

    fn drive(socket: Socket, signing: Option<Signing>) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
        let end = Arc::new(OnceLock::new());
        let (alive, ended) = watch::channel(());
        let driver = Driver { socket, signing, waiting: HashMap::new(), unclaimed: None, heard: Instant::now() };
        tokio::spawn({
            let end = Arc::clone(&end);
            async move {
                let cause = driver.run(receiver, &end).await;
                let _ = end.set(cause);
                drop(alive);
            }
        });
        Self { shared: Arc::new(Shared { commands, next_id: AtomicU64::new(1), end, ended }) }
    }

    /// Opens a session; the node keeps its history for as long as the connection lives.
    ///
    /// # Errors
    /// [`ClientError::Node`] with the node's reason, or the connection's failure.
    pub async fn session_init(&self, options: SessionOptions) -> Result<Session, ClientError> {
        Session::init(self.clone(), options).await
    }

    /// Asks for a sign of life and says how long it took.
    ///
    /// # Errors
    /// [`ClientError::Timeout`], or the connection's failure.
    pub async fn ping(&self) -> Result<Duration, ClientError> {
        let id = self.fresh_id();
        let started = Instant::now();
        match self.call("ping", &id, ClientMessage::Ping { id: &id }.outgoing()).await? {
            ServerMessage::Pong {} => Ok(started.elapsed()),
            _ => Err(ClientError::Protocol("a ping was not answered with a pong".into())),
        }
    }

    /// Closes the connection and waits (briefly) until the node has taken note. Waiting calls fail with
    /// [`ClientError::Closed`].
    pub async fn close(&self) {
        let _ = self.shared.commands.send(Command::Close).await;
        let mut ended = self.shared.ended.clone();
        let _ = tokio::time::timeout(CLOSE_TIMEOUT * 2, async { while ended.changed().await.is_ok() {} }).await;
    }

    /// Why the connection ended, if it did.
    #[must_use]
    pub fn end_cause(&self) -> Option<&ClientError> {
        self.shared.end.get()
    }

    pub(crate) fn fresh_id(&self) -> String {
        self.shared.next_id.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Sends a request that has exactly one reply.
    pub(crate) async fn call(&self, what: &'static str, id: &str, outgoing: Outgoing) -> Reply {
        let mut replies = self.request(id, outgoing).await?;
        match tokio::time::timeout(REPLY_TIMEOUT, replies.recv()).await {
            Ok(Some(reply)) => reply,
            Ok(None) => Err(self.lost()),
            Err(_) => Err(ClientError::Timeout { what, after: REPLY_TIMEOUT }),
        }
    }

    /// Sends a request and gives the receiver of its replies.
    pub(crate) async fn request(&self, id: &str, outgoing: Outgoing) -> Result<mpsc::Receiver<Reply>, ClientError> {
        let (reply, replies) = mpsc::channel(REPLIES_WAITING_MAX);
        let command = Command::Request { id: id.to_owned(), outgoing, reply };
        self.shared.commands.send(command).await.map_err(|_| self.lost())?;
        Ok(replies)
    }

    /// Sends without waiting for a reply; `false` when there is no room or no connection.
    pub(crate) fn notify(&self, outgoing: Outgoing) -> bool {
        self.shared.commands.try_send(Command::Notify(outgoing)).is_ok()
    }

    pub(crate) fn lost(&self) -> ClientError {
        self.end_cause().cloned().unwrap_or_else(|| ClientError::Closed { code: None, reason: String::new() })
    }
}

struct Driver {
    socket: Socket,
    signing: Option<Signing>,
    waiting: HashMap<String, mpsc::Sender<Reply>>,
    /// An error that named no request: the reason of the close that follows it.
    unclaimed: Option<ClientError>,
    heard: Instant,
}

impl Driver {
    /// Runs until the connection ends, and says why it did. `end` is set before any waiting call can see its
    /// channel close, because those channels live in `self`.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, end: &OnceLock<ClientError>) -> ClientError {
        let mut keepalive = tokio::time::interval_at(Instant::now() + KEEPALIVE_INTERVAL, KEEPALIVE_INTERVAL);
        keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cause = loop {
            let step = tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Request { id, outgoing, reply }) => self.send_request(id, outgoing, reply).await,
                    // Who waits for nothing hears of nothing.
                    Some(Command::Notify(outgoing)) => match self.seal(None, outgoing) {
                        Ok(text) => self.send(Frame::text(text)).await,
                        Err(_) => Ok(()),
                    },
                    Some(Command::Close) | None => break self.close().await,
                },
                frame = self.socket.next() => self.receive(frame).await,
                _ = keepalive.tick() => self.keep_alive().await,
            };
            if let Err(cause) = step {
                break cause;
            }
        };
        let _ = end.set(cause.clone());
        cause
    }

    async fn send(&mut self, frame: Frame) -> Result<(), ClientError> {
        self.socket.send(frame).await.map_err(|error| self.failure(&error))
    }

    /// The text to send, signed where this connection signs.
    fn seal(&mut self, id: Option<&str>, outgoing: Outgoing) -> Result<String, ClientError> {
        match (&mut self.signing, outgoing.session) {
            (Some(signing), Some(session)) => signing.seal(id, &session, &outgoing.text),
            _ => Ok(outgoing.text),
        }
    }

    async fn send_request(
        &mut self,
        id: String,
        outgoing: Outgoing,
        reply: mpsc::Sender<Reply>,
    ) -> Result<(), ClientError> {
        self.waiting.retain(|_, reply| !reply.is_closed());
        if self.waiting.len() >= REQUESTS_PENDING_MAX {
            let _ = reply.try_send(Err(ClientError::TooManyPending { max: REQUESTS_PENDING_MAX }));
            return Ok(());
        }
        let text = match self.seal(Some(&id), outgoing) {
            Ok(text) => text,
            Err(error) => {
                let _ = reply.try_send(Err(error));
                return Ok(());
            }
        };
        self.waiting.insert(id, reply);
        self.send(Frame::text(text)).await
    }

    async fn keep_alive(&mut self) -> Result<(), ClientError> {
        if self.heard.elapsed() > SILENCE_MAX {
            return Err(ClientError::Timeout { what: "pings", after: SILENCE_MAX });
        }
        self.send(Frame::Ping(Default::default())).await
    }

    async fn receive(&mut self, frame: Option<Result<Frame, tungstenite::Error>>) -> Result<(), ClientError> {
        self.heard = Instant::now();
        match frame {
            Some(Ok(Frame::Text(text))) => {
                let envelope = Envelope::parse(&text).map_err(ClientError::Protocol)?;
                self.route(envelope).await;
                Ok(())
            }
            Some(Ok(Frame::Close(frame))) => Err(self.unclaimed.take().unwrap_or_else(|| match frame {
                Some(frame) => ClientError::Closed { code: Some(frame.code.into()), reason: frame.reason.to_string() },
                None => ClientError::Closed { code: None, reason: String::new() },
            })),
            // Pings are answered by tungstenite itself; binary frames are not part of the protocol.
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(self.failure(&error)),
            None => Err(self.failure(&tungstenite::Error::ConnectionClosed)),
        }
    }

    async fn route(&mut self, envelope: Envelope) {
        let last = envelope.message.is_last();
        let reply = envelope.message.into_result().map_err(ClientError::Node);
        let Some(id) = envelope.id else {
            if let Err(error) = reply {
                self.unclaimed = Some(error);
            }
            return;
        };
        let sender = if last { self.waiting.remove(&id) } else { self.waiting.get(&id).cloned() };
        if let Some(sender) = sender
            && sender.send(reply).await.is_err()
        {
            // The caller has lost interest; its drop has already asked the node to stop.
            self.waiting.remove(&id);
        }
    }

    fn failure(&mut self, error: &tungstenite::Error) -> ClientError {
        if let Some(unclaimed) = self.unclaimed.take() {
            return unclaimed;
        }
        match error {
            tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
                ClientError::Closed { code: None, reason: String::new() }
            }
            tungstenite::Error::Protocol(error) => ClientError::Protocol(error.to_string()),
            other => ClientError::Closed { code: None, reason: other.to_string() },
        }
    }

    async fn close(&mut self) -> ClientError {
        let closing = async {
            if self.socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = self.socket.next().await {}
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        ClientError::Closed { code: Some(1000), reason: String::new() }
    }
}

#[cfg(test)]
mod tests;
