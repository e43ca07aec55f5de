//! Requests to issuers: discovery and key sets.

use std::{net::IpAddr, time::Duration};

use serde::de::DeserializeOwned;
use url::{Host, Url};

use super::SEPARATOR;

/// Time for one request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the connection alone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why an issuer's keys could not be had. For the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is neither https nor on this machine")]
    Address(String),
    #[error("{url}: {source}")]
    Request { url: String, source: reqwest::Error },
    #[error("{url} answers with status {status}")]
    Status { url: String, status: u16 },
    #[error("{url} answers with more than {bytes_max} bytes")]
    TooLarge { url: String, bytes_max: usize },
    #[error("{url} does not answer with what is expected: {reason}")]
    Content { url: String, reason: String },
    #[error("the discovery document is that of another issuer")]
    OtherIssuer,
    #[error("{0} has no key that can verify a token (RS256 of 2048 bits or more, ES256, Ed25519, each with a name)")]
    NoKeys(String),
}

/// Whether keys may be fetched from there: over https, or over http on this machine.
#[must_use]
pub fn is_safe_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => return false,
    };
    let plain = url.username().is_empty() && url.password().is_none() && !text.contains(SEPARATOR);
    plain && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
}

/// The HTTP client for all issuers. It follows no redirect: where an issuer's keys are, its discovery document says.
pub(super) struct Fetcher(reqwest::Client);

impl Fetcher {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("llm-node/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self(client))
    }

    /// Reads a JSON document of at most `bytes_max`.
    pub(super) async fn json<T: DeserializeOwned>(&self, url: &str, bytes_max: usize) -> Result<T, FetchError> {
        if !is_safe_url(url) {
            return Err(FetchError::Address(url.to_owned()));
        }
        let failed = |source: reqwest::Error| FetchError::Request { url: url.to_owned(), source: source.without_url() };
        let mut response = self.0.get(url).send().await.map_err(failed)?;
        if response.status() != 200 {
            return Err(FetchError::Status { url: url.to_owned(), status: response.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > bytes_max {
                return Err(FetchError::TooLarge { url: url.to_owned(), bytes_max });
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body)
            .map_err(|error| FetchError::Content { url: url.to_owned(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine_are_asked() {
        for bad in [
            "http://issuer.test",
            "http://10.0.0.1/",
            "http://localhost.issuer.test",
            "http://127.0.0.1@issuer.test",
            "https://user:pass@issuer.test",
            "https://issuer.test/a|b",
            "file:///etc/passwd",
            "ftp://issuer.test",
            "issuer.test",
            "",
        ] {
            assert!(!is_safe_url(bad), "{bad}");
        }
        for good in [
            "https://issuer.test",
            "https://issuer.test/realms/a/",
            "http://127.0.0.1:8080",
            "http://[::1]/x",
            "http://localhost/",
        ] {
            assert!(is_safe_url(good), "{good}");
        }
    }
}
