//! The sections and their keys. What a key does is said here once; the struct, the checks, the example file and
//! docs/configuration.md all come from it.

mod engine;
mod server;
mod signature;

use std::{path::PathBuf, time::Duration};

pub(crate) use self::{
    engine::{Engine, EngineKind, Repack, ScriptedText},
    server::Server,
    signature::Signature,
};
use crate::config::{
    schema::section,
    value::{IssuerUrl, LogFilter, Raw, Secret, UrlPath, Value, choice},
};

choice! {
    /// What becomes of a client that shows no certificate.
    TlsClientAuth {
        /// The handshake fails.
        Required = "required",
        /// It may go on; a certificate that is shown must be good.
        Optional = "optional",
    }
}

section! {
    /// Operators' listener: `/metrics` and `/admin/v1/*`. `/metrics` asks for no token: on another than a loopback address,
    /// let only Prometheus reach it, by `tls_client_ca` or a firewall.
    Admin as "admin" {
        /// Address of the operators' listener. Another than a loopback address needs `tls_cert` here, or
        /// `server.behind_proxy`.
        restart listen: std::net::SocketAddr = ([127, 0, 0, 1], 9091).into();
        /// Certificate of the operators' listener, a PEM file; it may be the same as `server.tls_cert`. Without one, this
        /// listener speaks plain HTTP, whatever the public one does.
        restart tls_cert: Option<PathBuf> = None;
        /// Its private key, a PEM file.
        restart tls_key: Option<PathBuf> = None;
        /// Authorities of clients' certificates, a PEM file; without one, none is asked for.
        restart tls_client_ca: Option<PathBuf> = None;
        /// What becomes of a client without a certificate where there is `tls_client_ca`.
        restart tls_client_auth: TlsClientAuth = TlsClientAuth::Required;
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

choice! {
    /// What signs the node's tokens.
    TokenAlgorithm {
        /// The node's secret.
        Hs256 = "hs256",
        /// The node's key.
        Ed25519 = "ed25519",
    }
}

choice! {
    /// A right that a token can carry.
    Right {
        /// See.
        Read = "read",
        /// Change one's own.
        Write = "write",
        /// Generate.
        Execute = "execute",
        /// Administer the node.
        Admin = "admin",
    }
}

section! {
    /// Who may use the node.
    Auth as "auth" {
        /// Whether a token is asked for. Without it the node listens on loopback addresses
        /// only, and everything is charged to the job `local`.
        restart enabled: bool = true;
        /// Secret of at least 32 bytes that signs the node's tokens (HS256). Without one, the node generates its own
        /// in `<data dir>/secrets/`, and `llm-node token rotate-secret` renews it. A new value here takes effect live; to
        /// set one where there was none, or none where there was one, needs a start.
        live jwt_secret: Option<Secret> = None;
        /// The secret that was configured before: its tokens stay valid, and nothing is signed with it. Remove it once
        /// they have ended.
        live jwt_secret_previous: Option<Secret> = None;
        /// The node's name in tokens: `iss` and `aud` of its own, `aud` of those of `issuers`. Nodes that share a secret or
        /// an issuer and must not take each other's tokens need different names.
        restart audience: String = auth::NODE_NAME.to_owned();
        /// What signs tokens that the node issues: `hs256` its secret, `ed25519` its key, so that others can verify them
        /// by `/.well-known/jwks.json`. `token issue --alg` can say otherwise.
        live token_algorithm: TokenAlgorithm = TokenAlgorithm::Hs256;
        /// Clock difference to issuers that is tolerated: a token is taken so long before its time and after its end.
        live token_leeway: Duration = Duration::from_secs(auth::LEEWAY_SECS), Duration::ZERO..=Duration::from_secs(300);
        /// How long a token is valid when its issue does not say.
        live token_expiry: Duration = Duration::from_secs(24 * 3600), Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
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
        /// Addresses of other issuers whose tokens are taken, exactly as in their `iss`: OIDC providers, whose keys are
        /// found by discovery (`<issuer>/.well-known/openid-configuration`). https, or http on this machine. Their subjects
        /// are `<issuer>|<subject>` here, as in `job create --owner`.
        restart issuers: Vec<IssuerUrl> = Vec::new();
        /// The most rights that a token of theirs can have; by default none.
        restart issuer_permissions: Vec<Right> = Vec::new();
        /// The claim that says which of those rights a token has, as a list or separated by spaces: a name such as
        /// `scope`, or a JSON pointer such as `/realm_access/roles`. Without one, every token has all of them.
        restart issuer_permissions_claim: Option<String> = None;
        /// The claim that says who: a name or a JSON pointer.
        restart issuer_subject_claim: String = "sub".into();
        /// The claim that names the job that is charged, if a token has it: a name or a JSON pointer.
        restart issuer_job_claim: String = "job_id".into();
        /// Types (`typ`) of tokens that are taken from them. Adding `JWT` also admits id tokens, which are not meant for
        /// APIs; some issuers give their access tokens no other type.
        restart issuer_token_types: Vec<String> = vec!["at+jwt".into()];
        /// How often their keys are fetched: so long a key that an issuer withdrew is still good.
        restart issuer_keys_max_age: Duration = Duration::from_secs(600), Duration::from_secs(10)..=Duration::from_secs(24 * 3600);
        /// Least time between two fetches that tokens with unknown keys cause, for each issuer.
        restart issuer_refresh_interval: Duration = Duration::from_secs(10), Duration::from_secs(1)..=Duration::from_secs(3600);
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
        /// How long receipts can be fetched from the node, at least an hour; without it, for ever. Each takes about 1.5 KiB
        /// of the database. What clients have kept stays verifiable, and each job's chain goes on.
        restart receipt_retention: Option<Duration> = None;
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
