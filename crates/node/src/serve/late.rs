//! A backend that exists before its weights do: the listeners answer from the first moment, and `/health/ready` says how
//! far it is.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use engine::{Backend, BackendError, GenerateRequest, Generation, Readiness};
use tokio::sync::watch;

/// Nothing yet, then the backend.
pub(super) struct Late {
    readiness: watch::Sender<Readiness>,
    backend: OnceLock<Arc<dyn Backend>>,
}

impl Default for Late {
    fn default() -> Self {
        Self { readiness: watch::Sender::new(Readiness::Starting { per_mille: 0 }), backend: OnceLock::new() }
    }
}

impl Late {
    /// For whoever prepares the backend.
    pub(super) fn readiness_sender(&self) -> watch::Sender<Readiness> {
        self.readiness.clone()
    }

    /// From now on it is this one.
    pub(super) fn set(&self, backend: Arc<dyn Backend>) {
        let mut real = backend.readiness();
        let shown = self.readiness.clone();
        shown.send_replace(real.borrow_and_update().clone());
        if self.backend.set(backend).is_err() {
            tracing::error!("a backend was started twice; the first stays");
            return;
        }
        tokio::spawn(async move {
            while real.changed().await.is_ok() {
                shown.send_replace(real.borrow_and_update().clone());
            }
            shown.send_replace(Readiness::Failed("the engine ended".into()));
        });
    }
}

#[async_trait]
impl Backend for Late {
    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<Generation, BackendError> {
        match self.backend.get() {
            Some(backend) => backend.generate(request).await,
            None => Err(BackendError::Unavailable("the model is being prepared".into())),
        }
    }

    async fn shutdown(&self) {
        if let Some(backend) = self.backend.get() {
            backend.shutdown().await;
        }
    }
}
