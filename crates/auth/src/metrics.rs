//! What is counted about tokens.

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::TokenError;

type ByLabel = Family<[(&'static str, &'static str); 1], Counter>;

/// How a request for an issuer's keys ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFetch {
    /// The issuer answered.
    Ok,
    /// It did not, or not with keys.
    Failed,
    /// It was not asked: it had been a moment ago, or too many wait for it.
    Limited,
}

impl KeyFetch {
    const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Limited];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Limited => "limited",
        }
    }
}

/// Series of the token service.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    refusals: ByLabel,
    key_fetches: ByLabel,
}

impl Metrics {
    /// Registers every series, pre-created at zero.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for reason in TokenError::REASONS {
            drop(metrics.refusals.get_or_create(&[("reason", reason)]));
        }
        for outcome in KeyFetch::ALL {
            drop(metrics.key_fetches.get_or_create(&[("outcome", outcome.as_str())]));
        }
        registry.register("llm_node_token_refusals", "Tokens refused, by reason", metrics.refusals.clone());
        let help = "Requests for the keys of issuers by outcome; `limited` ones were not made";
        registry.register("llm_node_issuer_key_fetches", help, metrics.key_fetches.clone());
        metrics
    }

    pub(crate) fn refused(&self, error: &TokenError) {
        self.refusals.get_or_create(&[("reason", error.reason())]).inc();
    }

    pub(crate) fn key_fetch(&self, outcome: KeyFetch) {
        self.key_fetches.get_or_create(&[("outcome", outcome.as_str())]).inc();
    }
}
