//! Types that a key can have: how each is read from TOML and from text, and how it is written.

mod duration;
mod network;
mod size;
mod text;

use std::{net::SocketAddr, path::PathBuf};

pub(crate) use self::{
    size::ByteSize,
    text::{Authority, HttpUrl, IssuerUrl, LogFilter, PublicKeyText, Secret, Sha256, UrlPath, WebOrigin},
};

/// A value as it was found, before it has a type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// From the environment or the command line: any type, as text.
    Text(String),
    /// A TOML string.
    String(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML float.
    Float(f64),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array.
    List(Vec<Self>),
    /// A TOML date, table, or a number that fits nothing: its kind.
    Other(&'static str),
}

impl Raw {
    /// As it stands in the source, shortened.
    pub(crate) fn show(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 60;
        let whole = match self {
            Self::Text(text) | Self::String(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Bool(value) => value.to_string(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::show).collect::<Vec<_>>().join(", ")),
            Self::Other(kind) => format!("a {kind}"),
        };
        if whole.chars().count() <= SHOWN_CHARS_MAX {
            return whole;
        }
        whole.chars().take(SHOWN_CHARS_MAX).chain(['…']).collect()
    }

    /// The text of a string from any source.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// A type that a key can have.
pub(crate) trait Value: Sized {
    /// Whether it must never be shown.
    const SECRET: bool = false;

    /// What is expected, as the end of "expected …".
    fn expected() -> String;

    /// Reads it; `None` when `raw` is something else.
    fn read(raw: &Raw) -> Option<Self>;

    /// As TOML.
    fn show(&self) -> String;
}

impl Value for bool {
    fn expected() -> String {
        "true or false".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Bool(value) => Some(*value),
            Raw::Text(text) => match text.trim() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn expected() -> String {
                "an integer".into()
            }

            fn read(raw: &Raw) -> Option<Self> {
                match raw {
                    Raw::Integer(number) => Self::try_from(*number).ok(),
                    Raw::Text(text) => text.trim().replace('_', "").parse().ok(),
                    _ => None,
                }
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integers!(i32, u32, u64, usize);

impl Value for f64 {
    fn expected() -> String {
        "a number".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Float(number) => Some(*number),
            // A key is set by hand: 2^53 is beyond every range.
            Raw::Integer(number) => Some(*number as Self),
            Raw::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|number| number.is_finite())
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for String {
    fn expected() -> String {
        "a text".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn show(&self) -> String {
        quote(self)
    }
}

impl Value for PathBuf {
    fn expected() -> String {
        "a path".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(Self::from)
    }

    fn show(&self) -> String {
        quote(&self.display().to_string())
    }
}

impl Value for SocketAddr {
    fn expected() -> String {
        "an IP address and a port such as \"127.0.0.1:8080\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text()?.trim().replace("localhost:", "127.0.0.1:").parse().ok()
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}

impl<T: Value> Value for Option<T> {
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        T::expected()
    }

    /// An empty text is "not set": compose files cannot unset a variable.
    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Text(text) if text.trim().is_empty() => Some(None),
            _ => T::read(raw).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map(T::show).unwrap_or_default()
    }
}

impl<T: Value> Value for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        format!("a list, each {}", T::expected())
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::List(items) => items.iter().map(T::read).collect(),
            Raw::Text(text) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| T::read(&Raw::Text(item.to_owned())))
                .collect(),
            _ => None,
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

/// A TOML string.
pub(crate) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// An enum whose values are written as words.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $crate::config::value::Value for $name {
            fn expected() -> String {
                let words: Vec<String> = [$($text),+].iter().map(|word| format!("{word:?}")).collect();
                format!("one of {}", words.join(", "))
            }

            fn read(raw: &$crate::config::value::Raw) -> Option<Self> {
                let text = <String as $crate::config::value::Value>::read(raw)?;
                match text.trim() {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => format!("{:?}", $text),)+ }
            }
        }
    };
}
pub(crate) use choice;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refuse<T: Value>(raws: &[Raw]) {
        for raw in raws {
            assert!(T::read(raw).is_none(), "{raw:?} was read");
        }
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.into())
    }

    fn string(text: &str) -> Raw {
        Raw::String(text.into())
    }

    #[test]
    fn values_of_another_type_are_refused() {
        refuse::<bool>(&[text("maybe"), string("true"), Raw::Integer(1)]);
        refuse::<u32>(&[text("-1"), text("1.5"), text(""), Raw::Integer(-1), Raw::Integer(1 << 40), string("1")]);
        refuse::<f64>(&[text("nan"), Raw::Float(f64::INFINITY), string("1")]);
        refuse::<String>(&[string(""), Raw::Integer(1), Raw::Other("table")]);
        refuse::<SocketAddr>(&[string("8080"), string("host:80"), string("1.2.3.4"), string("1.2.3.4:99999")]);
        refuse::<Vec<u32>>(&[Raw::Integer(1), Raw::List(vec![Raw::Bool(true)]), text("1,x")]);
        refuse::<Duration>(&[string("30"), Raw::Integer(30), string("s"), string("-1s"), string("1 fortnight")]);
        refuse::<ByteSize>(&[string("4"), string("4XB"), string("-4KiB"), string("99999999999TiB"), Raw::Bool(true)]);
        refuse::<HttpUrl>(&[string("host:80"), string("ftp://host"), string("http://"), string("http://a:b@host")]);
        refuse::<ipnet::IpNet>(&[
            string("0.0.0.0/0"),
            string("::/0"),
            string("10.0.0.0/33"),
            string("proxy"),
            text(""),
        ]);
        refuse::<ipnet::IpNet>(&[string("::ffff:10.0.0.1"), string("10.0.0.1:80"), Raw::Integer(1)]);
        refuse::<IssuerUrl>(&[
            string("http://issuer.test"),
            string("issuer"),
            string("https://a:b@c"),
            string("https://c?d"),
        ]);
        refuse::<Authority>(&[
            string("a@b"),
            string("https://a"),
            string("a/b"),
            string(""),
            string("a b"),
            Raw::Integer(1),
        ]);
        refuse::<WebOrigin>(&[string("example.com"), string("https://example.com/path"), string("https://")]);
        refuse::<Sha256>(&[string("abc"), string("sha256:xyz"), string(&"g".repeat(64))]);
        refuse::<LogFilter>(&[string("loud=very=much"), Raw::Integer(1)]);
    }

    #[test]
    fn what_is_shown_reads_back() {
        fn check<T: Value + PartialEq + std::fmt::Debug>(raw: &Raw, shown: &str) {
            let value = T::read(raw).unwrap_or_else(|| panic!("{raw:?} is refused"));
            assert_eq!(value.show(), shown);
            let document: toml::Table = format!("v = {shown}").parse().expect("what is shown is TOML");
            let again = match &document["v"] {
                toml::Value::String(text) => Raw::String(text.clone()),
                toml::Value::Integer(number) => Raw::Integer(*number),
                toml::Value::Float(number) => Raw::Float(*number),
                toml::Value::Boolean(value) => Raw::Bool(*value),
                other => panic!("{other:?}"),
            };
            assert_eq!(T::read(&again), Some(value));
        }
        check::<bool>(&text("on"), "true");
        check::<u32>(&text("1_000"), "1000");
        check::<f64>(&Raw::Integer(50), "50.0");
        check::<String>(&string("a \"b\" \\ c"), "'a \"b\" \\ c'");
        check::<SocketAddr>(&string("localhost:80"), "\"127.0.0.1:80\"");
        check::<SocketAddr>(&string("[::1]:80"), "\"[::1]:80\"");
        check::<Duration>(&string("90s"), "\"90s\"");
        check::<Duration>(&string("120s"), "\"2m\"");
        check::<Duration>(&text("1500 ms"), "\"1500ms\"");
        check::<Duration>(&string("24h"), "\"1d\"");
        check::<ByteSize>(&string("4096B"), "\"4KiB\"");
        check::<ByteSize>(&Raw::Integer(100), "\"100B\"");
        check::<ByteSize>(&string("1.5MiB"), "\"1536KiB\"");
        check::<HttpUrl>(&string("http://host:80/v1/"), "\"http://host:80/v1\"");
        check::<IssuerUrl>(&string("https://issuer.test/"), "\"https://issuer.test/\"");
        check::<Authority>(&string("Node.Example:8443"), "\"node.example:8443\"");
        check::<WebOrigin>(&string("https://example.com"), "\"https://example.com\"");
        check::<ipnet::IpNet>(&string("10.1.2.3/8"), "\"10.0.0.0/8\"");
        check::<ipnet::IpNet>(&text("127.0.0.1"), "\"127.0.0.1/32\"");
        check::<ipnet::IpNet>(&string("2001:db8::1"), "\"2001:db8::1/128\"");
        check::<WebOrigin>(&string("*"), "\"*\"");
        check::<Sha256>(&string(&format!("sha256:{}", "AB".repeat(32))), &format!("\"sha256:{}\"", "ab".repeat(32)));
        check::<LogFilter>(&string("info,server=debug"), "\"info,server=debug\"");
    }

    #[test]
    fn lists_come_from_arrays_and_from_commas() {
        let check =
            |raw: &Raw, shown: &str| assert_eq!(Vec::<u32>::read(raw).map(|list| list.show()).as_deref(), Some(shown));
        check(&Raw::List(vec![Raw::Integer(1), Raw::Integer(2)]), "[1, 2]");
        check(&text("1, 2,"), "[1, 2]");
        check(&text(""), "[]");
    }

    #[test]
    fn an_empty_variable_unsets_an_optional_key() {
        assert_eq!(Option::<String>::read(&text("")), Some(None));
        assert_eq!(Option::<String>::read(&string("")), None);
    }

    #[test]
    fn long_values_are_shortened() {
        assert!(string(&"x".repeat(1000)).show().chars().count() < 70);
    }
}
