//! Each right is asked for where it is needed, and none stands for another.

use http_method::{DELETE, GET, POST};
use serde_json::{Value, json};
use testkit::{Config, TestNode};

use crate::support::{BINARY, JOB, chat, chat_stream, generated, scripted, with};

/// Methods as reqwest takes them.
mod http_method {
    pub(super) const GET: reqwest::Method = reqwest::Method::GET;
    pub(super) const POST: reqwest::Method = reqwest::Method::POST;
    pub(super) const DELETE: reqwest::Method = reqwest::Method::DELETE;
}

const RIGHTS: [&str; 4] = ["read", "write", "execute", "admin"];

/// A token with these rights alone.
fn token(node: &TestNode, rights: &str) -> String {
    node.command_ok(&["token", "issue", "--subject", "alice", "--job", JOB, "--permissions", rights])
}

/// A request to the public or the operators' listener; status and body.
async fn call(
    node: &TestNode,
    (method, path, body): (reqwest::Method, &str, Option<Value>),
    token: Option<&str>,
) -> (u16, Value) {
    let host = if path.starts_with("/admin/") || path == "/metrics" { node.admin() } else { node.public() };
    let mut request = node.http().request(method, format!("http://{host}{path}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.expect("the node answers");
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"), "{path}");
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// The code of an error in whichever shape the route has.
fn code(body: &Value) -> String {
    let code = body.pointer("/error/code").or_else(|| body.get("error_type")).and_then(Value::as_str);
    code.unwrap_or_else(|| panic!("no code in {body}")).to_ascii_uppercase()
}

/// Every route that needs a right, with the right.
fn routes() -> Vec<(reqwest::Method, &'static str, Option<Value>, &'static str)> {
    let flat = json!({"model": "default", "prompt": "hello", "max_tokens": 2});
    let input = json!({"model": "default", "input": "hello", "max_output_tokens": 2});
    vec![
        (POST, "/v1/chat/completions", Some(chat("hello", 2)), "execute"),
        (POST, "/v1/chat/completions", Some(chat_stream("hello", 2)), "execute"),
        (POST, "/v1/completions", Some(flat.clone()), "execute"),
        (POST, "/v1/inference", Some(flat), "execute"),
        (POST, "/v1/responses", Some(input), "execute"),
        (GET, "/v1/models", None, "read"),
        (GET, "/v1/models/default", None, "read"),
        (GET, "/v1/responses/resp_0", None, "read"),
        (DELETE, "/v1/responses/resp_0", None, "write"),
        (GET, "/v1/receipts/rcpt_0", None, "read"),
        (GET, "/admin/v1/sessions", None, "admin"),
        (DELETE, "/admin/v1/sessions/0", None, "admin"),
        (GET, "/admin/v1/revocations", None, "admin"),
        (POST, "/admin/v1/revocations", Some(json!({"jti": "none"})), "admin"),
    ]
}

#[tokio::test]
async fn every_route_needs_its_right_and_takes_no_other() {
    let (node, _) = scripted().await;
    let tokens = RIGHTS.map(|right| (right, token(&node, right)));
    for (method, path, body, needed) in routes() {
        let request = || (method.clone(), path, body.clone());
        let (status, answer) = call(&node, request(), None).await;
        let known = ["AUTH_FAILED", "INVALID_API_KEY"].contains(&code(&answer).as_str());
        assert!(status == 401 && known, "{method} {path}: {status} {answer}");
        for (right, token) in &tokens {
            let (status, answer) = call(&node, request(), Some(token)).await;
            if *right == needed {
                assert!(![401, 403].contains(&status), "{method} {path} with {right}: {status} {answer}");
            } else {
                let refusal = (status, code(&answer));
                assert_eq!(refusal, (403, "PERMISSION_DENIED".into()), "{method} {path} with {right}: {answer}");
            }
        }
    }
    // All but the one that is needed is not enough either.
    let others = token(&node, "read,write,admin");
    let (status, _) = call(&node, (POST, "/v1/chat/completions", Some(chat("hello", 2))), Some(&others)).await;
    assert_eq!(status, 403);
    // Only the holder of `execute` generated: two tokens on each of five routes.
    assert_eq!(generated(&node.metrics().await), 10.0);
}

#[tokio::test]
async fn what_shows_nothing_of_anybody_is_open() {
    let (node, _) = scripted().await;
    for path in ["/health", "/health/live", "/health/ready", "/v1/health", "/v1/version", "/metrics"] {
        assert_eq!(call(&node, (GET, path, None), None).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn every_native_message_needs_its_right() {
    let (node, _) = scripted().await;
    let messages = [
        json!({"type": "session_init", "session_id": "s", "job_id": JOB}),
        json!({"type": "session_resume", "session_id": "s", "conversation_context": [], "last_message_index": 0}),
        json!({"type": "session_end", "session_id": "s"}),
        json!({"type": "prompt", "session_id": "s", "prompt": "hello", "max_tokens": 2, "stream": false}),
        json!({"type": "inference", "request": {"prompt": "hello", "max_tokens": 2, "stream": false}}),
        json!({"type": "stream_cancel", "session_id": "s"}),
    ];
    for right in ["read", "write", "admin", "read,write,admin"] {
        let mut socket = node.native(&token(&node, right)).await;
        for message in &messages {
            let error = socket.request(message.clone(), "error").await;
            assert_eq!(error["code"], "PERMISSION_DENIED", "{message} with {right}: {error}");
        }
        socket.request(json!({"type": "ping"}), "pong").await;
        // A refresh concerns the token itself, and adds no right to it.
        let refreshed = socket.request(json!({"type": "token_refresh"}), "token_refreshed").await;
        let mut again = node.native(refreshed["token"].as_str().expect("a token")).await;
        assert_eq!(again.request(messages[0].clone(), "error").await["code"], "PERMISSION_DENIED", "{right}");
    }
    assert_eq!(generated(&node.metrics().await), 0.0);
    let mut socket = node.native(&token(&node, "execute")).await;
    socket.request(messages[0].clone(), "session_init_ack").await;
    socket.request(messages[3].clone(), "response").await;
}

#[tokio::test]
async fn a_token_in_session_init_needs_the_right_too() {
    let (node, _) = scripted().await;
    let mut socket = node.socket("/v1/ws", None).await.expect("a socket");
    let init = json!({"type": "session_init", "session_id": "s", "job_id": JOB, "token": token(&node, "read")});
    assert_eq!(socket.request(init, "error").await["code"], "PERMISSION_DENIED");
    let prompt = json!({"type": "prompt", "session_id": "s", "prompt": "hello", "stream": false});
    assert_eq!(socket.request(prompt, "error").await["code"], "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_responses_socket_needs_the_right_to_generate() {
    let (node, _) = scripted().await;
    for right in ["read", "write", "admin"] {
        let refused = node.socket("/v1/responses", Some(&token(&node, right))).await.expect_err(right);
        assert_eq!(refused.status, 403, "{refused:?}");
        let body: Value = serde_json::from_str(&refused.body).expect("JSON");
        assert_eq!(code(&body), "PERMISSION_DENIED");
    }
    node.socket("/v1/responses", Some(&token(&node, "execute"))).await.expect("a socket");
}

#[tokio::test]
async fn operators_errors_have_one_shape() {
    let (node, _) = scripted().await;
    let admin = token(&node, "admin");
    let cases = [
        ((GET, "/admin/v1/sessions", None), None, 401, "AUTH_FAILED"),
        ((GET, "/admin/v1/sessions", None), Some("x.y.z"), 401, "INVALID_TOKEN"),
        ((POST, "/admin/v1/sessions", None), Some(admin.as_str()), 405, "METHOD_NOT_ALLOWED"),
        ((GET, "/admin/v1/sessions?limit=0", None), Some(admin.as_str()), 400, "INVALID_REQUEST"),
        ((GET, "/admin/v1/sessions?color=red", None), Some(admin.as_str()), 400, "INVALID_REQUEST"),
        ((DELETE, "/admin/v1/sessions/0", None), Some(admin.as_str()), 404, "SESSION_NOT_FOUND"),
        ((POST, "/admin/v1/revocations", Some(json!({}))), Some(admin.as_str()), 400, "INVALID_REQUEST"),
        ((POST, "/admin/v1/revocations", Some(json!({"jti": 7}))), Some(admin.as_str()), 400, "INVALID_REQUEST"),
    ];
    for (request, token, status, expected) in cases {
        let what = format!("{} {}", request.0, request.1);
        let (found, body) = call(&node, request, token).await;
        assert_eq!((found, body["error"]["code"].as_str()), (status, Some(expected)), "{what}: {body}");
        assert!(body["error"]["message"].is_string() && body["error"]["request_id"].is_string(), "{what}: {body}");
    }
    // The operators' routes are not on the public listener, whatever the token.
    let response = node.http().get(node.url("/admin/v1/sessions")).bearer_auth(&admin).send().await.expect("an answer");
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn without_authentication_the_operators_routes_need_no_token() {
    let node = TestNode::start(BINARY, Config::scripted().set("auth.enabled", false)).await;
    let (status, body) = call(&node, (GET, "/admin/v1/sessions", None), None).await;
    assert_eq!((status, &body["total"]), (200, &json!(0)), "{body}");
    // There are no tokens to revoke.
    let revoke = (POST, "/admin/v1/revocations", Some(json!({"jti": "a"})));
    assert_eq!(call(&node, revoke, None).await.0, 400);
    // A page that the operator's browser shows is not the operator.
    let url = format!("http://{}/admin/v1/sessions", node.admin());
    let response = node.http().get(url).header("origin", "https://evil.example").send().await.expect("an answer");
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn default_tokens_can_use_what_is_theirs_and_not_administer() {
    let (node, token) = with(Config::scripted()).await;
    let input = json!({"model": "default", "input": "hello", "max_output_tokens": 2});
    let (status, made) = call(&node, (POST, "/v1/responses", Some(input)), Some(&token)).await;
    assert_eq!(status, 200, "{made}");
    let path = format!("/v1/responses/{}", made["id"].as_str().expect("an id"));
    assert_eq!(call(&node, (GET, &path, None), Some(&token)).await.0, 200);
    assert_eq!(call(&node, (DELETE, &path, None), Some(&token)).await.0, 200);
    assert_eq!(call(&node, (GET, "/admin/v1/sessions", None), Some(&token)).await.0, 403);
}
