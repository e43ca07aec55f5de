use serde_json::{Value, json};

use super::*;

fn document() -> Value {
    let hash = format!("sha256:{}", "0f".repeat(32));
    json!({
        "version": 1, "receipt_id": "rcpt_1", "request_id": "r", "node_id": "n", "session_id": null, "job_id": "7",
        "subject": "alice", "model": "m", "model_digest": null, "endpoint": "native_ws", "request_hash": hash,
        "output_hash": hash, "input_tokens": 3, "output_tokens": 5, "finish_reason": "stop", "started_at": 1,
        "finished_at": 2, "sequence": 1, "previous": null, "key_id": "k", "signature": "00",
    })
}

#[test]
fn what_is_no_receipt_is_refused() {
    let check = |name: &str, value: Value| {
        let mut changed = document();
        changed[name] = value;
        let error = serde_json::from_value::<Receipt>(changed).expect_err(name).to_string();
        assert!(!error.is_empty());
    };
    check("more", json!(1));
    check("output_tokens", json!(-1));
    check("output_tokens", json!(1.5));
    check("output_tokens", json!("5"));
    check("output_tokens", json!(4_294_967_296_u64));
    check("finish_reason", json!("STOP"));
    check("output_hash", json!(format!("sha256:{}", "0F".repeat(32))));
    check("output_hash", json!("0f".repeat(32)));
    check("output_hash", json!(format!("sha256:{}", "0f".repeat(31))));
    check("subject", json!("a b"));
    let doubled = document().to_string().replace("\"version\":1", "\"version\":1,\"output_tokens\":6");
    let error = serde_json::from_str::<Receipt>(&doubled).expect_err("a member twice").to_string();
    assert!(error.contains("duplicate field `output_tokens`"), "{error}");
    let whole = document();
    for name in whole.as_object().expect("an object").keys() {
        let mut changed = document();
        changed.as_object_mut().expect("an object").remove(name);
        let error = serde_json::from_value::<Receipt>(changed).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_receipt_has_every_member_and_reads_back() {
    let receipt: Receipt = serde_json::from_value(document()).expect("a receipt");
    assert_eq!(serde_json::to_value(&receipt).expect("serialises"), document());
    for ending in Ending::ALL {
        assert_eq!(serde_json::to_value(ending).expect("serialises"), json!(ending.as_str()));
    }
}
