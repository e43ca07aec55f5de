//! Which right each route and each message needs: one table, asked by every transport.
//!
//! No right implies another (`admin` does not generate, `write` does not read). A route that is not in the table is
//! closed (`gate`), so a forgotten row shows at the first request and not in an incident.

use auth::{Permission, Permissions};
use http::Method;
use protocol::{ApiError, ErrorCode};

use super::Authenticated;

/// What a route or message asks of who uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it shows nothing of anybody, or proves itself (a socket whose first messages say who speaks).
    Open,
    /// A valid token, whatever its rights: it only concerns the token itself.
    Token,
    /// A valid token with this right.
    Right(Permission),
}

use Access::{Open, Right, Token};
use Permission::{Admin, Execute, Read, Write};

/// Takes every method.
const ANY: &str = "*";

/// Routes of the public listener: method, path as routed, access.
pub const PUBLIC: &[(&str, &str, Access)] = &[
    ("GET", "/health", Open),
    ("GET", "/health/live", Open),
    ("GET", "/health/ready", Open),
    ("GET", "/v1/health", Open),
    ("GET", "/v1/version", Open),
    ("GET", "/.well-known/jwks.json", Open),
    ("GET", "/.well-known/llm-node", Open),
    // Its messages say who speaks, and each has its own row in NATIVE.
    (ANY, "/v1/ws", Open),
    // The proof of the key is in the request.
    ("POST", "/v1/sessions", Open),
    ("POST", "/v1/chat/completions", Right(Execute)),
    ("POST", "/v1/completions", Right(Execute)),
    ("POST", "/v1/inference", Right(Execute)),
    ("POST", "/v1/responses", Right(Execute)),
    ("GET", "/v1/responses", Right(Execute)),
    ("GET", "/v1/responses/{id}", Right(Read)),
    ("DELETE", "/v1/responses/{id}", Right(Write)),
    ("GET", "/v1/models", Right(Read)),
    ("GET", "/v1/models/{*id}", Right(Read)),
    ("GET", "/v1/receipts/{id}", Right(Read)),
];

/// Routes of the operators' listener, beside the endpoint of the metrics, whose path is configured.
pub const ADMIN: &[(&str, &str, Access)] = &[
    ("GET", "/health", Open),
    ("GET", "/health/live", Open),
    ("GET", "/health/ready", Open),
    ("GET", "/v1/health", Open),
    ("GET", "/v1/version", Open),
    ("GET", "/admin/v1/sessions", Right(Admin)),
    ("DELETE", "/admin/v1/sessions/{id}", Right(Admin)),
    ("GET", "/admin/v1/revocations", Right(Admin)),
    ("POST", "/admin/v1/revocations", Right(Admin)),
    ("GET", "/admin/v1/keys", Right(Admin)),
    ("POST", "/admin/v1/keys", Right(Admin)),
    ("DELETE", "/admin/v1/keys/{id}", Right(Admin)),
];

/// Messages of the native protocol by their `type`. `signed` is an envelope: what is in it has a row of its own.
pub const NATIVE: &[(&str, Access)] = &[
    ("ping", Open),
    ("auth", Open),
    ("signed", Open),
    ("token_refresh", Token),
    ("session_init", Right(Execute)),
    ("session_resume", Right(Execute)),
    ("session_end", Right(Execute)),
    ("prompt", Right(Execute)),
    ("inference", Right(Execute)),
    ("stream_cancel", Right(Execute)),
];

/// Messages of a Responses WebSocket by their `type`.
pub const RESPONSES: &[(&str, Access)] = &[("response.create", Right(Execute)), ("response.cancel", Right(Execute))];

/// What a table says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// This.
    Access(Access),
    /// The path is there, with other methods.
    OtherMethods,
    /// The path is not there.
    Missing,
}

/// The row of a route. `HEAD` asks for the head of what `GET` would answer, so it needs the same.
pub(crate) fn route(table: &[(&str, &str, Access)], method: &Method, path: &str) -> Row {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut found = Row::Missing;
    for (of, _, access) in table.iter().filter(|(_, of, _)| *of == path) {
        if *of == method || *of == ANY {
            return Row::Access(*access);
        }
        found = Row::OtherMethods;
    }
    found
}

/// What a message needs. One that is not in its table needs what nobody has by accident.
pub(crate) fn message(table: &[(&str, Access)], kind: &str) -> Access {
    table.iter().find(|(of, _)| *of == kind).map_or(Right(Admin), |(_, access)| *access)
}

impl Authenticated {
    /// Refuses who has not the right.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, with the right that is needed.
    pub fn require(&self, access: Access) -> Result<(), ApiError> {
        match access {
            Right(right) if !self.may(right) => {
                let name = Permissions::of([right]).to_string();
                Err(ApiError::new(
                    ErrorCode::PermissionDenied,
                    format!("The token does not allow this. Ask for one with the permission `{name}`."),
                )
                .with("permission", name))
            }
            Open | Token | Right(_) => Ok(()),
        }
    }

    /// Where there is no authentication, loopback clients may everything.
    fn may(&self, right: Permission) -> bool {
        self.is_anonymous() || self.can(right)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use protocol::native::ClientMessage;

    use super::*;

    #[test]
    fn a_route_that_is_not_in_the_table_is_closed() {
        let check = |method: Method, path: &str, expected: Row| assert_eq!(route(PUBLIC, &method, path), expected);
        check(Method::GET, "/v1/secret", Row::Missing);
        check(Method::PUT, "/v1/responses/{id}", Row::OtherMethods);
        check(Method::POST, "/v1/models", Row::OtherMethods);
        check(Method::GET, "/v1/models", Row::Access(Right(Read)));
        check(Method::HEAD, "/v1/models", Row::Access(Right(Read)));
        check(Method::CONNECT, "/v1/ws", Row::Access(Open));
        check(Method::DELETE, "/v1/responses/{id}", Row::Access(Right(Write)));
        assert_eq!(route(PUBLIC, &Method::GET, "/admin/v1/sessions"), Row::Missing, "operators' routes are not public");
        assert_eq!(message(NATIVE, "anything"), Right(Admin));
    }

    #[test]
    fn every_message_is_in_the_table_once() {
        let rows: Vec<&str> = NATIVE.iter().map(|(kind, _)| *kind).collect();
        let (known, listed): (HashSet<&str>, HashSet<&str>) =
            (ClientMessage::KINDS.iter().copied().collect(), rows.iter().copied().collect());
        assert_eq!(known, listed);
        assert_eq!(rows.len(), listed.len(), "a row twice");
    }

    #[test]
    fn every_route_of_the_operators_needs_the_right() {
        for (method, path, access) in ADMIN.iter().filter(|(_, path, _)| path.starts_with("/admin/")) {
            assert_eq!(*access, Right(Admin), "{method} {path}");
        }
    }
}
