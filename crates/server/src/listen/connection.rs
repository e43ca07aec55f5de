//! One connection: TLS, then HTTP/1.1 or HTTP/2, to its end.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;
use tower::ServiceExt as _;

use super::http2;
use crate::{
    App, Tls,
    connections::{ConnectionGuard, Guarded, Wire},
    tls::{HTTP2, Handshake},
};

/// Largest request head in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// First byte of a TLS record that opens a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 22;
/// What speaks plain HTTP to a TLS port hears this, as people do who left out the `s`.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 137\r\nconnection: close\r\n\r\n\
    This port speaks TLS: use https:// or wss://. A token in this request was sent in the clear: replace it if others can listen on the way.\n";
/// Time for that to be taken.
const SPEAK_TLS_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of the plain request that are read, so that its sender hears the answer and not a reset.
const PLAIN_BYTES_MAX: u64 = 64 * 1024;

/// A connection that has its place.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: IpAddr,
    pub(super) proxied: bool,
    pub(super) guard: ConnectionGuard,
}

/// Serves it.
pub(super) async fn run(app: Arc<App>, accepted: Accepted, router: Router, tls: Option<Arc<Tls>>) {
    let Accepted { stream, peer, proxied, guard } = accepted;
    // Tokens are small and must not wait for one another (Nagle).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let settings = app.settings();
    let wire = Arc::new(Wire::new(peer, proxied, tls.is_some()));
    let stream = Guarded::new(stream, guard, Arc::clone(&wire), settings.write_timeout);
    let Some(tls) = tls else {
        return http1(&app, stream, router, wire).await;
    };
    let handshake = tokio::select! {
        handshake = shake_hands(&tls, stream, settings.handshake_timeout) => handshake,
        () = app.drain.cancelled() => return,
    };
    match handshake {
        Ok(stream) => {
            tls.count(Handshake::Complete);
            if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
                http2::run(&app, stream, router, wire).await;
            } else {
                http1(&app, stream, router, wire).await;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            tls.count(Handshake::TimedOut);
            app.metrics.limit_hit("handshake_timeout");
        }
        Err(error) => {
            tls.count(Handshake::Failed);
            tracing::debug!(%error, "a TLS handshake failed");
        }
    }
}

/// TLS, within `limit` from the first byte to the last.
async fn shake_hands(tls: &Tls, stream: Guarded, limit: Duration) -> io::Result<TlsStream<Guarded>> {
    let deadline = Instant::now() + limit;
    let first = timeout_at(deadline, stream.peek()).await??;
    if first != TLS_HANDSHAKE {
        // Best effort: who does not speak TLS may not listen either.
        let _ = timeout(SPEAK_TLS_TIMEOUT, speak_tls(stream)).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
    }
    timeout_at(deadline, tls.acceptor().accept(stream)).await?
}

async fn speak_tls(mut stream: Guarded) -> io::Result<()> {
    stream.write_all(SPEAK_TLS).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(PLAIN_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

async fn http1<S>(app: &App, stream: S, router: Router, wire: Arc<Wire>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(app.settings().handshake_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let served = Arc::new(AtomicBool::new(false));
    let serving = Arc::clone(&served);
    let service = service_fn(move |request: Request<Incoming>| {
        serving.store(true, Ordering::Relaxed);
        answer(router.clone(), Arc::clone(&wire), request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let mut draining = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    // Between requests it is only an idle client that is let go.
                    if error.is_timeout() && !served.load(Ordering::Relaxed) {
                        app.metrics.limit_hit("handshake_timeout");
                    }
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = app.drain.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = app.stop.cancelled() => return,
        }
    }
}

/// Hands one request to the routes.
pub(super) fn answer(
    router: Router,
    wire: Arc<Wire>,
    request: Request<Incoming>,
) -> Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(wire);
    Box::pin(async move { Ok(router.oneshot(request).await.into_response()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_answer_is_one() {
        let text = std::str::from_utf8(SPEAK_TLS).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{} bytes", body.len());
    }
}
