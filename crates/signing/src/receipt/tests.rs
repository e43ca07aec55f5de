use protocol::{
    JobId, ReceiptId, RequestId, Subject,
    receipt::{Ending, VERSION},
};
use serde_json::json;

use super::*;
use crate::SecretKey;

/// The key of RFC 8032 section 7.1, test 1, and three others.
fn secret(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32]).unwrap()
}

fn kid(secret: &SecretKey) -> String {
    secret.public_key().thumbprint()
}

fn key_set(secrets: &[&SecretKey]) -> JwkSet {
    let key = |secret: &&SecretKey| Jwk { kid: Some(kid(secret)), ..secret.public_key().to_jwk() };
    JwkSet { keys: secrets.iter().map(key).collect() }
}

fn unsigned(sequence: u64, previous: Option<Digest>) -> Receipt {
    Receipt {
        version: VERSION,
        receipt_id: ReceiptId::new(format!("rcpt_{sequence}")).unwrap(),
        request_id: RequestId::new("r").unwrap(),
        node_id: "node".into(),
        session_id: None,
        job_id: JobId::new("7").unwrap(),
        subject: Subject::new("alice").unwrap(),
        model: "modèle \u{1F600} \"q\"\n".into(),
        model_digest: None,
        endpoint: "native_ws".into(),
        request_hash: digest(b"question"),
        output_hash: digest("Antwort".as_bytes()),
        input_tokens: 3,
        output_tokens: 5,
        finish_reason: Ending::Stop,
        started_at: 1_795_000_000_000,
        finished_at: 1_795_000_001_234,
        sequence,
        previous,
        key_id: String::new(),
        signature: String::new(),
    }
}

fn signed_by(secret: &SecretKey, receipt: Receipt) -> SignedReceipt {
    sign(receipt, kid(secret), secret).unwrap()
}

fn changed(json: &str, name: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_str(json).unwrap();
    document[name] = value;
    serde_json::to_vec(&document).unwrap()
}

fn code(json: &[u8], keys: &JwkSet) -> &'static str {
    verify(json, keys).expect_err("it is wrong").code()
}

#[test]
fn every_altered_member_is_found() {
    let (secret, other) = (secret(1), secret(2));
    let keys = key_set(&[&secret, &other]);
    let signed = signed_by(&secret, unsigned(1, None));
    let hash = digest(b"another").to_string();
    let members = [
        ("receipt_id", json!("rcpt_9")),
        ("request_id", json!("q")),
        ("node_id", json!("nodf")),
        ("session_id", json!("s")),
        ("job_id", json!("8")),
        ("subject", json!("bob")),
        ("model", json!("m")),
        ("model_digest", json!(hash)),
        ("endpoint", json!("responses")),
        ("request_hash", json!(hash)),
        ("output_hash", json!(hash)),
        ("input_tokens", json!(4)),
        ("output_tokens", json!(4)),
        ("finish_reason", json!("length")),
        ("started_at", json!(1)),
        ("finished_at", json!(1_795_000_001_235_u64)),
        ("sequence", json!(2)),
        ("previous", json!(hash)),
    ];
    for (name, value) in members {
        assert_eq!(code(&changed(signed.json(), name, value), &keys), "altered", "{name}");
    }
    assert_eq!(code(&changed(signed.json(), "version", json!(2)), &keys), "unknown_version");
    assert_eq!(code(&changed(signed.json(), "key_id", json!(kid(&other))), &keys), "altered_key_id");
    assert_eq!(code(&changed(signed.json(), "key_id", json!("nobody")), &keys), "unknown_key");
    assert_eq!(code(&changed(signed.json(), "sequence", json!(1_u64 << 53)), &keys), "malformed");
    let swapped = signed_by(&secret, unsigned(2, None)).receipt().signature.clone();
    assert_eq!(code(&changed(signed.json(), "signature", json!(swapped)), &keys), "altered");
    let upper = signed.receipt().signature.to_uppercase();
    assert_eq!(code(&changed(signed.json(), "signature", json!(upper)), &keys), "malformed_signature");
    assert_eq!(code(&changed(signed.json(), "signature", json!("00")), &keys), "malformed_signature");
    assert_eq!(verify(signed.json().as_bytes(), &keys).unwrap(), *signed.receipt());
}

#[test]
fn what_is_no_receipt_is_named() {
    let keys = key_set(&[&secret(1)]);
    let signed = signed_by(&secret(1), unsigned(1, None));
    let check = |json: &[u8], part: &str| {
        let error = verify(json, &keys).expect_err(part);
        assert!(error.to_string().contains(part), "{error}");
    };
    check(b"", "EOF");
    check(b"[]", "receipt");
    check(&vec![b' '; RECEIPT_BYTES_MAX + 1], "at most");
    check(&changed(signed.json(), "output_tokens", json!("5")), "`output_tokens`");
    check(&changed(signed.json(), "finish_reason", json!("fine")), "`finish_reason`");
    check(&changed(signed.json(), "more", json!(1)), "unknown field `more`");
    check(format!("{}x", signed.json()).as_bytes(), "trailing");
    let doubled = signed.json().replacen('{', "{\"version\":1,", 1);
    check(doubled.as_bytes(), "duplicate field `version`");
}

#[test]
fn the_order_of_members_and_spaces_do_not_matter() {
    let signed = signed_by(&secret(1), unsigned(1, None));
    let pretty = serde_json::to_string_pretty(signed.receipt()).unwrap();
    assert_ne!(pretty, signed.json());
    verify(pretty.as_bytes(), &key_set(&[&secret(1)])).unwrap();
    assert_eq!(hash(signed.receipt()), signed.hash());
}

#[test]
fn keys_that_are_wrong_weak_or_retired_are_told_apart() {
    let (one, two) = (secret(1), secret(2));
    let signed = signed_by(&one, unsigned(1, None));
    assert_eq!(code(signed.json().as_bytes(), &JwkSet::default()), "unknown_key");
    assert_eq!(code(signed.json().as_bytes(), &key_set(&[&two])), "unknown_key");
    let lying = sign(unsigned(1, None), kid(&two), &one).unwrap();
    assert_eq!(code(lying.json().as_bytes(), &key_set(&[&one, &two])), "wrong_key");
    assert_eq!(code(lying.json().as_bytes(), &key_set(&[&two])), "altered");

    let mut keys = key_set(&[&one]);
    keys.keys[0].x = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into();
    assert_eq!(code(signed.json().as_bytes(), &keys), "bad_key");

    let finished = signed.receipt().finished_at / 1000;
    let mut keys = key_set(&[&one]);
    let check = |keys: &JwkSet| verify(signed.json().as_bytes(), keys).map(drop).map_err(|error| error.code());
    for (retired_at, expected) in [
        (finished + 1000, Ok(())),
        (finished - RETIREMENT_LEEWAY_SECS, Ok(())),
        (finished - RETIREMENT_LEEWAY_SECS - 1, Err("after_retirement")),
    ] {
        keys.keys[0].status = Some(crate::KeyStatus::Retired);
        keys.keys[0].retired_at = Some(retired_at);
        assert_eq!(check(&keys), expected, "{retired_at}");
    }
}

#[test]
fn output_and_request_are_compared_byte_by_byte() {
    let receipt = unsigned(1, None);
    assert!(check_output(&receipt, b"Antwort").is_ok());
    let output = |text: &[u8]| check_output(&receipt, text).expect_err("another text").to_string();
    assert!(!output(b"antwort").contains("line break"));
    assert!(output(b"Antwort\n").contains("line break"));
    assert!(output(b"Antwort\r\n").contains("line break"));
    assert!(check_request(&receipt, b"question").is_ok());
    assert!(check_request(&receipt, b"question ").is_err());
    assert!(check_request(&receipt, b"question\n").expect_err("one more").to_string().contains("line break"));
    let mut pieces = OutputHash::default();
    for piece in ["Ant", "", "wort"] {
        pieces.push(piece);
    }
    assert_eq!(pieces.finish(), receipt.output_hash);
}

/// Four receipts that follow each other.
fn chain() -> Vec<Receipt> {
    let mut receipts: Vec<Receipt> = Vec::new();
    for sequence in 1..=4 {
        let previous = receipts.last().map(hash);
        receipts.push(signed_by(&secret(1), unsigned(sequence, previous)).receipt().clone());
    }
    receipts
}

fn errors(receipts: &[Receipt]) -> Vec<&'static str> {
    check_chains(receipts).1.iter().map(ChainError::code).collect()
}

#[test]
fn a_chain_shows_what_is_missing_or_of_another() {
    let whole = chain();
    let without = |index: usize| {
        let mut receipts = whole.clone();
        receipts.remove(index);
        receipts
    };
    assert_eq!(errors(&without(1)), ["missing_receipts"]);
    assert_eq!(errors(&without(2)), ["missing_receipts"]);
    let mut exchanged = whole.clone();
    exchanged[1] =
        signed_by(&secret(1), Receipt { output_tokens: 1, ..unsigned(2, whole[1].previous) }).receipt().clone();
    assert_eq!(errors(&exchanged), ["broken_chain"]);
    exchanged.push(whole[1].clone());
    assert_eq!(errors(&exchanged)[0], "forked_chain");
    let mut started_twice = whole.clone();
    started_twice[2].previous = None;
    assert!(errors(&started_twice).contains(&"broken_start"));
    assert_eq!(errors(&[Receipt { sequence: 0, ..whole[0].clone() }]), ["broken_start"]);
}

#[test]
fn chains_are_told_apart_by_node_and_job() {
    let whole = chain();
    let mut mixed: Vec<Receipt> = whole.iter().rev().cloned().collect();
    mixed.push(whole[1].clone());
    mixed.push(Receipt { job_id: JobId::new("8").unwrap(), ..unsigned(1, None) });
    mixed.push(Receipt { node_id: "another".into(), ..unsigned(1, None) });
    let (chains, errors) = check_chains(&mixed);
    assert_eq!(errors, []);
    let lengths: Vec<_> = chains.iter().map(|chain| (chain.first, chain.last, chain.output_tokens)).collect();
    assert_eq!(chains.len(), 3);
    assert!(lengths.contains(&(1, 4, 20)), "{lengths:?}");
    let (tail, errors) = check_chains(&whole[2..]);
    assert_eq!((tail[0].first, tail[0].last, errors.len()), (3, 4, 0), "earlier ones were not given");
    assert_eq!(check_chains(&[]), (vec![], vec![]));
}
