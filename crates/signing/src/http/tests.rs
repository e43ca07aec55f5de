use sfv::{Dictionary, Parser};

use super::*;
use crate::SecretKey;

const NOW: u64 = 1_800_000_000;
const NONCE: &str = "0123456789abcdef";
const BODY: &[u8] = b"{\"hello\": \"world\"}";

fn key() -> SecretKey {
    SecretKey::from_seed(&[8; 32]).unwrap()
}

fn window() -> Window {
    Window { now: NOW, age_secs_max: 60, ahead_secs_max: 5 }
}

/// A request as a client sends it.
struct Request {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Request {
    fn plain() -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer token"));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("content-digest", content_digest(BODY));
        let target = "https://node.example/v1/inference?a=b".parse().unwrap();
        Self { method: Method::POST, target, headers, body: BODY.to_vec() }
    }

    fn signed() -> Self {
        let mut request = Self::plain();
        let parameters = Parameters { created: NOW, nonce: NONCE, key_id: "k1" };
        let SignatureHeaders { input, signature } = sign(&request.message(), &parameters, &key()).unwrap();
        request.headers.insert("signature-input", input);
        request.headers.insert("signature", signature);
        request
    }

    /// Signed as `input` says, whatever it says.
    fn signed_as(input: &str) -> Self {
        let mut request = Self::plain();
        let dictionary: Dictionary = Parser::new(input).parse().unwrap();
        let mut signatures = Vec::new();
        for (label, entry) in &dictionary {
            let ListEntry::InnerList(covered) = entry else { continue };
            let base = base::build(&request.message(), covered).unwrap_or_default();
            let signature = key().sign(base.as_bytes()).unwrap();
            let entry = ListEntry::Item(Item::new(signature.as_bytes().as_slice()));
            signatures.push(Dictionary::from_iter([(label.clone(), entry)]).serialize().unwrap());
        }
        request.headers.insert("signature-input", HeaderValue::from_str(input).unwrap());
        request.headers.insert("signature", HeaderValue::from_str(&signatures.join(", ")).unwrap());
        request
    }

    fn message(&self) -> Message<'_> {
        Message { method: &self.method, target: &self.target, headers: &self.headers }
    }

    fn verdict(&self) -> Result<(), HttpSignatureError> {
        let signature = HttpSignature::read(&self.headers)?.expect("a signature for the node");
        signature.verify(&self.message(), &self.body, &key().public_key(), window())
    }
}

const GOOD: &str = r#"("@method" "@target-uri" "content-digest" "authorization");created=1800000000;nonce="0123456789abcdef";keyid="k1";alg="ed25519";tag="llm-node""#;

/// RFC 9421 appendix B.2.6, its request of B.2 and its key of B.1.4.
#[test]
fn rfc_9421_b_2_6() {
    let secret = SecretKey::from_pkcs8_pem(
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\n-----END PRIVATE KEY-----",
    )
    .unwrap();
    let public = PublicKey::from_spki_pem(
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----",
    )
    .unwrap();
    assert_eq!(secret.public_key(), public);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "example.com"),
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        (
            "content-digest",
            "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        ),
        ("content-length", "18"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    digest::check(&headers, BODY).unwrap();
    let target = "https://example.com/foo?param=Value&Pet=dog".parse().unwrap();
    let message = Message { method: &Method::POST, target: &target, headers: &headers };
    let input = r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    let dictionary: Dictionary = Parser::new(input).parse().unwrap();
    let Some(ListEntry::InnerList(covered)) = dictionary.get("sig-b26") else { panic!("an inner list") };
    let base = base::build(&message, covered).unwrap();
    assert_eq!(
        base,
        "\"date\": Tue, 20 Apr 2021 02:07:55 GMT\n\"@method\": POST\n\"@path\": /foo\n\"@authority\": example.com\n\
         \"content-type\": application/json\n\"content-length\": 18\n\"@signature-params\": (\"date\" \"@method\" \"@path\" \
         \"@authority\" \"content-type\" \"content-length\");created=1618884473;keyid=\"test-key-ed25519\""
    );
    let signature = secret.sign(base.as_bytes()).unwrap();
    let written = sfv::List::from([ListEntry::Item(Item::new(signature.as_bytes().as_slice()))]).serialize().unwrap();
    assert_eq!(written, ":wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:");
    public.verify(base.as_bytes(), &signature).unwrap();
}

/// RFC 9421 section 2.2: derived components, and what stands for an absent query.
#[test]
fn derived_components() {
    let headers = HeaderMap::new();
    let check = |target: &str, name: &str, expected: Option<&str>| {
        let target = target.parse().unwrap();
        let message = Message { method: &Method::GET, target: &target, headers: &headers };
        let covered = InnerList::new(vec![Item::new(StringRef::from_str(name).unwrap().to_owned())]);
        let line = base::build(&message, &covered).ok().map(|base| base.lines().next().unwrap().to_owned());
        assert_eq!(line, expected.map(|value| format!("\"{name}\": {value}")), "{target} {name}");
    };
    check("https://www.example.com/path?q=1", "@target-uri", Some("https://www.example.com/path?q=1"));
    check("https://WWW.Example.com:443/path", "@target-uri", Some("https://www.example.com/path"));
    check("http://h:80/", "@authority", Some("h"));
    check("http://h:443/", "@authority", Some("h:443"));
    check("http://[::1]:8080/", "@authority", Some("[::1]:8080"));
    check("https://h", "@path", Some("/"));
    check("https://h/a%20b/%C3%A9", "@path", Some("/a%20b/%C3%A9"));
    check("https://h/a?", "@query", Some("?"));
    check("https://h/a", "@query", Some("?"));
    check("https://h/a?x=%20&y", "@query", Some("?x=%20&y"));
    check("https://h/a", "@scheme", Some("https"));
    check("https://h/a", "@status", None);
    check("https://h/a", "@query-param", None);
    check("https://h/a", "x-missing", None);
    check("https://h/a", "Content-Type", None);
    check("/a", "@authority", None);
    check("/a", "@target-uri", None);
}

#[test]
fn whatever_is_changed_on_the_way_is_noticed() {
    use HttpSignatureError as Error;
    let check = |change: fn(&mut Request), expected: Error| {
        let mut request = Request::signed();
        change(&mut request);
        assert_eq!(request.verdict(), Err(expected));
    };
    let bad = || Error::BadSignature(BadSignature);
    check(|request| request.method = Method::PUT, bad());
    check(|request| request.target = "https://evil.example/v1/inference?a=b".parse().unwrap(), bad());
    check(|request| request.target = "http://node.example/v1/inference?a=b".parse().unwrap(), bad());
    check(|request| request.target = "https://node.example/v1/inference?a=c".parse().unwrap(), bad());
    check(|request| request.target = "https://node.example/v1/inference".parse().unwrap(), bad());
    check(|request| drop(request.headers.insert("authorization", HeaderValue::from_static("Bearer other"))), bad());
    check(
        |request| {
            request.headers.append("authorization", HeaderValue::from_static("Bearer token"));
        },
        bad(),
    );
    check(|request| drop(request.headers.insert("content-type", HeaderValue::from_static("text/plain"))), bad());
    check(|request| request.body.push(b' '), Error::WrongDigest);
    check(
        |request| {
            request.body.push(b' ');
            request.headers.insert("content-digest", content_digest(&request.body));
        },
        bad(),
    );
    check(|request| drop(request.headers.remove("authorization")), Error::NoSuchComponent("authorization".into()));
    check(
        |request| drop(request.headers.remove("content-digest")),
        Error::Malformed("`Content-Digest` cannot be read (RFC 9530)"),
    );
    let other = SecretKey::from_seed(&[7; 32]).unwrap().public_key();
    let request = Request::signed();
    let signature = HttpSignature::read(&request.headers).unwrap().unwrap();
    assert_eq!(signature.verify(&request.message(), BODY, &other, window()), Err(bad()));
    assert_eq!(request.verdict(), Ok(()));
}

#[test]
fn what_does_not_cover_enough_is_refused() {
    use HttpSignatureError as Error;
    let check = |from: &str, to: &str, expected: Result<(), Error>| {
        assert!(GOOD.contains(from), "{from}");
        let request = Request::signed_as(&format!("s={}", GOOD.replace(from, to)));
        assert_eq!(request.verdict(), expected, "{from} → {to}");
    };
    check("\"@method\" ", "", Err(Error::NotCovered("@method")));
    check("\"@target-uri\" ", "", Err(Error::NotCovered("@target-uri")));
    check("\"@target-uri\" ", "\"@authority\" \"@path\" ", Err(Error::NotCovered("@target-uri")));
    check("\"content-digest\" ", "", Err(Error::NotCovered("content-digest")));
    check(" \"authorization\"", "", Err(Error::NotCovered("authorization")));
    check("\"authorization\"", "\"authorization\" \"x-none\"", Err(Error::NoSuchComponent("x-none".into())));
    check("1800000000", "1799999939", Err(Error::OutsideWindow));
    check("1800000000", "1800000006", Err(Error::OutsideWindow));
    check("created=1800000000", "created=1800000000;expires=1799999999", Err(Error::OutsideWindow));
    check("1800000000", "1799999940", Ok(()));
    check("created=1800000000", "created=1800000000;expires=1800000000", Ok(()));
    check("\"@target-uri\" ", "\"@authority\" \"@path\" \"@query\" ", Ok(()));
}

#[test]
fn what_cannot_be_read_strictly_is_refused() {
    let check = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        let request = Request::signed_as(&format!("s={}", GOOD.replace(from, to)));
        let read = HttpSignature::read(&request.headers);
        assert!(matches!(read, Err(HttpSignatureError::Malformed(_))), "{from} → {to}: {read:?}");
    };
    check("ed25519", "hmac-sha256");
    check("ed25519", "rsa-pss-sha512");
    check(";alg=\"ed25519\"", "");
    check("created=1800000000;", "");
    check("1800000000", "1800000000.5");
    check("1800000000", "\"1800000000\"");
    check("1800000000", "-1");
    check(NONCE, "short");
    check(NONCE, &"n".repeat(129));
    check("nonce=\"0123456789abcdef\";", "");
    check("keyid=\"k1\"", "keyid=\"\"");
    check("keyid=\"k1\"", "keyid=k1");
    check("\"@method\"", "\"@method\" \"@method\"");
    check("\"@method\"", "\"@method\";req");
    check("\"content-digest\"", "\"content-digest\";bs");

    let headers = |input: &str, signature: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("signature-input", HeaderValue::from_bytes(input.as_bytes()).unwrap());
        headers.insert("signature", HeaderValue::from_bytes(signature.as_bytes()).unwrap());
        HttpSignature::read(&headers)
    };
    let one = format!("s={GOOD}");
    for (input, signature) in [
        ("(", "s=:AA==:"),
        (&format!("s={}", GOOD.replace("\"@method\"", "@method")), "s=:AA==:"),
        (one.as_str(), ""),
        (&one, "t=:AA==:"),
        (&one, "s=:AA==:"),
        (&one, "s=\"AA==\""),
        (&one, "s=(:AA==:)"),
        (&one, "s=é"),
        (&format!("{one}, t={GOOD}"), "s=:AA==:"),
        (&format!("s={}", "a".repeat(5000)), "s=:AA==:"),
    ] {
        let read = headers(input, signature);
        assert!(matches!(read, Err(HttpSignatureError::Malformed(_))), "{input} {signature}: {read:?}");
    }
}

#[test]
fn signatures_for_others_are_left_alone() {
    for input in ["", "proxy=(\"@method\");tag=\"proxy\"", "a=1, b=(\"@path\")"] {
        assert_eq!(HttpSignature::read(&Request::signed_as(input).headers), Ok(None), "{input}");
    }
    let both = Request::signed_as(&format!("proxy=(\"@method\");tag=\"proxy\", s={GOOD}"));
    assert_eq!(both.verdict(), Ok(()));
}

#[test]
fn digests() {
    let check = |value: &str, ok: bool| {
        let mut headers = HeaderMap::new();
        headers.insert("content-digest", HeaderValue::from_str(value).unwrap());
        assert_eq!(digest::check(&headers, BODY).is_ok(), ok, "{value}");
    };
    let sha256 = content_digest(BODY).to_str().unwrap().to_owned();
    // RFC 9530 appendix D gives this digest of this body.
    assert_eq!(sha256, "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
    check("", false);
    check("md5=:AA==:", false);
    check("sha-256=:AA==:", false);
    check("sha-256=x", false);
    check(&format!("{sha256}, sha-512=:AA==:"), false);
    check(&sha256.replace("sha-256", "SHA-256"), false);
    check(&format!("{sha256}, md5=:AA==:"), true);
    check(&sha256, true);
}
