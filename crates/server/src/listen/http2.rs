//! HTTP/2 (RFC 9113), and what its multiplexing lets an attacker do.
//!
//! One connection has at most [`STREAMS_MAX`] streams; those that are opened and reset at once (CVE-2023-44487) or made
//! to be reset by the node (CVE-2025-8671) end the connection; heads are bounded, `CONTINUATION` frames included
//! (CVE-2024-27316, in `h2`); bodies that nobody asked for fill one small window. [`Streams`] lets connections go that
//! only hold a place: idle ones, and those whose streams all wait for a client that takes nothing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::Request;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

use super::connection::answer;
use crate::{App, connections::Wire};

/// Streams of a connection: what RFC 9113 section 6.5.2 recommends not to go below.
const STREAMS_MAX: u32 = 100;
/// Largest request head in bytes, as [`super::connection`] has it for HTTP/1.1.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// Streams that were reset before the node had taken them up.
const RESETS_PENDING_MAX: usize = 20;
/// Streams that the client's errors made the node reset.
const RESETS_LOCAL_MAX: usize = 100;
/// Bytes of a body that are taken before its handler reads.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes of all such bodies of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Bytes of an answer that wait for the client, each stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Time for a client to take note of a goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a connection that has agreed on HTTP/2.
pub(super) async fn run<S>(app: &App, stream: S, router: Router, wire: Arc<Wire>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = app.settings();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_LOCAL_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(settings.ping_interval);
    let streams = Streams::default();
    let opened = streams.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = opened.open();
        let answer = answer(router.clone(), Arc::clone(&wire), request);
        async move { answer.await.map(|response| response.map(|body| Tracked { body, stream })) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut leaving = false;
    let mut look_at = Instant::now() + settings.handshake_timeout.min(settings.write_timeout);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = sleep_until(look_at) => {
                let settings = app.settings();
                let idle_max = if leaving { GOODBYE_TIMEOUT } else { settings.handshake_timeout };
                match streams.verdict(idle_max, settings.write_timeout, Instant::now()) {
                    Verdict::LookAgain(at) => look_at = at,
                    Verdict::Stalled => {
                        app.metrics.limit_hit("write_timeout");
                        return;
                    }
                    Verdict::Idle { .. } if leaving => return,
                    Verdict::Idle { unused } => {
                        if unused {
                            app.metrics.limit_hit("handshake_timeout");
                        }
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                        look_at = Instant::now() + GOODBYE_TIMEOUT;
                    }
                }
            }
            () = app.drain.cancelled(), if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
                look_at = Instant::now() + GOODBYE_TIMEOUT;
            }
            () = app.stop.cancelled() => return,
        }
    }
}

/// The open streams of a connection, by whom they wait for. Clones share them.
#[derive(Debug, Clone)]
struct Streams(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    open: usize,
    /// Of those, how many wait for the node: a handler, a backend.
    ours: usize,
    /// When something was asked, taken or ended.
    moved: Instant,
    /// Whether nothing was ever asked.
    unused: bool,
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    LookAgain(Instant),
    /// No stream is open, for too long.
    Idle {
        unused: bool,
    },
    /// Streams are open, and the client takes nothing of any.
    Stalled,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { open: 0, ours: 0, moved: Instant::now(), unused: true })))
    }
}

impl Streams {
    fn open(&self) -> Stream {
        let mut state = self.0.lock();
        state.open += 1;
        state.ours += 1;
        state.moved = Instant::now();
        state.unused = false;
        Stream { streams: self.clone(), is_ours: true }
    }

    fn verdict(&self, idle_max: Duration, stalled_max: Duration, now: Instant) -> Verdict {
        let state = self.0.lock();
        if state.ours > 0 {
            return Verdict::LookAgain(now + idle_max.min(stalled_max));
        }
        let ends = state.moved + if state.open == 0 { idle_max } else { stalled_max };
        if now < ends {
            Verdict::LookAgain(ends)
        } else if state.open == 0 {
            Verdict::Idle { unused: state.unused }
        } else {
            Verdict::Stalled
        }
    }
}

/// One open stream, from its request to the end of its answer.
#[derive(Debug)]
struct Stream {
    streams: Streams,
    is_ours: bool,
}

impl Stream {
    fn is_ours(&mut self, ours: bool) {
        if self.is_ours != ours {
            let mut state = self.streams.0.lock();
            if ours {
                state.ours += 1
            } else {
                state.ours -= 1
            }
            state.moved = Instant::now();
            self.is_ours = ours;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.streams.0.lock();
        state.open -= 1;
        state.ours -= usize::from(self.is_ours);
        state.moved = Instant::now();
    }
}

/// An answer's body. hyper asks for the next part only when the client has taken the one before: what was handed out
/// and is not asked for again waits for the client.
struct Tracked {
    body: Body,
    stream: Stream,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.stream.is_ours(true);
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_))) = polled {
            self.stream.is_ours(false);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);
    const STALLED: Duration = Duration::from_secs(30);

    fn check(streams: &Streams, after: Duration, expected: Verdict) {
        let moved = streams.0.lock().moved;
        let found = match streams.verdict(IDLE, STALLED, moved + after) {
            Verdict::LookAgain(_) => Verdict::LookAgain(moved),
            found => found,
        };
        let expected = if let Verdict::LookAgain(_) = expected { Verdict::LookAgain(moved) } else { expected };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_connection_that_only_holds_a_place_is_let_go() {
        let fine = Verdict::LookAgain(Instant::now());
        let streams = Streams::default();
        check(&streams, Duration::ZERO, fine);
        check(&streams, IDLE, Verdict::Idle { unused: true });
        let mut first = streams.open();
        check(&streams, Duration::from_secs(3600), fine);
        let second = streams.open();
        first.is_ours(false);
        check(&streams, Duration::from_secs(3600), fine);
        drop(second);
        check(&streams, IDLE, fine);
        check(&streams, STALLED, Verdict::Stalled);
        first.is_ours(true);
        check(&streams, Duration::from_secs(3600), fine);
        drop(first);
        check(&streams, Duration::ZERO, fine);
        check(&streams, IDLE, Verdict::Idle { unused: false });
    }

    #[tokio::test]
    async fn a_body_waits_for_the_client_between_its_parts() {
        let streams = Streams::default();
        let parts = futures_util::stream::iter([Ok::<_, std::io::Error>("a"), Ok("b")]);
        let mut body = Box::pin(Tracked { body: Body::from_stream(parts), stream: streams.open() });
        let ours = || streams.0.lock().ours;
        assert_eq!(ours(), 1);
        for _ in 0..2 {
            let frame = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
            assert!(matches!(frame, Some(Ok(_))));
            assert_eq!(ours(), 0, "handed out");
        }
        assert!(std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none());
        drop(body);
        assert_eq!((ours(), streams.0.lock().open), (0, 0));
    }
}
