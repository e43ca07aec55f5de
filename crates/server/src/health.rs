//! Health that tells the truth: ready only when an answer could be generated now.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use engine::Readiness;
use http::StatusCode;
use serde_json::{Value, json};

use crate::App;

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/health/live", get(|| async { Json(json!({ "status": "alive" })) }))
        .route("/health/ready", get(ready))
        .route("/v1/version", get(version))
}

/// The state in one word, and what is wrong in sentences that are safe to show.
fn assess(app: &App) -> (StatusCode, &'static str, Vec<&'static str>) {
    if app.drain.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", vec!["the node is shutting down"]);
    }
    match app.pipeline.readiness() {
        Readiness::Ready(_) => (StatusCode::OK, "healthy", Vec::new()),
        Readiness::Starting { .. } => (StatusCode::OK, "degraded", vec!["the model is being loaded"]),
        Readiness::Failed(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", vec!["the model is not available; the node keeps trying"])
        }
    }
}

async fn health(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    let (status, word, issues) = assess(&app);
    let mut body = json!({ "status": word, "uptime_seconds": app.started.elapsed().as_secs() });
    if !issues.is_empty() {
        body["issues"] = json!(issues);
    }
    (status, Json(body))
}

async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    let (_, word, issues) = assess(&app);
    if word == "healthy" {
        return (StatusCode::OK, Json(json!({ "status": "ready" })));
    }
    let mut body = json!({ "status": "not_ready", "issues": issues });
    if let Readiness::Starting { per_mille } = app.pipeline.readiness() {
        body["loaded_percent"] = json!(f64::from(per_mille) / 10.0);
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body))
}

async fn version() -> Json<Value> {
    Json(json!({ "name": "llm-node", "version": env!("CARGO_PKG_VERSION") }))
}
