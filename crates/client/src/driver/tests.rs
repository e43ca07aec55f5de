//! The client against a socket that plays a node.

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderMap, StatusCode},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::*;
use crate::{Answer, AnswerEvent, PromptOptions};

struct Node {
    socket: WebSocketStream<TcpStream>,
    headers: HeaderMap,
    /// The client's last message as it came.
    last_text: String,
}

impl Node {
    /// The next message of the client.
    async fn receive(&mut self) -> Value {
        loop {
            match self.socket.next().await.expect("a frame").expect("a frame") {
                Frame::Text(text) => {
                    self.last_text = text.to_string();
                    return serde_json::from_str(&text).expect("JSON");
                }
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, message: Value) {
        self.socket.send(Frame::text(message.to_string())).await.expect("the client reads");
    }

    /// Acknowledges a session and gives the prompt that follows.
    async fn prompted(&mut self) -> Value {
        let init = self.receive().await;
        assert_eq!(init["type"], "session_init");
        self.send(json!({ "type": "session_init_ack", "status": "success", "id": init["id"] })).await;
        let prompt = self.receive().await;
        assert_eq!(prompt["type"], "prompt");
        prompt
    }

    async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let _ = self.socket.close(Some(CloseFrame { code, reason: reason.into() })).await;
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("has one"));
    (listener, url)
}

async fn accept(listener: &TcpListener) -> Node {
    let (stream, _) = listener.accept().await.expect("connects");
    let mut headers = HeaderMap::new();
    let keep = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        headers = request.headers().clone();
        Ok(response)
    };
    let socket = accept_hdr_async(stream, keep).await.expect("shakes hands");
    Node { socket, headers, last_text: String::new() }
}

/// Runs the client's side against the node's.
async fn play<T>(client: impl AsyncFnOnce(Client) -> T, node: impl AsyncFnOnce(Node)) -> T {
    let (listener, url) = listen().await;
    let client = async { client(Client::connect(&url, Some("the-token")).await.expect("connects")).await };
    let node = async { node(accept(&listener).await).await };
    let both = Box::pin(async { tokio::join!(client, node).0 });
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("it ends")
}

async fn prompt(client: &Client) -> (Session, Answer) {
    let session = client.session_init(SessionOptions::new("s")).await.expect("acknowledged");
    let answer = session.prompt("hi", &PromptOptions::default()).await.expect("sent");
    (session, answer)
}

#[tokio::test]
async fn a_refused_handshake_tells_status_code_and_sentence() {
    let (listener, url) = listen().await;
    let node = async {
        let (stream, _) = listener.accept().await.expect("connects");
        let refuse = |_: &Request, _: Response| -> Result<Response, ErrorResponse> {
            let body = r#"{"error":{"code":"INVALID_TOKEN","message":"The token is wrong."}}"#;
            let mut response = ErrorResponse::new(Some(body.to_owned()));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            Err(response)
        };
        assert!(accept_hdr_async(stream, refuse).await.is_err());
    };
    let (error, ()) = tokio::join!(Client::connect(&url, Some("wrong")), node);
    let error = error.expect_err("refused");
    assert_eq!(error.code(), Some("INVALID_TOKEN"), "{error}");
    assert!(error.to_string().contains("401"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_connect_error() {
    let (listener, url) = listen().await;
    drop(listener);
    assert!(matches!(Client::connect(&url, None).await, Err(ClientError::Connect { .. })));
}

#[tokio::test]
async fn an_answer_streams_to_its_end() {
    play(
        async |client| {
            let (_session, mut answer) = prompt(&client).await;
            let mut text = String::new();
            let end = loop {
                match answer.next().await.expect("an event").expect("no error") {
                    AnswerEvent::Delta { text: more, .. } => text += &more,
                    AnswerEvent::Finished(end) => break end,
                }
            };
            assert_eq!(
                (text.as_str(), end.finish_reason.as_str(), end.usage.completion_tokens),
                ("one two", "stop", 2)
            );
            assert_eq!(answer.next().await, None);
            assert!(client.ping().await.is_ok());
            client.close().await;
            assert!(matches!(client.ping().await, Err(ClientError::Closed { code: Some(1000), .. })));
        },
        async |mut node| {
            assert_eq!(node.headers["authorization"], "Bearer the-token");
            node.send(json!({ "type": "connected" })).await;
            let id = node.prompted().await["id"].clone();
            for (index, content) in ["one", " two", ""].iter().enumerate() {
                node.send(
                    json!({ "type": "stream_chunk", "content": content, "tokens": 1, "chunk_index": index, "id": id }),
                )
                .await;
            }
            node.send(json!({ "type": "stream_end", "reason": "complete", "finish_reason": "stop",
                "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 }, "id": id }))
                .await;
            let ping = node.receive().await;
            node.send(json!({ "type": "pong", "id": ping["id"] })).await;
            while let Some(Ok(_)) = node.socket.next().await {}
        },
    )
    .await;
}

#[tokio::test]
async fn an_error_ends_the_answer_and_not_the_connection() {
    play(
        async |client| {
            let (_session, mut answer) = prompt(&client).await;
            let error = answer.next().await.expect("an event").expect_err("an error");
            assert_eq!(error.code(), Some("RATE_LIMIT"));
            assert_eq!(answer.next().await, None);
            assert!(client.ping().await.is_ok());
        },
        async |mut node| {
            let id = node.prompted().await["id"].clone();
            node.send(json!({ "type": "error", "code": "RATE_LIMIT", "message": "Slow down.", "id": id })).await;
            node.send(json!({ "type": "stream_end", "reason": "error", "id": id })).await;
            let ping = node.receive().await;
            assert_eq!(ping["type"], "ping", "an answer that has ended is not cancelled");
            node.send(json!({ "type": "pong", "id": ping["id"] })).await;
        },
    )
    .await;
}

#[tokio::test]
async fn cancelled_and_dropped_answers_are_stopped_at_the_node() {
    play(
        async |client| {
            let (session, mut answer) = prompt(&client).await;
            answer.cancel();
            let Some(Ok(AnswerEvent::Finished(end))) = answer.next().await else { panic!("an end") };
            assert_eq!(end.finish_reason, "cancelled");
            drop(session.prompt("again", &PromptOptions::default()).await.expect("sent"));
            client.close().await;
        },
        async |mut node| {
            let prompt = node.prompted().await;
            let cancel = node.receive().await;
            assert_eq!((&cancel["type"], &cancel["session_id"]), (&json!("stream_cancel"), &prompt["session_id"]));
            node.send(json!({ "type": "stream_end", "reason": "cancelled", "id": prompt["id"] })).await;
            assert_eq!(node.receive().await["type"], "prompt");
            assert_eq!(node.receive().await["type"], "stream_cancel");
            while let Some(Ok(_)) = node.socket.next().await {}
        },
    )
    .await;
}

#[tokio::test]
async fn a_closed_connection_fails_every_waiting_call_with_its_reason() {
    play(
        async |client| {
            let (_session, mut answer) = prompt(&client).await;
            let error = answer.next().await.expect("an event").expect_err("an error");
            assert!(
                matches!(&error, ClientError::Closed { code: Some(1012), reason } if reason == "restart"),
                "{error}"
            );
            assert_eq!(client.ping().await, Err(error.clone()));
            assert!(error.is_connection_lost());
        },
        async |mut node| {
            node.prompted().await;
            node.close(CloseCode::Restart, "restart").await;
        },
    )
    .await;
}

#[tokio::test]
async fn an_error_of_the_whole_connection_is_its_end_cause() {
    play(
        async |client| {
            let error = client.session_init(SessionOptions::new("s")).await.expect_err("refused");
            assert_eq!(error.code(), Some("TOKEN_EXPIRED"), "{error}");
        },
        async |mut node| {
            node.receive().await;
            node.send(json!({ "type": "error", "code": "TOKEN_EXPIRED", "message": "Get another." })).await;
            node.close(CloseCode::Policy, "").await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_node_that_talks_nonsense_is_left() {
    play(
        async |client| {
            let error = client.ping().await.expect_err("nonsense");
            assert!(matches!(error, ClientError::Protocol(_)), "{error}");
        },
        async |mut node| {
            node.receive().await;
            node.socket.send(Frame::text("no JSON")).await.expect("the client reads");
            while let Some(Ok(_)) = node.socket.next().await {}
        },
    )
    .await;
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused() {
    play(
        async |client| {
            let (_session, answer) = prompt(&client).await;
            let mut waiting = vec![];
            for number in 1..REQUESTS_PENDING_MAX {
                let id = format!("extra-{number}");
                waiting.push(client.request(&id, ClientMessage::Ping { id: &id }.outgoing()).await.expect("sent"));
            }
            assert_eq!(client.ping().await, Err(ClientError::TooManyPending { max: REQUESTS_PENDING_MAX }));
            // A call that nobody waits for any more makes room.
            waiting.clear();
            assert!(client.ping().await.is_ok());
            drop(answer);
            client.close().await;
        },
        async |mut node| {
            node.prompted().await;
            loop {
                match node.socket.next().await {
                    Some(Ok(Frame::Text(text))) => {
                        let message: Value = serde_json::from_str(&text).expect("JSON");
                        let id = message["id"].as_str().expect("an id");
                        if message["type"] == "ping" && !id.starts_with("extra") {
                            node.send(json!({ "type": "pong", "id": id })).await;
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => break,
                }
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_receipt_is_believed_only_for_what_was_sent_and_received() {
    use signing::{Jwk, SecretKey, Signer as _, receipt::digest};
    let secret = SecretKey::from_seed(&[7; 32]).expect("a key");
    let public = secret.public_key();
    let kid = public.thumbprint();
    let keys = signing::JwkSet { keys: vec![Jwk { kid: Some(kid.clone()), ..public.to_jwk() }] };
    let check = async |said: &'static str, lie: bool, expected: Result<(), &'static str>| {
        let (secret, kid) = (&secret, &kid);
        play(
            async |client| {
                let (_session, mut answer) = prompt(&client).await;
                let end = loop {
                    match answer.next().await.expect("an event").expect("no error") {
                        AnswerEvent::Delta { .. } => {}
                        AnswerEvent::Finished(end) => break end,
                    }
                };
                let verified = end.receipt.expect("a receipt").verify(&keys);
                assert_eq!(verified.map(drop).map_err(|error| error.code()), expected);
                client.close().await;
            },
            async |mut node| {
                let asked = node.prompted().await;
                let id = asked["id"].clone();
                let request = if lie { "another".into() } else { node.last_text.clone() };
                let chunk =
                    json!({ "type": "stream_chunk", "reasoning": "hm", "content": said, "tokens": 1, "id": id });
                node.send(chunk).await;
                let receipt = serde_json::from_value(json!({
                    "version": 1, "receipt_id": "rcpt_1", "request_id": "r", "node_id": "n", "session_id": "s",
                    "job_id": "7", "subject": "alice", "model": "m", "model_digest": null, "endpoint": "native_ws",
                    "request_hash": digest(request.as_bytes()), "output_hash": digest(b"hmyes"), "input_tokens": 1,
                    "output_tokens": 1, "finish_reason": "stop", "started_at": 1, "finished_at": 2, "sequence": 1,
                    "previous": null, "key_id": "", "signature": "",
                }))
                .expect("a receipt");
                let signed = signing::receipt::sign(receipt, kid.clone(), secret).expect("signed");
                node.send(json!({ "type": "receipt", "receipt": signed.receipt(), "id": id, "session_id": "s" })).await;
                node.send(json!({ "type": "stream_end", "reason": "complete", "finish_reason": "stop", "id": id }))
                    .await;
                while let Some(Ok(_)) = node.socket.next().await {}
            },
        )
        .await;
    };
    check("yes", false, Ok(())).await;
    check("no", false, Err("output_mismatch")).await;
    check("yes", true, Err("request_mismatch")).await;
}
