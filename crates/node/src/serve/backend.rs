//! The backend that the configuration names.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use engine::{
    Backend, Metrics,
    embedded::{Embedded, EmbeddedConfig, WorkerCommand},
    scripted::{self, Scripted, ScriptedConfig},
    upstream::{ApiKey, Upstream, UpstreamConfig},
};
use engine_ipc::{GpuConfig, WorkerConfig};

use super::late::Late;
use crate::{
    config::{Config, Engine, EngineKind, ScriptedText},
    data_dir::DataDir,
    model::{self, Prepared},
    progress::Shown,
};

/// A backend that says how far it is from the first moment on, and the work that makes it whole.
pub(super) fn begin(
    config: &Config,
    dir: &DataDir,
    metrics: Metrics,
) -> (Arc<dyn Backend>, impl Future<Output = Result<()>> + use<>) {
    let late = Arc::new(Late::default());
    let backend = Arc::clone(&late);
    let (config, dir) = (config.clone(), dir.clone());
    let started = async move {
        let shown = Shown::new(late.readiness_sender());
        late.set(start(&config, &dir, metrics, shown).await?);
        Ok(())
    };
    (backend, started)
}

async fn start(config: &Config, dir: &DataDir, metrics: Metrics, shown: Shown) -> Result<Arc<dyn Backend>> {
    let engine = &config.engine;
    Ok(match engine.kind {
        EngineKind::Embedded => {
            let (for_task, dir) = (engine.clone(), dir.clone());
            let prepared = tokio::task::spawn_blocking(move || model::prepare(&for_task, &dir, &shown))
                .await
                .context("the model could not be prepared")??;
            Arc::new(Embedded::start(embedded(engine, prepared)?, metrics))
        }
        EngineKind::Upstream => Arc::new(Upstream::start(upstream(config), metrics)?),
        EngineKind::Scripted => Arc::new(Scripted::start(scripted(engine), metrics)),
    })
}

fn embedded(engine: &Engine, prepared: Prepared) -> Result<EmbeddedConfig> {
    let chat_template = engine
        .chat_template_file
        .as_ref()
        .map(|path| {
            std::fs::read_to_string(path)
                .with_context(|| format!("engine.chat_template_file {} cannot be read", path.display()))
        })
        .transpose()?;
    let worker = WorkerConfig {
        model: prepared.load,
        sequences: engine.sequences,
        context_tokens: engine.context_tokens,
        batch_tokens: engine.batch_tokens,
        queue_max: engine.queue_max,
        threads: if engine.threads == 0 { engine::available_threads() } else { engine.threads },
        prefix_cache: engine.prefix_cache,
        gpu: GpuConfig {
            layers: engine.gpu_layers,
            main_device: i32::try_from(engine.gpu_main_device).context("engine.gpu_main_device")?,
        },
        chat_template,
        // The supervisor fills it in at each start.
        memory_bytes: None,
    };
    let command = WorkerCommand::this_executable().context("the path of this program is not known")?;
    Ok(EmbeddedConfig {
        model_name: engine.model_name.clone(),
        model_digest: Some(prepared.digest),
        silence_max: engine.worker_silence_max,
        load_silence_max: engine.worker_load_silence_max,
        restart_wait_max: engine.worker_restart_wait_max,
        ..EmbeddedConfig::new(command, worker)
    })
}

fn upstream(config: &Config) -> UpstreamConfig {
    let engine = &config.engine;
    let addresses = engine.upstream_urls.iter().map(|url| url.as_str().to_owned()).collect();
    UpstreamConfig {
        api_key: engine.upstream_api_key.as_ref().map(|key| ApiKey::new(key.expose())),
        model: engine.upstream_model.clone(),
        connect_timeout: engine.upstream_connect_timeout,
        first_token_timeout: engine.upstream_first_token_timeout,
        idle_timeout: engine.upstream_idle_timeout,
        health_interval: engine.upstream_health_interval,
        in_flight_max: engine.upstream_in_flight_max,
        ..UpstreamConfig::new(addresses)
    }
}

/// Time between words; a rate so small that there is no such time never gets to the next.
fn pace(tokens_per_second: f64) -> Duration {
    if tokens_per_second > 0.0 {
        Duration::try_from_secs_f64(tokens_per_second.recip()).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    }
}

fn scripted(engine: &Engine) -> ScriptedConfig {
    let rate = engine.scripted_tokens_per_second;
    let defaults = ScriptedConfig::default();
    ScriptedConfig {
        model: engine.model_name.clone().unwrap_or(defaults.model),
        context_tokens: if engine.context_tokens == 0 { defaults.context_tokens } else { engine.context_tokens },
        first_token_delay: engine.scripted_first_token_delay,
        token_interval: pace(rate),
        text: match engine.scripted_text {
            ScriptedText::Numbered => scripted::ScriptedText::Numbered,
            ScriptedText::Echo => scripted::ScriptedText::Echo,
        },
        in_flight_max: engine.scripted_in_flight_max,
    }
}
