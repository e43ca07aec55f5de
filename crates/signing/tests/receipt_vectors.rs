//! docs/vectors/receipts.json is what this code makes, so that others can check theirs against it. With `UPDATE_VECTORS=1`
//! the file is written anew.

use std::{fs, path::PathBuf};

use protocol::{
    JobId, ReceiptId, RequestId, SessionId, Subject,
    receipt::{Digest, Ending, Receipt, SignedReceipt, VERSION},
};
use serde_json::{Value, json};
use signing::{
    Jwk, JwkSet, KeyStatus, SecretKey, Signer as _,
    receipt::{ChainError, check_chains, digest, sign, signed_bytes, verify},
};

/// The order of the curve's base point, little-endian (RFC 8032 section 5.1).
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];
const ROTATED_AT: u64 = 1_795_000_100;

struct Key {
    seed: [u8; 32],
    secret: SecretKey,
    kid: String,
}

fn key(byte: u8) -> Key {
    let seed = [byte; 32];
    let secret = SecretKey::from_seed(&seed).expect("a key");
    let kid = secret.public_key().thumbprint();
    Key { seed, secret, kid }
}

/// What is asked and answered in the vectors, beside the receipt.
struct Answer {
    name: &'static str,
    request: &'static str,
    output: &'static str,
    ending: Ending,
    model: &'static str,
    session: Option<&'static str>,
    tokens: (u32, u32),
}

const ANSWERS: [Answer; 4] = [
    Answer {
        name: "the first of a job",
        request: r#"{"model":"default","messages":[{"role":"user","content":"Hi"}]}"#,
        output: "Hello! How can I help?",
        ending: Ending::Stop,
        model: "smollm2-135m-instruct",
        session: None,
        tokens: (31, 7),
    },
    Answer {
        name: "the second, with a session, characters that JSON escapes and some that it does not",
        request: r#"{"type":"prompt","id":"1","session_id":"s-1","prompt":"Größe? 😀","stream":true}"#,
        output: "<i>\"größer\"</i>\n\\ 😀",
        ending: Ending::Length,
        model: "modèle \u{1F600} \"q\" \\ / \u{1}\u{7f}\u{2028}\n",
        session: Some("s-1"),
        tokens: (40, 12),
    },
    Answer {
        name: "the third, by the next key after a rotation; cancelled before there was any output",
        request: "{}",
        output: "",
        ending: Ending::Cancelled,
        model: "m",
        session: None,
        tokens: (0, 0),
    },
    Answer {
        name: "the fourth, failed after it had begun",
        request: "{}",
        output: "half an ans",
        ending: Ending::Error,
        model: "m",
        session: None,
        tokens: (4_294_967_295, 4_294_967_295),
    },
];

fn unsigned(answer: &Answer, sequence: u64, previous: Option<Digest>, node_id: &str) -> Receipt {
    Receipt {
        version: VERSION,
        receipt_id: ReceiptId::new(format!("rcpt_{sequence:032x}")).expect("an id"),
        request_id: RequestId::new(format!("{sequence:032x}")).expect("an id"),
        node_id: node_id.to_owned(),
        session_id: answer.session.map(|session| SessionId::new(session).expect("an id")),
        job_id: JobId::new("7").expect("an id"),
        subject: Subject::new("alice").expect("an id"),
        model: answer.model.to_owned(),
        model_digest: (sequence == 1).then(|| digest(b"the weights")),
        endpoint: if answer.session.is_some() { "native_ws" } else { "chat_completions" }.to_owned(),
        request_hash: digest(answer.request.as_bytes()),
        output_hash: digest(answer.output.as_bytes()),
        input_tokens: answer.tokens.0,
        output_tokens: answer.tokens.1,
        finish_reason: answer.ending,
        started_at: 1_795_000_000_000 + sequence * 60_000,
        finished_at: 1_795_000_000_000 + sequence * 60_000 + 1234,
        sequence,
        previous,
        key_id: String::new(),
        signature: String::new(),
    }
}

fn chain(old: &Key, new: &Key) -> Vec<SignedReceipt> {
    let mut signed: Vec<SignedReceipt> = Vec::new();
    for (sequence, answer) in (1..).zip(&ANSWERS) {
        let key = if sequence < 3 { old } else { new };
        let receipt = unsigned(answer, sequence, signed.last().map(SignedReceipt::hash), &old.kid);
        signed.push(sign(receipt, key.kid.clone(), &key.secret).expect("signed"));
    }
    signed
}

fn key_set(old: &Key, new: &Key) -> JwkSet {
    let jwk = |key: &Key, status, retired_at| Jwk {
        kid: Some(key.kid.clone()),
        r#use: Some("sig".into()),
        alg: Some("Ed25519".into()),
        status: Some(status),
        retired_at,
        ..key.secret.public_key().to_jwk()
    };
    JwkSet { keys: vec![jwk(new, KeyStatus::Active, None), jwk(old, KeyStatus::Retired, Some(ROTATED_AT + 30))] }
}

/// What must not verify: a name, the receipt's text, the reason.
fn invalid(valid: &[SignedReceipt], old: &Key, new: &Key, stranger: &Key) -> Vec<(&'static str, String, &'static str)> {
    let first = &valid[0];
    let changed = |name: &str, value: Value| {
        let mut document: Value = serde_json::from_str(first.json()).expect("JSON");
        document[name] = value;
        document.to_string()
    };
    let without = |name: &str| {
        let mut document: Value = serde_json::from_str(first.json()).expect("JSON");
        document.as_object_mut().expect("an object").shift_remove(name);
        document.to_string()
    };
    let by = |key: &Key, kid: &str, receipt: Receipt| sign(receipt, kid.to_owned(), &key.secret).expect("signed");
    let plain = || unsigned(&ANSWERS[0], 1, None, &old.kid);
    let late = by(old, &old.kid, Receipt { finished_at: (ROTATED_AT + 91) * 1000, ..plain() });
    let mut malleable = hex::decode(&first.receipt().signature).expect("hex");
    let mut carry = 0;
    for (byte, order) in malleable[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    vec![
        ("a count was raised", changed("output_tokens", json!(8)), "altered"),
        ("the output was exchanged", changed("output_hash", json!(digest(b"something else"))), "altered"),
        ("a session was added", changed("session_id", json!("s-1")), "altered"),
        ("another receipt's signature", changed("signature", json!(valid[1].receipt().signature)), "altered"),
        (
            "the same point, S not reduced (RFC 8032 section 5.1.7)",
            changed("signature", json!(hex::encode(malleable))),
            "altered",
        ),
        ("it names the node's other key", changed("key_id", json!(new.kid)), "altered_key_id"),
        ("signed by the node's other key than it names", by(new, &old.kid, plain()).json().to_owned(), "wrong_key"),
        ("signed by a stranger who names the node's key", by(stranger, &old.kid, plain()).json().to_owned(), "altered"),
        ("signed by a stranger", by(stranger, &stranger.kid, plain()).json().to_owned(), "unknown_key"),
        ("dated after its key was retired", late.json().to_owned(), "after_retirement"),
        (
            "digits in upper case",
            changed("signature", json!(first.receipt().signature.to_uppercase())),
            "malformed_signature",
        ),
        ("a signature cut short", changed("signature", json!(first.receipt().signature[..126])), "malformed_signature"),
        ("another version", changed("version", json!(2)), "unknown_version"),
        ("a member more", changed("note", json!("paid")), "malformed"),
        ("a member less", without("session_id"), "malformed"),
        ("a member twice", first.json().replacen('{', "{\"output_tokens\":7,", 1), "malformed"),
        ("a count as text", changed("output_tokens", json!("7")), "malformed"),
    ]
}

fn document() -> Value {
    let (old, new, stranger) = (key(1), key(2), key(3));
    let keys = key_set(&old, &new);
    let valid = chain(&old, &new);
    for signed in &valid {
        verify(signed.json().as_bytes(), &keys).expect("it verifies");
    }
    let receipts: Vec<Receipt> = valid.iter().map(|signed| signed.receipt().clone()).collect();
    let exchanged = {
        let other = unsigned(&ANSWERS[1], 2, None, &old.kid);
        let other = Receipt { previous: receipts[1].previous, output_tokens: 11, ..other };
        sign(other, old.kid.clone(), &old.secret).expect("signed").receipt().clone()
    };
    let chains = [
        ("whole", receipts.clone()),
        ("earlier ones were not given", receipts[2..].to_vec()),
        ("the second is missing", vec![receipts[0].clone(), receipts[2].clone(), receipts[3].clone()]),
        ("the second was exchanged", vec![receipts[0].clone(), exchanged.clone(), receipts[2].clone()]),
        ("two are the second", vec![receipts[0].clone(), receipts[1].clone(), exchanged]),
    ]
    .map(|(name, receipts)| {
        let errors: Vec<&str> = check_chains(&receipts).1.iter().map(ChainError::code).collect();
        json!({ "name": name, "receipts": receipts, "errors": errors })
    });
    let invalid: Vec<Value> = invalid(&valid, &old, &new, &stranger)
        .into_iter()
        .map(|(name, text, error)| {
            assert_eq!(verify(text.as_bytes(), &keys).expect_err(name).code(), error, "{name}");
            json!({ "name": name, "json": text, "error": error })
        })
        .collect();
    let valid: Vec<Value> = valid
        .iter()
        .zip(&ANSWERS)
        .map(|(signed, answer)| {
            json!({
                "name": answer.name, "request": answer.request, "output": answer.output, "receipt": signed.receipt(),
                "signed_text": String::from_utf8(signed_bytes(signed.receipt())).expect("JSON is UTF-8"),
                "hash": signed.hash(),
            })
        })
        .collect();
    let seeds = [&old, &new, &stranger].map(|key| json!({ "kid": key.kid, "seed": hex::encode(key.seed) }));
    json!({
        "about": "Receipts of version 1 (docs/protocol.md). `valid`: `signed_text` is what the signature covers, `hash` \
                  what the next receipt calls `previous`. `invalid`: `json` is the receipt's text, `error` why it is \
                  refused. `chains`: `errors` is empty where all is well. The secret keys are for tests only.",
        "jwks": keys, "secret_keys": seeds, "valid": valid, "invalid": invalid, "chains": chains,
    })
}

#[test]
fn the_published_vectors_are_what_this_code_makes() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/receipts.json"));
    let made = serde_json::to_string_pretty(&document()).expect("it serialises") + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(&path, &made).expect("the file can be written");
    }
    let published = fs::read_to_string(&path).expect("docs/vectors/receipts.json is there");
    assert!(published == made, "run this test with UPDATE_VECTORS=1, and look at what changed: others rely on it");
}
