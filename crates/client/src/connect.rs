use std::{sync::Arc, time::Duration};

use serde_json::Value;
use signing::Signer;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        http::{HeaderValue, Request, header::AUTHORIZATION},
        protocol::WebSocketConfig,
    },
};
use url::Url;

use crate::{
    error::ClientError,
    tls::{Tls, Trust},
};

/// How to connect. Made by [`Default`] and refined by its methods.
#[derive(Clone, Default)]
pub struct ConnectOptions {
    pub(crate) token: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) signer: Option<Arc<dyn Signer>>,
}

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("has_token", &self.token.is_some())
            .field("tls", &self.tls)
            .field("key", &self.signer.as_ref().map(|signer| signer.public_key()))
            .finish()
    }
}

impl ConnectOptions {
    /// Shows this token in the handshake.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Signs every message about a session: what a token that is bound to this key needs, and a node or a job that asks
    /// for signatures.
    #[must_use]
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.signer = Some(signer);
        self
    }

    /// Connects to `https` and `wss` addresses like this. Without it, the public authorities are trusted.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }
}

/// Longest wait for a connection, TLS and the handshake together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest message taken from a node, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Where the native protocol is served.
pub const NATIVE_PATH: &str = "/v1/ws";

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The WebSocket address of what a user typed: `http` becomes `ws`, and an empty path [`NATIVE_PATH`].
pub(crate) fn native_url(text: &str) -> Result<Url, ClientError> {
    let invalid = |reason: &str| ClientError::InvalidUrl { url: text.to_owned(), reason: reason.to_owned() };
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("ws://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|error| invalid(&error.to_string()))?;
    let scheme = match url.scheme() {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return Err(invalid("the scheme must be http, https, ws or wss")),
    };
    url.set_scheme(scheme).map_err(|()| invalid("the scheme must be http, https, ws or wss"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it has no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("credentials belong in the token, not in the address"));
    }
    if matches!(url.path(), "" | "/" | "/v1" | "/v1/") {
        url.set_path(NATIVE_PATH);
    }
    url.set_fragment(None);
    Ok(url)
}

fn handshake(url: &Url, token: Option<&str>) -> Result<Request<()>, ClientError> {
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| ClientError::InvalidUrl { url: url.to_string(), reason: error.to_string() })?;
    if let Some(token) = token {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| ClientError::InvalidToken)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Socket, ClientError> {
    let url = native_url(url)?;
    let request = handshake(&url, options.token.as_deref())?;
    let connector = if url.scheme() == "wss" {
        let tls = options.tls.clone().map_or_else(|| Tls::new(Trust::PublicAuthorities, None), Ok)?;
        tls.connector()
    } else {
        Connector::Plain
    };
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    // Nagle's delay would hold back a cancel behind the prompt before it.
    let connecting = connect_async_tls_with_config(request, Some(config), true, Some(connector));
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(error)) => Err(connect_error(&url, error)),
        Err(_) => Err(ClientError::Timeout { what: "the connection attempt", after: CONNECT_TIMEOUT }),
    }
}

fn connect_error(url: &Url, error: tungstenite::Error) -> ClientError {
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status();
            let body = response.body().as_deref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
            let (code, message) = body.as_ref().map(refusal).unwrap_or_default();
            let message = message.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
            ClientError::Refused { status: status.as_u16(), code, message }
        }
        other => ClientError::Connect { url: url.to_string(), reason: other.to_string() },
    }
}

/// Code and message of an HTTP error body: `{"error":{"code","message"}}` as OpenAI has it, or flat.
fn refusal(body: &Value) -> (Option<String>, Option<String>) {
    let inner = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
    let text = |key: &str| inner.get(key).and_then(Value::as_str).map(str::to_owned);
    (text("code").or_else(|| text("error_type")), text("message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_none_are_refused() {
        for bad in ["", "ftp://host", "ws://", "http://user:secret@host", "ws://host:99999", "::"] {
            assert!(matches!(native_url(bad), Err(ClientError::InvalidUrl { .. })), "{bad:?}");
        }
    }

    #[test]
    fn what_a_user_types_becomes_a_websocket_address() {
        let check = |text: &str, expected: &str| assert_eq!(native_url(text).expect(text).as_str(), expected);
        check("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/ws");
        check("https://node.example/", "wss://node.example/v1/ws");
        check("node.example:8080", "ws://node.example:8080/v1/ws");
        check("http://[::1]:8080/v1", "ws://[::1]:8080/v1/ws");
        check("wss://node.example/behind/a/proxy", "wss://node.example/behind/a/proxy");
    }

    #[test]
    fn a_token_with_line_breaks_is_refused_and_not_repeated() {
        let url = native_url("ws://host").expect("a url");
        let error = handshake(&url, Some("abc\ndef")).expect_err("not a header");
        assert_eq!(error, ClientError::InvalidToken);
        assert!(!format!("{error} {error:?}").contains("abc"));
        let request = handshake(&url, Some("abc\n")).expect("a trailing line break is trimmed");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer abc");
        assert!(!format!("{request:?}").contains("abc"), "a token must not be printable");
    }

    #[test]
    fn refusals_are_read_in_both_shapes() {
        let check = |body: &str, code: Option<&str>, message: Option<&str>| {
            let (found_code, found_message) = refusal(&serde_json::from_str(body).expect(body));
            assert_eq!((found_code.as_deref(), found_message.as_deref()), (code, message));
        };
        check(r#"{"error":{"code":"INVALID_TOKEN","message":"no"}}"#, Some("INVALID_TOKEN"), Some("no"));
        check(r#"{"error_type":"RATE_LIMIT","message":"slow"}"#, Some("RATE_LIMIT"), Some("slow"));
        check("[]", None, None);
    }
}
