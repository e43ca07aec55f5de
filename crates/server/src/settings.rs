//! Limits and deadlines that can change while the node runs. Each has a key of the same name in the configuration
//! file's section `server`, `auth` or `jobs`, and a counter `llm_node_limit_hits_total{limit}` for when it is hit.

use std::time::Duration;

use ipnet::IpNet;

use crate::SignatureMode;

/// What becomes of a session over [`Settings::max_sessions_per_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    /// It is refused.
    Refuse,
    /// The session that was opened first is ended.
    ReplaceOldest,
}

/// Live settings; read through [`crate::App::settings`] each time they are needed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Browser origins that may connect (RFC 6454 serialisations, or `*`). Requests without `Origin` are not browsers.
    pub allowed_origins: Vec<String>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long browsers are told to use TLS only; zero tells them nothing.
    pub hsts_max_age: Duration,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address.
    pub connections_per_address_max: usize,
    /// Time for a connection to complete TLS, and again to send its request head.
    pub handshake_timeout: Duration,
    /// Time for a new WebSocket to send its first message.
    pub first_message_timeout: Duration,
    /// Time without any frame from the client after which a WebSocket is closed.
    pub idle_timeout: Duration,
    /// Interval of protocol pings on a WebSocket.
    pub ping_interval: Duration,
    /// Time for one frame or body chunk to be taken by a slow client.
    pub write_timeout: Duration,
    /// Largest HTTP body in bytes.
    pub body_bytes_max: usize,
    /// Bytes that a WebSocket may send before a valid token.
    pub unauthenticated_bytes_max: usize,
    /// Largest WebSocket frame in bytes.
    pub frame_bytes_max: usize,
    /// Largest WebSocket message (of several frames) in bytes.
    pub message_bytes_max: usize,
    /// Time for one answer, queueing included.
    pub request_timeout: Duration,
    /// How long before its token expires a socket is warned.
    pub token_expiry_warning: Duration,
    /// How long a socket stays open after its token's validity, for a refresh.
    pub token_expiry_grace: Duration,
    /// Sessions that one subject may have open.
    pub max_sessions_per_user: usize,
    /// What becomes of one more.
    pub session_policy: SessionPolicy,
    /// Time without a request or an answer after which a session is ended.
    pub session_idle_timeout: Duration,
    /// Age at which a session is ended.
    pub session_lifetime: Duration,
    /// Sessions that one native connection may hold.
    pub sessions_per_connection_max: usize,
    /// Messages that a native session keeps as history.
    pub history_messages_max: usize,
    /// Bytes that a native session keeps as history.
    pub history_bytes_max: usize,
    /// Responses that are kept for `previous_response_id`, over all clients.
    pub responses_stored_max: usize,
    /// Bytes of them.
    pub responses_stored_bytes_max: usize,
    /// Time that a stored response is kept.
    pub responses_stored_for: Duration,
    /// Life of a WebSocket in Responses mode.
    pub responses_connection_lifetime: Duration,
    /// What signatures are asked for.
    pub signature_mode: SignatureMode,
    /// Age at which a signed HTTP request or a key proof is no longer taken.
    pub signature_age_max: Duration,
    /// Nonces of signed requests that are remembered.
    pub signature_nonces_max: usize,
    /// `host` or `host:port` by which clients reach the node; empty takes the request's own word.
    pub signature_authorities: Vec<String>,
    /// Most tokens of one answer, whatever the client asks.
    pub max_tokens_per_request: u32,
    /// Tokens of an answer when the client does not say.
    pub max_tokens_default: u32,
}

impl Default for Settings {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            hsts_max_age: Duration::from_secs(365 * 86_400),
            connections_max: 16_384,
            connections_per_address_max: 1024,
            handshake_timeout: Duration::from_secs(10),
            first_message_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            body_bytes_max: 4 * MIB,
            unauthenticated_bytes_max: MIB / 4,
            frame_bytes_max: MIB,
            message_bytes_max: 4 * MIB,
            request_timeout: Duration::from_secs(600),
            token_expiry_warning: Duration::from_secs(60),
            token_expiry_grace: Duration::from_secs(10),
            max_sessions_per_user: 1024,
            session_policy: SessionPolicy::Refuse,
            session_idle_timeout: Duration::from_secs(3600),
            session_lifetime: Duration::from_secs(24 * 3600),
            sessions_per_connection_max: 16,
            history_messages_max: 512,
            history_bytes_max: MIB,
            responses_stored_max: 10_000,
            responses_stored_bytes_max: 64 * MIB,
            responses_stored_for: Duration::from_secs(3600),
            responses_connection_lifetime: Duration::from_secs(3600),
            signature_mode: SignatureMode::Optional,
            signature_age_max: Duration::from_secs(60),
            signature_nonces_max: 100_000,
            signature_authorities: Vec::new(),
            max_tokens_per_request: 8192,
            max_tokens_default: 1024,
        }
    }
}
