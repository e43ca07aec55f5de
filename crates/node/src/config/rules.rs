//! Rules between keys.

use std::collections::BTreeMap;

use crate::config::{Config, EngineKind, problem::Origin, problem::Problem};

/// Whether this build can offload to a GPU.
const GPU_BUILD: bool = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));

/// Every rule that `config` breaks, but those that look at a `faulty` key.
pub(crate) fn check(config: &Config, origins: &BTreeMap<String, Origin>, faulty: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut rule = |keys: &[&str], broken: bool, message: String| {
        if broken && !keys.iter().any(|key| faulty.iter().any(|fault| fault == key)) {
            problems.push(Problem::other(keys[0], origins.get(keys[0]).cloned(), message));
        }
    };
    let Config { server, admin, engine, auth, jobs, .. } = config;

    let public = !server.listen.ip().is_loopback();
    rule(
        &["server.listen", "auth.enabled"],
        public && !auth.enabled,
        format!("{} is not a loopback address, and auth.enabled is false: anybody could use the node", server.listen),
    );
    rule(
        &["server.listen", "server.behind_proxy"],
        public && auth.enabled && !server.behind_proxy,
        format!(
            "{} is not a loopback address, and this build has no TLS: tokens would travel in the clear. Put a proxy \
             that terminates TLS in front and set server.behind_proxy = true",
            server.listen
        ),
    );
    rule(
        &["admin.listen"],
        !admin.listen.ip().is_loopback(),
        format!("{} is not a loopback address, and the operators' listener has no authentication", admin.listen),
    );
    rule(
        &["admin.listen", "server.listen"],
        admin.listen == server.listen && admin.listen.port() != 0,
        "is also server.listen; each listener needs its own".into(),
    );
    rule(
        &["server.ping_interval", "server.idle_timeout"],
        server.ping_interval >= server.idle_timeout,
        "must be shorter than server.idle_timeout, or quiet clients are closed before they are pinged".into(),
    );
    rule(
        &["server.frame_bytes_max", "server.message_bytes_max"],
        server.frame_bytes_max > server.message_bytes_max,
        "must not be larger than server.message_bytes_max".into(),
    );
    rule(
        &["jobs.max_tokens_default", "jobs.max_tokens_per_request"],
        jobs.max_tokens_default > jobs.max_tokens_per_request,
        "must not be larger than jobs.max_tokens_per_request".into(),
    );
    if let Some(secret) = &auth.jwt_secret {
        let verdict = auth::JwtSecret::new(secret.expose());
        rule(&["auth.jwt_secret"], verdict.is_err(), verdict.err().map(|error| error.to_string()).unwrap_or_default());
    }
    rule(
        &["engine.upstream_urls", "engine.kind"],
        engine.kind == EngineKind::Upstream && engine.upstream_urls.is_empty(),
        "engine.kind = \"upstream\" needs at least one address here".into(),
    );
    rule(
        &["engine.batch_tokens", "engine.sequences"],
        engine.batch_tokens < engine.sequences,
        "must be at least engine.sequences: every running answer takes one place in a batch".into(),
    );
    rule(
        &["engine.gpu_layers"],
        engine.gpu_layers > 0 && !GPU_BUILD,
        "this build has no GPU support: build with `--features cuda`, `vulkan` or `metal`, or set 0".into(),
    );
    problems
}
