//! What a client with a key sends, to a socket that plays a node.

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use signing::{PublicKey, SecretKey, Signature};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{WebSocketStream, accept_async};

use super::*;
use crate::{Client, ConnectOptions, SessionOptions};

const NONCE: [u8; 32] = [9; 32];

async fn connect(first: Value, node: impl AsyncFnOnce(WebSocketStream<TcpStream>)) -> Result<Client, ClientError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("has one"));
    let secret = SecretKey::from_seed(&[1; 32]).expect("a key");
    let options = ConnectOptions::default().signer(Arc::new(secret));
    let node = async {
        let (stream, _) = listener.accept().await.expect("connects");
        let mut socket = accept_async(stream).await.expect("shakes hands");
        socket.send(Frame::text(first.to_string())).await.expect("the client reads");
        node(socket).await;
    };
    let client = async {
        let client = Client::connect_with(&url, &options).await?;
        let session = client.session_init(SessionOptions::new("s")).await?;
        client.ping().await?;
        session.end().await?;
        Ok(client)
    };
    tokio::join!(client, node).0
}

#[tokio::test]
async fn a_node_that_gives_no_nonce_gets_no_message() {
    for first in [
        json!({"type": "connected"}),
        json!({"type": "connected", "nonce": ""}),
        json!({"type": "connected", "nonce": "00"}),
        json!({"type": "connected", "nonce": "g".repeat(64)}),
        json!({"type": "pong", "nonce": hex::encode(NONCE)}),
        json!(7),
    ] {
        let silent = async |mut socket: WebSocketStream<TcpStream>| {
            while let Some(Ok(frame)) = socket.next().await {
                assert!(!frame.is_text(), "{frame}");
            }
        };
        let refused = connect(first.clone(), silent).await.expect_err("refused");
        assert!(matches!(refused, ClientError::Protocol(_)), "{first}: {refused}");
    }
}

#[tokio::test]
async fn every_message_about_a_session_is_signed_for_its_place() {
    let node = async |mut socket: WebSocketStream<TcpStream>| {
        let key = SecretKey::from_seed(&[1; 32]).expect("a key").public_key();
        let (mut seqs, mut kinds) = (Vec::new(), Vec::new());
        while kinds.len() < 3 {
            let Some(Ok(Frame::Text(text))) = socket.next().await else { continue };
            let mut message: Value = serde_json::from_str(&text).expect("JSON");
            if message["type"] == "signed" {
                check(&key, &message);
                seqs.push(message["seq"].as_u64().expect("a number"));
                let inner: Value = serde_json::from_str(message["payload"].as_str().expect("text")).expect("JSON");
                assert_eq!((&inner["id"], &inner["session_id"]), (&message["id"], &message["session_id"]));
                message = inner;
            }
            let reply = match message["type"].as_str().expect("a type") {
                "session_init" => "session_init_ack",
                "session_end" => "session_end_ack",
                _ => "pong",
            };
            kinds.push(reply);
            socket.send(Frame::text(json!({"type": reply, "id": message["id"]}).to_string())).await.expect("reads");
        }
        assert_eq!(kinds, ["session_init_ack", "pong", "session_end_ack"]);
        assert_eq!(seqs, [1, 2], "the ping is about no session");
    };
    connect(json!({"type": "connected", "nonce": hex::encode(NONCE)}), node).await.expect("served");
}

fn check(key: &PublicKey, message: &Value) {
    let text = |name: &str| message[name].as_str().expect(name);
    assert_eq!(text("key_id"), key.to_hex());
    let seq = message["seq"].as_u64().expect("a number");
    let signed = ["llm-node/v1/message", &hex::encode(NONCE), text("session_id"), &seq.to_string(), text("payload")];
    let signature = Signature::from_hex(text("signature")).expect("128 digits");
    key.verify(signed.join("\0").as_bytes(), &signature).expect("it fits");
}
