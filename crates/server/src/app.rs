//! What every handler can reach.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use auth::keys::Keyring;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Metrics, Sessions, Settings, connections::Connections, pipeline::Pipeline, responses::ResponseStore};

/// Shared state of all listeners.
#[derive(Debug)]
pub struct App {
    /// The only way to a backend.
    pub pipeline: Pipeline,
    /// Limits and deadlines in force now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// What is counted.
    pub metrics: Metrics,
    /// The node's own keys.
    pub keyring: Keyring,
    /// Open connections and their caps.
    pub connections: Connections,
    /// Open sessions of all connections.
    pub sessions: Sessions,
    /// Responses kept for `previous_response_id`.
    pub responses: ResponseStore,
    /// Fires when the node takes no new work; streams go on until [`App::stop`].
    pub drain: CancellationToken,
    /// Fires when everything must end now.
    pub stop: CancellationToken,
    /// Tasks that must end before the process does (connections, settlements).
    pub tasks: TaskTracker,
    /// Renders `/metrics`.
    pub exposition: telemetry::Exposition,
    /// When the node started.
    pub started: Instant,
}

impl App {
    /// The settings in force now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }
}
