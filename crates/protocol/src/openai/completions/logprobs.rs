//! Log-probabilities in the shape of this API: four arrays side by side.

use serde::Serialize;
use serde_json::{Map, Number, Value};

use crate::{inference::TokenLogprob, openai::finite};

/// `logprobs` of a choice.
#[derive(Serialize)]
pub(super) struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// The alternatives and the chosen token; `null` where no alternatives were asked for.
    top_logprobs: Option<Vec<Map<String, Value>>>,
    /// Where each token begins, in characters from the start of the answer.
    text_offset: Vec<usize>,
}

impl Logprobs {
    /// `None` where none were asked for. `offset` is that of the first token, and afterwards of the next one.
    pub(super) fn new(tokens: &[TokenLogprob], offset: &mut usize) -> Option<Self> {
        if tokens.is_empty() {
            return None;
        }
        let mut result =
            Self { tokens: Vec::new(), token_logprobs: Vec::new(), top_logprobs: None, text_offset: Vec::new() };
        let mut top = Vec::new();
        for token in tokens {
            let text = String::from_utf8_lossy(&token.bytes).into_owned();
            result.text_offset.push(*offset);
            *offset += text.chars().count();
            result.token_logprobs.push(finite(token.logprob));
            top.push(alternatives(token, &text));
            result.tokens.push(text);
        }
        if tokens.iter().any(|token| !token.top.is_empty()) {
            result.top_logprobs = Some(top);
        }
        Some(result)
    }
}

fn alternatives(token: &TokenLogprob, chosen: &str) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |text: String, logprob: f32| {
        // Halves of characters can look the same; the likelier one, which comes first, stands.
        map.entry(text)
            .or_insert_with(|| Number::from_f64(f64::from(finite(logprob))).map_or(Value::Null, Value::Number));
    };
    for (bytes, logprob) in &token.top {
        put(String::from_utf8_lossy(bytes).into_owned(), *logprob);
    }
    put(chosen.to_owned(), token.logprob);
    map
}
