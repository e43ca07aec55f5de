//! A second opinion: `jsonwebtoken`, with every check that it has switched on, over generated tokens.
//!
//! Both must agree on tokens whose header and claims are of the right types; what only ours refuses (headers, spellings,
//! absurd dates) may be refused, but nothing may be taken that the library refuses.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use proptest::{prelude::*, sample::select};

use super::*;

/// What the library says.
fn second_opinion(token: &str) -> bool {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_SECS;
    validation.validate_nbf = true;
    validation.set_audience(&[NODE_NAME]);
    validation.set_issuer(&[NODE_NAME]);
    validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
    jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(SECRET.as_bytes()), &validation).is_ok()
}

fn ours(token: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(service().verify(token)).is_ok()
}

fn text(good: &'static str) -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => Just(json!(good)),
        1 => "[a-z]{0,8}".prop_map(Value::from),
        1 => select(vec![Value::Null, json!(7), json!([]), json!({})]),
    ]
}

/// A date around now; the seconds of the leeway's edge are left out, so that the clock may tick between the two opinions.
fn date(good: i64) -> impl Strategy<Value = Value> {
    let near = (-200_i64..200).prop_filter("not on the edge", |offset| !(25..=35).contains(&offset.abs()));
    prop_oneof![
        8 => Just(good).prop_map(move |offset| json!(now().cast_signed() + offset)),
        3 => near.prop_map(|offset| json!(now().cast_signed() + offset)),
        1 => select(vec![json!("1795000000"), json!(-1), Value::Null, json!(true), json!(0)]),
    ]
}

prop_compose! {
    fn any_claims()(
        iss in text(NODE_NAME), aud in text(NODE_NAME), sub in text("alice"), jti in text("00"),
        iat in date(-10), nbf in date(-10), exp in date(600),
        missing in prop_oneof![8 => Just(None), 1 => select(vec!["iss", "aud", "sub", "iat", "nbf", "exp"]).prop_map(Some)],
    ) -> Value {
        let mut claims = json!({
            "iss": iss, "aud": aud, "sub": sub, "jti": jti, "iat": iat, "nbf": nbf, "exp": exp, "permissions": ["execute"],
        });
        if let Some(missing) = missing {
            claims.as_object_mut().unwrap().remove(missing);
        }
        claims
    }
}

fn any_header() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => Just(HEADER),
        2 => select(vec![
            r#"{"typ":"at+jwt","alg":"HS256"}"#,
            r#"{"alg":"HS256","typ":"JWT"}"#,
            r#"{"alg":"none","typ":"at+jwt"}"#,
            r#"{"alg":"HS512","typ":"at+jwt"}"#,
            r#"{"alg":"HS256","typ":"at+jwt","crit":["exp"]}"#,
            "{}",
            "[]",
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_taken_that_the_library_refuses(claims in any_claims(), header in any_header(), secret in select(vec![SECRET, SECRET, SECRET, OTHER_SECRET])) {
        let token = signed_with(secret.as_bytes(), header, &claims.to_string());
        let (ours, library) = (ours(&token), second_opinion(&token));
        prop_assert!(!ours || library, "only ours takes {header} {claims}");
        // Where both could agree, they do.
        let typed = ["iat", "nbf", "exp"].iter().all(|date| claims[date].is_u64())
            && ["sub", "jti", "aud", "iss"].iter().all(|name| claims[name].as_str().is_some_and(|text| !text.is_empty()));
        let sane = claims["iat"].as_u64() <= Some(now())
            && claims["exp"].as_u64() <= claims["iat"].as_u64().map(|iat| iat + LIFETIME_SECS_MAX);
        if typed && sane && header.contains("at+jwt") && !header.contains("crit") {
            prop_assert_eq!(ours, library, "{} {}", header, claims);
        }
    }

    #[test]
    fn what_is_issued_the_library_takes(subject in "[a-z0-9:@.-]{1,40}", seconds in 1_u64..1_000_000, bound in any::<bool>()) {
        let grant = Grant {
            subject: Subject::new(subject).unwrap(),
            lifetime: Some(Duration::from_secs(seconds)),
            bound_key: bound.then(|| "x".to_owned()),
            ..grant()
        };
        let issued = service().issue_signed_by(&grant, TokenAlgorithm::Hs256).unwrap();
        prop_assert!(ours(&issued.token) && second_opinion(&issued.token));
    }

    #[test]
    fn a_token_with_one_other_character_is_refused_by_both(index in any::<prop::sample::Index>(), other in "[A-Za-z0-9_.=-]") {
        let token = service().issue_signed_by(&grant(), TokenAlgorithm::Hs256).unwrap().token;
        let at = index.index(token.len());
        let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(!ours(&changed), "{changed}");
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", parts in prop::collection::vec("[A-Za-z0-9_-]{0,60}", 0..6)) {
        prop_assert!(!ours(&text));
        prop_assert!(!ours(&parts.join(".")));
    }
}
