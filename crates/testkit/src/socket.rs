//! A WebSocket client that hides nothing: text, binary, raw frames and close codes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config, connect_async,
    tungstenite::{
        Bytes, Error, Message,
        client::IntoClientRequest,
        http::{HeaderName, HeaderValue},
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// Time for the next message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// A refused upgrade.
#[derive(Debug)]
pub struct Handshake {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// What came from the node.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A text message of JSON.
    Json(Value),
    /// The connection's end; the code of the close frame, if there was one.
    Closed(Option<u16>),
}

/// A whole answer of the native protocol.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Tokens, summed over the chunks.
    pub tokens: u64,
    /// Every chunk.
    pub chunks: Vec<Value>,
    /// The `error` frame, if one came.
    pub error: Option<Value>,
    /// The receipt, if one came.
    pub receipt: Option<Value>,
    /// The `stream_end` frame.
    pub end: Value,
}

impl Answer {
    /// `reason` and `finish_reason` of the end.
    #[must_use]
    pub fn reasons(&self) -> (&str, &str) {
        (self.end["reason"].as_str().unwrap_or("?"), self.end["finish_reason"].as_str().unwrap_or("?"))
    }
}

/// The frame that warns of the token's end.
const WARNING: &str = "token_expiring";

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    /// Warnings of the token's end, which may come at any time, until a test asks for them.
    warnings: VecDeque<Value>,
}

impl Socket {
    /// Opens a socket at `url` with extra headers.
    ///
    /// # Errors
    /// [`Handshake`] when the node answers with anything but an upgrade.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Handshake> {
        let mut request = url.into_client_request().expect("a ws URL");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header value");
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let opened = timeout(MESSAGE_TIMEOUT, connect_async(request)).await.expect("an answer to the handshake");
        Self::opened(url, opened)
    }

    /// Opens a socket by TLS: to `address`, whatever host the `wss` URL names.
    ///
    /// # Errors
    /// [`Handshake`] when the node answers with anything but an upgrade.
    ///
    /// # Panics
    /// When there is no connection or no answer.
    pub async fn open_tls(
        url: &str,
        address: &str,
        tls: Arc<ClientConfig>,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Handshake> {
        let mut request = url.into_client_request().expect("a wss URL");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header value");
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let stream = TcpStream::connect(address).await.expect("the node listens");
        let opening = client_async_tls_with_config(request, stream, None, Some(Connector::Rustls(tls)));
        Self::opened(url, timeout(MESSAGE_TIMEOUT, opening).await.expect("an answer to the handshake"))
    }

    fn opened<T>(
        url: &str,
        opened: Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, T), Error>,
    ) -> Result<Self, Handshake> {
        match opened {
            Ok((inner, _)) => Ok(Self { inner, next_id: 0, warnings: VecDeque::new() }),
            Err(Error::Http(response)) => Err(Handshake {
                status: response.status().as_u16(),
                body: String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned(),
            }),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    /// Sends a message, with a fresh `id` where it has none, and gives that id.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send(&mut self, mut message: Value) -> String {
        if message.get("id").is_none() {
            self.next_id += 1;
            message["id"] = json!(format!("m{}", self.next_id));
        }
        self.send_text(&message.to_string()).await;
        message["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Sends a message as it is: what the Responses protocol wants, whose events have no `id`.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_plain(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    /// Sends any text.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a binary message.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    /// Sends a text frame whose payload need not be UTF-8.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_raw_text(&mut self, payload: &[u8]) {
        let frame = Frame::message(Bytes::copy_from_slice(payload), OpCode::Data(Data::Text), true);
        self.send_message(Message::Frame(frame)).await;
    }

    /// Sends a protocol ping.
    ///
    /// # Panics
    /// When the socket is closed.
    pub async fn send_ping(&mut self, payload: &[u8]) {
        self.send_message(Message::Ping(Bytes::copy_from_slice(payload))).await;
    }

    /// Waits for a pong with this payload.
    ///
    /// # Panics
    /// When another message comes, or none.
    pub async fn expect_pong(&mut self, payload: &[u8]) {
        loop {
            match timeout(MESSAGE_TIMEOUT, self.inner.next()).await.expect("a pong in time") {
                Some(Ok(Message::Pong(found))) => return assert_eq!(found.as_ref(), payload),
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("expected a pong, got {other:?}"),
            }
        }
    }

    async fn send_message(&mut self, message: Message) {
        timeout(MESSAGE_TIMEOUT, self.inner.send(message)).await.expect("the node reads").expect("the socket is open");
    }

    /// Sends and does not mind when the node has closed already.
    pub async fn try_send_text(&mut self, text: &str) {
        // That the node may have closed is what callers test.
        let _ = timeout(MESSAGE_TIMEOUT, self.inner.send(Message::text(text))).await;
    }

    /// The next message, pings and pongs aside.
    ///
    /// # Panics
    /// When none came in time, or it is not JSON.
    pub async fn recv(&mut self) -> Received {
        loop {
            let next = timeout(MESSAGE_TIMEOUT, self.inner.next()).await;
            match next.unwrap_or_else(|_| panic!("no message from the node within {MESSAGE_TIMEOUT:?}")) {
                Some(Ok(Message::Text(text))) => {
                    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                    return Received::Json(value);
                }
                Some(Ok(Message::Close(frame))) => return Received::Closed(frame.map(|frame| frame.code.into())),
                Some(Ok(Message::Binary(_))) => panic!("the node sent a binary frame"),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Received::Closed(None),
            }
        }
    }

    /// The next message, which must be JSON.
    ///
    /// # Panics
    /// When the socket closes in its place.
    pub async fn json(&mut self) -> Value {
        match self.recv().await {
            Received::Json(value) => value,
            Received::Closed(code) => panic!("the node closed with {code:?}; a message was expected"),
        }
    }

    /// The next message of this type; others before it are an error but for `connected` and the warning of a token's end.
    ///
    /// # Panics
    /// When another type or the end comes.
    pub async fn expect(&mut self, kind: &str) -> Value {
        if kind == WARNING
            && let Some(warning) = self.warnings.pop_front()
        {
            return warning;
        }
        loop {
            let message = self.json().await;
            match message["type"].as_str() {
                Some(found) if found == kind => return message,
                Some("connected") => {}
                Some(WARNING) => self.warnings.push_back(message),
                _ => panic!("expected {kind}, got {message}"),
            }
        }
    }

    /// Sends a message and gives the reply of type `kind`, which must carry the message's id.
    ///
    /// # Panics
    /// When another reply comes.
    pub async fn request(&mut self, message: Value, kind: &str) -> Value {
        let id = self.send(message).await;
        let reply = self.expect(kind).await;
        assert_eq!(reply["id"], json!(id), "{kind} must carry the request's id: {reply}");
        reply
    }

    /// Reads a stream of the native protocol to its end.
    ///
    /// # Panics
    /// When it is malformed: the chunks must count up, only the last may be final, all must carry `id`.
    pub async fn answer(&mut self, id: &str) -> Answer {
        let mut answer = Answer::default();
        loop {
            let message = self.json().await;
            if message["type"] == WARNING {
                self.warnings.push_back(message);
                continue;
            }
            if message["type"] != "connected" {
                assert_eq!(message["id"], json!(id), "a frame of another request: {message}");
            }
            match message["type"].as_str() {
                Some("connected") => {}
                Some("stream_chunk") => {
                    let last = answer.chunks.last();
                    assert!(!last.is_some_and(|last| last["final"] == true), "a chunk after the final one: {message}");
                    assert_eq!(message["chunk_index"], json!(answer.chunks.len()), "{message}");
                    answer.text += message["content"].as_str().expect("content is text");
                    answer.tokens += message["tokens"].as_u64().expect("tokens is a count");
                    answer.chunks.push(message);
                }
                Some("error") => answer.error = Some(message),
                Some("receipt") => {
                    assert!(answer.receipt.is_none(), "a second receipt: {message}");
                    answer.receipt = Some(message["receipt"].clone());
                }
                Some("stream_end") => {
                    answer.end = message;
                    return answer;
                }
                _ => panic!("in a stream came {message}"),
            }
        }
    }

    /// Waits until the node closes and gives its close code; messages before it are skipped.
    ///
    /// # Panics
    /// When it does not close.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Received::Closed(code) = self.recv().await {
                return code;
            }
        }
    }

    /// Goes away without a word, as a crashed client does.
    pub fn vanish(self) {
        drop(self);
    }
}
