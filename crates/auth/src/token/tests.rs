use protocol::{JobId, Subject};
use serde_json::{Value, json};

use super::*;
use crate::{Permission, Permissions};

const SECRET: &str = "3b1f2b0b822cd15d6c15b0f00a089f86d081884c7d659a2feaa0c55ad015a3bf";

fn service() -> TokenService {
    TokenService::new(&JwtSecret::new(SECRET).unwrap(), Duration::from_secs(60))
}

fn verify(service: &TokenService, token: &str) -> Result<Claims, TokenError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(service.verify(token))
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

/// A token with this header and these claims, rightly signed: what an attacker who knew the secret could send.
fn signed(header: &str, claims: &str) -> String {
    let input = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(input.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{input}.{signature}")
}

fn claims(change: impl FnOnce(&mut Value)) -> String {
    let mut claims = json!({
        "iss": NODE, "aud": NODE, "sub": "alice", "iat": now(), "nbf": now(), "exp": now() + 60,
        "jti": "00", "permissions": ["execute"],
    });
    change(&mut claims);
    claims.to_string()
}

const HEADER: &str = r#"{"alg":"HS256","typ":"at+jwt"}"#;

#[test]
fn an_issued_token_verifies_and_says_what_was_granted() {
    let issued = service().issue(&grant()).unwrap();
    let claims = verify(&service(), &issued.token).unwrap();
    assert_eq!(claims.sub.as_str(), "alice");
    assert_eq!(claims.job_id.unwrap().as_str(), "7");
    assert!(claims.permissions.allow(Permission::Execute) && !claims.permissions.allow(Permission::Admin));
    assert_eq!(claims.exp, issued.expires_at);
    assert!(!format!("{issued:?}").contains(&issued.token));
    assert!(verify(&service(), &signed(HEADER, &self::claims(|_| ()))).is_ok(), "the helper signs rightly");
}

#[test]
fn headers_that_the_node_does_not_issue_are_refused() {
    for header in [
        r#"{"alg":"none","typ":"at+jwt"}"#,
        r#"{"alg":"nOnE","typ":"at+jwt"}"#,
        r#"{"alg":"HS384","typ":"at+jwt"}"#,
        r#"{"alg":"RS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","crit":["exp"]}"#,
        r#"{"alg":"HS256","typ":"at+jwt","jwk":{"kty":"oct","k":"AA"}}"#,
        r#"{"alg":"HS256","typ":"at+jwt","jku":"https://evil.test"}"#,
        r#"{"alg":"HS256","typ":"at+jwt","x5u":"https://evil.test"}"#,
        r#"{"alg":"none","alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","typ":"at+jwt"}"#,
    ] {
        let result = verify(&service(), &signed(header, &claims(|_| ())));
        assert!(matches!(result, Err(TokenError::Malformed(_))), "{header}: {result:?}");
    }
}

#[test]
fn claims_that_are_wrong_are_refused() {
    let check = |name: &str, claims: String, expected: fn(&TokenError) -> bool| {
        let error = verify(&service(), &signed(HEADER, &claims)).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    };
    let claim = |error: &TokenError| matches!(error, TokenError::Claim(_));
    check("expired", claims(|c| c["exp"] = json!(now() - 31)), |e| *e == TokenError::Expired);
    check("not yet", claims(|c| c["nbf"] = json!(now() + 60)), |e| *e == TokenError::NotYet);
    check("date as string", claims(|c| c["exp"] = json!("9999999999")), claim);
    check("negative date", claims(|c| c["exp"] = json!(-1)), claim);
    check("nbf as string", claims(|c| c["nbf"] = json!("0")), claim);
    check("other audience", claims(|c| c["aud"] = json!("other")), claim);
    check("other issuer", claims(|c| c["iss"] = json!("other")), claim);
    check("hostile subject", claims(|c| c["sub"] = json!("a\nb")), claim);
    for missing in ["exp", "nbf", "aud", "iss", "sub", "jti", "permissions"] {
        let without = claims(|c| drop(c.as_object_mut().unwrap().remove(missing)));
        check(missing, without, claim);
    }
    let twice = claims(|_| ()).replace(r#""sub":"alice""#, r#""sub":"alice","sub":"bob""#);
    check("a member twice", twice, claim);
}

#[test]
fn altered_truncated_and_reencoded_tokens_are_refused() {
    let token = service().issue(&grant()).unwrap().token;
    let parts: Vec<&str> = token.split('.').collect();
    let other = TokenService::new(&JwtSecret::new(&SECRET.replace('3', "4")).unwrap(), Duration::from_secs(60));
    assert_eq!(verify(&other, &token), Err(TokenError::Signature), "another node's secret");
    let swapped = BASE64_URL_SAFE_NO_PAD.encode(claims(|c| c["sub"] = json!("bob")));
    for bad in [
        String::new(),
        ".".repeat(2),
        parts[..2].join("."),
        format!("{token}.{}", parts[2]),
        format!("{}.{swapped}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}="),
        format!("{token}A"),
        format!(" {token}"),
        json!({"payload": parts[1], "protected": parts[0], "signature": parts[2]}).to_string(),
    ] {
        assert!(verify(&service(), &bad).is_err(), "{bad:?}");
    }
    assert_eq!(verify(&service(), &"x".repeat(TOKEN_BYTES_MAX + 1)), Err(TokenError::TooLong));
}
