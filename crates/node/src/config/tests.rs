use std::path::Path;

use super::*;

/// Loads from these three layers; the file is called `f.toml`.
fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, Problems> {
    let fields = Config::fields();
    let mut layers = Layers::new(&fields);
    layers.document(Path::new("f.toml"), file);
    layers.environment(environment.iter().map(|(variable, value)| ((*variable).into(), (*value).into())));
    layers
        .command_line(flags.iter().map(|(key, flag, value)| Override { key, flag, value: (*value).into() }).collect());
    finish(layers)
}

/// The errors of a file, one line each.
fn errors(file: &str) -> Vec<String> {
    match load(file, &[], &[]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn each_error_says_what_was_found_what_is_expected_and_where() {
    let check = |file: &str, expected: &str| {
        let found = errors(file);
        assert_eq!(found.len(), 1, "{file:?} gives {found:#?}");
        assert_eq!(found[0], expected);
    };
    check(
        "[server]\nconnections_max = \"many\"",
        "server.connections_max: found \"many\", expected an integer from 1 to 1000000 [file f.toml, line 2]",
    );
    check(
        "[server]\n\n\nconnections_max = 0",
        "server.connections_max: found 0, expected an integer from 1 to 1000000 [file f.toml, line 4]",
    );
    check(
        "[server]\nconections_max = 5",
        "server.conections_max: there is no such key; did you mean `server.connections_max`? [file f.toml, line 2]",
    );
    check(
        "[server]\ntoken_expiry = \"5m\"",
        "server.token_expiry: there is no such key; did you mean `auth.token_expiry`? [file f.toml, line 2]",
    );
    check(
        "[server]\nx = 5",
        "server.x: there is no such key; `llm-node config example` shows all of them [file f.toml, line 2]",
    );
    check("[sever]\nlisten = 5", "sever: there is no such section; did you mean `server`? [file f.toml, line 1]");
    check(
        "listen = 5",
        "listen: there is no such section; there are server, admin, engine, auth, signature, jobs, metrics, log [file f.toml, line 1]",
    );
    check("server = 5", "server: found 5, expected a section: [server] [file f.toml, line 1]");
    check(
        "[server]\nrequest_timeout = 30",
        "server.request_timeout: found 30, expected a duration such as \"500ms\", \"30s\", \"5m\", \"2h\" or \"1d\" \
         from \"100ms\" to \"1d\" [file f.toml, line 2]",
    );
    check(
        "[engine]\nkind = \"llama\"",
        "engine.kind: found \"llama\", expected one of \"embedded\", \"upstream\", \"scripted\" [file f.toml, line 2]",
    );
    check(
        "[server.listen]\nhost = 1",
        "server.listen: found a table, expected an IP address and a port such as \"127.0.0.1:8080\" [file f.toml, line 1]",
    );
    check(
        "[log]\nlevel = \"loud\"",
        "log.level: found \"loud\", expected a level (off, error, warn, info, debug, trace), or a list such as \
         \"info,server=debug\" [file f.toml, line 2]",
    );
}

#[test]
fn rules_between_keys_are_checked() {
    let check = |file: &str, key: &str, part: &str| {
        let found = errors(file);
        assert_eq!(found.len(), 1, "{file:?} gives {found:#?}");
        assert!(found[0].starts_with(key) && found[0].contains(part), "{}", found[0]);
    };
    check("[server]\nlisten = \"0.0.0.0:80\"", "server.listen", "behind_proxy = true");
    check(
        "[server]\nlisten = \"0.0.0.0:80\"\nbehind_proxy = true\n[auth]\nenabled = false",
        "server.listen",
        "anybody",
    );
    check("[admin]\nlisten = \"0.0.0.0:9091\"", "admin.listen", "admin.tls_cert and admin.tls_key");
    check("[admin]\nlisten = \"0.0.0.0:9091\"\n[server]\ntls_cert = \"x\"\ntls_key = \"y\"", "admin.listen", "no TLS");
    check("[server]\ntls_cert = \"x\"", "server.tls_cert", "server.tls_key");
    check("[admin]\ntls_key = \"x\"", "admin.tls_key", "admin.tls_cert");
    check("[server]\ntls_client_ca = \"x\"", "server.tls_client_ca", "server.tls_cert");
    check("[admin]\nlisten = \"127.0.0.1:8080\"", "admin.listen", "server.listen");
    check("[server]\nping_interval = \"5m\"", "server.ping_interval", "idle_timeout");
    check("[server]\nframe_bytes_max = \"8MiB\"", "server.frame_bytes_max", "message_bytes_max");
    check("[jobs]\nmax_tokens_default = 10000", "jobs.max_tokens_default", "max_tokens_per_request");
    check("[engine]\nkind = \"upstream\"", "engine.upstream_urls", "at least one");
    check("[engine]\nbatch_tokens = 32\nsequences = 64", "engine.batch_tokens", "engine.sequences");
    check("[auth]\njwt_secret = \"short\"", "auth.jwt_secret", "at least 32");
    check(
        "[auth]\njwt_secret_previous = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c\"",
        "auth.jwt_secret_previous",
        "rotate-secret",
    );
    check("[auth]\nissuers = [\"https://a.test\"]\naudience = \"https://a.test\"", "auth.issuers", "auth.audience");
    check("[auth]\nissuers = [\"http://a.test\"]", "auth.issuers", "https");
    check("[auth]\nissuer_permissions = [\"admin\"]", "auth.issuer_permissions", "auth.issuer_permissions_claim");
    check("[auth]\nissuer_token_types = []", "auth.issuer_token_types", "at least one");
    assert_eq!(errors("[server]\nlisten = \"0.0.0.0:80\"\nbehind_proxy = true"), Vec::<String>::new());
    assert_eq!(
        errors("[server]\nlisten = \"[::]:80\"\ntls_cert = \"x\"\ntls_key = \"y\""),
        Vec::<String>::new(),
        "the files are looked at when the node starts"
    );
    let both = errors("[server]\nlisten = \"[::]:80\"\n[admin]\nlisten = \"[::]:81\"\n[auth]\nenabled = false");
    assert_eq!(both.len(), 4, "without tokens and without TLS, on both: {both:#?}");
}

#[test]
fn all_errors_are_listed_at_once_from_every_source() {
    let problems = load(
        "[server]\nlisten = 1\nnope = 2\n[engine]\nsequences = 0\n[auth]\nenabled = \"x\"",
        &[
            ("LLM_NODE__LOG__FORMAT", "xml"),
            ("LLM_NODE__LOG", "x"),
            ("LLM_NODE__NOPE__X", "1"),
            ("LLM_NODE_TOKEN", "t"),
        ],
        &[("admin.listen", "--admin-listen", "here")],
    )
    .expect_err("full of errors");
    let text = problems.to_string();
    assert!(text.starts_with("the configuration has 8 errors:\n"), "{text}");
    for part in [
        "server.listen:",
        "server.nope:",
        "engine.sequences:",
        "auth.enabled:",
        "log.format: found \"xml\", expected one of \"auto\", \"text\", \"json\" [environment LLM_NODE__LOG__FORMAT]",
        "[environment LLM_NODE__LOG]",
        "nope: there is no such section",
        "admin.listen: found \"here\", expected an IP address and a port such as \"127.0.0.1:8080\" [command line --admin-listen]",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn broken_toml_is_one_kind_of_error_with_its_line() {
    let found = errors("[server]\nlisten = \n");
    assert!(found[0].contains("this is not TOML") && found[0].ends_with("[file f.toml, line 2]"), "{found:?}");
}

#[test]
fn command_line_wins_over_environment_over_file_over_default() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\nconnections_max = 1\nbody_bytes_max = \"1MiB\"";
    let environment = [("LLM_NODE__SERVER__LISTEN", "127.0.0.1:2"), ("LLM_NODE__SERVER__CONNECTIONS_MAX", "2")];
    let flags = [("server.listen", "--listen", "127.0.0.1:3")];
    let Loaded { config, origins } = load(file, &environment, &flags).expect("valid");
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.connections_max, 2);
    assert_eq!(config.server.body_bytes_max.0, 1 << 20);
    assert_eq!(config.server.frame_bytes_max, Config::default().server.frame_bytes_max);
    let origin = |key: &str| origins.get(key).map(ToString::to_string);
    assert_eq!(origin("server.listen").as_deref(), Some("command line --listen"));
    assert_eq!(origin("server.connections_max").as_deref(), Some("environment LLM_NODE__SERVER__CONNECTIONS_MAX"));
    assert_eq!(origin("server.body_bytes_max").as_deref(), Some("file f.toml, line 4"));
    assert_eq!(origin("server.frame_bytes_max"), None);
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    const SECRET: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("writes");
    let file = format!("[auth]\njwt_secret_file = {}", value::quote(&path.display().to_string()));

    let loaded = load(&file, &[], &[]).expect("valid");
    assert_eq!(loaded.config.auth.jwt_secret.as_ref().map(value::Secret::expose), Some(SECRET));
    assert!(!format!("{loaded:?} {:?}", loaded.config.shown()).contains(SECRET));

    // A later layer wins, whichever of the two names it uses.
    let other = SECRET.replace('9', "7");
    let loaded = load(&file, &[("LLM_NODE__AUTH__JWT_SECRET", &other)], &[]).expect("valid");
    assert_eq!(loaded.config.auth.jwt_secret.as_ref().map(value::Secret::expose), Some(other.as_str()));

    let both = errors(&format!("{file}\njwt_secret = \"{SECRET}\""));
    assert!(both[0].contains("give one of the two"), "{both:?}");
    let missing = errors("[auth]\njwt_secret_file = \"/nonexistent/secret\"");
    assert!(missing[0].contains("cannot be read"), "{missing:?}");
    let shown = load("[auth]\njwt_secret = 123456", &[], &[]).expect_err("not a text").to_string();
    assert!(!shown.contains("123456"), "{shown}");
}

#[test]
fn a_reload_takes_live_keys_and_names_the_others() {
    let old = Config::default();
    let new = load("[server]\nlisten = \"127.0.0.1:1\"\nconnections_max = 7\n[log]\nlevel = \"debug\"", &[], &[])
        .expect("valid")
        .config;
    let changes = old.changes(&new);
    let keys = |reload| {
        changes.iter().filter(|change| change.reload == reload).map(|change| change.key.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(keys(Reload::Live), ["server.connections_max", "log.level"]);
    assert_eq!(keys(Reload::Restart), ["server.listen"]);
    let now = old.with_live(&new);
    assert_eq!((now.server.connections_max, now.log.level.as_str()), (7, "debug"));
    assert_eq!(now.server.listen, old.server.listen);
}

#[test]
fn defaults_are_valid_and_within_their_own_bounds() {
    assert_eq!(load("", &[], &[]).expect("valid").config, Config::default());
    // The example sets every key to its default, through the parser and the bounds.
    let loaded = load(&docs::example(), &[], &[]).expect("the example is valid");
    assert_eq!(loaded.config, Config::default());
    let set = Config::fields().iter().filter(|field| !field.default.is_empty()).count();
    assert_eq!(loaded.origins.len(), set);
}

#[test]
fn committed_documents_are_those_that_the_code_generates() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let check = |name: &str, generated: String| {
        let committed = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(committed == generated, "docs/{name} is not what the code generates: run `make docs`");
    };
    check("configuration.md", docs::markdown());
    check("llm-node.example.toml", docs::example());
}

#[test]
fn every_key_is_documented_and_has_a_variable_that_works() {
    for field in Config::fields() {
        assert!(field.doc.trim().len() > 10 && field.doc.trim().ends_with('.'), "{} is not documented", field.key());
        let problems = load("", &[(&variable(&field), "\u{1}")], &[]);
        let known = problems.err().is_none_or(|problems| !problems.to_string().contains("no such"));
        assert!(known, "{} is not {}", variable(&field), field.key());
    }
}

/// A key's variable in the environment.
fn variable(field: &Field) -> String {
    format!("{ENV_PREFIX}{}__{}", field.section, field.name).to_ascii_uppercase()
}
