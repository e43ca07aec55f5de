use super::{Raw, Value, quote};

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that uses it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Value for Secret {
    const SECRET: bool = true;

    fn expected() -> String {
        "a text".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        String::read(raw).map(Self)
    }

    fn show(&self) -> String {
        quote("(set, not shown)")
    }
}

/// A text that is valid only in one form.
macro_rules! formed_text {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $read:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name(String);

        impl $name {
            /// The text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Value for $name {
            fn expected() -> String {
                $expected.into()
            }

            fn read(raw: &Raw) -> Option<Self> {
                let read: fn(&str) -> Option<String> = $read;
                read(raw.text()?.trim()).map(Self)
            }

            fn show(&self) -> String {
                quote(&self.0)
            }
        }
    };
}

formed_text! {
    /// The base address of an HTTP service, without a slash at its end.
    HttpUrl,
    "an address such as \"http://host:8000/v1\", without user and password",
    |text| {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
        let host = rest.split('/').next()?;
        let valid = !host.is_empty() && !rest.contains(|c: char| c.is_whitespace() || matches!(c, '@' | '?' | '#'));
        valid.then(|| text.trim_end_matches('/').to_owned())
    }
}

formed_text! {
    /// The address of an issuer of tokens, kept as it is written: it is compared with `iss`.
    IssuerUrl,
    "an address such as \"https://login.example.com/realm\" (http only on this machine), as in the tokens' `iss`",
    |text| (auth::is_safe_url(text) && !text.contains(['?', '#'])).then(|| text.to_owned())
}

formed_text! {
    /// An Ed25519 public key.
    PublicKeyText,
    "a public key of 64 hexadecimal digits",
    |text| signing::PublicKey::from_hex(text).ok().map(|key| key.to_hex())
}

formed_text! {
    /// A host, with its port where it is not the scheme's own.
    Authority,
    "a host such as \"node.example.com\" or \"node.example.com:8443\"",
    |text| {
        let authority: http::uri::Authority = text.parse().ok()?;
        (!text.contains('@') && !authority.host().is_empty()).then(|| text.to_ascii_lowercase())
    }
}

formed_text! {
    /// A browser origin (RFC 6454 section 6.1), or `*`.
    WebOrigin,
    "an origin such as \"https://app.example.com\", or \"*\"",
    |text| {
        if text == "*" {
            return Some(text.to_owned());
        }
        let (scheme, host) = text.split_once("://")?;
        let plain = |part: &str, more: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        (plain(scheme, "+-.") && plain(host, "-.:[]")).then(|| text.to_ascii_lowercase())
    }
}

formed_text! {
    /// A digest, written `sha256:<hex>`.
    Sha256,
    "a digest: \"sha256:\" and 64 hexadecimal digits",
    |text| {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let valid = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| format!("sha256:{}", digits.to_ascii_lowercase()))
    }
}

formed_text! {
    /// What is logged: a level, or levels by target.
    LogFilter,
    "a level (off, error, warn, info, debug, trace), or a list such as \"info,server=debug\"",
    |text| {
        let level = |level: &str| matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace");
        let target = |target: &str| {
            !target.is_empty() && target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
        };
        text.split(',')
            .all(|part| match part.trim().split_once('=') {
                None => level(part.trim()),
                Some((name, wanted)) => target(name) && level(wanted),
            })
            .then(|| text.to_owned())
    }
}

formed_text! {
    /// The path of a route.
    UrlPath,
    "a path such as \"/metrics\"",
    |text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        let valid = text.len() > 1 && text.starts_with('/') && text.chars().all(plain) && !text.starts_with("/health");
        valid.then(|| text.to_owned())
    }
}
