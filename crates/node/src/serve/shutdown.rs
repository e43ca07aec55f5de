//! The end: new work is refused, answers finish until a deadline, sockets close with 1012, everything is settled.

use std::time::Duration;

use anyhow::{Context as _, Result};
use engine::Backend;
use server::App;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
    time::timeout,
};

/// Time for settlements and closes once answers are stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be listened for");
        // Not to hear it: without a handler, a file that reaches its limit (`ulimit -f`) kills the process. With one the
        // write fails, as on a full disk. The handler stays when the stream is dropped.
        drop(listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for one. Cancel-safe.
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends everything, gently for `drain_timeout` or until a second signal, then firmly.
pub(super) async fn drain(
    app: &App,
    backend: &dyn Backend,
    drain_timeout: Duration,
    signals: &mut Signals,
    mut listening: JoinSet<()>,
) {
    tracing::info!(seconds = drain_timeout.as_secs_f32(), "draining: new work is refused, running answers finish");
    app.drain.cancel();
    app.tasks.close();
    tokio::select! {
        () = app.tasks.wait() => {}
        () = tokio::time::sleep(drain_timeout) => tracing::warn!("the drain timeout passed; what still runs is cancelled"),
        () = signals.recv() => tracing::warn!("a second signal; what still runs is cancelled"),
    }
    app.stop.cancel();
    if timeout(STOP_TIMEOUT, app.tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time; what they delivered is settled at the next start");
    }
    backend.shutdown().await;
    listening.abort_all();
    while listening.join_next().await.is_some() {}
    tracing::info!("stopped");
}
