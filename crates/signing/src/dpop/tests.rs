use serde_json::{Value, json};

use super::*;
use crate::SecretKey;

const NOW: u64 = 1_800_000_000;

fn key() -> SecretKey {
    SecretKey::from_seed(&[5; 32]).unwrap()
}

fn target() -> Uri {
    "https://node.example:8443/v1/sessions?x=1".parse().unwrap()
}

fn header() -> Value {
    let jwk = key().public_key().to_jwk();
    json!({ "typ": "dpop+jwt", "alg": "Ed25519", "jwk": { "kty": jwk.kty, "crv": jwk.crv, "x": jwk.x } })
}

fn claims() -> Value {
    json!({ "jti": "a1", "htm": "POST", "htu": "https://node.example:8443/v1/sessions", "iat": NOW, "nonce": "n" })
}

fn proof(header: &Value, claims: &Value) -> String {
    proof_of(&header.to_string(), &claims.to_string())
}

fn proof_of(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = key().sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_bytes()))
}

fn verified(proof: &str, access_token: Option<&str>) -> Result<Proof, DpopError> {
    let window = Window { now: NOW, age_secs_max: 60, ahead_secs_max: 5 };
    verify(proof, &Expected { method: "POST", target: &target(), access_token, window })
}

#[test]
fn a_header_that_is_not_the_profile_is_refused() {
    let check = |change: fn(&mut Value), expected: DpopError| {
        let mut header = header();
        change(&mut header);
        assert_eq!(verified(&proof(&header, &claims()), None), Err(expected), "{header}");
    };
    check(|header| header["alg"] = json!("none"), DpopError::Malformed);
    check(|header| header["alg"] = json!("NONE"), DpopError::Malformed);
    check(|header| header["alg"] = json!("HS256"), DpopError::Malformed);
    check(|header| header["alg"] = json!("ES256"), DpopError::Malformed);
    check(|header| header["alg"] = json!(7), DpopError::Malformed);
    check(|header| header["typ"] = json!("JWT"), DpopError::Malformed);
    check(|header| header["typ"] = json!("at+jwt"), DpopError::Malformed);
    check(|header| header["crit"] = json!(["exp"]), DpopError::Malformed);
    check(|header| header["jwk"] = json!("none"), DpopError::Malformed);
    check(|header| header["jwk"]["d"] = json!("AAAA"), DpopError::Key);
    check(|header| header["jwk"]["kty"] = json!("EC"), DpopError::Key);
    check(|header| header["jwk"]["x"] = json!("AAAA"), DpopError::Key);
    // The neutral element: every message fits some signature.
    check(
        |header| header["jwk"]["x"] = json!(URL_SAFE_NO_PAD.encode([&[1_u8][..], &[0; 31]].concat())),
        DpopError::Key,
    );
    let other = |header: &mut Value| {
        header["jwk"]["x"] = json!(SecretKey::from_seed(&[6; 32]).unwrap().public_key().to_jwk().x);
    };
    check(other, DpopError::Signature);
}

#[test]
fn claims_that_are_for_something_else_are_refused() {
    let check = |change: fn(&mut Value), expected: DpopError| {
        let mut claims = claims();
        change(&mut claims);
        assert_eq!(verified(&proof(&header(), &claims), None), Err(expected), "{claims}");
    };
    check(|claims| claims["htm"] = json!("GET"), DpopError::OtherRequest);
    check(|claims| claims["htm"] = json!("post"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!("http://node.example:8443/v1/sessions"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!("https://evil.example/v1/sessions"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!("https://node.example/v1/sessions"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!("https://node.example:8443/v1/other"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!("/v1/sessions"), DpopError::OtherRequest);
    check(|claims| claims["htu"] = json!(""), DpopError::OtherRequest);
    check(|claims| claims["iat"] = json!(NOW - 61), DpopError::OutsideWindow);
    check(|claims| claims["iat"] = json!(NOW + 6), DpopError::OutsideWindow);
    check(|claims| claims["iat"] = json!(u64::MAX), DpopError::OutsideWindow);
    check(|claims| claims["iat"] = json!("1800000000"), DpopError::Malformed);
    check(|claims| claims["iat"] = json!(-1), DpopError::Malformed);
    check(|claims| claims["jti"] = json!(""), DpopError::Malformed);
    check(|claims| claims["jti"] = json!("j".repeat(ID_BYTES_MAX + 1)), DpopError::Malformed);
    check(|claims| claims["nonce"] = json!("n".repeat(ID_BYTES_MAX + 1)), DpopError::Malformed);
    check(|claims| claims["ath"] = json!(token_hash("token")), DpopError::OtherToken);
    check(|claims| drop(claims.as_object_mut().unwrap().remove("jti")), DpopError::Malformed);
    assert_eq!(verified(&proof(&header(), &claims()), Some("token")), Err(DpopError::OtherToken));
}

#[test]
fn what_is_no_compact_jws_is_refused() {
    let good = proof(&header(), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let check = |text: &str| assert_eq!(verified(text, None), Err(DpopError::Malformed), "{text}");
    check("");
    check("..");
    check(&parts[..2].join("."));
    check(&format!("{good}.{}", parts[2]));
    check(&format!("{good}="));
    check(&format!("{good}\n"));
    check(&good[..good.len() - 2]);
    check(&"a".repeat(PROOF_BYTES_MAX + 1));
    // Members that come twice: two readers would see two things.
    let twice = claims().to_string().replacen('{', "{\"htm\":\"GET\",", 1);
    check(&proof_of(&header().to_string(), &twice));
    check(&proof_of("[]", "[]"));
}

#[test]
fn a_changed_part_is_refused() {
    let good = proof(&header(), &claims());
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let mut other = claims();
    other["nonce"] = json!("m");
    let forged = format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(other.to_string()));
    assert_eq!(verified(&forged, None), Err(DpopError::Signature));
}

#[test]
fn a_proof_that_is_made_is_taken() {
    let make = |nonce, access_token| {
        let new = NewProof { method: "POST", target: &target(), jti: "a1", issued_at: NOW, nonce, access_token };
        make(&new, &key()).unwrap()
    };
    let expected = Proof { key: key().public_key(), jti: "a1".into(), issued_at: NOW, nonce: Some("n".into()) };
    assert_eq!(verified(&make(Some("n"), None), None), Ok(expected.clone()));
    assert_eq!(verified(&make(None, Some("token")), Some("token")), Ok(Proof { nonce: None, ..expected.clone() }));
    assert_eq!(verified(&make(None, Some("other")), Some("token")), Err(DpopError::OtherToken));
    let mut older = header();
    older["alg"] = json!("EdDSA");
    assert_eq!(verified(&proof(&older, &claims()), None), Ok(expected.clone()));
    // The same address in another spelling.
    let mut spelled = claims();
    spelled["htu"] = json!("HTTPS://NODE.example:8443/v1/sessions?y=2");
    assert_eq!(verified(&proof(&header(), &spelled), None), Ok(expected));
}
