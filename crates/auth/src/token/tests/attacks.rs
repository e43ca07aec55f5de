//! One row for each attack: what is sent, and why it is refused.

use store::Store;

use super::*;
use crate::{LIFETIME_SECS_MAX, Revocations, TOKEN_BYTES_MAX};

/// Runs a table. The token service is one that knows the secret, a key that signs and one that is retired.
async fn check(table: Vec<(&'static str, String, &'static str)>) {
    let service = service();
    let good = signed(HEADER, &claims(|_| ()));
    assert_eq!(reason(&service, &good).await, "accepted", "or the table would prove nothing");
    for (attack, token, expected) in table {
        assert_eq!(reason(&service, &token).await, expected, "{attack}: {token}");
    }
}

fn node_header(change: impl FnOnce(&mut Value)) -> Value {
    let mut header = json!({ "alg": "Ed25519", "typ": "at+jwt", "kid": seed(1).public_key().thumbprint() });
    change(&mut header);
    header
}

#[tokio::test]
async fn algorithms() {
    let good = claims(|_| ());
    let unsigned = |alg: &str| format!("{}.{}.", encode(format!(r#"{{"alg":"{alg}","typ":"at+jwt"}}"#)), encode(&good));
    let public = seed(1).public_key();
    let mac_by_public_key = |header: Value, key: &[u8]| signed_with(key, &header.to_string(), &good);
    let kid = public.thumbprint();
    check(vec![
        ("alg none, no signature", unsigned("none"), "malformed"),
        ("alg none in other letters", unsigned("nOnE"), "malformed"),
        ("alg None in other letters", unsigned("NONE"), "malformed"),
        ("alg empty", unsigned(""), "malformed"),
        ("alg none, rightly signed", signed(r#"{"alg":"none","typ":"at+jwt"}"#, &good), "malformed"),
        ("alg HS384 by the secret", signed(r#"{"alg":"HS384","typ":"at+jwt"}"#, &good), "malformed"),
        ("alg in lower case", signed(r#"{"alg":"hs256","typ":"at+jwt"}"#, &good), "malformed"),
        ("alg RS256 by the secret", signed(r#"{"alg":"RS256","typ":"at+jwt"}"#, &good), "malformed"),
        ("alg Ed25519 by the secret", signed(r#"{"alg":"Ed25519","typ":"at+jwt"}"#, &good), "malformed"),
        (
            "HMAC with the node's public key",
            mac_by_public_key(node_header(|h| h["alg"] = json!("HS256")), public.as_bytes()),
            "unknown_key",
        ),
        (
            "HMAC with the PEM of the node's public key",
            mac_by_public_key(node_header(|h| h["alg"] = json!("HS256")), public.to_spki_pem().as_bytes()),
            "unknown_key",
        ),
        (
            "HMAC with the public key, alg Ed25519",
            mac_by_public_key(node_header(|_| ()), public.as_bytes()),
            "signature",
        ),
        (
            "the node's key, alg HS256",
            signed_by(&seed(1), &node_header(|h| h["alg"] = json!("HS256")), &good),
            "unknown_key",
        ),
        (
            "the node's key, alg ES256",
            signed_by(&seed(1), &node_header(|h| h["alg"] = json!("ES256")), &good),
            "unknown_key",
        ),
        ("Ed448", signed_by(&seed(1), &node_header(|h| h["alg"] = json!("Ed448")), &good), "unknown_key"),
        (
            "PBES2 and JWE in a header",
            signed(
                r#"{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","typ":"at+jwt","p2c":2147483647,"p2s":"AAAA"}"#,
                &good,
            ),
            "malformed",
        ),
        (
            "JWE, five segments",
            format!("{}.AAAA.AAAA.AAAA.AAAA", encode(r#"{"alg":"dir","enc":"A128GCM"}"#)),
            "malformed",
        ),
        ("another key under the same name", signed_by(&seed(3), &node_header(|_| ()), &good), "signature"),
        (
            "a key that nobody has",
            signed_by(&seed(3), &node_header(|h| h["kid"] = json!(seed(3).public_key().thumbprint())), &good),
            "unknown_key",
        ),
        (
            "a key that was retired",
            signed_by(&seed(2), &node_header(|h| h["kid"] = json!(seed(2).public_key().thumbprint())), &good),
            "retired_key",
        ),
        (
            "the key of nobody, by the secret",
            signed(&node_header(|h| h["kid"] = json!(kid.to_uppercase())).to_string(), &good),
            "signature",
        ),
    ])
    .await;
}

#[tokio::test]
async fn secrets_that_are_not_ours() {
    let good = claims(|_| ());
    check(vec![
        ("another secret", signed_with(OTHER_SECRET.as_bytes(), HEADER, &good), "signature"),
        ("the empty secret", signed_with(b"", HEADER, &good), "signature"),
        ("the word secret", signed_with(b"secret", HEADER, &good), "signature"),
        (
            "the secret's bytes in place of its text",
            signed_with(&hex::decode(SECRET).unwrap(), HEADER, &good),
            "signature",
        ),
        ("the secret with a line break", signed_with(format!("{SECRET}\n").as_bytes(), HEADER, &good), "signature"),
    ])
    .await;
    for weak in ["secret", "your-256-bit-secret-your-256-bit-secret", &"x".repeat(64)] {
        assert!(JwtSecret::new(weak).is_err(), "{weak}");
    }
}

#[tokio::test]
async fn headers() {
    let good = claims(|_| ());
    let header = |header: &str| signed(header, &good);
    let kid = |kid: &str| signed(&json!({ "alg": "HS256", "typ": "at+jwt", "kid": kid }).to_string(), &good);
    check(vec![
        ("typ JWT", header(r#"{"alg":"HS256","typ":"JWT"}"#), "malformed"),
        ("typ of a key proof", header(r#"{"alg":"HS256","typ":"dpop+jwt"}"#), "malformed"),
        ("typ missing", header(r#"{"alg":"HS256"}"#), "malformed"),
        ("typ of another type", header(r#"{"alg":"HS256","typ":7}"#), "malformed"),
        ("alg missing", header(r#"{"typ":"at+jwt"}"#), "malformed"),
        ("crit", header(r#"{"alg":"HS256","typ":"at+jwt","crit":["exp"]}"#), "malformed"),
        ("crit with b64", header(r#"{"alg":"HS256","typ":"at+jwt","b64":false,"crit":["b64"]}"#), "malformed"),
        ("jwk", header(r#"{"alg":"HS256","typ":"at+jwt","jwk":{"kty":"oct","k":"AA"}}"#), "malformed"),
        ("jku", header(r#"{"alg":"HS256","typ":"at+jwt","jku":"https://evil.test"}"#), "malformed"),
        ("x5u", header(r#"{"alg":"HS256","typ":"at+jwt","x5u":"https://evil.test"}"#), "malformed"),
        ("x5c", header(r#"{"alg":"HS256","typ":"at+jwt","x5c":["AA"]}"#), "malformed"),
        ("alg twice", header(r#"{"alg":"none","alg":"HS256","typ":"at+jwt"}"#), "malformed"),
        ("typ twice", header(r#"{"alg":"HS256","typ":"JWT","typ":"at+jwt"}"#), "malformed"),
        ("kid twice", header(r#"{"alg":"HS256","typ":"at+jwt","kid":"a","kid":"b"}"#), "malformed"),
        ("a header that is a list", header(r#"["HS256","at+jwt",null,null,null]"#), "malformed"),
        ("zip", header(r#"{"alg":"HS256","typ":"at+jwt","zip":"DEF"}"#), "malformed"),
        ("kid with a path", kid("../../../../dev/null"), "unknown_key"),
        ("kid with SQL", kid("x' UNION SELECT 'secret';--"), "unknown_key"),
        ("kid with a URL", kid("https://evil.test/keys"), "unknown_key"),
        ("kid with a shell command", kid("$(id)|/bin/sh"), "unknown_key"),
        ("kid with NUL", kid("a\0b"), "unknown_key"),
        ("kid empty", kid(""), "unknown_key"),
        ("kid very long", kid(&"k".repeat(4000)), "unknown_key"),
    ])
    .await;
}

#[tokio::test]
async fn shapes() {
    let service = service();
    let token = service.issue(&grant()).unwrap().token;
    let parts: Vec<&str> = token.split('.').collect();
    let swapped = encode(claims(|c| c["sub"] = json!("bob")));
    let standard = token.replace('-', "+").replace('_', "/") + "+/";
    // The last character of 32 bytes in base64 has two unused bits.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(token.chars().last().unwrap()).unwrap();
    let respelt = format!("{}{}", &token[..token.len() - 1], alphabet.chars().nth(last | 1).unwrap());
    let json = json!({ "payload": parts[1], "protected": parts[0], "signature": parts[2] }).to_string();
    check(vec![
        ("nothing", String::new(), "malformed"),
        ("dots", "..".into(), "malformed"),
        ("a word", "token".into(), "malformed"),
        ("two segments", parts[..2].join("."), "malformed"),
        ("a segment twice", format!("{token}.{}", parts[2]), "malformed"),
        ("the payload twice", format!("{}.{}.{}.{}", parts[0], parts[1], parts[1], parts[2]), "malformed"),
        ("another payload", format!("{}.{swapped}.{}", parts[0], parts[2]), "signature"),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), "signature"),
        ("a truncated signature", token[..token.len() - 3].to_owned(), "signature"),
        ("a truncated payload", format!("{}.{}.{}", parts[0], &parts[1][..8], parts[2]), "claim"),
        ("padding", format!("{token}="), "malformed"),
        ("padding in the payload", format!("{}.{}=.{}", parts[0], parts[1], parts[2]), "malformed"),
        ("one character more", format!("{token}A"), "signature"),
        ("the signature in another spelling", respelt, "malformed"),
        ("the other alphabet", standard, "malformed"),
        ("a space in front", format!(" {token}"), "malformed"),
        ("a line break behind", format!("{token}\n"), "malformed"),
        ("characters that are not ASCII", format!("{}é", &token[..token.len() - 2]), "malformed"),
        ("JSON in place of compact, flattened", json, "malformed"),
        (
            "JSON in place of compact, general",
            json!({ "payload": parts[1], "signatures": [{ "protected": parts[0], "signature": parts[2] }] })
                .to_string(),
            "malformed",
        ),
        ("a payload that is no JSON", signed(HEADER, "iss"), "malformed"),
        ("a payload that is a list", signed(HEADER, "[\"llm-node\"]"), "malformed"),
        ("a deep payload", signed(HEADER, &format!("{{\"iss\":{}", "[".repeat(4000))), "claim"),
        ("oversized", "x".repeat(TOKEN_BYTES_MAX + 1), "too_long"),
        ("oversized and rightly signed", signed(HEADER, &claims(|c| c["x"] = json!("x".repeat(7000)))), "too_long"),
    ])
    .await;
}

#[tokio::test]
async fn claims_that_lie() {
    let set = |claim: &'static str, value: Value| signed(HEADER, &claims(|c| c[claim] = value));
    let twice = |claim: &str, other: &str| {
        let claims = claims(|_| ()).replacen('{', &format!("{{\"{claim}\":{other},"), 1);
        signed(HEADER, &claims)
    };
    let mut table = vec![
        ("expired", set("exp", json!(now() - 31)), "expired"),
        ("expired in 1970", set("exp", json!(0)), "expired"),
        ("not yet valid", set("nbf", json!(now() + 60)), "not_yet"),
        ("issued in the future", set("iat", json!(now() + 60)), "not_yet"),
        ("exp in a thousand years", set("exp", json!(now() + 1000 * LIFETIME_SECS_MAX)), "claim"),
        ("exp at the end of numbers", set("exp", json!(u64::MAX)), "claim"),
        (
            "exp beyond numbers",
            signed(HEADER, &claims(|c| c["exp"] = json!(123_456)).replace("123456", "1e400")),
            "claim",
        ),
        ("exp as text", set("exp", json!("9999999999")), "claim"),
        ("exp as a fraction", set("exp", json!(1e10 + 0.5)), "claim"),
        ("exp negative", set("exp", json!(-1)), "claim"),
        ("exp null", set("exp", Value::Null), "claim"),
        ("exp in a list", set("exp", json!([now() + 60])), "claim"),
        ("nbf as text", set("nbf", json!("0")), "claim"),
        ("iat as text", set("iat", json!("0")), "claim"),
        ("another audience", set("aud", json!("other")), "claim"),
        ("the audience in a list with others", set("aud", json!([NODE_NAME, "other"])), "claim"),
        ("another issuer", set("iss", json!("other")), "claim"),
        ("an issuer with a URL", set("iss", json!("https://evil.test")), "claim"),
        ("two issuers", set("iss", json!([NODE_NAME])), "claim"),
        ("a hostile subject", set("sub", json!("a\nb")), "claim"),
        ("an empty subject", set("sub", json!("")), "claim"),
        ("a right that does not exist", set("permissions", json!(["root"])), "claim"),
        ("rights as text", set("permissions", json!("admin")), "claim"),
        ("bound by other means", set("cnf", json!({ "x5t#S256": "AA" })), "claim"),
        ("bound twice", set("cnf", json!({ "jkt": "AA", "jwk": {} })), "claim"),
        ("a hostile job", set("job_id", json!("7'; DROP TABLE jobs")), "claim"),
        ("sub twice", twice("sub", "\"bob\""), "claim"),
        ("exp twice", twice("exp", "99999999999"), "claim"),
        ("permissions twice", twice("permissions", "[\"admin\"]"), "claim"),
        ("iss twice", twice("iss", "\"llm-node\""), "claim"),
    ];
    for missing in ["exp", "nbf", "iat", "aud", "iss", "sub", "jti", "permissions"] {
        let without = claims(|c| drop(c.as_object_mut().unwrap().remove(missing)));
        table.push((missing, signed(HEADER, &without), "claim"));
    }
    check(table).await;
}

#[tokio::test]
async fn revoked_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let list = Revocations::open(Store::open(&dir.path().join("node.sqlite")).unwrap()).await.unwrap();
    let service = service().with_revocations(list.clone());
    let at = |jti: &str, sub: &str, iat: u64| {
        signed(HEADER, &claims(|c| (c["jti"], c["sub"], c["iat"]) = (json!(jti), json!(sub), json!(iat))))
    };
    assert_eq!(reason(&service, &at("a", "alice", now())).await, "accepted");
    list.revoke_token("a", None).await.unwrap();
    let cut = now() - 100;
    list.revoke_subject(&Subject::new("bob").unwrap(), cut).await.unwrap();
    for (what, token, expected) in [
        ("a revoked jti", at("a", "alice", now()), "revoked"),
        ("another of the same subject", at("b", "alice", now()), "accepted"),
        ("a subject's token from before", at("b", "bob", cut - 1), "revoked"),
        ("a subject's token of that second", at("b", "bob", cut), "revoked"),
        ("a subject's token from after", at("b", "bob", cut + 1), "accepted"),
        (
            "an expired one says so",
            signed(HEADER, &claims(|c| (c["jti"], c["exp"]) = (json!("a"), json!(0)))),
            "expired",
        ),
        (
            "a forged one learns nothing",
            signed_with(OTHER_SECRET.as_bytes(), HEADER, &claims(|c| c["jti"] = json!("a"))),
            "signature",
        ),
    ] {
        assert_eq!(reason(&service, &token).await, expected, "{what}");
    }
}

#[tokio::test]
async fn tokens_of_another_node_name_are_refused() {
    let service = service();
    service.reconfigure(TokenConfig { name: "node-b".to_owned(), ..TokenConfig::default() });
    assert_eq!(reason(&service, &signed(HEADER, &claims(|_| ()))).await, "claim");
    let ours = claims(|c| (c["iss"], c["aud"]) = (json!("node-b"), json!("node-b")));
    assert_eq!(reason(&service, &signed(HEADER, &ours)).await, "accepted");
}
