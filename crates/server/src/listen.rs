//! The accept loop and the routers of both listeners.
//!
//! A connection passes the caps of `connections` before a byte is read, must send its request head within
//! `handshake_timeout`, and is told to finish when the node drains.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, middleware, response::IntoResponse};
use http::Request;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::{ApiError, ErrorCode};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::{
    App, admin,
    connections::{ConnectionGuard, Guarded},
    error::HttpError,
    health, http as http_api, native_ws, request_id, responses,
};

/// Largest request head in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Pause after the system refuses a connection (file descriptors used up), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The public routes.
pub fn public_router(app: &Arc<App>) -> Router {
    let routes = health::routes().merge(http_api::routes()).merge(responses::routes()).merge(native_ws::routes());
    finish(routes, app)
}

/// The admin routes; `metrics_endpoint` is `None` where metrics are disabled.
pub fn admin_router(app: &Arc<App>, metrics_endpoint: Option<&str>) -> Router {
    finish(admin::routes(metrics_endpoint), app)
}

fn finish(routes: Router<Arc<App>>, app: &Arc<App>) -> Router {
    routes
        .fallback(|| async {
            HttpError(ApiError::new(
                ErrorCode::NotFound,
                "There is no such route. See docs/protocol.md for those that exist.",
            ))
        })
        .method_not_allowed_fallback(|| async {
            HttpError(ApiError::new(ErrorCode::MethodNotAllowed, "This route does not take that method."))
        })
        .layer(middleware::from_fn_with_state(Arc::clone(app), request_id::attach))
        .with_state(Arc::clone(app))
}

/// Serves `router` on `listener` until `app.drain` fires and every connection has ended, or `app.stop` fires.
pub async fn serve(app: Arc<App>, listener: TcpListener, router: Router) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => match app.connections.admit(peer.ip(), &app.settings()) {
                Ok(guard) => {
                    let connection = connection(Arc::clone(&app), stream, peer, router.clone(), guard);
                    app.tasks.spawn(connection);
                }
                // Closed without a word: an answer would cost more than the attacker's SYN.
                Err(limit) => tracing::debug!(limit, "a connection was refused"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; check the limit of open files");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(app: Arc<App>, stream: TcpStream, peer: SocketAddr, router: Router, guard: ConnectionGuard) {
    // Tokens are small and must not wait for one another (Nagle).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let settings = app.settings();
    // HTTP/1.1 alone: clients agree on HTTP/2 over TLS, which this listener does not have.
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.handshake_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let served = Arc::new(AtomicBool::new(false));
    let serving = Arc::clone(&served);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        serving.store(true, Ordering::Relaxed);
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
            Ok::<_, Infallible>(router.oneshot(request).await.into_response())
        }
    });
    let stream = Guarded::new(stream, guard, settings.write_timeout);
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
