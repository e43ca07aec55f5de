//! Pages: which may use the node, and what they are told.

use reqwest::{Method, header::HeaderMap};
use testkit::{Config, TestNode};

use crate::support::{chat, chat_stream, scripted, with};

const APP: &str = "https://app.example";

async fn ask(node: &TestNode, method: Method, path: &str, headers: &[(&'static str, &str)]) -> (u16, HeaderMap) {
    let request = node.http().request(method, node.url(path));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test]
async fn a_page_that_is_not_listed_reads_nothing() {
    let (node, token) = with(Config::scripted().set("server.allowed_origins", format!("[{APP:?}]"))).await;
    let bearer = format!("Bearer {token}");
    for origin in ["https://evil.example", "null", "http://app.example", "https://app.example.evil.example"] {
        let preflight = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        let (_, headers) = ask(&node, Method::OPTIONS, "/v1/chat/completions", &preflight).await;
        assert!(!headers.contains_key("access-control-allow-origin"), "{origin}: {headers:?}");
        let (_, headers) =
            ask(&node, Method::GET, "/v1/models", &[("origin", origin), ("authorization", &bearer)]).await;
        assert!(!headers.contains_key("access-control-allow-origin"), "{origin}: {headers:?}");
    }
}

#[tokio::test]
async fn a_listed_page_may_ask_and_read() {
    for listed in [APP, "*"] {
        let (node, token) = with(Config::scripted().set("server.allowed_origins", format!("[{listed:?}]"))).await;
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/inference", "/v1/models"] {
            let preflight = [
                ("origin", APP),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
            ];
            let (status, headers) = ask(&node, Method::OPTIONS, path, &preflight).await;
            assert_eq!(
                (status, &headers["access-control-allow-origin"]),
                (200, &APP.parse().expect("a value")),
                "{path}"
            );
            let allowed = headers["access-control-allow-headers"].to_str().expect("text");
            assert!(allowed.contains("authorization") && allowed.contains("x-stainless-os"), "{allowed}");
            assert!(headers["access-control-allow-methods"].to_str().expect("text").contains("POST"));
            assert!(!headers.contains_key("access-control-allow-credentials"), "never with cookies");
            assert!(headers["vary"].to_str().expect("text").contains("origin"));
        }
        let request = node.http().post(node.url("/v1/chat/completions")).bearer_auth(&token).header("origin", APP);
        let response = request.json(&chat("hi", 2)).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], APP);
        assert!(headers["access-control-expose-headers"].to_str().expect("text").contains("x-request-id"));
        // A page may read why it was refused.
        let (status, headers) = ask(&node, Method::GET, "/v1/models", &[("origin", APP)]).await;
        assert_eq!((status, &headers["access-control-allow-origin"]), (401, &APP.parse().expect("a value")));
    }
}

#[tokio::test]
async fn the_list_is_reloaded() {
    let (node, _) = scripted().await;
    let allowed = async || {
        let (_, headers) = ask(&node, Method::GET, "/health", &[("origin", APP)]).await;
        headers.contains_key("access-control-allow-origin")
    };
    assert!(!allowed().await);
    node.write_config(&Config::scripted().set("server.allowed_origins", format!("[{APP:?}]")));
    node.sighup();
    testkit::eventually("it is allowed", async || allowed().await.then_some(())).await;
}

#[tokio::test]
async fn where_no_token_is_asked_for_pages_are_refused() {
    let config = Config::scripted().set("auth.enabled", false).set("server.allowed_origins", format!("[{APP:?}]"));
    let node = TestNode::start(crate::support::BINARY, config).await;
    let ask = async |origin: Option<&str>| {
        let request = node.http().post(node.url("/v1/chat/completions")).json(&chat("hi", 2));
        let request = origin.into_iter().fold(request, |request, origin| request.header("origin", origin));
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(ask(Some("https://evil.example")).await, 403);
    assert_eq!(ask(Some(&node.url(""))).await, 403, "a name that was bound again to this address");
    assert_eq!(ask(Some(APP)).await, 200);
    assert_eq!(ask(None).await, 200);
}

#[tokio::test]
async fn no_page_reaches_the_admin_listener() {
    let (node, _) = with(Config::scripted().set("server.allowed_origins", "[\"*\"]")).await;
    let request = node.http().get(format!("http://{}/metrics", node.admin())).header("origin", APP);
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 403);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn every_answer_has_safe_headers() {
    let (node, token) = scripted().await;
    let check = |what: &str, headers: &HeaderMap| {
        assert_eq!(headers["x-content-type-options"], "nosniff", "{what}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{what}");
        assert!(headers["content-security-policy"].to_str().expect("text").contains("default-src 'none'"), "{what}");
        assert_eq!(headers["cache-control"], "no-store", "{what}");
        assert!(!headers.contains_key("strict-transport-security"), "{what}: there is no TLS");
        assert!(headers.contains_key("x-request-id"), "{what}");
    };
    for path in ["/health", "/v1/models", "/v1/nowhere", "/v1/ws"] {
        check(path, &ask(&node, Method::GET, path, &[]).await.1);
    }
    check("a method", &ask(&node, Method::PUT, "/v1/models", &[]).await.1);
    for body in [chat("hi", 2), chat_stream("hi", 2)] {
        let request = node.http().post(node.url("/v1/chat/completions")).bearer_auth(&token).json(&body);
        check("an answer", request.send().await.expect("an answer").headers());
    }
    let response = node.http().get(format!("http://{}/metrics", node.admin())).send().await.expect("an answer");
    check("/metrics", response.headers());
}
