//! What is counted of sessions.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What happens to a session; the label `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEvent {
    /// It was opened.
    Opened,
    /// Its client ended it, or its connection ended.
    Closed,
    /// It was refused: the user has too many.
    Refused,
    /// A resume by someone else, or without the key, was refused.
    Denied,
    /// A newer one took its place.
    Replaced,
    /// It was resumed elsewhere.
    Resumed,
    /// The operator ended it.
    Ended,
    /// It was idle.
    ExpiredIdle,
    /// It was too old.
    ExpiredLifetime,
}

impl SessionEvent {
    const ALL: [Self; 9] = [
        Self::Opened,
        Self::Closed,
        Self::Refused,
        Self::Denied,
        Self::Replaced,
        Self::Resumed,
        Self::Ended,
        Self::ExpiredIdle,
        Self::ExpiredLifetime,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Replaced => "replaced",
            Self::Resumed => "resumed",
            Self::Ended => "ended_by_operator",
            Self::ExpiredIdle => "expired_idle",
            Self::ExpiredLifetime => "expired_lifetime",
        }
    }
}

/// Counts sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionMetrics {
    open: Gauge,
    events: Family<[(&'static str, &'static str); 1], Counter>,
    tokens_ended: Family<[(&'static str, &'static str); 1], Counter>,
}

impl SessionMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("ws_active_sessions", "Sessions open now", metrics.open.clone());
        registry.register("llm_node_session_events", "What happened to sessions, by event", metrics.events.clone());
        let help = "Sockets closed because of their token, by reason";
        registry.register("llm_node_socket_tokens_ended", help, metrics.tokens_ended.clone());
        for event in SessionEvent::ALL {
            drop(metrics.events.get_or_create(&[("event", event.label())]));
        }
        for reason in ["expired", "revoked"] {
            drop(metrics.tokens_ended.get_or_create(&[("reason", reason)]));
        }
        metrics
    }

    pub(crate) fn opened(&self) {
        self.open.inc();
        self.count(SessionEvent::Opened);
    }

    /// An open session is open no more.
    pub(crate) fn closed(&self, event: SessionEvent) {
        self.open.dec();
        self.count(event);
    }

    /// One was not opened.
    pub(crate) fn refused(&self, event: SessionEvent) {
        self.count(event);
    }

    /// A socket is closed because its token is over.
    pub(crate) fn token_ended(&self, revoked: bool) {
        self.tokens_ended.get_or_create(&[("reason", if revoked { "revoked" } else { "expired" })]).inc();
    }

    fn count(&self, event: SessionEvent) {
        self.events.get_or_create(&[("event", event.label())]).inc();
    }
}
