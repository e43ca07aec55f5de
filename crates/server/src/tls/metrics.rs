use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::Certificate;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The labels `listener`.
const LISTENERS: [&str; 2] = ["public", "admin"];

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// There is a connection.
    Complete,
    /// The two did not agree: no common version, no certificate where one is asked for, no TLS at all.
    Failed,
    /// It was not over in `handshake_timeout`.
    TimedOut,
}

impl Handshake {
    const ALL: [Self; 3] = [Self::Complete, Self::Failed, Self::TimedOut];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What is counted about TLS. Clones share the series.
#[derive(Debug, Clone, Default)]
pub struct TlsMetrics {
    handshakes: Family<Labels<2>, Counter>,
    reloads: Family<Labels<2>, Counter>,
    /// Only where there is a certificate: an alert on 0 would be a false one.
    expiry: Family<Labels<1>, Gauge>,
}

impl TlsMetrics {
    /// Registers every series, counters pre-created at zero.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for listener in LISTENERS {
            for handshake in Handshake::ALL {
                let labels = [("listener", listener), ("outcome", handshake.as_str())];
                drop(metrics.handshakes.get_or_create(&labels));
            }
            for outcome in ["applied", "invalid"] {
                drop(metrics.reloads.get_or_create(&[("listener", listener), ("outcome", outcome)]));
            }
        }
        let help = "TLS handshakes by outcome";
        registry.register("llm_node_tls_handshakes", help, metrics.handshakes.clone());
        let help = "Certificate files that changed, by whether they were taken";
        registry.register("llm_node_tls_reloads", help, metrics.reloads.clone());
        let help = "When the first certificate of the listener's chain ends";
        let name = "llm_node_tls_certificate_expiry_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.expiry.clone());
        metrics
    }

    pub(super) fn certificate_loaded(&self, listener: &'static str, certificate: &Certificate) {
        self.expiry.get_or_create(&[("listener", listener)]).set(certificate.not_after);
    }

    pub(super) fn reloaded(&self, listener: &'static str, applied: bool) {
        let outcome = if applied { "applied" } else { "invalid" };
        self.reloads.get_or_create(&[("listener", listener), ("outcome", outcome)]).inc();
    }

    pub(super) fn handshake(&self, listener: &'static str, handshake: Handshake) {
        self.handshakes.get_or_create(&[("listener", listener), ("outcome", handshake.as_str())]).inc();
    }
}
