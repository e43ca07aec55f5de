use reqwest::StatusCode;
use serde_json::Value;

use crate::backend::BackendError;

/// Largest error body that is read.
pub(super) const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Why an attempt at one address failed.
#[derive(Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) error: BackendError,
    /// Another address may do better.
    pub(super) try_others: bool,
}

/// Reads an error answer. The server's words may quote the prompt: what is kept of them are numbers and codes.
pub(super) fn classify(status: StatusCode, body: &[u8], queue_max: u32) -> Failure {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let final_error = |error| Failure { error, try_others: false };
    match status.as_u16() {
        400 | 413 | 422 => final_error(context_error(&body).unwrap_or_else(|| BackendError::Invalid {
            param: param(&body).unwrap_or_else(|| "request".into()),
            message: "The model server refuses this request as it is.".into(),
        })),
        429 => Failure { error: BackendError::Overloaded { queue_max }, try_others: true },
        status => Failure {
            error: BackendError::Unavailable(format!("the upstream answered with status {status}")),
            try_others: true,
        },
    }
}

/// An `error` object in place of a chunk.
pub(super) fn classify_event(error: &Value) -> BackendError {
    context_error(error)
        .unwrap_or_else(|| BackendError::Internal("the upstream reported an error in its stream".into()))
}

/// The parameter that stands for "too long, but by unknown numbers".
const CONTEXT_PARAM: &str = "messages";
const CONTEXT_MESSAGE: &str = "The prompt does not fit the model's context.";

/// Whether an error says that the context is too small, without numbers.
pub(super) fn is_context(error: &BackendError) -> bool {
    matches!(error, BackendError::Invalid { message, .. } if message == CONTEXT_MESSAGE)
}

/// Recognises "too long" of llama-server (fields), OpenAI (code), vLLM, SGLang and Ollama (words).
fn context_error(body: &Value) -> Option<BackendError> {
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
    let number = |name: &str| error.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    if let (Some(prompt_tokens), Some(context_tokens)) = (number("n_prompt_tokens"), number("n_ctx")) {
        return Some(BackendError::ContextTooLarge { prompt_tokens, context_tokens });
    }
    let word = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let message = match body.get("error").and_then(Value::as_str) {
        Some(text) => text,
        None => word("message"),
    };
    let lower = message.to_ascii_lowercase();
    let is_context = word("code") == "context_length_exceeded"
        || word("type") == "exceed_context_size_error"
        || ["maximum context length", "context length", "context size", "context window"]
            .iter()
            .any(|phrase| lower.contains(phrase));
    if !is_context {
        return None;
    }
    // "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4800 in the messages, …"
    let numbers: Vec<u32> = lower
        .split_once("maximum context length is")
        .map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).take(2).collect())
        .unwrap_or_default();
    match numbers[..] {
        [context_tokens, prompt_tokens] if prompt_tokens > context_tokens => {
            Some(BackendError::ContextTooLarge { prompt_tokens, context_tokens })
        }
        _ => Some(BackendError::Invalid { param: CONTEXT_PARAM.into(), message: CONTEXT_MESSAGE.into() }),
    }
}

/// The field at fault, when it looks like the name of a field.
fn param(body: &Value) -> Option<String> {
    let param = body.get("error")?.get("param")?.as_str()?;
    let is_name = (1..=64).contains(&param.len())
        && param.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'[' | b']'));
    is_name.then(|| param.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_bodies_become_errors() {
        let check = |status: u16, body: &str, try_others: bool, matches: fn(&BackendError) -> bool| {
            let failure = classify(StatusCode::from_u16(status).expect("a status"), body.as_bytes(), 9);
            assert!(matches(&failure.error), "{status} {body}: {failure:?}");
            assert_eq!(failure.try_others, try_others, "{status}");
        };
        let too_large = |error: &BackendError| {
            *error == BackendError::ContextTooLarge { prompt_tokens: 5000, context_tokens: 4096 }
        };
        check(
            400,
            r#"{"error":{"message":"x","type":"exceed_context_size_error","n_prompt_tokens":5000,"n_ctx":4096}}"#,
            false,
            too_large,
        );
        let words = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens";
        check(400, &format!(r#"{{"error":{{"message":"{words}"}}}}"#), false, too_large);
        check(400, &format!(r#"{{"object":"error","message":"{words}"}}"#), false, too_large);
        check(400, r#"{"error":{"code":"context_length_exceeded"}}"#, false, is_context);
        check(400, r#"{"error":"input exceeds the context length"}"#, false, is_context);
        check(
            400,
            r#"{"error":{"message":"secret","param":"top_p"}}"#,
            false,
            |error| matches!(error, BackendError::Invalid { param, message } if param == "top_p" && !message.contains("secret")),
        );
        check(422, "not json", false, |error| matches!(error, BackendError::Invalid { .. }));
        check(
            400,
            r#"{"error":{"param":"a b\nc"}}"#,
            false,
            |error| matches!(error, BackendError::Invalid { param, .. } if param == "request"),
        );
        check(429, "", true, |error| *error == BackendError::Overloaded { queue_max: 9 });
        for status in [302, 401, 403, 404, 500, 502, 503] {
            check(status, "", true, |error| matches!(error, BackendError::Unavailable(_)));
        }
    }
}
