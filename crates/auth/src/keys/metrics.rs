//! Uses of the node's keys, counted by key and outcome.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Keys with series of their own; those that come later in one process share [`OTHERS`].
const KID_SERIES_MAX: usize = 32;
/// The label of the keys beyond [`KID_SERIES_MAX`].
const OTHERS: &str = "others";

type Labels = [(&'static str, String); 3];

/// What is counted about the node's keys.
#[derive(Debug, Clone, Default)]
pub struct KeyMetrics {
    uses: Family<Labels, Counter>,
    pub(crate) reload_failures: Counter,
    pub(crate) active_since: Gauge,
    names: std::sync::Arc<Mutex<HashMap<String, KeyUses>>>,
}

/// The series of one key, found once.
#[derive(Debug, Clone)]
pub(crate) struct KeyUses {
    pub(crate) signed: Counter,
    pub(crate) sign_failed: Counter,
    pub(crate) sign_retired: Counter,
    pub(crate) verified: Counter,
    pub(crate) verify_failed: Counter,
    pub(crate) verify_retired: Counter,
}

impl KeyMetrics {
    /// Registers the series; those of a key appear with it, at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "llm_node_key_uses",
            "Uses of the node's keys by key, operation (sign, verify) and outcome: ok, failed, or retired (refused, \
             because the key may not do that any more)",
            metrics.uses.clone(),
        );
        registry.register(
            "llm_node_keyring_reload_failures",
            "Changes of the keys that the running node could not take; it goes on with the keys that it has",
            metrics.reload_failures.clone(),
        );
        registry.register(
            "llm_node_active_key_since_timestamp_seconds",
            "When the key that signs now became the active one, in seconds since 1970",
            metrics.active_since.clone(),
        );
        metrics
    }

    /// The series of the key `kid`.
    pub(crate) fn uses(&self, kid: &str) -> KeyUses {
        let mut names = self.names.lock();
        if let Some(uses) = names.get(kid) {
            return uses.clone();
        }
        let name = if names.len() < KID_SERIES_MAX { kid } else { OTHERS };
        let series = |operation: &str, outcome: &str| {
            let labels =
                [("kid", name.to_owned()), ("operation", operation.to_owned()), ("outcome", outcome.to_owned())];
            self.uses.get_or_create(&labels).clone()
        };
        let uses = KeyUses {
            signed: series("sign", "ok"),
            sign_failed: series("sign", "failed"),
            sign_retired: series("sign", "retired"),
            verified: series("verify", "ok"),
            verify_failed: series("verify", "failed"),
            verify_retired: series("verify", "retired"),
        };
        if names.len() < KID_SERIES_MAX {
            names.insert(kid.to_owned(), uses.clone());
        }
        uses
    }
}
