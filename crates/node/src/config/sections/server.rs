use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::config::{
    schema::section,
    sections::TlsClientAuth,
    value::{ByteSize, WebOrigin},
};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

section! {
    /// The public listener, its limits and deadlines. Each limit that is hit is counted in
    /// `llm_node_limit_hits_total{limit}`.
    Server as "server" {
        /// Address of the public listener. Port 0 takes a free one.
        restart listen: std::net::SocketAddr = ([127, 0, 0, 1], 8080).into();
        /// Certificate of the public listener, a PEM file, followed by those that lead to its authority. Read again when
        /// it changes and on SIGHUP. Without one, and without `behind_proxy`, only loopback addresses are taken.
        restart tls_cert: Option<PathBuf> = None;
        /// Its private key, a PEM file that is not encrypted; nobody but the node should be able to read it.
        restart tls_key: Option<PathBuf> = None;
        /// Authorities of clients' certificates, a PEM file; without one, none is asked for. A certificate opens the
        /// connection and nothing more: a token is needed all the same.
        restart tls_client_ca: Option<PathBuf> = None;
        /// What becomes of a client without a certificate where there is `tls_client_ca`.
        restart tls_client_auth: TlsClientAuth = TlsClientAuth::Required;
        /// How long browsers that came by TLS are told to come back by TLS alone (Strict-Transport-Security, for the
        /// whole host, all its ports); `"0s"` tells them nothing.
        live hsts_max_age: Duration = secs(365 * 86_400), Duration::ZERO..=secs(2 * 365 * 86_400);
        /// Whether something in front of both listeners terminates TLS, so that they may be on other than loopback
        /// addresses without it.
        restart behind_proxy: bool = false;
        /// Proxies in front of the node, as addresses and networks. Of these, and of nobody else, `X-Forwarded-For` is
        /// believed: the rightmost address in it that is not theirs is the client's.
        live trusted_proxies: Vec<IpNet> = Vec::new();
        /// Browser origins whose pages may use the node, over HTTP (CORS) and WebSockets; `*` is every one. Programs
        /// that are no browsers send no `Origin` header and are not concerned.
        live allowed_origins: Vec<WebOrigin> = Vec::new();
        /// Connections in all.
        live connections_max: usize = 16_384, 1..=1_000_000;
        /// Connections from one address (an IPv6 /64 is one). Of a client behind a trusted proxy, its open requests and
        /// WebSockets; the proxy itself is not limited.
        live connections_per_address_max: usize = 1024, 1..=1_000_000;
        /// Time for a connection to complete TLS, again to send its request head, and to stay idle between two requests.
        live handshake_timeout: Duration = secs(10), Duration::from_millis(100)..=secs(300);
        /// Time for a new WebSocket to send its first message.
        live first_message_timeout: Duration = secs(30), Duration::from_millis(100)..=secs(3600);
        /// Time without any frame from the client after which a WebSocket is closed. Pongs count.
        live idle_timeout: Duration = secs(300), Duration::from_millis(100)..=secs(86_400);
        /// Interval of protocol pings on a WebSocket.
        live ping_interval: Duration = secs(30), Duration::from_millis(100)..=secs(3600);
        /// Time for one frame or body chunk to be taken by a slow client.
        live write_timeout: Duration = secs(30), Duration::from_millis(100)..=secs(3600);
        /// Largest HTTP body.
        live body_bytes_max: ByteSize = ByteSize::mib(4), ByteSize::kib(1)..=ByteSize::mib(64);
        /// Bytes that a WebSocket may send before it has shown a valid token; TLS's own count.
        live unauthenticated_bytes_max: ByteSize = ByteSize::kib(256), ByteSize::kib(4)..=ByteSize::mib(64);
        /// Largest WebSocket frame.
        live frame_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(1)..=ByteSize::mib(64);
        /// Largest WebSocket message, of one frame or several.
        live message_bytes_max: ByteSize = ByteSize::mib(4), ByteSize::kib(1)..=ByteSize::mib(64);
        /// Time for one answer, its wait in the queue included.
        live request_timeout: Duration = secs(600), Duration::from_millis(100)..=secs(86_400);
        /// Time that running answers get to finish when the node is told to stop.
        live drain_timeout: Duration = secs(30), Duration::ZERO..=secs(3600);
        /// Sessions that one native connection may hold.
        live sessions_per_connection_max: usize = 16, 1..=10_000;
        /// Messages that a native session keeps as history.
        live history_messages_max: usize = 512, 2..=100_000;
        /// Bytes that a native session keeps as history.
        live history_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(1)..=ByteSize::mib(64);
        /// Responses that are kept for `previous_response_id`, over all clients.
        live responses_stored_max: usize = 10_000, 0..=1_000_000;
        /// Bytes of them.
        live responses_stored_bytes_max: ByteSize = ByteSize::mib(64), ByteSize(0)..=ByteSize::mib(16 * 1024);
        /// Time that a stored response is kept.
        live responses_stored_for: Duration = secs(3600), secs(1)..=secs(30 * 86_400);
        /// Life of a WebSocket in Responses mode; then it is told `websocket_connection_limit_reached` and closed (1001).
        /// Clients of OpenAI's service know an hour. Connections that are open keep what they began with.
        live responses_connection_lifetime: Duration = secs(3600), secs(1)..=secs(7 * 86_400);
    }
}
