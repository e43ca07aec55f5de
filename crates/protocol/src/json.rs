//! Reading JSON from clients: an error names the field at fault and never repeats what the client wrote.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::{ApiError, ErrorCode};

/// Reads `T` from the JSON text of a body or frame.
///
/// # Errors
/// `INVALID_REQUEST`; its `param` is the path of the field (`messages[0].content`), absent when the text is no JSON.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| explain(error.path().to_string(), error.inner()))?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> ApiError {
    let what = if error.is_eof() { "ends too early" } else { "is not valid" };
    ApiError::new(
        ErrorCode::InvalidRequest,
        format!("The JSON {what} (line {}, column {}).", error.line(), error.column()),
    )
}

fn explain(path: String, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    // serde_json appends the position; the path says it better.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    if error.classify() != Category::Data && text != "number out of range" {
        return not_json(error);
    }
    // The path of an error at the root is `.`; one inside a map that cannot be followed ends in `?`.
    let parent = path.trim_end_matches(['?', '.']);
    if let Some(name) = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let field = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        return ApiError::invalid(field.clone(), format!("{field} is required."));
    }
    if let Some(name) = text.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
        let field = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        return ApiError::invalid(field.clone(), format!("{field} is given twice."));
    }
    let reason = match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("must be {}", friendly(expected)),
        None if text == "number out of range" => "is out of range".to_owned(),
        // Words of our own deserialisers, which never quote the value.
        None => text.to_owned(),
    };
    if parent.is_empty() {
        return ApiError::new(ErrorCode::InvalidRequest, format!("The JSON value {reason}."));
    }
    ApiError::invalid(parent, format!("{parent} {reason}."))
}

/// serde's description of a Rust type in words for someone who writes JSON.
fn friendly(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative or too large".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number that is not too large".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        _ if expected.starts_with("struct ") => "an object".to_owned(),
        _ => expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(rename = "name")]
        _name: String,
        #[serde(default, rename = "list")]
        _list: Vec<Inner>,
        #[serde(default, rename = "map")]
        _map: BTreeMap<String, f32>,
        #[serde(rename = "kind")]
        _kind: Option<Kind>,
        #[serde(rename = "job")]
        _job: Option<crate::JobId>,
    }

    #[test]
    fn errors_name_the_field_and_say_what_is_expected() {
        let check = |text: &str, param: Option<&str>, message: &str| {
            let error = parse::<Outer>(text.as_bytes()).expect_err(text);
            assert_eq!((error.param.as_deref(), error.message.as_str()), (param, message), "{text}");
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        };
        check("", None, "The JSON ends too early (line 1, column 0).");
        check("{\"name\":\"a", None, "The JSON ends too early (line 1, column 10).");
        check("{\"name\":\"a\"} x", None, "The JSON is not valid (line 1, column 14).");
        check("nonsense", None, "The JSON is not valid (line 1, column 2).");
        check("[]", None, "The JSON value must be an object.");
        check("7", None, "The JSON value must be an object.");
        check("null", None, "The JSON value must be an object.");
        check("{}", Some("name"), "name is required.");
        check("{\"name\":7}", Some("name"), "name must be a string.");
        check("{\"name\":\"a\",\"name\":\"b\"}", Some("name"), "name is given twice.");
        check("{\"name\":\"a\",\"list\":{}}", Some("list"), "list must be an array.");
        check("{\"name\":\"a\",\"list\":[7]}", Some("list[0]"), "list[0] must be an object.");
        check("{\"name\":\"a\",\"list\":[{}]}", Some("list[0].count"), "list[0].count is required.");
        let number = "list[0].count must be a whole number that is not negative or too large.";
        check("{\"name\":\"a\",\"list\":[{\"count\":-1}]}", Some("list[0].count"), number);
        check("{\"name\":\"a\",\"list\":[{\"count\":4294967296}]}", Some("list[0].count"), number);
        check("{\"name\":\"a\",\"map\":{\"k\":true}}", Some("map.k"), "map.k must be a number.");
        check("{\"name\":\"a\",\"map\":{\"k\":1e999}}", Some("map.k"), "map.k is out of range.");
        check("{\"name\":\"a\",\"kind\":\"two\"}", Some("kind"), "kind must be `one`.");
        let id = "job must be 1 to 128 printable ASCII characters without spaces, quotes or backslashes.";
        check("{\"name\":\"a\",\"job\":\"a b\"}", Some("job"), id);
    }

    #[test]
    fn an_error_never_repeats_the_value() {
        for text in [
            "{\"name\":\"a\",\"list\":\"the secret\"}",
            "{\"name\":\"a\",\"kind\":\"the secret\"}",
            "{\"name\":\"a\",\"kind\":\"the secret, expected the secret\"}",
            "{\"name\":\"a\",\"job\":\"the secret\"}",
            "{\"name\":\"a\",\"map\":{\"k\":\"the secret\"}}",
            "\"the secret\"",
        ] {
            let error = parse::<Outer>(text.as_bytes()).expect_err(text);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn invalid_utf8_and_deep_nesting_are_errors() {
        assert!(parse::<Outer>(b"{\"name\":\"\xff\"}").is_err());
        let deep = format!("{{\"name\":\"a\",\"x\":{}", "[".repeat(100_000));
        assert!(parse::<Outer>(deep.as_bytes()).is_err());
    }
}
