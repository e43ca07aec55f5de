//! The accept loop and the routers of both listeners.
//!
//! A connection passes the caps of `connections` before a byte is read, must be through TLS and send its request head
//! within `handshake_timeout` each, and is told to finish when the node drains. TLS clients choose HTTP/2 or HTTP/1.1 by
//! ALPN; without TLS there is HTTP/1.1 alone. WebSockets are upgrades of HTTP/1.1: each counts as the one connection that
//! it is (RFC 8441 would hide a hundred behind one, so it is not offered; browsers then open a connection of their own).

mod connection;
mod http2;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use protocol::{ApiError, ErrorCode};
use tokio::net::TcpListener;

use crate::{
    App, Connections, Tls, admin, client_address, cors,
    error::HttpError,
    forwarded,
    gate::{self, Gate},
    health, http as http_api, native_ws, origin, request_id, responses, well_known,
};

/// Pause after the system refuses a connection (file descriptors used up), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Every route of the public listener.
fn public_routes() -> Router<Arc<App>> {
    health::routes()
        .merge(http_api::routes())
        .merge(responses::routes())
        .merge(native_ws::routes())
        .merge(well_known::routes())
}

/// The public routes.
pub fn public_router(app: &Arc<App>) -> Router {
    let routes = with_fallbacks(public_routes())
        .layer(middleware::from_fn_with_state(Gate::public(app), gate::enter))
        .layer(middleware::from_fn_with_state(Arc::clone(app), origin::guard_open_node))
        .layer(middleware::from_fn_with_state(Arc::clone(app), client_address::attach))
        .layer(cors::layer(app));
    finish(routes, app)
}

/// The admin routes; `metrics_endpoint` is `None` where metrics are disabled.
pub fn admin_router(app: &Arc<App>, metrics_endpoint: Option<&str>) -> Router {
    let routes = with_fallbacks(admin::routes(metrics_endpoint))
        .layer(middleware::from_fn_with_state(Gate::admin(app, metrics_endpoint), gate::enter))
        .layer(middleware::from_fn(origin::refuse_browsers));
    finish(routes, app)
}

fn with_fallbacks(routes: Router<Arc<App>>) -> Router<Arc<App>> {
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
}

fn finish(routes: Router<Arc<App>>, app: &Arc<App>) -> Router {
    routes.layer(middleware::from_fn_with_state(Arc::clone(app), request_id::attach)).with_state(Arc::clone(app))
}

/// A socket and what is served on it.
pub struct Listener {
    /// Where connections come in.
    pub socket: TcpListener,
    /// What answers them.
    pub router: Router,
    /// Its certificate; without one it speaks in the clear.
    pub tls: Option<Arc<Tls>>,
    /// What its connections count as. Each listener has its own, so that clients cannot keep operators out.
    pub connections: Connections,
}

/// Serves until `app.drain` fires and every connection has ended, or `app.stop` fires.
pub async fn serve(app: Arc<App>, listener: Listener) {
    let Listener { socket, router, tls, connections } = listener;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = app.drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let settings = app.settings();
                // A socket for both families shows IPv4 addresses in IPv6's notation.
                let peer = peer.ip().to_canonical();
                let proxied = forwarded::is_trusted(&settings.trusted_proxies, peer);
                match connections.admit(peer, proxied, &settings) {
                    Ok(guard) => {
                        let (app, router, tls) = (Arc::clone(&app), router.clone(), tls.clone());
                        let accepted = connection::Accepted { stream, peer, proxied, guard };
                        let connection = connection::run(Arc::clone(&app), accepted, router, tls);
                        app.tasks.spawn(connection);
                    }
                    // Closed without a word: an answer would cost more than the attacker's SYN.
                    Err(limit) => tracing::debug!(limit, "a connection was refused"),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; check the limit of open files");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::pipeline::permissions::{self, Access};

    /// The paths of a router, without those of axum's own fallbacks. axum lists them in its `Debug` output alone.
    fn paths(router: &Router<Arc<App>>) -> BTreeSet<String> {
        let text = format!("{router:?}");
        let routed = |part: &&str| part.starts_with('/') && *part != "/" && !part.contains("__private__");
        text.split('"').filter(routed).map(str::to_owned).collect()
    }

    fn listed(table: &[(&str, &str, Access)]) -> BTreeSet<String> {
        table.iter().map(|(_, path, _)| (*path).to_owned()).collect()
    }

    #[test]
    fn every_route_has_its_row_and_every_row_its_route() {
        assert_eq!(paths(&public_routes()), listed(permissions::PUBLIC));
        assert_eq!(paths(&admin::routes(None)), listed(permissions::ADMIN));
    }
}
