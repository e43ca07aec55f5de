//! A client that signs, written from docs/protocol.md and the RFCs: it shares no code with the node.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use testkit::{Socket, TestNode};

/// A key with which a test signs.
pub(crate) struct Key {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl Key {
    /// The key of a seed.
    pub(crate) fn new(seed: u8) -> Self {
        let seed = [seed; 32];
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key"), seed }
    }

    /// The public key.
    pub(crate) fn hex(&self) -> String {
        hex::encode(self.pair.public_key().as_ref())
    }

    /// The private key as `openssl genpkey` writes one (RFC 8410).
    pub(crate) fn pem(&self) -> String {
        let prefix = hex::decode("302e020100300506032b657004220420").expect("hexadecimal");
        let der = BASE64_STANDARD.encode([prefix, self.seed.to_vec()].concat());
        format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n")
    }

    /// Its coordinate as a JWK has it.
    fn x(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// RFC 7638, RFC 8037.
    pub(crate) fn thumbprint(&self) -> String {
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(members))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// A signed frame. `nonce` is that of the connection.
    pub(crate) fn frame(&self, nonce: &str, session: &str, seq: u64, message: &Value) -> Value {
        let payload = message.to_string();
        let signed = ["llm-node/v1/message", nonce, session, &seq.to_string(), &payload].join("\0");
        json!({
            "type": "signed", "session_id": session, "seq": seq, "payload": payload, "id": message["id"],
            "signature": hex::encode(self.sign(signed.as_bytes())),
        })
    }

    /// A proof of possession (RFC 9449) with these claims.
    pub(crate) fn proof(&self, claims: &Value) -> String {
        let header = json!({
            "typ": "dpop+jwt", "alg": "EdDSA", "jwk": { "kty": "OKP", "crv": "Ed25519", "x": self.x() },
        });
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// What a test changes of a signed request before it is signed.
#[derive(Clone)]
pub(crate) struct HttpSignature {
    pub(crate) covered: Vec<&'static str>,
    pub(crate) created: u64,
    pub(crate) nonce: String,
    pub(crate) key_id: String,
    pub(crate) algorithm: &'static str,
    pub(crate) tag: &'static str,
}

impl HttpSignature {
    /// By this key, now.
    pub(crate) fn by(key: &Key) -> Self {
        Self {
            covered: vec!["@method", "@target-uri", "content-digest", "authorization"],
            created: now(),
            nonce: format!("{:032x}", rand::random::<u128>()),
            key_id: key.thumbprint(),
            algorithm: "ed25519",
            tag: "llm-node",
        }
    }

    /// Signs a request (RFC 9421); gives the headers `Signature-Input` and `Signature`.
    pub(crate) fn sign(
        &self,
        key: &Key,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
    ) -> [(&'static str, String); 2] {
        let names: Vec<String> = self.covered.iter().map(|name| format!("\"{name}\"")).collect();
        let parameters = format!(
            "({});created={};nonce=\"{}\";keyid=\"{}\";alg=\"{}\";tag=\"{}\"",
            names.join(" "),
            self.created,
            self.nonce,
            self.key_id,
            self.algorithm,
            self.tag
        );
        let mut base = String::new();
        for name in &self.covered {
            let value = match *name {
                "@method" => method,
                "@target-uri" => url,
                name => headers.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value),
            };
            base += &format!("\"{name}\": {value}\n");
        }
        base += &format!("\"@signature-params\": {parameters}");
        let signature = BASE64_STANDARD.encode(key.sign(base.as_bytes()));
        [("signature-input", format!("sig1={parameters}")), ("signature", format!("sig1=:{signature}:"))]
    }
}

/// `Content-Digest` (RFC 9530).
pub(crate) fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::digest(body)))
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The connection's nonce, out of its first message.
pub(crate) async fn nonce(socket: &mut Socket) -> String {
    let connected = socket.json().await;
    assert_eq!(connected["type"], "connected");
    let nonce = connected["nonce"].as_str().expect("a nonce").to_owned();
    assert!(nonce.len() == 64 && nonce.bytes().all(|byte| byte.is_ascii_hexdigit()), "{connected}");
    nonce
}

/// A job of alice, and a token of it that is bound to a key.
pub(crate) fn bound_token(node: &TestNode, key: &Key, job: &str) -> String {
    node.create_job("alice", job, crate::support::BUDGET);
    node.command_ok(&["token", "issue", "--subject", "alice", "--job", job, "--bind-key", &key.hex()])
}
