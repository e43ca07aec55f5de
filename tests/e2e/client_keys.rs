//! Keys of subjects by the operators' API.

use serde_json::{Value, json};
use testkit::TestNode;

use crate::{
    signer::{Key, nonce},
    support::{JOB, prompt, scripted, words},
};

async fn call(node: &TestNode, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let url = format!("http://{}{path}", node.admin());
    let mut request = node.http().request(method.parse().expect("a method"), url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.expect("the node answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn keys_are_the_operators_to_enrol() {
    let (node, client) = scripted().await;
    let issue = ["token", "issue", "--subject", "operator", "--job", JOB, "--permissions", "admin"];
    let operator = node.command_ok(&issue);
    let key = Key::new(1);
    let wish = json!({"subject": "alice", "public_key": key.hex(), "label": "laptop"});
    let keys = "/admin/v1/keys";

    for token in [None, Some(client.as_str())] {
        for (method, path, body) in [
            ("GET", keys.to_owned(), None),
            ("POST", keys.to_owned(), Some(&wish)),
            ("DELETE", format!("{keys}/{}?subject=alice", key.thumbprint()), None),
        ] {
            let (status, body) = call(&node, method, &path, token, body).await;
            assert_eq!(status, if token.is_none() { 401 } else { 403 }, "{method} {body}");
        }
    }
    let operator = Some(operator.as_str());
    let weak = format!("01{}", "0".repeat(62));
    for (change, code) in [
        (json!({"public_key": "zz"}), "INVALID_HEX_ENCODING"),
        (json!({"public_key": "g".repeat(64)}), "INVALID_HEX_ENCODING"),
        (json!({"public_key": weak}), "WEAK_KEY"),
        (json!({"public_key": "f".repeat(64)}), "INVALID_REQUEST"),
        (json!({"label": "x".repeat(200)}), "INVALID_REQUEST"),
        (json!({"subject": "a b"}), "INVALID_REQUEST"),
        (json!({"more": 1}), "INVALID_REQUEST"),
    ] {
        let mut bad = wish.clone();
        bad.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        let (_, body) = call(&node, "POST", keys, operator, Some(&bad)).await;
        assert_eq!(body["error"]["code"], code, "{change}: {body}");
    }
    assert_eq!(call(&node, "GET", keys, operator, None).await.1["keys"], json!([]));

    let (status, enrolled) = call(&node, "POST", keys, operator, Some(&wish)).await;
    assert_eq!((status, &enrolled["key_id"]), (200, &json!(key.thumbprint())), "{enrolled}");
    let mut socket = node.native(&client).await;
    let nonce = nonce(&mut socket).await;
    let init = json!({"type": "session_init", "session_id": "s", "id": "i"});
    socket.send(key.frame(&nonce, "s", 1, &init)).await;
    socket.expect("session_init_ack").await;

    let path = format!("{keys}/{}?subject=alice", key.thumbprint());
    assert_eq!(call(&node, "DELETE", &path.replace("alice", "bob"), operator, None).await.0, 401);
    let (status, withdrawn) = call(&node, "DELETE", &path, operator, None).await;
    assert_eq!((status, &withdrawn["status"]), (200, &json!("withdrawn")), "{withdrawn}");
    let mut asked = prompt("s", "hello", 3);
    asked["id"] = json!("a");
    socket.send(key.frame(&nonce, "s", 2, &asked)).await;
    assert_eq!(socket.expect("error").await["code"], "UNKNOWN_KEY", "the node that withdraws knows at once");

    // It comes back only if the operator says so.
    let (status, _) = call(&node, "POST", keys, operator, Some(&wish)).await;
    assert_eq!(status, 400);
    let again = json!({"subject": "alice", "public_key": key.hex(), "again": true});
    assert_eq!(call(&node, "POST", keys, operator, Some(&again)).await.0, 200);
    socket.expect("stream_end").await;
    socket.send(key.frame(&nonce, "s", 3, &asked)).await;
    assert_eq!(socket.answer("a").await.text, words(3));
}
