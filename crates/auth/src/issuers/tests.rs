//! Tokens of other issuers, against an issuer that speaks HTTP on this machine.

use serde_json::{Value, json};
use testkit::{Issuer, IssuerKey, IssuerMood};

use super::*;
use crate::{JwtSecret, Permission, Secrets, TokenConfig, TokenService};

/// Long enough that it never passes in a test.
const NEVER: Duration = Duration::from_secs(3600);

fn config(issuers: &[&Issuer]) -> IssuersConfig {
    IssuersConfig {
        issuers: issuers.iter().map(|issuer| issuer.url().to_owned()).collect(),
        permissions: Permissions::of([Permission::Read, Permission::Execute]),
        refresh_interval: Duration::ZERO,
        ..IssuersConfig::default()
    }
}

fn service(config: IssuersConfig) -> TokenService {
    let secret = JwtSecret::new("3b1f2b0b822cd15d6c15b0f00a089f86d081884c7d659a2feaa0c55ad015a3bf").unwrap();
    let issuers = Issuers::new(config, &Metrics::default()).unwrap();
    TokenService::new(Secrets::configured(&secret, None), TokenConfig::default()).with_issuers(issuers)
}

fn claims(issuer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": issuer, "aud": crate::NODE_NAME, "sub": "u-1", "iat": now(), "exp": now() + 60, "jti": "1", "job_id": "7",
    });
    change(&mut claims);
    claims
}

async fn reason(service: &TokenService, token: &str) -> &'static str {
    service.verify(token).await.err().map_or("accepted", |error| error.reason())
}

#[tokio::test]
async fn each_kind_of_key_verifies_its_own_algorithm_alone() {
    let keys = [IssuerKey::rs256("rsa"), IssuerKey::es256("ec"), IssuerKey::ed25519("ed")];
    let issuer = Issuer::start(&keys.each_ref()).await;
    let service = service(config(&[&issuer]));
    let claims = claims(issuer.url(), |_| ());
    for key in &keys {
        let verified = service.verify(&key.token(&claims)).await.unwrap();
        assert_eq!(verified.sub.as_str(), format!("{}|u-1", issuer.url()), "the subject has the issuer in front");
        assert_eq!(verified.jti, format!("{}|1", issuer.url()));
        assert_eq!(verified.job_id.unwrap().as_str(), "7");
        for alg in ["RS256", "ES256", "EdDSA", "HS256", "PS256", "none", ""] {
            if alg != key.alg() {
                let kid = key.jwk()["kid"].clone();
                let header = json!({ "alg": alg, "typ": "at+jwt", "kid": kid });
                assert_eq!(reason(&service, &key.token_with_header(&header, &claims)).await, "malformed", "{alg}");
            }
        }
    }
    assert_eq!(issuer.asked(), 1, "one set for all");
}

#[tokio::test]
async fn a_key_of_one_issuer_vouches_for_no_other() {
    // Both publish a key named `k` (CVE-2026-49998).
    let (key_a, key_b) = (IssuerKey::es256("k"), IssuerKey::es256("k"));
    let (a, b) = (Issuer::start(&[&key_a]).await, Issuer::start(&[&key_b]).await);
    let service = service(config(&[&a, &b]));
    for (key, issuer, expected) in [
        (&key_a, a.url(), "accepted"),
        (&key_b, b.url(), "accepted"),
        (&key_a, b.url(), "signature"),
        (&key_b, a.url(), "signature"),
        (&key_a, "https://nobody.test", "claim"),
        (&key_a, crate::NODE_NAME, "unknown_key"),
        (&key_a, &format!("{}/", a.url()), "claim"),
    ] {
        assert_eq!(reason(&service, &key.token(&claims(issuer, |_| ()))).await, expected, "{issuer}");
    }
}

#[tokio::test]
async fn claims_of_other_issuers_mean_what_is_configured() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let url = issuer.url().to_owned();
    let by_claim = service(IssuersConfig { permissions_claim: Some("/realm/roles".to_owned()), ..config(&[&issuer]) });
    let rights = async |service: &TokenService, change: fn(&mut Value)| {
        service.verify(&key.token(&claims(&url, change))).await.unwrap().permissions.to_string()
    };
    assert_eq!(rights(&by_claim, |c| c["realm"] = json!({ "roles": ["admin", "execute", "other"] })).await, "execute");
    assert_eq!(rights(&by_claim, |c| c["realm"] = json!({ "roles": "openid read admin" })).await, "read");
    assert_eq!(rights(&by_claim, |c| c["permissions"] = json!(["execute"])).await, "", "another claim");
    let all = service(config(&[&issuer]));
    assert_eq!(rights(&all, |c| c["permissions"] = json!(["admin"])).await, "read,execute");
    let none = service(IssuersConfig { issuers: vec![url.clone()], ..IssuersConfig::default() });
    assert_eq!(rights(&none, |c| c["permissions"] = json!(["admin", "execute"])).await, "", "by default, none");
    let named =
        service(IssuersConfig { subject_claim: "email".to_owned(), job_claim: "j".to_owned(), ..config(&[&issuer]) });
    let verified = named.verify(&key.token(&claims(&url, |c| (c["email"], c["j"]) = (json!("a@b.c"), json!(9))))).await;
    let verified = verified.unwrap();
    assert_eq!((verified.sub.as_str(), verified.job_id.unwrap().as_str()), (&*format!("{url}|a@b.c"), "9"));
}

#[tokio::test]
async fn claims_that_are_wrong_are_refused() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(config(&[&issuer]));
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 19] = [
        ("nothing", |_| (), "accepted"),
        ("an audience among others", |c| c["aud"] = json!(["x", crate::NODE_NAME]), "accepted"),
        ("no nbf", |c| c["nbf"] = Value::Null, "accepted"),
        ("another audience", |c| c["aud"] = json!("x"), "claim"),
        ("no audience", |c| c["aud"] = Value::Null, "claim"),
        ("an empty list of audiences", |c| c["aud"] = json!([]), "claim"),
        ("no iat", |c| c["iat"] = Value::Null, "claim"),
        ("no exp", |c| c["exp"] = Value::Null, "claim"),
        ("exp as text", |c| c["exp"] = json!("9999999999"), "claim"),
        ("exp as a fraction", |c| c["exp"] = json!(1e10 + 0.5), "claim"),
        ("exp in a thousand years", |c| c["exp"] = json!(99_999_999_999_u64), "claim"),
        ("expired", |c| c["exp"] = json!(now() - 31), "expired"),
        ("not yet valid", |c| c["nbf"] = json!(now() + 60), "not_yet"),
        ("from the future", |c| c["iat"] = json!(now() + 60), "not_yet"),
        ("no subject", |c| c["sub"] = Value::Null, "claim"),
        ("a subject with a line break", |c| c["sub"] = json!("a\nb"), "claim"),
        ("a job that is no id", |c| c["job_id"] = json!("a b"), "claim"),
        ("a job that is a list", |c| c["job_id"] = json!([7]), "claim"),
        ("bound by a certificate", |c| c["cnf"] = json!({ "x5t#S256": "AA" }), "claim"),
    ];
    for (what, change, expected) in cases {
        assert_eq!(reason(&service, &key.token(&claims(issuer.url(), change))).await, expected, "{what}");
    }
    let twice = claims(issuer.url(), |_| ()).to_string().replacen('{', "{\"scope\":{\"a\":1,\"a\":2},", 1);
    let token = |typ: &str, claims: &str| {
        use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
        let header = json!({ "alg": "EdDSA", "typ": typ, "kid": "k" }).to_string();
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        format!("{signed}.{}", BASE64.encode(key.sign(signed.as_bytes())))
    };
    let good = claims(issuer.url(), |_| ()).to_string();
    assert_eq!(reason(&service, &token("at+jwt", &twice)).await, "claim", "a member twice, deep inside");
    assert_eq!(reason(&service, &token("application/AT+JWT", &good)).await, "accepted");
    assert_eq!(reason(&service, &token("JWT", &good)).await, "malformed", "an id token is no access token");
}

#[tokio::test]
async fn a_token_without_an_id_can_be_revoked_by_what_was_signed() {
    let key = IssuerKey::es256("k");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(config(&[&issuer]));
    let claims = claims(issuer.url(), |c| c["jti"] = Value::Null);
    // ECDSA signatures of the same text differ.
    let (one, other) = (key.token(&claims), key.token(&claims));
    assert_ne!(one, other);
    let (one, other) = (service.verify(&one).await.unwrap(), service.verify(&other).await.unwrap());
    assert!(one.jti.starts_with("sha256:") && one.jti == other.jti);
}

#[tokio::test]
async fn keys_that_are_weak_private_for_other_uses_or_twice_are_not_taken() {
    let (rsa, ec, ed) = (IssuerKey::rs256("rsa"), IssuerKey::es256("ec"), IssuerKey::ed25519("ed"));
    let issuer = Issuer::start(&[]).await;
    let service = service(config(&[&issuer]));
    let with = |key: &IssuerKey, member: &str, value: Value| {
        let mut jwk = key.jwk();
        jwk[member] = value;
        jwk
    };
    let oct = json!({ "kty": "oct", "kid": "ed", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0" });
    for (what, key, published) in [
        ("for encryption", &rsa, vec![with(&rsa, "use", json!("enc"))]),
        ("for another algorithm", &rsa, vec![with(&rsa, "alg", json!("PS256"))]),
        ("with the exponent 1", &rsa, vec![with(&rsa, "e", json!("AQ"))]),
        ("of 512 bits", &rsa, vec![with(&rsa, "n", json!("Q".repeat(84)))]),
        ("with its private part", &ed, vec![with(&ed, "d", json!("AA"))]),
        ("symmetric", &ed, vec![oct]),
        ("of small order", &ed, vec![with(&ed, "x", json!("A".repeat(43)))]),
        ("off the curve", &ec, vec![with(&ec, "y", ec.jwk()["x"].clone())]),
        ("on another curve", &ec, vec![with(&ec, "crv", json!("P-384"))]),
        ("without a name", &ec, vec![with(&ec, "kid", Value::Null)]),
        ("that signs only", &ec, vec![with(&ec, "key_ops", json!(["sign"]))]),
        ("twice under one name", &ec, vec![ec.jwk(), with(&ed, "kid", json!("ec"))]),
        ("that is no object", &ec, vec![json!(7)]),
    ] {
        let other = IssuerKey::ed25519("other");
        issuer.publish_raw(published.into_iter().chain([other.jwk()]).collect());
        let refused = reason(&service, &key.token(&claims(issuer.url(), |_| ()))).await;
        assert_eq!(refused, "unknown_key", "a key {what}");
        assert_eq!(
            reason(&service, &other.token(&claims(issuer.url(), |_| ()))).await,
            "accepted",
            "beside one {what}"
        );
    }
}

#[tokio::test]
async fn issuers_that_misbehave_are_unavailable() {
    let key = IssuerKey::ed25519("k");
    let elsewhere = Issuer::start(&[&key]).await;
    for mood in [
        IssuerMood::Status(500),
        IssuerMood::Status(204),
        IssuerMood::Redirect(format!("{}/keys", elsewhere.url())),
        IssuerMood::Body(b"{\"keys\":[]}".to_vec()),
        IssuerMood::Body(b"not json".to_vec()),
        IssuerMood::Body(vec![b' '; 300 * 1024]),
    ] {
        let issuer = Issuer::start(&[&key]).await;
        issuer.mood(mood.clone());
        let service = service(config(&[&issuer]));
        let token = key.token(&claims(issuer.url(), |_| ()));
        assert_eq!(reason(&service, &token).await, "issuer_unavailable", "{mood:?}");
        issuer.mood(IssuerMood::Well);
        assert_eq!(reason(&service, &token).await, "accepted", "it is well again");
    }
    assert_eq!(elsewhere.asked(), 0, "redirects are not followed");

    let liar = Issuer::start(&[&key]).await;
    liar.claim_to_be(elsewhere.url());
    assert_eq!(reason(&service(config(&[&liar])), &key.token(&claims(liar.url(), |_| ()))).await, "issuer_unavailable");
    let outward = Issuer::start(&[&key]).await;
    outward.keys_are_at("http://198.51.100.1/keys");
    let token = key.token(&claims(outward.url(), |_| ()));
    assert_eq!(reason(&service(config(&[&outward])), &token).await, "issuer_unavailable");
}

#[tokio::test]
async fn keys_that_are_known_serve_while_the_issuer_is_down() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let service = service(config(&[&issuer]));
    let token = key.token(&claims(issuer.url(), |_| ()));
    assert_eq!(reason(&service, &token).await, "accepted");
    issuer.mood(IssuerMood::Status(503));
    let unknown = IssuerKey::ed25519("new").token(&claims(issuer.url(), |_| ()));
    assert_eq!(reason(&service, &unknown).await, "unknown_key");
    assert_eq!(reason(&service, &token).await, "accepted");
}

#[tokio::test]
async fn a_rotation_is_noticed_and_unknown_keys_ask_seldom() {
    let (old, new) = (IssuerKey::ed25519("old"), IssuerKey::ed25519("new"));
    let issuer = Issuer::start(&[&old]).await;
    let noticing = service(config(&[&issuer]));
    let good = |key: &IssuerKey| key.token(&claims(issuer.url(), |_| ()));
    assert_eq!(reason(&noticing, &good(&old)).await, "accepted");
    issuer.publish(&[&new]);
    assert_eq!(reason(&noticing, &good(&new)).await, "accepted");
    assert_eq!(reason(&noticing, &good(&old)).await, "unknown_key", "what is published no more is good no more");

    let limited = service(IssuersConfig { refresh_interval: NEVER, ..config(&[&issuer]) });
    assert_eq!(reason(&limited, &good(&new)).await, "accepted");
    let asked = issuer.asked();
    for number in 0..500 {
        let stranger = new.token_with_header(
            &json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": format!("k{number}") }),
            &claims(issuer.url(), |_| ()),
        );
        assert_eq!(reason(&limited, &stranger).await, "unknown_key");
    }
    assert_eq!(issuer.asked(), asked, "500 unknown keys cause no request before the interval is over");
}

#[tokio::test]
async fn many_at_once_cause_one_request() {
    let key = IssuerKey::ed25519("k");
    let issuer = Issuer::start(&[&key]).await;
    let service = Arc::new(service(IssuersConfig { refresh_interval: NEVER, ..config(&[&issuer]) }));
    let token = key.token(&claims(issuer.url(), |_| ()));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (service, token) = (Arc::clone(&service), token.clone());
            tokio::spawn(async move { service.verify(&token).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn fresh_keys_are_fetched_without_traffic() {
    let (old, new) = (IssuerKey::ed25519("old"), IssuerKey::ed25519("new"));
    let issuer = Issuer::start(&[&old]).await;
    let often = IssuersConfig { keys_max_age: Duration::from_millis(20), ..config(&[&issuer]) };
    let issuers = Issuers::new(often, &Metrics::default()).unwrap().kept_fresh();
    testkit::eventually("the keys are fetched", async || (issuer.asked() > 0).then_some(())).await;
    issuer.publish(&[&new]);
    let before = issuer.asked();
    testkit::eventually("they are fetched anew", async || (issuer.asked() > before + 1).then_some(())).await;
    let cache = &issuers.0.keys[issuer.url()];
    assert!(cache.find(Some("new")).await.is_ok());
}

#[test]
fn addresses_that_are_not_safe_are_refused() {
    for bad in ["http://issuer.test", "issuer.test", ""] {
        let config = IssuersConfig { issuers: vec![bad.to_owned()], ..IssuersConfig::default() };
        assert!(matches!(Issuers::new(config, &Metrics::default()), Err(IssuersError::Address(_))), "{bad}");
    }
}
