//! What was signed, as it is verified: away from the connection that it came on.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header::HOST, uri::Scheme};
use signing::{
    PublicKey, Signature, Window,
    dpop::{self, DpopError},
    http::{HttpSignature, HttpSignatureError, Message},
};

use super::Refusal;

/// Something that a known key is said to have signed.
pub(crate) enum Statement {
    /// The bytes of a native message.
    Message {
        /// What the signature covers.
        bytes: Vec<u8>,
        /// The signature.
        signature: Signature,
    },
    /// An HTTP request.
    Request {
        /// The signature, read from the headers.
        signature: Box<HttpSignature>,
        /// The request.
        request: Box<Addressed>,
        /// Its body.
        body: Bytes,
        /// When it may have been signed.
        window: Window,
    },
}

impl Statement {
    /// Bytes that have to be hashed.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Message { bytes, .. } => bytes.len(),
            Self::Request { body, .. } => body.len(),
        }
    }

    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), Refusal> {
        match self {
            Self::Message { bytes, signature } => key.verify(bytes, signature).map_err(|_| Refusal::Invalid),
            Self::Request { signature, request, body, window } => request.either_scheme(
                |target, request| {
                    let message = Message { method: &request.method, target, headers: &request.headers };
                    signature.verify(&message, body, key, *window).map_err(|error| refusal(error, window.now))
                },
                |refusal| *refusal == Refusal::Invalid,
            ),
        }
    }
}

/// The refusal of a signature that cannot be read.
pub(crate) fn read_refusal(error: HttpSignatureError) -> Refusal {
    refusal(error, 0)
}

fn refusal(error: HttpSignatureError, now: u64) -> Refusal {
    match error {
        HttpSignatureError::OutsideWindow => Refusal::Stale { now },
        HttpSignatureError::WrongDigest => Refusal::Digest,
        HttpSignatureError::BadSignature(_) | HttpSignatureError::Sign(_) => Refusal::Invalid,
        HttpSignatureError::Malformed(_)
        | HttpSignatureError::NotCovered(_)
        | HttpSignatureError::NoSuchComponent(_) => Refusal::Malformed(error.to_string()),
    }
}

/// A request with the address that its client used.
#[derive(Debug, Clone)]
pub(crate) struct Addressed {
    method: Method,
    headers: HeaderMap,
    /// With scheme and authority.
    targets: [Uri; 2],
}

impl Addressed {
    /// `authorities` are the hosts by which clients reach this node; where there are none, the request's own word
    /// counts.
    ///
    /// # Errors
    /// [`Refusal::OtherHost`], and [`Refusal::Malformed`] for a request without a host.
    pub(crate) fn new(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        authorities: &[String],
    ) -> Result<Self, Refusal> {
        let malformed = || Refusal::Malformed("the request has no host, or several".to_owned());
        let mut hosts = headers.get_all(HOST).iter();
        let host = match (uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), _, None) => authority.as_str(),
            (None, Some(host), None) => host.to_str().map_err(|_| malformed())?,
            _ => return Err(malformed()),
        };
        if !authorities.is_empty() && !authorities.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Err(Refusal::OtherHost);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = |scheme: Scheme| {
            Uri::builder().scheme(scheme).authority(host).path_and_query(path).build().map_err(|_| malformed())
        };
        // Behind a proxy that ends TLS the client's scheme is not known here. It names the same resource of the same
        // node, so both are taken; the likelier first.
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let (first, second) = if is_tls { (Scheme::HTTPS, Scheme::HTTP) } else { (Scheme::HTTP, Scheme::HTTPS) };
        Ok(Self { method: method.clone(), headers: headers.clone(), targets: [target(first)?, target(second)?] })
    }

    pub(super) fn verify_possession(&self, proof: &str, window: Window) -> Result<dpop::Proof, Refusal> {
        let verify = |target: &Uri, request: &Self| -> Result<dpop::Proof, Refusal> {
            let expected = dpop::Expected { method: request.method.as_str(), target, access_token: None, window };
            Ok(dpop::verify(proof, &expected)?)
        };
        self.either_scheme(verify, |refusal| *refusal == Refusal::Proof(DpopError::OtherRequest))
    }

    /// Tries with the one scheme, and where that gives a refusal that the other may not, with the other.
    fn either_scheme<T>(
        &self,
        verify: impl Fn(&Uri, &Self) -> Result<T, Refusal>,
        may_be_scheme: impl Fn(&Refusal) -> bool,
    ) -> Result<T, Refusal> {
        let [first, second] = &self.targets;
        match verify(first, self) {
            Err(refusal) if may_be_scheme(&refusal) => verify(second, self),
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn addressed(uri: &str, hosts: &[&str], authorities: &[&str]) -> Result<[String; 2], Refusal> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        let authorities: Vec<String> = authorities.iter().map(|text| (*text).to_owned()).collect();
        let addressed = Addressed::new(&Method::GET, &uri.parse().unwrap(), &headers, &authorities)?;
        Ok(addressed.targets.map(|target| target.to_string()))
    }

    #[test]
    fn a_request_to_another_host_is_refused() {
        let malformed =
            |result: Result<_, Refusal>| assert!(matches!(result, Err(Refusal::Malformed(_))), "{result:?}");
        malformed(addressed("/v1/models", &[], &[]));
        malformed(addressed("/v1/models", &["a", "a"], &[]));
        malformed(addressed("/v1/models", &["a b"], &[]));
        assert_eq!(addressed("/", &["evil.example"], &["node.example"]), Err(Refusal::OtherHost));
        assert_eq!(addressed("/", &["node.example:8443"], &["node.example"]), Err(Refusal::OtherHost));
    }

    #[test]
    fn a_request_is_addressed_by_both_schemes() {
        let check = |uri: &str, hosts: &[&str], expected: [&str; 2]| {
            assert_eq!(addressed(uri, hosts, &["Node.Example", "127.0.0.1:8080"]).unwrap(), expected);
        };
        check(
            "/v1/models?a=b",
            &["node.example"],
            ["http://node.example/v1/models?a=b", "https://node.example/v1/models?a=b"],
        );
        check("https://node.example/x", &[], ["https://node.example/x", "http://node.example/x"]);
        check("/", &["127.0.0.1:8080"], ["http://127.0.0.1:8080/", "https://127.0.0.1:8080/"]);
    }
}
