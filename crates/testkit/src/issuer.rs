//! An issuer of tokens: OIDC discovery and a key set over HTTP on this machine, and keys that sign whatever a test wants.

mod key;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

pub use key::IssuerKey;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/keys";

/// What the issuer does when it is asked for its keys.
#[derive(Debug, Clone)]
pub enum IssuerMood {
    /// It answers.
    Well,
    /// It answers with this status.
    Status(u16),
    /// It sends the client elsewhere.
    Redirect(String),
    /// It answers with this in place of its keys.
    Body(Vec<u8>),
    /// It reads and says nothing.
    Silent,
}

struct State {
    keys: Vec<Value>,
    mood: IssuerMood,
    /// What discovery says that the issuer is.
    name: String,
    keys_url: String,
}

/// A running issuer; it ends when dropped.
pub struct Issuer {
    url: String,
    state: Arc<Mutex<State>>,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Issuer {
    /// An issuer that publishes these keys.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(keys: &[&IssuerKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let keys_url = format!("{url}{KEYS_PATH}");
        let state = State { keys: Vec::new(), mood: IssuerMood::Well, name: url.clone(), keys_url };
        let (state, asked) = (Arc::new(Mutex::new(state)), Arc::new(AtomicU64::new(0)));
        let serving = (Arc::clone(&state), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving.0), Arc::clone(&serving.1)));
            }
        });
        let issuer = Self { url, state, asked, task };
        issuer.publish(keys);
        issuer
    }

    /// Its address, which is also its name in `iss`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: &[&IssuerKey]) {
        self.change(|state| state.keys = keys.iter().map(|key| key.jwk()).collect());
    }

    /// Publishes this key set as it is.
    pub fn publish_raw(&self, keys: Vec<Value>) {
        self.change(|state| state.keys = keys);
    }

    /// From now on it behaves like that.
    pub fn mood(&self, mood: IssuerMood) {
        self.change(|state| state.mood = mood);
    }

    /// Its discovery document says that it is another.
    pub fn claim_to_be(&self, name: &str) {
        self.change(|state| state.name = name.to_owned());
    }

    /// Its discovery document says that its keys are elsewhere.
    pub fn keys_are_at(&self, url: &str) {
        self.change(|state| state.keys_url = url.to_owned());
    }

    /// How often its keys were asked for.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("nobody panics with it"));
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>, asked: Arc<AtomicU64>) {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    // A client that closes early gets no answer.
    loop {
        match stream.read_line(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) if request.ends_with("\r\n\r\n") => break,
            Ok(_) => {}
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let state = state.lock().expect("nobody panics with it");
        let keys = || json!({ "keys": state.keys }).to_string().into_bytes();
        match (path.as_str(), &state.mood) {
            (DISCOVERY_PATH, _) => {
                let document = json!({ "issuer": state.name, "jwks_uri": state.keys_url });
                Some(response(200, "", document.to_string().as_bytes()))
            }
            (KEYS_PATH, mood) => {
                asked.fetch_add(1, Ordering::SeqCst);
                match mood {
                    IssuerMood::Well => Some(response(200, "", &keys())),
                    IssuerMood::Status(status) => Some(response(*status, "", b"{}")),
                    IssuerMood::Redirect(to) => Some(response(302, &format!("Location: {to}\r\n"), b"")),
                    IssuerMood::Body(body) => Some(response(200, "", body)),
                    IssuerMood::Silent => None,
                }
            }
            _ => Some(response(404, "", b"{}")),
        }
    };
    match answer {
        // The client may be gone.
        Some(answer) => drop(stream.write_all(&answer).await),
        None => drop(stream.read_line(&mut request).await),
    }
}

fn response(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
