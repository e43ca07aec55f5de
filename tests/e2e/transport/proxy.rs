//! Behind a proxy: whose request it is.

use std::net::IpAddr;

use serde_json::json;
use testkit::{Config, Socket, TestNode, eventually};

use super::hits;
use crate::support::{pace, with};

/// A node whose proxy is this machine, and where one client may have two requests open.
async fn behind_proxy() -> (TestNode, String) {
    let config = pace(20)
        .set("server.behind_proxy", true)
        .set("server.trusted_proxies", "[\"127.0.0.1\", \"10.0.0.0/8\"]")
        .set("server.connections_per_address_max", 2);
    with(config).await
}

/// Opens a native socket as the proxy would, for these headers.
async fn open(node: &TestNode, token: &str, forwarded: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(forwarded);
    let url = format!("ws://{}/v1/ws", node.public());
    Socket::open(&url, &headers).await.map_err(|refused| refused.status)
}

#[tokio::test]
async fn each_client_of_a_proxy_has_its_own_cap() {
    let (node, token) = behind_proxy().await;
    let mut open_sockets = Vec::new();
    for client in ["198.51.100.1", "198.51.100.2", "2001:db8::1"] {
        for _ in 0..2 {
            open_sockets.push(open(&node, &token, &[("x-forwarded-for", client)]).await.expect(client));
        }
        let refused = open(&node, &token, &[("x-forwarded-for", client)]).await;
        assert_eq!(refused.map(drop), Err(429), "{client} has two");
    }
    // The same /64, and the same host as a proxy of proxies names it.
    for client in ["2001:db8::ffff", "[2001:db8::2]:443", "203.0.113.5, 198.51.100.1, 10.1.2.3"] {
        assert_eq!(open(&node, &token, &[("x-forwarded-for", client)]).await.map(drop), Err(429), "{client}");
    }
    assert_eq!(hits(&node, "connections_per_address_max").await, 6.0);
    open_sockets.clear();
    eventually("places come back", async || open(&node, &token, &[("x-forwarded-for", "198.51.100.1")]).await.ok())
        .await;
}

#[tokio::test]
async fn what_a_client_writes_itself_changes_nothing() {
    let (node, token) = behind_proxy().await;
    let mut open_sockets = Vec::new();
    // Each time another claim on the left; the proxy appends the truth.
    for claim in ["203.0.113.1", "127.0.0.1", "nonsense", "10.0.0.1", "203.0.113.4"] {
        let forwarded = format!("{claim}, 198.51.100.1");
        let forwarded =
            [("x-forwarded-for", forwarded.as_str()), ("forwarded", "for=203.0.113.9"), ("x-real-ip", claim)];
        match open(&node, &token, &forwarded).await {
            Ok(socket) => open_sockets.push(socket),
            Err(status) => assert_eq!(status, 429, "{claim}"),
        }
    }
    assert_eq!(open_sockets.len(), 2, "one client, whatever it claims");
}

#[tokio::test]
async fn a_malformed_header_is_refused() {
    let (node, token) = behind_proxy().await;
    for bad in ["unknown", "198.51.100.1,", "198.51.100.256", "for=198.51.100.1", "198.51.100.1 203.0.113.1"] {
        let request = node.http().get(node.url("/v1/models")).bearer_auth(&token).header("x-forwarded-for", bad);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 400, "{bad}");
        assert!(response.headers().contains_key("x-request-id"), "it is answered as anything else");
        let body = response.json().await.expect("JSON");
        assert_eq!(super::code(&body), "invalid_request");
    }
    // The proxy's own health check names nobody.
    assert_eq!(node.http().get(node.url("/health")).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_place_is_given_back_with_the_answer() {
    let (node, token) = behind_proxy().await;
    let post = |stream: bool| {
        let body = json!({"model": "default", "max_tokens": 100, "stream": stream,
            "messages": [{"role": "user", "content": "hi"}]});
        let request = node.http().post(node.url("/v1/chat/completions")).bearer_auth(&token);
        request.header("x-forwarded-for", "198.51.100.1").json(&body).send()
    };
    let (first, second) = (post(true).await.expect("an answer"), post(true).await.expect("an answer"));
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let refused = post(true).await.expect("an answer");
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].to_str().expect("text")), (429, "1"));
    // Aborted, not read to its end.
    drop(first);
    let third = eventually("its place is free", async || {
        Some(post(true).await.expect("an answer")).filter(|response| response.status() == 200)
    })
    .await;
    drop((second, third));
}

#[tokio::test]
async fn without_a_trusted_proxy_the_header_is_nothing() {
    let config = Config::scripted().set("server.connections_per_address_max", 2);
    // Nobody is trusted; someone else is.
    for config in [config.clone(), config.set("server.trusted_proxies", "[\"192.0.2.1\"]")] {
        let (node, token) = with(config).await;
        let mut open_sockets = Vec::new();
        for claim in 0..8_u8 {
            let claim = IpAddr::from([198, 51, 100, claim]).to_string();
            let opening = async {
                let (node, token, claim) = (node.public().to_owned(), format!("Bearer {token}"), claim.clone());
                let open = async move {
                    let headers = [("authorization", token.as_str()), ("x-forwarded-for", claim.as_str())];
                    Socket::open(&format!("ws://{node}/v1/ws"), &headers).await.ok()
                };
                // A connection over the cap is closed without a word, at which `open` panics.
                tokio::spawn(open).await.ok().flatten()
            };
            open_sockets.extend(opening.await);
        }
        assert!(open_sockets.len() <= 2, "{} sockets of one address are open", open_sockets.len());
        // Nonsense is nothing, too.
        drop(open_sockets);
        eventually("a place is free", async || {
            let request = node.http().get(node.url("/health")).header("x-forwarded-for", "nonsense");
            request.send().await.ok().filter(|response| response.status() == 200)
        })
        .await;
    }
}
