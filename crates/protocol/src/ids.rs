//! Identifiers. Each is a newtype, so that one cannot be passed for another, and each is validated when it is made:
//! what exists is short, printable and safe in a log line.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest identifier accepted, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {ID_BYTES_MAX} printable ASCII characters without spaces, quotes or backslashes")]
pub struct InvalidId;

fn validate(text: &str) -> Result<(), InvalidId> {
    let printable = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'`');
    if (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(printable) { Ok(()) } else { Err(InvalidId) }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates `text` as an identifier.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, too long or has unprintable characters.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                validate(&text).map(|()| Self(text))
            }

            /// The identifier's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id! {
    /// One request, for logs and the `X-Request-Id` header. Made by the node.
    RequestId
}
id! {
    /// One receipt. Made by the node when a request is admitted.
    ReceiptId
}
id! {
    /// A conversation on a connection. Client-chosen on the native protocol: it names, it never proves.
    SessionId
}
id! {
    /// What a request is charged to.
    JobId
}
id! {
    /// Who speaks (`sub`, RFC 7519 section 4.1.2).
    Subject
}
id! {
    /// Who shares a prefix cache: one subject. Nothing cached is visible across tenants.
    TenantId
}

impl TenantId {
    /// The tenant of a subject.
    #[must_use]
    pub fn of(subject: &Subject) -> Self {
        Self(subject.0.clone())
    }
}

impl JobId {
    /// The id with which nothing can be charged: `0` means "no job" in the marketplace protocol.
    pub const NONE: &'static str = "0";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_printable_and_bounded() {
        let ok = |text: &str| SessionId::new(text).is_ok();
        assert!(ok("954") && ok("did:key:z6Mk") && ok(&"a".repeat(ID_BYTES_MAX)));
        for bad in ["", " ", "a b", "a\nb", "é", "\"", "'; DROP TABLE jobs", &"a".repeat(ID_BYTES_MAX + 1)] {
            assert!(!ok(bad), "{bad:?} must be refused");
        }
        assert!(serde_json::from_str::<JobId>("\"a\\u0000\"").is_err());
    }
}
