//! What the server counts. Names with `ws_` and `gen_ai_server_` are contracts (design.md); no user, session or job
//! is ever a label, and every series exists from the start.

mod sessions;

use std::time::{Duration, Instant};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};
use protocol::{
    Blame, ErrorCode,
    inference::{FinishReason, Usage},
};
use telemetry::{LATENCY_SECONDS, SIZE_BYTES};

pub(crate) use self::sessions::{SessionEvent, SessionMetrics};

use crate::signatures;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Limits whose hits are counted: by their configuration key, and one that the Responses protocol sets.
const LIMITS: [&str; 23] = [
    "nonces_max",
    "connections_max",
    "connections_per_address_max",
    "handshake_timeout",
    "first_message_timeout",
    "idle_timeout",
    "write_timeout",
    "body_bytes_max",
    "unauthenticated_bytes_max",
    "frame_bytes_max",
    "message_bytes_max",
    "request_timeout",
    "sessions_per_connection_max",
    "max_sessions_per_user",
    "session_idle_timeout",
    "session_lifetime",
    "token_expiry_grace",
    "history_messages_max",
    "history_bytes_max",
    "responses_stored_max",
    "responses_stored_bytes_max",
    "responses_connection_lifetime",
    "lanes_per_connection_max",
];

/// Where requests come in; the label `endpoint`.
pub const ENDPOINTS: [&str; 6] =
    ["native_ws", "responses", "responses_ws", "chat_completions", "completions", "inference"];

/// Every series of the server. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) ws_connections: Counter,
    pub(crate) ws_active_connections: Gauge,
    pub(crate) sessions: SessionMetrics,
    ws_messages_received: Counter,
    ws_messages_sent: Counter,
    ws_message_size: Histogram,
    ws_errors: Family<Labels<1>, Counter>,
    http_errors: Family<Labels<1>, Counter>,
    pub(crate) connections: Counter,
    pub(crate) active_connections: Gauge,
    limit_hits: Family<Labels<1>, Counter>,
    token_checks: Family<Labels<1>, Counter>,
    signature_checks: Family<Labels<2>, Counter>,
    requests: Family<Labels<2>, Counter>,
    active_requests: Gauge,
    time_to_first_token: Histogram,
    time_per_output_token: Histogram,
    request_duration: Histogram,
    input_tokens: Counter,
    cached_tokens: Counter,
    output_tokens: Counter,
}

const OUTCOMES: [&str; 5] = ["stop", "length", "cancelled", "refused", "failed"];

impl Metrics {
    /// Registers every series, pre-created at zero.
    #[must_use]
    pub fn register(registry: &mut Registry, version: &'static str) -> Self {
        let metrics = Self {
            ws_connections: Counter::default(),
            ws_active_connections: Gauge::default(),
            sessions: SessionMetrics::register(registry),
            ws_messages_received: Counter::default(),
            ws_messages_sent: Counter::default(),
            ws_message_size: Histogram::new(SIZE_BYTES),
            ws_errors: Family::default(),
            http_errors: Family::default(),
            connections: Counter::default(),
            active_connections: Gauge::default(),
            limit_hits: Family::default(),
            token_checks: Family::default(),
            signature_checks: Family::default(),
            requests: Family::default(),
            active_requests: Gauge::default(),
            time_to_first_token: Histogram::new(LATENCY_SECONDS),
            time_per_output_token: Histogram::new(LATENCY_SECONDS),
            request_duration: Histogram::new(LATENCY_SECONDS),
            input_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            output_tokens: Counter::default(),
        };
        metrics.create_series();
        let m = metrics.clone();
        registry.register("ws_connections", "WebSocket connections opened", m.ws_connections);
        registry.register("ws_active_connections", "WebSocket connections open now", m.ws_active_connections);
        registry.register("ws_messages_received", "WebSocket messages received", m.ws_messages_received);
        registry.register("ws_messages_sent", "WebSocket messages sent", m.ws_messages_sent);
        let help = "Size of WebSocket messages in both directions";
        registry.register_with_unit("ws_message_size", help, Unit::Bytes, m.ws_message_size);
        registry.register("ws_errors", "Errors sent over WebSockets, by code", m.ws_errors);
        registry.register("llm_node_http_errors", "Errors sent over HTTP, by code", m.http_errors);
        registry.register("llm_node_connections", "TCP connections accepted", m.connections);
        registry.register("llm_node_active_connections", "TCP connections open now", m.active_connections);
        let help = "Times that a limit was hit, by the limit's configuration key";
        registry.register("llm_node_limit_hits", help, m.limit_hits);
        registry.register("llm_node_token_checks", "Token checks by outcome", m.token_checks);
        let help = "Signatures of clients, and messages that lacked one, by transport and outcome";
        registry.register("llm_node_signature_checks", help, m.signature_checks);
        let help = "Inference requests that ended, by endpoint and outcome";
        registry.register("llm_node_requests", help, m.requests);
        registry.register("llm_node_active_requests", "Answers being generated now", m.active_requests);
        let help = "Time from admission to the first token";
        registry.register_with_unit("gen_ai_server_time_to_first_token", help, Unit::Seconds, m.time_to_first_token);
        let help = "Mean time per output token after the first, one observation a request";
        registry.register_with_unit(
            "gen_ai_server_time_per_output_token",
            help,
            Unit::Seconds,
            m.time_per_output_token,
        );
        let help = "Time from admission to the last token";
        registry.register_with_unit("gen_ai_server_request_duration", help, Unit::Seconds, m.request_duration);
        registry.register("llm_node_input_tokens", "Prompt tokens of answered requests", m.input_tokens);
        registry.register("llm_node_cached_tokens", "Of those, taken from the prefix cache", m.cached_tokens);
        registry.register("llm_node_output_tokens", "Generated tokens handed to transports", m.output_tokens);
        registry.register("llm_node_build", "The running build", Info::new([("version", version)]));
        metrics
    }

    fn create_series(&self) {
        for code in ErrorCode::ALL {
            drop(self.ws_errors.get_or_create(&[("code", code.as_str())]));
            drop(self.http_errors.get_or_create(&[("code", code.as_str())]));
        }
        for limit in LIMITS {
            drop(self.limit_hits.get_or_create(&[("limit", limit)]));
        }
        for outcome in ["ok", "missing", "invalid", "expired", "revoked", "unavailable"] {
            drop(self.token_checks.get_or_create(&[("outcome", outcome)]));
        }
        for transport in signatures::TRANSPORTS {
            for outcome in signatures::OUTCOMES {
                drop(self.signature_checks.get_or_create(&[("transport", transport), ("outcome", outcome)]));
            }
        }
        for endpoint in ENDPOINTS {
            for outcome in OUTCOMES {
                drop(self.requests.get_or_create(&[("endpoint", endpoint), ("outcome", outcome)]));
            }
        }
    }

    pub(crate) fn message_received(&self, bytes: usize) {
        self.ws_messages_received.inc();
        self.ws_message_size.observe(bytes as f64);
    }

    pub(crate) fn message_sent(&self, bytes: usize) {
        self.ws_messages_sent.inc();
        self.ws_message_size.observe(bytes as f64);
    }

    /// An error leaves over a WebSocket.
    pub(crate) fn error_sent(&self, code: ErrorCode) {
        self.ws_errors.get_or_create(&[("code", code.as_str())]).inc();
    }

    /// An error leaves over HTTP.
    pub(crate) fn http_error_sent(&self, code: ErrorCode) {
        self.http_errors.get_or_create(&[("code", code.as_str())]).inc();
    }

    /// A limit was hit; `limit` is its configuration key.
    pub(crate) fn limit_hit(&self, limit: &'static str) {
        debug_assert!(LIMITS.contains(&limit), "{limit} has no pre-created series");
        self.limit_hits.get_or_create(&[("limit", limit)]).inc();
    }

    /// A socket must go because of its token. Gives the reason that its client hears.
    pub(crate) fn token_over(&self, code: ErrorCode) -> &'static str {
        let revoked = code != ErrorCode::TokenExpired;
        self.sessions.token_ended(revoked);
        if revoked {
            return "the token was revoked";
        }
        self.limit_hit("token_expiry_grace");
        "the token has expired; connect again with a fresh one"
    }

    pub(crate) fn token_checked(&self, refused: Option<ErrorCode>) {
        let outcome = match refused {
            None => "ok",
            Some(ErrorCode::AuthFailed) => "missing",
            Some(ErrorCode::TokenExpired) => "expired",
            Some(ErrorCode::TokenRevoked) => "revoked",
            Some(ErrorCode::IssuerUnavailable) => "unavailable",
            Some(_) => "invalid",
        };
        self.token_checks.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// A signature was checked, or one was missing.
    pub(crate) fn signature_checked(&self, transport: &'static str, outcome: &'static str) {
        debug_assert!(signatures::TRANSPORTS.contains(&transport) && signatures::OUTCOMES.contains(&outcome));
        self.signature_checks.get_or_create(&[("transport", transport), ("outcome", outcome)]).inc();
    }

    /// A request ended without an answer, or in the middle of one.
    pub(crate) fn refused(&self, endpoint: &'static str, code: ErrorCode) {
        tracing::debug!(endpoint, %code, "a request was refused");
        self.ended(endpoint, if code.blame() == Blame::Client { "refused" } else { "failed" });
    }

    fn ended(&self, endpoint: &'static str, outcome: &'static str) {
        debug_assert!(ENDPOINTS.contains(&endpoint), "{endpoint} has no pre-created series");
        self.requests.get_or_create(&[("endpoint", endpoint), ("outcome", outcome)]).inc();
    }
}

/// Times one answer. An answer that ends without a word (a bug) still leaves the gauge right.
#[derive(Debug)]
pub(crate) struct AnswerTimer {
    metrics: Metrics,
    endpoint: &'static str,
    started: Instant,
    first: Option<Instant>,
    tokens: u32,
}

impl AnswerTimer {
    pub(crate) fn new(metrics: Metrics, endpoint: &'static str, started: Instant) -> Self {
        metrics.active_requests.inc();
        Self { metrics, endpoint, started, first: None, tokens: 0 }
    }

    /// Tokens arrived from the backend.
    pub(crate) fn tokens(&mut self, tokens: u32) {
        self.metrics.output_tokens.inc_by(u64::from(tokens));
        self.tokens += tokens;
        if self.first.is_none() && tokens > 0 {
            let now = Instant::now();
            self.first = Some(now);
            self.metrics.time_to_first_token.observe((now - self.started).as_secs_f64());
        }
    }

    /// The backend ran out of time: ours, or one of its own that is shorter.
    pub(crate) fn timed_out(&self, request_timeout: Duration) {
        if self.started.elapsed() >= request_timeout {
            self.metrics.limit_hit("request_timeout");
        }
    }

    pub(crate) fn finished(&self, reason: FinishReason, usage: &Usage) {
        self.observe();
        self.metrics.input_tokens.inc_by(u64::from(usage.prompt_tokens));
        self.metrics.cached_tokens.inc_by(u64::from(usage.cached_tokens));
        self.metrics.ended(self.endpoint, reason.as_str());
        tracing::info!(
            reason = reason.as_str(),
            prompt_tokens = usage.prompt_tokens,
            cached_tokens = usage.cached_tokens,
            completion_tokens = usage.completion_tokens,
            duration_ms = self.started.elapsed().as_millis(),
            "answered"
        );
    }

    /// The backend refused it after all (its prompt does not fit), or failed.
    pub(crate) fn failed(&self, code: ErrorCode) {
        if self.first.is_some() {
            self.observe();
        }
        self.metrics.refused(self.endpoint, code);
        tracing::info!(%code, tokens = self.tokens, "not answered");
    }

    fn observe(&self) {
        self.metrics.request_duration.observe(self.started.elapsed().as_secs_f64());
        if let Some(first) = self.first
            && self.tokens > 1
        {
            self.metrics.time_per_output_token.observe(first.elapsed().as_secs_f64() / f64::from(self.tokens - 1));
        }
    }
}

impl Drop for AnswerTimer {
    fn drop(&mut self) {
        self.metrics.active_requests.dec();
    }
}
