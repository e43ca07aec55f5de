//! Rules between keys.

use std::{collections::BTreeMap, time::Duration};

use crate::config::{Config, EngineKind, Right, problem::Origin, problem::Problem};

/// Whether this build can offload to a GPU.
const GPU_BUILD: bool = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal"));

/// Receipts can be fetched for at least so long.
const RECEIPT_RETENTION_MIN: Duration = Duration::from_secs(3600);

/// Every rule that `config` breaks, but those that look at a `faulty` key.
pub(crate) fn check(config: &Config, origins: &BTreeMap<String, Origin>, faulty: &[String]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut rule = |keys: &[&str], broken: bool, message: String| {
        if broken && !keys.iter().any(|key| faulty.iter().any(|fault| fault == key)) {
            problems.push(Problem::other(keys[0], origins.get(keys[0]).cloned(), message));
        }
    };
    let Config { server, admin, engine, auth, signature, jobs, .. } = config;

    let proxied = server.behind_proxy;
    for (key, listen, tls) in [
        ("server.listen", server.listen, server.tls_cert.is_some()),
        ("admin.listen", admin.listen, admin.tls_cert.is_some()),
    ] {
        let (section, _) = key.split_once('.').unwrap_or((key, ""));
        let exposed = !listen.ip().is_loopback();
        rule(
            &[key, "auth.enabled"],
            exposed && !auth.enabled,
            format!("{listen} is not a loopback address, and auth.enabled is false: anybody could use the node"),
        );
        rule(
            &[key, "server.behind_proxy", &format!("{section}.tls_cert")],
            exposed && !tls && !proxied,
            format!(
                "{listen} is not a loopback address, and there is no TLS: tokens would travel in the clear. Give \
                 {section}.tls_cert and {section}.tls_key, or put a proxy that terminates TLS in front and set \
                 server.behind_proxy = true"
            ),
        );
    }
    for (section, cert, key, client_ca) in [
        ("server", &server.tls_cert, &server.tls_key, &server.tls_client_ca),
        ("admin", &admin.tls_cert, &admin.tls_key, &admin.tls_client_ca),
    ] {
        let name = |key: &str| format!("{section}.{key}");
        let (cert_name, key_name, client_ca_name) = (name("tls_cert"), name("tls_key"), name("tls_client_ca"));
        rule(&[&cert_name, &key_name], cert.is_some() && key.is_none(), format!("needs {key_name} beside it"));
        rule(&[&key_name, &cert_name], key.is_some() && cert.is_none(), format!("needs {cert_name} beside it"));
        rule(
            &[&client_ca_name, &cert_name],
            client_ca.is_some() && cert.is_none(),
            format!("needs {cert_name} beside it"),
        );
    }
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
    rule(
        &["jobs.receipt_retention"],
        jobs.receipt_retention.is_some_and(|retention| retention < RECEIPT_RETENTION_MIN),
        "must be at least 1h, or clients have no time to fetch what they were promised".into(),
    );
    for (key, secret) in
        [("auth.jwt_secret", &auth.jwt_secret), ("auth.jwt_secret_previous", &auth.jwt_secret_previous)]
    {
        let verdict = secret.as_ref().map(|secret| auth::JwtSecret::new(secret.expose()));
        let problem = verdict.and_then(Result::err).map(|error| error.to_string());
        rule(&[key], problem.is_some(), problem.unwrap_or_default());
    }
    rule(
        &["auth.jwt_secret_previous", "auth.jwt_secret"],
        auth.jwt_secret_previous.is_some() && auth.jwt_secret.is_none(),
        "stands for the secret before auth.jwt_secret, which is not set; generated secrets are rotated by \
         `llm-node token rotate-secret`"
            .into(),
    );
    rule(
        &["auth.issuers", "auth.audience"],
        auth.issuers.iter().any(|issuer| issuer.as_str() == auth.audience),
        "is also auth.audience, the name of this node in its own tokens".into(),
    );
    rule(
        &["auth.issuers"],
        auth.issuers.len() > auth::ISSUERS_MAX,
        format!("has more than {} addresses", auth::ISSUERS_MAX),
    );
    rule(
        &["auth.issuer_permissions", "auth.issuer_permissions_claim"],
        auth.issuer_permissions.contains(&Right::Admin) && auth.issuer_permissions_claim.is_none(),
        "would make everybody whom these issuers know an administrator; name the claim that says who is one in \
         auth.issuer_permissions_claim"
            .into(),
    );
    rule(
        &["auth.issuer_token_types"],
        auth.issuer_token_types.is_empty(),
        "needs at least one type, or no token would be taken".into(),
    );
    rule(
        &["signature.required", "signature.enabled"],
        signature.required && !signature.enabled,
        "is true while signature.enabled is false: nobody could send anything".into(),
    );
    let token = [signature.pkcs11_module.is_some(), signature.pkcs11_token.is_some(), signature.pkcs11_pin.is_some()];
    rule(
        &["signature.pkcs11_module", "signature.pkcs11_token", "signature.pkcs11_pin"],
        token.contains(&true) && token.contains(&false),
        "a hardware token needs all three of them".into(),
    );
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
