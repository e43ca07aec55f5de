//! The two listeners.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::{Result, anyhow};
use server::{
    App, Connections,
    listen::{self, Listener},
};
use tokio::{net::TcpListener, task::JoinSet};

use super::certificates::Certificates;
use crate::config::Config;

pub(super) struct Listeners {
    pub(super) public: TcpListener,
    pub(super) admin: TcpListener,
}

pub(super) async fn bind(config: &Config) -> Result<Listeners> {
    Ok(Listeners {
        public: one(config.server.listen, "server.listen", "--listen").await?,
        admin: one(config.admin.listen, "admin.listen", "--admin-listen").await?,
    })
}

async fn one(address: SocketAddr, key: &str, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => format!(
                "another process listens there: stop it (`ss -ltnp` shows it), or take another port with {flag} or {key}"
            ),
            io::ErrorKind::AddrNotAvailable => format!("this machine does not have that address: correct {key}"),
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): take a higher one with {flag}")
            }
            _ => format!("correct {key}"),
        };
        anyhow!("cannot listen on {address} ({error}): {advice}")
    })
}

/// Serves both until they are drained or stopped.
pub(super) fn serve(listeners: Listeners, app: &Arc<App>, config: &Config, certificates: Certificates) -> JoinSet<()> {
    let metrics = config.metrics.enabled.then(|| config.metrics.endpoint.as_str());
    let public = Listener {
        socket: listeners.public,
        router: listen::public_router(app),
        tls: certificates.public,
        connections: app.connections.clone(),
    };
    let admin = Listener {
        socket: listeners.admin,
        router: listen::admin_router(app, metrics),
        tls: certificates.admin,
        connections: Connections::new(app.metrics.clone()),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(listen::serve(Arc::clone(app), public));
    tasks.spawn(listen::serve(Arc::clone(app), admin));
    tasks
}
