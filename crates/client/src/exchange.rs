//! A token for a key: `POST /v1/sessions` with a proof of possession (RFC 9449).

use std::{fmt, sync::Arc, time::SystemTime};

use http::Uri;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use signing::{
    Signer,
    dpop::{self, NewProof},
};
use url::Url;

use crate::{
    ConnectOptions,
    connect::{CONNECT_TIMEOUT, NATIVE_PATH, native_url},
    error::ClientError,
};

/// Where tokens are given.
const PATH: &str = "/v1/sessions";
/// Largest answer that is read, in bytes: a token and a few names.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What a key asks for.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TokenRequest {
    /// The job to charge; may be left out where the key has one open job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Seconds that the token is valid; the node's own limit where `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// A token that is bound to a key: what comes with it must be signed by the key.
#[derive(Clone, Deserialize)]
pub struct BoundToken {
    /// The token.
    #[serde(rename = "access_token")]
    pub token: String,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// Whose it is.
    pub subject: String,
    /// What it is charged to.
    pub job_id: String,
}

impl fmt::Debug for BoundToken {
    /// Never prints the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundToken")
            .field("expires_at", &self.expires_at)
            .field("subject", &self.subject)
            .field("job_id", &self.job_id)
            .finish_non_exhaustive()
    }
}

/// Proves to a node that the client holds the key, and gets a token for the key's job.
///
/// # Errors
/// [`ClientError::Refused`] with the node's reason, otherwise what failed on the way.
pub async fn exchange(
    url: &str,
    signer: &Arc<dyn Signer>,
    request: &TokenRequest,
    options: &ConnectOptions,
) -> Result<BoundToken, ClientError> {
    let url = sessions_url(url)?;
    let failed =
        |error: reqwest::Error| ClientError::Connect { url: url.to_string(), reason: error.without_url().to_string() };
    // As the socket connects: without proxies, and to no other address than the one that was named.
    let mut builder =
        reqwest::Client::builder().timeout(CONNECT_TIMEOUT).no_proxy().redirect(reqwest::redirect::Policy::none());
    if let Some(tls) = &options.tls {
        builder = builder.tls_backend_preconfigured(tls.config());
    }
    let http = builder.build().map_err(failed)?;
    let target: Uri = url
        .as_str()
        .parse()
        .map_err(|_| ClientError::InvalidUrl { url: url.to_string(), reason: "it is no URI".into() })?;
    let mut nonce: Option<String> = None;
    loop {
        let proof = prove(&target, nonce.as_deref(), signer.as_ref())?;
        let sent = http.post(url.clone()).header("dpop", proof).json(request).send().await.map_err(failed)?;
        let status = sent.status();
        let offered = sent.headers().get("dpop-nonce").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = read(sent).await.map_err(failed)?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|_| ClientError::Protocol("a token was promised and none came".into()));
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        // The first answer brings the nonce; a second refusal over it is one.
        if body["error"] == "use_dpop_nonce" && nonce.is_none() && offered.is_some() {
            nonce = offered;
            continue;
        }
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        let message = text("error_description").unwrap_or_else(|| "no reason given".into());
        return Err(ClientError::Refused { status: status.as_u16(), code: text("code"), message });
    }
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_BYTES_MAX.saturating_sub(body.len());
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if room <= chunk.len() {
            break;
        }
    }
    Ok(body)
}

fn prove(target: &Uri, nonce: Option<&str>, signer: &dyn Signer) -> Result<String, ClientError> {
    let jti = format!("{:032x}", rand::random::<u128>());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let proof = NewProof { method: "POST", target, jti: &jti, issued_at: now, nonce, access_token: None };
    dpop::make(&proof, signer).map_err(|error| ClientError::Sign(error.to_string()))
}

/// The address beside that of the native protocol.
fn sessions_url(text: &str) -> Result<Url, ClientError> {
    let mut url = native_url(text)?;
    let scheme = if url.scheme() == "wss" { "https" } else { "http" };
    let path = match url.path().strip_suffix(NATIVE_PATH) {
        Some(prefix) => format!("{prefix}{PATH}"),
        None => PATH.to_owned(),
    };
    url.set_path(&path);
    url.set_query(None);
    // ws to http, both special schemes, is always allowed.
    url.set_scheme(scheme).map_err(|()| ClientError::InvalidUrl {
        url: text.to_owned(),
        reason: "its scheme cannot be changed".into(),
    })?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_asked_for_beside_the_socket() {
        let check = |text: &str, expected: &str| assert_eq!(sessions_url(text).expect(text).as_str(), expected);
        assert!(sessions_url("ftp://host").is_err());
        check("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1/sessions");
        check("wss://node.example/a/v1/ws?x=y", "https://node.example/a/v1/sessions");
        check("https://node.example/other", "https://node.example/v1/sessions");
    }
}
