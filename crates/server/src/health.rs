//! Health that tells the truth: ready only when an answer could be generated now.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use engine::{Readiness, models::Stage};
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
    let (status, word, mut issues) = match app.pipeline.readiness() {
        Readiness::Ready(_) => (StatusCode::OK, "healthy", Vec::new()),
        Readiness::Preparing { stage, .. } => (StatusCode::OK, "degraded", vec![step(stage).1]),
        Readiness::Starting { .. } => (StatusCode::OK, "degraded", vec!["the model is being loaded"]),
        Readiness::Failed(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", vec!["the model is not available; the node keeps trying"])
        }
    };
    match app.pipeline.storage_failure() {
        Some(failure) => {
            issues.push(failure);
            (StatusCode::SERVICE_UNAVAILABLE, "unhealthy", issues)
        }
        None => (status, word, issues),
    }
}

/// A stage as `step` of `/health/ready`, and as a sentence.
const fn step(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Download => ("download", "the model is being downloaded"),
        Stage::Digest => ("digest", "the model's digest is being checked"),
        Stage::Convert => ("convert", "the model is being converted for faster kernels"),
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
    let progress = match app.pipeline.readiness() {
        Readiness::Preparing { stage, per_mille } => Some((step(stage).0, per_mille)),
        Readiness::Starting { per_mille } => Some(("load", per_mille)),
        Readiness::Ready(_) | Readiness::Failed(_) => None,
    };
    if let Some((step, per_mille)) = progress {
        body["step"] = json!(step);
        body["percent"] = json!(f64::from(per_mille) / 10.0);
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(body))
}

async fn version() -> Json<Value> {
    Json(json!({ "name": "llm-node", "version": env!("CARGO_PKG_VERSION") }))
}
