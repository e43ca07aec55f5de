//! A narrow interface over the WebSocket library: text messages in, JSON out, limits and keep-alive inside.
//!
//! Both WebSocket transports use only this, so the library can be exchanged in one file (ADR 0003).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::ws::{
        CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection,
    },
    response::{IntoResponse as _, Response},
};
use http::{
    StatusCode,
    header::{CONNECTION, UPGRADE},
};
use protocol::{ApiError, ErrorCode};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite;

use crate::{
    App,
    connections::{SocketGuard, Wire},
    credentials,
    error::HttpError,
};

/// Read buffer of a socket in bytes: the library's 128 KiB a connection is what makes idle sockets expensive.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Write buffer before frames are flushed.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;

/// What is still read of a stranger who sent too much, as a multiple of what it may send.
const DISCARDED_ALLOWANCES: usize = 4;

/// Why a socket is closed, RFC 6455 section 7.4.1 and the 4000 range of applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// 1001: this connection has lived long enough; clients open another.
    GoingAway,
    /// 1007: not UTF-8.
    InvalidPayload,
    /// 1008: a deadline passed or a rule was broken.
    Policy,
    /// 1009.
    TooBig,
    /// 1012: the node drains; clients reconnect.
    Restart,
    /// 4401: the token expired or was revoked.
    TokenOver,
    /// 4403: the operator ended the session.
    SessionEnded,
}

impl CloseCode {
    const fn code(self) -> u16 {
        match self {
            Self::GoingAway => close_code::AWAY,
            Self::InvalidPayload => close_code::INVALID,
            Self::Policy => close_code::POLICY,
            Self::TooBig => close_code::SIZE,
            Self::Restart => close_code::RESTART,
            Self::TokenOver => 4401,
            Self::SessionEnded => 4403,
        }
    }
}

/// What the client did.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message, which neither protocol has.
    Binary,
    /// The socket ended or was ended (limit, deadline, protocol error); nothing more can be sent.
    Closed,
}

/// The client is gone or does not read.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the socket is closed")]
pub(crate) struct Gone;

/// An open WebSocket.
pub(crate) struct Socket {
    inner: WebSocket,
    app: Arc<App>,
    ping: tokio::time::Interval,
    /// When the client was last heard; any frame counts, Pong included.
    heard: Instant,
    /// Deadline for the first message, until it came.
    first_message_by: Option<Instant>,
    idle_timeout: Duration,
    write_timeout: Duration,
    frame_bytes_max: usize,
    /// The connection, until the client has proven who it is.
    stranger: Option<Arc<Wire>>,
    _guard: SocketGuard,
}

/// Applies the limits to an upgrade and runs `serve` on the socket. A request that is no upgrade is told so. A
/// `stranger` may send `unauthenticated_bytes_max` until [`Socket::known`].
pub(crate) fn upgrade<F, Fut>(
    app: Arc<App>,
    stranger: Option<Arc<Wire>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    serve: F,
) -> Response
where
    F: FnOnce(Socket) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(upgrade) = upgrade else {
        let error = ApiError::new(
            ErrorCode::InvalidRequest,
            "This route speaks WebSocket. Connect with a ws:// or wss:// URL; docs/protocol.md has the HTTP routes.",
        );
        // RFC 9110 section 15.5.22.
        let headers = [(UPGRADE, "websocket"), (CONNECTION, "Upgrade")];
        return (StatusCode::UPGRADE_REQUIRED, headers, HttpError(error)).into_response();
    };
    let settings = app.settings();
    if let Some(wire) = &stranger {
        wire.limit(settings.unauthenticated_bytes_max);
    }
    upgrade
        // The one subprotocol that is ever selected: one that carries a token is never echoed.
        .protocols([credentials::SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(settings.message_bytes_max.max(2 * WRITE_BUFFER_BYTES))
        .max_frame_size(settings.frame_bytes_max)
        .max_message_size(settings.message_bytes_max)
        .on_upgrade(move |inner| async move {
            let now = Instant::now();
            let mut ping = interval_at(now + settings.ping_interval, settings.ping_interval);
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let socket = Socket {
                inner,
                ping,
                heard: now,
                first_message_by: Some(now + settings.first_message_timeout),
                idle_timeout: settings.idle_timeout,
                write_timeout: settings.write_timeout,
                frame_bytes_max: settings.frame_bytes_max,
                stranger,
                _guard: app.connections.socket(),
                app: Arc::clone(&app),
            };
            app.tasks.track_future(serve(socket)).await;
        })
}

impl Socket {
    /// The client has proven who it is.
    pub(crate) fn known(&mut self) {
        if let Some(wire) = self.stranger.take() {
            wire.lift();
        }
    }

    /// The next message. Answers pings, sends its own, and closes the socket on a deadline, an oversized message or
    /// invalid UTF-8 with the right code. Cancel-safe: use it in a `select!`.
    pub(crate) async fn recv(&mut self) -> Incoming {
        loop {
            let deadline = match self.first_message_by {
                Some(first) => first.min(self.heard + self.idle_timeout),
                None => self.heard + self.idle_timeout,
            };
            tokio::select! {
                biased;
                received = self.inner.recv() => match received {
                    Some(Ok(message)) => {
                        self.heard = Instant::now();
                        match message {
                            Message::Text(text) => {
                                self.first_message_by = None;
                                self.app.metrics.message_received(text.len());
                                return Incoming::Text(text);
                            }
                            Message::Binary(bytes) => {
                                self.first_message_by = None;
                                self.app.metrics.message_received(bytes.len());
                                return Incoming::Binary;
                            }
                            Message::Ping(_) | Message::Pong(_) => {}
                            Message::Close(_) => return Incoming::Closed,
                        }
                    }
                    Some(Err(error)) => {
                        if let Some((code, reason)) = self.protocol_error(&error) {
                            self.close(code, reason).await;
                        }
                        return Incoming::Closed;
                    }
                    None => return Incoming::Closed,
                },
                () = tokio::time::sleep_until(deadline) => {
                    let (limit, reason) = if self.first_message_by.is_some_and(|first| first <= deadline) {
                        ("first_message_timeout", "no message came in time")
                    } else {
                        ("idle_timeout", "nothing was heard in time")
                    };
                    self.app.metrics.limit_hit(limit);
                    self.close(CloseCode::Policy, reason).await;
                    return Incoming::Closed;
                },
                _ = self.ping.tick() => {
                    if self.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                        return Incoming::Closed;
                    }
                }
            }
        }
    }

    /// Sends one JSON text frame.
    ///
    /// # Errors
    /// [`Gone`] when the client went away or did not take it within `write_timeout`.
    pub(crate) async fn send_json(&mut self, value: &impl Serialize) -> Result<(), Gone> {
        let text = serde_json::to_string(value).expect("wire types have string keys and serialise");
        self.app.metrics.message_sent(text.len());
        self.send(Message::Text(text.into())).await
    }

    /// Closes with a code and a reason (at most 123 bytes).
    pub(crate) async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let frame = CloseFrame { code: code.code(), reason: Utf8Bytes::from_static(reason) };
        // The client may be gone already: there is nobody left to tell.
        let _ = self.send(Message::Close(Some(frame))).await;
        // RFC 6455 section 7.1.1: wait briefly for the peer's Close, so that TCP does not reset away our own.
        let _ = timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = self.inner.recv().await {} }).await;
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        match timeout(self.write_timeout, self.inner.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone),
            Err(_) => {
                self.app.metrics.limit_hit("write_timeout");
                Err(Gone)
            }
        }
    }

    /// The close code that a library error calls for; `None` when the connection is simply gone.
    fn protocol_error(&self, error: &axum::Error) -> Option<(CloseCode, &'static str)> {
        use tungstenite::{Error, error::CapacityError};
        if let Some(wire) = self.stranger.as_ref().filter(|wire| wire.is_exhausted()) {
            self.app.metrics.limit_hit("unauthenticated_bytes_max");
            // While the close is waited for, what is on its way is still read: unread, it would make TCP reset.
            wire.limit(DISCARDED_ALLOWANCES * self.app.settings().unauthenticated_bytes_max);
            return Some((CloseCode::TooBig, "too much was sent before a valid token"));
        }
        let source = std::error::Error::source(error)?;
        match source.downcast_ref::<Error>()? {
            Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
                let of_frame = *max_size == self.frame_bytes_max;
                self.app.metrics.limit_hit(if of_frame { "frame_bytes_max" } else { "message_bytes_max" });
                Some((CloseCode::TooBig, "the message is over the limit"))
            }
            Error::Utf8(_) => Some((CloseCode::InvalidPayload, "the text is not UTF-8")),
            _ => None,
        }
    }
}
