//! The attacks on the node's own tokens, each by name (RFC 8725 and its successor), and what good tokens may do.

mod attacks;
mod differential;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use protocol::{JobId, Subject};
use serde_json::{Value, json};
use signing::{SecretKey, Signer};

use super::*;
use crate::{Grant, JwtSecret, Permission, Permissions};

const SECRET: &str = "3b1f2b0b822cd15d6c15b0f00a089f86d081884c7d659a2feaa0c55ad015a3bf";
const OTHER_SECRET: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf3b1f2b0b822cd15d6c15b0f00a08";

/// The node's keys in these tests: one that signs, one that is retired.
struct Keys {
    active: Arc<SecretKey>,
    retired: SecretKey,
}

impl NodeKeys for Keys {
    fn active(&self) -> Result<(String, Arc<dyn Signer>), String> {
        Ok((self.active.public_key().thumbprint(), Arc::clone(&self.active) as Arc<dyn Signer>))
    }

    fn verify(&self, kid: &str, message: &[u8], signature: &Signature) -> KeyVerdict {
        let (active, retired) = (self.active.public_key(), self.retired.public_key());
        if kid == retired.thumbprint() {
            KeyVerdict::Retired
        } else if kid != active.thumbprint() {
            KeyVerdict::Unknown
        } else if active.verify(message, signature).is_ok() {
            KeyVerdict::Valid
        } else {
            KeyVerdict::Invalid
        }
    }
}

fn seed(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32]).unwrap()
}

fn secrets() -> Secrets {
    Secrets::configured(&JwtSecret::new(SECRET).unwrap(), None)
}

fn service() -> TokenService {
    let keys = Keys { active: Arc::new(seed(1)), retired: seed(2) };
    TokenService::new(secrets(), TokenConfig::default()).with_keys(Arc::new(keys))
}

fn grant() -> Grant {
    Grant {
        subject: Subject::new("alice").unwrap(),
        job: Some(JobId::new("7").unwrap()),
        session: None,
        permissions: Permissions::of([Permission::Execute]),
        lifetime: None,
        bound_key: None,
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims, rightly signed: what an attacker who knew the secret could send.
fn signed(header: &str, claims: &str) -> String {
    signed_with(SECRET.as_bytes(), header, claims)
}

fn signed_with(secret: &[u8], header: &str, claims: &str) -> String {
    let input = format!("{}.{}", encode(header), encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, input.as_bytes());
    format!("{input}.{}", encode(tag))
}

/// A token by an Ed25519 key.
fn signed_by(key: &SecretKey, header: &Value, claims: &str) -> String {
    let input = format!("{}.{}", encode(header.to_string()), encode(claims));
    let signature = key.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", encode(signature.as_bytes()))
}

fn claims(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": NODE_NAME, "aud": NODE_NAME, "sub": "alice", "iat": now() - 100, "nbf": now() - 100, "exp": now() + 60,
        "jti": "00", "permissions": ["execute"],
    });
    change(&mut claims);
    claims.to_string()
}

const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;

async fn reason(service: &TokenService, token: &str) -> &'static str {
    service.verify(token).await.err().map_or("accepted", |error| error.reason())
}

#[tokio::test]
async fn an_issued_token_verifies_and_says_what_was_granted() {
    for algorithm in [TokenAlgorithm::Hs256, TokenAlgorithm::Ed25519] {
        let bound = Grant { bound_key: Some("thumbprint".to_owned()), ..grant() };
        let issued = service().issue_signed_by(&bound, algorithm).unwrap();
        let claims = service().verify(&issued.token).await.unwrap();
        assert_eq!(claims.sub.as_str(), "alice");
        assert_eq!(claims.job_id.unwrap().as_str(), "7");
        assert!(claims.permissions.allow(Permission::Execute) && !claims.permissions.allow(Permission::Admin));
        assert_eq!(claims.exp, issued.expires_at);
        assert_eq!(claims.cnf.unwrap().jkt, "thumbprint");
        assert!(!format!("{issued:?}").contains(&issued.token));
        let header: Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(issued.token.split('.').next().unwrap()).unwrap())
                .unwrap();
        assert_eq!(header["alg"], algorithm.as_str());
        assert_eq!(header["typ"], TOKEN_TYPE);
    }
    let without_keys = TokenService::new(secrets(), TokenConfig::default());
    assert!(matches!(without_keys.issue_signed_by(&grant(), TokenAlgorithm::Ed25519), Err(IssueError::Key(_))));
}

#[tokio::test]
async fn both_names_of_ed25519_are_taken() {
    for alg in ["EdDSA", "Ed25519"] {
        let header = json!({ "alg": alg, "typ": "at+jwt", "kid": seed(1).public_key().thumbprint() });
        assert_eq!(reason(&service(), &signed_by(&seed(1), &header, &claims(|_| ()))).await, "accepted", "{alg}");
    }
}

#[tokio::test]
async fn a_new_configuration_holds_for_tokens_from_now_on() {
    let service = service();
    service.reconfigure(TokenConfig { lifetime: Duration::from_secs(5), ..TokenConfig::default() });
    assert!(service.issue(&grant()).unwrap().expires_at <= now() + 5);
    service.reconfigure(TokenConfig { algorithm: TokenAlgorithm::Ed25519, ..TokenConfig::default() });
    let token = service.issue(&grant()).unwrap().token;
    assert_eq!(token.split('.').nth(2).unwrap().len(), 86, "64 bytes");
    let late = signed(HEADER, &claims(|c| c["exp"] = json!(now() - 10)));
    assert_eq!(reason(&service, &late).await, "accepted");
    service.reconfigure(TokenConfig { leeway_secs: 0, ..TokenConfig::default() });
    assert_eq!(reason(&service, &late).await, "expired");
}

#[tokio::test]
async fn a_token_of_the_secret_before_is_good_until_its_overlap_ends() {
    let (dir, now) = (tempfile::tempdir().unwrap(), now());
    let path = dir.path().join("jwt");
    let service = TokenService::new(Secrets::generated(path.clone()).unwrap(), TokenConfig::default());
    let old = service.issue(&grant()).unwrap().token;
    Secrets::rotate(path.clone(), Duration::from_secs(60), now).unwrap();
    // A command beside the node issues with the new secret before the node has looked.
    let beside = TokenService::new(Secrets::generated(path.clone()).unwrap(), TokenConfig::default());
    let new = beside.issue(&grant()).unwrap().token;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while reason(&service, &new).await != "accepted" {
        assert!(std::time::Instant::now() < deadline, "the service looks at the files when it meets an unknown secret");
    }
    assert_eq!(reason(&service, &old).await, "accepted");
    Secrets::rotate(path, Duration::ZERO, now).unwrap();
    service.secrets().look().unwrap();
    assert_eq!(reason(&service, &new).await, "unknown_key");
    assert_eq!(reason(&service, &old).await, "accepted", "its overlap goes on");
}
