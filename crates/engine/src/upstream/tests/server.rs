use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

/// What the server does with a request, one after the other; then it closes the connection.
#[derive(Clone)]
pub(super) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Waits until the client closes the connection.
    Hang,
}

/// A request as it arrived.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: serde_json::Value,
}

/// An OpenAI-compatible server that does what it is told.
pub(super) struct Server {
    pub(super) address: String,
    pub(super) seen: mpsc::UnboundedReceiver<Seen>,
    /// How many hanging connections the client closed.
    pub(super) closed: watch::Receiver<usize>,
}

impl Server {
    /// A server whose n-th request gets the n-th answer, and the last one again after that.
    pub(super) async fn start(answers: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = format!("http://{}", listener.local_addr().expect("has an address"));
        let (sender, seen) = mpsc::unbounded_channel();
        let (closed_sender, closed) = watch::channel(0);
        let count = Arc::new(AtomicUsize::new(0));
        let closed_sender = Arc::new(closed_sender);
        tokio::spawn(async move {
            loop {
                let Ok((connection, _)) = listener.accept().await else { return };
                tokio::spawn(serve(
                    connection,
                    answers.clone(),
                    Arc::clone(&count),
                    sender.clone(),
                    Arc::clone(&closed_sender),
                ));
            }
        });
        Self { address, seen, closed }
    }
}

async fn serve(
    connection: TcpStream,
    answers: Vec<Vec<Act>>,
    count: Arc<AtomicUsize>,
    seen: mpsc::UnboundedSender<Seen>,
    closed: Arc<watch::Sender<usize>>,
) {
    let mut connection = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse::<usize>()))
        .map_or(0, |length| length.expect("a number"));
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.expect("reads the body");
    if head.starts_with("GET /v1/models") {
        let list = r#"{"object":"list","data":[{"id":"m","object":"model","max_model_len":4096}]}"#;
        let _ = connection.write_all(&json(200, list)).await;
        return;
    }
    let n = count.fetch_add(1, Ordering::SeqCst);
    let _ = seen.send(Seen { head, body: serde_json::from_slice(&body).expect("JSON") });
    for act in answers.get(n).or(answers.last()).expect("an answer") {
        match act {
            Act::Send(bytes) => {
                if connection.write_all(bytes).await.is_err() || connection.flush().await.is_err() {
                    return;
                }
                // So that the client sees the pieces one by one more often than not.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            Act::Hang => {
                let mut byte = [0];
                if connection.read(&mut byte).await.unwrap_or(0) == 0 {
                    closed.send_modify(|closed| *closed += 1);
                }
                return;
            }
        }
    }
}

/// A whole answer with a body.
pub(super) fn json(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The headers of an event stream that ends with the connection.
pub(super) fn head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec()
}

/// A chunk of text.
pub(super) fn text(text: &str) -> Vec<u8> {
    format!("data: {}\r\n\r\n", serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}}]})).into_bytes()
}

/// What follows the text: the reason, the usage, the end.
pub(super) fn tail(completion_tokens: u32) -> Vec<u8> {
    let reason = serde_json::json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = serde_json::json!({"choices": [], "usage": {
        "prompt_tokens": 9, "completion_tokens": completion_tokens, "prompt_tokens_details": {"cached_tokens": 4}}});
    format!("data: {reason}\n\n: comment\n\ndata: {usage}\n\ndata: [DONE]\n\n").into_bytes()
}

/// A whole answer of some chunks.
pub(super) fn whole(texts: &[&str]) -> Vec<Act> {
    let mut bytes = head();
    for piece in texts {
        bytes.extend(text(piece));
    }
    bytes.extend(tail(u32::try_from(texts.len()).expect("few")));
    vec![Act::Send(bytes)]
}
