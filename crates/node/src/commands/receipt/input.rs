//! Files with receipts.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

/// Largest file of receipts, in bytes: some 50,000.
pub(super) const RECEIPTS_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Largest request or answer, in bytes.
pub(super) const CONTENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The bytes of a file; `-` is standard input.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().take(bytes_max + 1).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("{} cannot be read", path.display()))?;
    if bytes.len() as u64 > bytes_max {
        bail!("{} is larger than {bytes_max} bytes", path.display());
    }
    Ok(bytes)
}

/// The receipts of a file: one, several one after another (also one a line), or arrays of them. Where a receipt is in
/// the frame or event that brought it, it is taken out.
pub(super) fn documents(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut documents = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Strict>() {
        let Strict(value) = value.context("the file is not JSON (a receipt, an array of them, or one a line)")?;
        match value {
            Value::Array(values) => documents.extend(values.into_iter().map(unwrapped)),
            value => documents.push(unwrapped(value)),
        }
    }
    if documents.is_empty() {
        bail!("the file has no receipt");
    }
    Ok(documents)
}

fn unwrapped(mut value: Value) -> Vec<u8> {
    let receipt = match value.get_mut("receipt") {
        Some(receipt) => receipt.take(),
        None => value,
    };
    receipt.to_string().into_bytes()
}

/// Any JSON, but no object that names a member twice: which of them counts would be each reader's own choice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format_args!("the member `{name}` is there twice")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_receipt_is_refused() {
        for (text, part) in [
            ("", "no receipt"),
            ("[]", "no receipt"),
            ("{", "not JSON"),
            ("receipt", "not JSON"),
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"[{"receipt":{"a":{"b":1,"b":1}}}]"#, "twice"),
        ] {
            let error = format!("{:#}", documents(text.as_bytes()).expect_err(text));
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn receipts_are_found_in_every_shape() {
        let check = |text: &str, expected: &[&str]| {
            let found = documents(text.as_bytes()).expect(text);
            let found: Vec<_> = found.iter().map(|bytes| std::str::from_utf8(bytes).expect("text")).collect();
            assert_eq!(found, expected, "{text}");
        };
        check(r#" {"a":1} "#, &[r#"{"a":1}"#]);
        check("{\"a\":1}\n{\"a\":2}\n", &[r#"{"a":1}"#, r#"{"a":2}"#]);
        check(r#"[{"a":1},{"a":2.5}]"#, &[r#"{"a":1}"#, r#"{"a":2.5}"#]);
        check(r#"{"type":"receipt","receipt":{"a":null},"id":"m1"}"#, &[r#"{"a":null}"#]);
    }
}
