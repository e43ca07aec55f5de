use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use protocol::receipt::Ending;
use store::{SettleOutcome, Settlement};

use crate::JobError;

/// What is counted about jobs.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) charged_tokens: Counter,
    pub(crate) reserved_tokens: Gauge,
    pub(crate) reservations: Gauge,
    pub(crate) settlement_failures: Counter,
    pub(crate) unsettled: Gauge,
    receipts: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) forgotten_receipts: Counter,
    refusals: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Registers every series, refusals pre-created at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "llm_node_charged_tokens",
            "Generated tokens charged to jobs",
            metrics.charged_tokens.clone(),
        );
        registry.register(
            "llm_node_reserved_tokens",
            "Tokens reserved by running requests",
            metrics.reserved_tokens.clone(),
        );
        registry.register("llm_node_reservations", "Running requests with a reservation", metrics.reservations.clone());
        registry.register(
            "llm_node_settlement_failures",
            "Settlements that the store did not take at first; they are repeated",
            metrics.settlement_failures.clone(),
        );
        registry.register(
            "llm_node_unsettled_answers",
            "Answers that are over and whose settlement the store has not taken yet",
            metrics.unsettled.clone(),
        );
        let help = "Receipts issued, by how the answer ended";
        registry.register("llm_node_receipts", help, metrics.receipts.clone());
        let help = "Receipts older than jobs.receipt_retention that were deleted";
        registry.register("llm_node_forgotten_receipts", help, metrics.forgotten_receipts.clone());
        for ending in Ending::ALL {
            drop(metrics.receipts.get_or_create(&[("outcome", ending.as_str())]));
        }
        registry.register(
            "llm_node_job_refusals",
            "Requests refused by a job check, by reason",
            metrics.refusals.clone(),
        );
        for reason in JobError::REASONS {
            drop(metrics.refusals.get_or_create(&[("reason", reason)]));
        }
        metrics
    }

    pub(crate) fn refused(&self, error: &JobError) {
        match error {
            // The store has said what is wrong, once; a full disk must not fill the log.
            JobError::Store(source) => tracing::debug!(%source, "a job cannot be checked; the request is refused"),
            other => tracing::debug!(check = other.reason(), "a job check failed"),
        }
        self.refusals.get_or_create(&[("reason", error.reason())]).inc();
    }

    pub(crate) fn settled(&self, settlement: &Settlement, outcome: &SettleOutcome) {
        if !outcome.settled {
            return; // by the start of another process, which counted it
        }
        self.charged_tokens.inc_by(u64::from(settlement.completion_tokens));
        if let Some(signed) = &outcome.receipt {
            self.receipts.get_or_create(&[("outcome", signed.receipt().finish_reason.as_str())]).inc();
        }
    }

    pub(crate) fn reserved(&self, tokens: u32) {
        self.reservations.inc();
        self.reserved_tokens.inc_by(i64::from(tokens));
    }

    pub(crate) fn released(&self, tokens: u32) {
        self.reservations.dec();
        self.reserved_tokens.dec_by(i64::from(tokens));
    }
}
