//! Where a request's token is: the `Authorization` header, or for browsers, which cannot set headers on a WebSocket, a
//! subprotocol. Never the URL: URLs end up in logs, histories and `Referer` headers.

use http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use protocol::{ApiError, ErrorCode};

/// The subprotocol that the node selects.
pub(crate) const SUBPROTOCOL: &str = "llm-node.v1";
/// What begins the subprotocol that carries a token. It is never selected, so it is never echoed.
const BEARER_SUBPROTOCOL: &str = "llm-node.bearer.";
/// Names under which a token is sometimes put into a URL (RFC 6750 section 2.3 has the first).
const QUERY_NAMES: [&str; 9] =
    ["access_token", "token", "id_token", "auth_token", "authorization", "bearer", "jwt", "api_key", "apikey"];

/// The token of an `Authorization: Bearer` header (RFC 6750 section 2.1; the scheme's case does not matter).
fn header(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The subprotocols that a WebSocket client offers (RFC 6455 section 11.3.4).
fn offers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// The token that a request carries.
///
/// # Errors
/// `AUTH_FAILED` for credentials of another kind, or more than one token; `INVALID_REQUEST` for a token in a subprotocol
/// without [`SUBPROTOCOL`] beside it: a browser would drop the connection that answers none of its offers.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut tokens = offers(headers).filter_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL));
    let (offered, more) = (tokens.next(), tokens.next());
    let count = headers.get_all(AUTHORIZATION).iter().count() + usize::from(offered.is_some());
    if count > 1 || more.is_some() {
        return Err(ApiError::new(ErrorCode::AuthFailed, "The request carries more than one token. Send one."));
    }
    let Some(offered) = offered else {
        if count == 1 && header(headers).is_none() {
            return Err(ApiError::new(
                ErrorCode::AuthFailed,
                "The Authorization header is not a bearer token. Send `Authorization: Bearer <token>`.",
            ));
        }
        return Ok(header(headers));
    };
    if !offers(headers).any(|offer| offer == SUBPROTOCOL) {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!("Offer the subprotocol {SUBPROTOCOL} beside the one that carries the token."),
        ));
    }
    Ok(Some(offered))
}

/// Refuses a token in the URL.
///
/// # Errors
/// `INVALID_REQUEST`, which does not repeat it.
pub(crate) fn none_in_url(uri: &Uri) -> Result<(), ApiError> {
    let Some(query) = uri.query() else { return Ok(()) };
    let Ok(axum::extract::Query(pairs)) = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "The URL's query cannot be read."));
    };
    let named = |name: &str| QUERY_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known));
    if pairs.iter().any(|(name, value)| named(name) || is_jwt(name) || is_jwt(value)) || is_jwt(query) {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "A token does not belong in a URL, where logs and histories keep it: take this one for exposed. Send \
             `Authorization: Bearer <token>`, or from a browser's WebSocket the subprotocols llm-node.v1 and \
             llm-node.bearer.<token>.",
        ));
    }
    Ok(())
}

/// Whether a text begins as every compact JWS does: base64url of `{"`, then two dots.
fn is_jwt(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        headers
    }

    #[test]
    fn what_is_not_one_token_is_refused() {
        let check = |pairs: &[(HeaderName, &str)], expected: ErrorCode| {
            assert_eq!(bearer(&headers(pairs)).expect_err("refused").code, expected, "{pairs:?}");
        };
        check(&[(AUTHORIZATION, "Basic abc")], ErrorCode::AuthFailed);
        check(&[(AUTHORIZATION, "Bearer")], ErrorCode::AuthFailed);
        check(&[(AUTHORIZATION, "abc")], ErrorCode::AuthFailed);
        check(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")], ErrorCode::AuthFailed);
        let both = (SEC_WEBSOCKET_PROTOCOL, "llm-node.v1, llm-node.bearer.a");
        check(&[(AUTHORIZATION, "Bearer a"), both], ErrorCode::AuthFailed);
        check(&[(SEC_WEBSOCKET_PROTOCOL, "llm-node.v1, llm-node.bearer.a, llm-node.bearer.b")], ErrorCode::AuthFailed);
        check(&[(SEC_WEBSOCKET_PROTOCOL, "llm-node.bearer.a")], ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_token_is_found_in_the_header_or_the_subprotocol() {
        let check = |pairs: &[(HeaderName, &str)], expected: Option<&str>| {
            assert_eq!(bearer(&headers(pairs)), Ok(expected), "{pairs:?}");
        };
        check(&[], None);
        check(&[(AUTHORIZATION, "Bearer abc")], Some("abc"));
        check(&[(AUTHORIZATION, "bearer  abc ")], Some("abc"));
        check(&[(SEC_WEBSOCKET_PROTOCOL, "llm-node.v1,llm-node.bearer.a.b.c")], Some("a.b.c"));
        check(
            &[(SEC_WEBSOCKET_PROTOCOL, "llm-node.bearer.a"), (SEC_WEBSOCKET_PROTOCOL, "chat, llm-node.v1")],
            Some("a"),
        );
        check(&[(SEC_WEBSOCKET_PROTOCOL, "llm-node.v1, chat")], None);
    }

    #[test]
    fn tokens_in_urls_are_refused_and_not_repeated() {
        let check = |url: &str, allowed: bool| {
            let uri: Uri = url.parse().expect("a URI");
            let result = none_in_url(&uri);
            assert_eq!(result.is_ok(), allowed, "{url}");
            if let Err(error) = result {
                assert!(!error.to_string().contains("s3cr3t"), "{error}");
            }
        };
        check("/v1/ws?token=s3cr3t", false);
        check("/v1/ws?a=b&access_token=s3cr3t", false);
        check("/v1/ws?%74oken=s3cr3t", false);
        check("/v1/ws?TOKEN=s3cr3t", false);
        check("/v1/models?x=eyJh.s3cr3t.sig", false);
        check("/v1/models?eyJh.s3cr3t.sig", false);
        check("/v1/models?limit=3&subject=alice", true);
        check("/v1/models?", true);
        check("/v1/models", true);
    }
}
