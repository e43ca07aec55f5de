//! The Jinja environment that Hugging Face templates expect, with limits.

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, syntax::SyntaxConfig};
use protocol::inference::Message;

use super::{TemplateError, json};

/// The template's name in its environment.
pub(super) const NAME: &str = "chat_template";

/// Nested blocks, macros and expressions; real templates stay under 20.
const RECURSION_MAX: usize = 100;
/// Work that any template may do: one unit is one instruction or 64 bytes, so this is about 32 MB and 50 ms.
const FUEL_BASE: u64 = 500_000;
/// Work for each message: real templates need 20 to 300 units.
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Work that is never exceeded, however long the conversation: values can be nested no deeper than there are
/// instructions to nest them, and [`super::STACK_BYTES`] is room for that.
const FUEL_MAX: u64 = 2_000_000;

/// Builds the environment around one template.
pub(super) fn build(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the standard delimiters are valid"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_debug(false);
    environment.add_filter("tojson", json::tojson);
    // As in Python, where `none` is not iterable; templates ask `tools is iterable and tools | length > 0`.
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raised by the template").with_source(Raised(message)))
    });
    // Replaced at each rendering; here so that `strftime_now is defined` is one truth.
    environment.add_function("strftime_now", |_: &str| String::new());
    environment.add_template_owned(NAME, without_generation_marks(source)).map_err(|error| TemplateError::Syntax {
        what: error.detail().map_or_else(|| error.kind().to_string(), str::to_owned),
        line: error.line().unwrap_or(0),
    })?;
    Ok(environment)
}

/// The work allowed for a conversation. Each byte may be copied some 64 times.
pub(super) fn fuel(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    (FUEL_BASE + FUEL_PER_MESSAGE * messages.len() as u64 + bytes as u64).min(FUEL_MAX)
}

/// Bytes of the longest tag without its quoted texts. What only looks like a tag, in a comment or in `raw`, counts too.
pub(super) fn longest_tag(source: &str) -> usize {
    let (mut longest, mut rest) = (0, source.as_bytes());
    while let Some(start) = rest.windows(2).position(|pair| pair == b"{{" || pair == b"{%") {
        let close = if rest[start + 1] == b'{' { b"}}" } else { b"%}" };
        rest = &rest[start + 2..];
        let (mut at, mut bytes, mut quote) = (0, 0, None);
        while at < rest.len() {
            match (quote, rest[at]) {
                (Some(_), b'\\') => at += 1,
                (Some(open), byte) => quote = (byte != open).then_some(open),
                (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
                (None, _) if rest[at..].starts_with(close) => break,
                (None, _) => bytes += 1,
            }
            at += 1;
        }
        longest = longest.max(bytes);
        rest = &rest[at.min(rest.len())..];
    }
    longest
}

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("raise_exception")]
struct Raised(String);

/// The words of `raise_exception`, if that is what `error` comes from.
pub(super) fn raised(error: &Error) -> Option<&str> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(message);
        }
        source = error.source();
    }
    None
}

/// Hugging Face's `{% generation %}` … `{% endgeneration %}` marks assistant text for training and renders its body as
/// it is, as `{% if true %}` does.
fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        text += before;
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let word = tag[2..end].trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        text += &match word {
            "generation" => tag.replacen("generation", "if true", 1),
            "endgeneration" => tag.replacen("endgeneration", "endif", 1),
            _ => tag.to_owned(),
        };
        rest = after;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_measured_without_quoted_texts() {
        let check = |source: &str, expected: usize| assert_eq!(longest_tag(source), expected, "{source}");
        check("", 0);
        check("no tag { here } %}", 0);
        check("{{ab}} {%abc%} {{a}}", 3);
        check(r#"{{a'}}'b"}\"}"c}}"#, 3);
        check("{%unclosed", 8);
        check("{{'unclosed", 0);
        check("{{", 0);
        check(r"{{'\", 0);
    }

    #[test]
    fn generation_marks_become_plain_blocks() {
        let check = |source: &str, expected: &str| assert_eq!(without_generation_marks(source), expected);
        check("{%- generation -%}a{% endgeneration %}", "{%- if true -%}a{% endif %}");
        check("{% if generation %}a{% endif %}", "{% if generation %}a{% endif %}");
        check("{% set x = 'generation' %}{{ x }} {% unclosed", "{% set x = 'generation' %}{{ x }} {% unclosed");
    }
}
