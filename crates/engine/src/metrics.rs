//! What the engine counts. A field's doc comment is the HELP text of its metric.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

macro_rules! metrics {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[doc = $help:literal])+ $field:ident: $type:ty = $metric:literal, $new:expr;)*
    }) => {
        $(#[$meta])*
        $vis struct $name { $($(#[doc = $help])+ pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $new,)* }
            }
        }

        impl $name {
            /// Registers every series at its start value, so that rates and alerts see it from the first scrape.
            pub fn register(&self, registry: &mut Registry) {
                // The registry ends each HELP text with a full stop itself.
                $(registry.register($metric, concat!($($help),+).trim().trim_end_matches('.'), self.$field.clone());)*
            }
        }
    };
}

metrics! {
    /// The engine's metrics. Clones count into the same series.
    #[derive(Debug, Clone)]
    pub struct Metrics {
        /// Whether the backend can answer (1) or not (0).
        ready: Gauge = "llm_node_engine_ready", Gauge::default();
        /// Worker processes started after one that ended unasked.
        worker_restarts: Counter = "llm_node_engine_worker_restarts", Counter::default();
        /// Requests waiting for a sequence.
        queued: Gauge = "llm_node_engine_queued_requests", Gauge::default();
        /// Sequences decoding or prefilling.
        active: Gauge = "llm_node_engine_active_sequences", Gauge::default();
        /// KV cache cells in use by active sequences and cached prefixes.
        kv_used: Gauge = "llm_node_engine_kv_used_tokens", Gauge::default();
        /// KV cache cells in all.
        kv_capacity: Gauge = "llm_node_engine_kv_capacity_tokens", Gauge::default();
        /// Tokens of one step's batch, prompt and decoding together.
        batch: Histogram = "llm_node_engine_batch_tokens", Histogram::new(exponential_buckets(1.0, 2.0, 13));
        /// Duration of one step: batch, decode, sampling.
        step: Histogram = "llm_node_engine_step_duration_seconds",
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        /// Time that the worker spent inside llama.cpp computing batches; the rest of a step is ours.
        decode: Counter<f64, AtomicU64> = "llm_node_engine_decode_seconds", Counter::default();
        /// Prompt tokens taken from the prefix cache.
        prefix_cache_hits: Counter = "llm_node_engine_prefix_cache_hit_tokens", Counter::default();
        /// Cached prefixes dropped to make room.
        prefix_cache_evictions: Counter = "llm_node_engine_prefix_cache_evictions", Counter::default();
        /// Requests handed to a new worker after the old one ended.
        resubmitted: Counter = "llm_node_engine_resubmitted_requests", Counter::default();
        /// Tokens generated.
        generated: Counter = "llm_node_engine_generated_tokens", Counter::default();
        /// Prompt tokens of accepted requests, cached ones included.
        prompt: Counter = "llm_node_engine_prompt_tokens", Counter::default();
        /// Requests cancelled by their client or its disconnection.
        cancelled: Counter = "llm_node_engine_cancelled_requests", Counter::default();
        /// Requests ended by their deadline.
        timed_out: Counter = "llm_node_engine_timed_out_requests", Counter::default();
        /// Requests refused because the engine's limit of live requests was reached.
        refused: Counter = "llm_node_engine_refused_requests", Counter::default();
        /// Requests failed because workers kept dying while they ran.
        poisoned: Counter = "llm_node_engine_poisoned_requests", Counter::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start_with_its_help() {
        let mut registry = Registry::default();
        Metrics::default().register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        for line in [
            "# HELP llm_node_engine_worker_restarts Worker processes started after one that ended unasked.",
            "llm_node_engine_worker_restarts_total 0",
            "llm_node_engine_kv_used_tokens 0",
            "llm_node_engine_step_duration_seconds_count 0",
            "llm_node_engine_prefix_cache_hit_tokens_total 0",
            "llm_node_engine_cancelled_requests_total 0",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} is missing in\n{text}");
        }
    }
}
