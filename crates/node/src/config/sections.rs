//! The sections and their keys. What a key does is said here once; the struct, the checks, the example file and
//! docs/configuration.md all come from it.

mod engine;
mod server;

use std::time::Duration;

pub(crate) use self::{
    engine::{Engine, EngineKind, Repack, ScriptedText},
    server::Server,
};
use crate::config::{
    schema::section,
    value::{LogFilter, Raw, Secret, UrlPath, Value, choice},
};

section! {
    /// Operators' listener: `/metrics` and `/admin/v1/*`. It has no authentication of its own.
    Admin as "admin" {
        /// Address of the operators' listener. Only a loopback address is taken: bring a tunnel or an authenticating
        /// proxy to it, not the internet.
        restart listen: std::net::SocketAddr = ([127, 0, 0, 1], 9091).into();
    }
}

choice! {
    /// What becomes of a session over `auth.max_sessions_per_user`.
    SessionPolicy {
        /// It is refused.
        Refuse = "refuse",
        /// The oldest one is ended.
        ReplaceOldest = "replace_oldest",
    }
}

section! {
    /// Who may use the node.
    Auth as "auth" {
        /// Whether a token is asked for. Without it the node listens on loopback addresses
        /// only, and everything is charged to the job `local`.
        restart enabled: bool = true;
        /// Secret of at least 32 bytes that signs the node's tokens (HS256). Without one, the node generates its own
        /// in `<data dir>/secrets/`.
        restart jwt_secret: Option<Secret> = None;
        /// How long a token is valid when its issue does not say.
        restart token_expiry: Duration = Duration::from_secs(24 * 3600), Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
        /// How long before its token expires an open socket is warned (`token_expiring`), so that it can refresh.
        live token_expiry_warning: Duration = Duration::from_secs(60), Duration::from_secs(0)..=Duration::from_secs(24 * 3600);
        /// How long a socket whose token is no longer valid stays open for a refresh: what runs goes on, nothing new
        /// starts. Then it is closed with 4401.
        live token_expiry_grace: Duration = Duration::from_secs(10), Duration::from_secs(0)..=Duration::from_secs(3600);
        /// Sessions that one subject may have open, over all its connections: native sessions, and Responses WebSockets.
        /// Not applied where `enabled = false`: there are no users to tell apart.
        live max_sessions_per_user: usize = 1024, 1..=1_000_000;
        /// What becomes of one session more: `refuse` refuses it, `replace_oldest` ends the one that was opened first.
        live session_policy: SessionPolicy = SessionPolicy::Refuse;
        /// A session on which nothing was asked or answered for so long is ended.
        live session_idle_timeout: Duration = Duration::from_secs(3600), Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
        /// A session is ended at this age, however busy it is; the answer that runs is finished first.
        live session_lifetime: Duration = Duration::from_secs(24 * 3600), Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
    }
}

section! {
    /// What requests are charged to.
    Jobs as "jobs" {
        /// Most tokens of one answer, whatever the client asks.
        live max_tokens_per_request: u32 = 8192, 1..=1_000_000;
        /// Tokens of an answer when the client does not say.
        live max_tokens_default: u32 = 1024, 1..=1_000_000;
        /// A running answer's delivered tokens are written to the database every so many tokens: what a killed node
        /// may forget to charge, for each answer.
        restart journal_tokens: u32 = 64, 1..=100_000;
        /// ... and at least this often.
        restart journal_interval: Duration = Duration::from_secs(1), Duration::from_millis(10)..=Duration::from_secs(60);
    }
}

section! {
    /// What is counted.
    Metrics as "metrics" {
        /// Whether the operators' listener shows metrics.
        restart enabled: bool = true;
        /// Where it shows them.
        restart endpoint: UrlPath = UrlPath::read(&Raw::Text("/metrics".into())).expect("it begins with a slash");
    }
}

choice! {
    /// How a log line is written.
    LogFormat {
        /// Text on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// Logs, on standard error. They never hold a prompt, an answer, a token or a key.
    Log as "log" {
        /// What is logged: off, error, warn, info, debug or trace, or levels by target (`info,server=debug`).
        live level: LogFilter = LogFilter::read(&Raw::Text("info".into())).expect("info is a level");
        /// How: `text`, `json`, or `auto`: text on a terminal and JSON otherwise.
        restart format: LogFormat = LogFormat::Auto;
    }
}
