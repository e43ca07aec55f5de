use std::collections::BTreeMap;

use protocol::inference::{Delta, FinishReason, TOP_LOGPROBS_MAX, TokenLogprob, Usage};
use serde::Deserialize;
use serde_json::Value;

use super::failure;
use crate::backend::BackendError;

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<WireDelta>,
    text: Option<String>,
    finish_reason: Option<String>,
    logprobs: Option<WireLogprobs>,
}

#[derive(Deserialize, Default)]
struct WireDelta {
    content: Option<String>,
    /// DeepSeek's name, also SGLang's and llama-server's.
    reasoning_content: Option<String>,
    /// vLLM's newer name, also Ollama's.
    reasoning: Option<String>,
}

#[derive(Deserialize, Clone, Default)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize, Clone)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize, Clone)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

/// Chat has `content`, completions the parallel lists.
#[derive(Deserialize)]
struct WireLogprobs {
    content: Option<Vec<WireLogprob>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}

#[derive(Deserialize)]
struct WireLogprob {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    top_logprobs: Vec<WireLogprob>,
}

/// What an answer has said and counted so far. The rules are in the essay of [`crate::upstream`].
#[derive(Default)]
pub(super) struct Answer {
    max_tokens: u32,
    has_logprobs: bool,
    counted: u32,
    reasoning: u32,
    is_touched: bool,
    usage: Option<WireUsage>,
    finish: Option<FinishReason>,
}

impl Answer {
    pub(super) fn new(max_tokens: u32, has_logprobs: bool) -> Self {
        Self { max_tokens, has_logprobs, ..Self::default() }
    }

    /// Whether any of it was delivered.
    pub(super) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// Why the model ended, once it said so.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    /// Takes one event's data.
    pub(super) fn chunk(&mut self, data: &str) -> Result<Option<Delta>, BackendError> {
        let malformed = |_| BackendError::Internal("the upstream sent a chunk that cannot be read".into());
        let chunk: Chunk = serde_json::from_str(data).map_err(malformed)?;
        if let Some(error) = &chunk.error {
            return Err(failure::classify_event(error));
        }
        let running = chunk.usage.as_ref().map(|usage| usage.completion_tokens);
        if chunk.usage.is_some() {
            self.usage = chunk.usage;
        }
        // Only one choice was asked for.
        let Some(choice) = chunk.choices.into_iter().next() else { return Ok(None) };
        if let Some(reason) = choice.finish_reason {
            self.finish = Some(if reason == "length" { FinishReason::Length } else { FinishReason::Stop });
        }
        let wire = choice.delta.unwrap_or_default();
        let mut delta = Delta {
            text: wire.content.or(choice.text).unwrap_or_default(),
            reasoning: wire.reasoning_content.or(wire.reasoning).unwrap_or_default(),
            ..Delta::default()
        };
        let logprobs = choice.logprobs.map(read_logprobs).unwrap_or_default();
        if delta.text.is_empty() && delta.reasoning.is_empty() && logprobs.is_empty() {
            return Ok(None);
        }
        let tokens = match running {
            Some(running) => clamp(running).saturating_sub(self.counted),
            None => u32::try_from(logprobs.len()).unwrap_or(u32::MAX).max(1),
        };
        delta.tokens = tokens.min(self.max_tokens - self.counted);
        if self.has_logprobs {
            delta.logprobs = logprobs;
        }
        self.counted += delta.tokens;
        if delta.text.is_empty() {
            self.reasoning += delta.tokens;
        }
        self.is_touched = true;
        Ok(Some(delta))
    }

    /// The answer is whole: what the server counted beyond the chunks.
    pub(super) fn correction(&mut self) -> Option<Delta> {
        let claimed = clamp(self.usage.as_ref()?.completion_tokens).min(self.max_tokens);
        let missing = claimed.saturating_sub(self.counted);
        self.counted += missing;
        (missing > 0).then(|| Delta { tokens: missing, ..Delta::default() })
    }

    /// What is counted so far.
    pub(super) fn usage(&self) -> Usage {
        let wire = self.usage.clone().unwrap_or_default();
        let cached = wire.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
        let reasoning = wire.completion_tokens_details.and_then(|details| details.reasoning_tokens);
        let prompt_tokens = clamp(wire.prompt_tokens);
        Usage {
            prompt_tokens,
            cached_tokens: clamp(cached).min(prompt_tokens),
            completion_tokens: self.counted,
            reasoning_tokens: reasoning.map_or(self.reasoning, clamp).min(self.counted),
        }
    }
}

fn clamp(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn read_logprobs(wire: WireLogprobs) -> Vec<TokenLogprob> {
    let top_max = usize::from(TOP_LOGPROBS_MAX);
    if let Some(content) = wire.content {
        return content
            .into_iter()
            .map(|entry| TokenLogprob {
                top: entry
                    .top_logprobs
                    .into_iter()
                    .take(top_max)
                    .map(|top| (bytes(top.bytes, top.token), top.logprob))
                    .collect(),
                logprob: entry.logprob,
                bytes: bytes(entry.bytes, entry.token),
            })
            .collect();
    }
    let (tokens, logprobs) = (wire.tokens.unwrap_or_default(), wire.token_logprobs.unwrap_or_default());
    let mut tops = wire.top_logprobs.unwrap_or_default().into_iter();
    tokens
        .into_iter()
        .zip(logprobs)
        .map(|(token, logprob)| {
            let top = tops.next().flatten().unwrap_or_default();
            let mut top: Vec<_> = top.into_iter().map(|(token, logprob)| (token.into_bytes(), logprob)).collect();
            top.sort_by(|a, b| b.1.total_cmp(&a.1));
            top.truncate(top_max);
            TokenLogprob { bytes: token.into_bytes(), logprob: logprob.unwrap_or(0.0), top }
        })
        .collect()
}

fn bytes(bytes: Option<Vec<u8>>, token: String) -> Vec<u8> {
    bytes.unwrap_or_else(|| token.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deltas' tokens, the correction, and the usage's completion tokens.
    fn check(max_tokens: u32, chunks: &[&str], tokens: &[u32], correction: u32, completion: u32) {
        let mut answer = Answer::new(max_tokens, false);
        let mut got = Vec::new();
        for chunk in chunks {
            got.extend(answer.chunk(chunk).expect("reads").map(|delta| delta.tokens));
        }
        assert_eq!(got, tokens, "{chunks:?}");
        assert_eq!(answer.correction().map_or(0, |delta| delta.tokens), correction, "{chunks:?}");
        assert_eq!(answer.usage().completion_tokens, completion);
        assert_eq!(got.iter().sum::<u32>() + correction, completion, "usage is the sum of the deltas");
    }

    const A: &str = r#"{"choices":[{"delta":{"content":"a"}}]}"#;

    #[test]
    fn tokens_are_counted_cautiously() {
        let usage = |n: u64| format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#);
        check(10, &[], &[], 0, 0);
        check(10, &[A, A], &[1, 1], 0, 2);
        check(10, &[A, A, &usage(2)], &[1, 1], 0, 2);
        check(10, &[A, A, &usage(5)], &[1, 1], 3, 5);
        // Less than was reported: what was reported stands.
        check(10, &[A, A, &usage(1)], &[1, 1], 0, 2);
        // Never more than was allowed.
        check(10, &[A, &usage(u64::MAX)], &[1], 9, 10);
        check(1, &[A, A], &[1, 0], 0, 1);
        // A running count is exact.
        let running = r#"{"choices":[{"delta":{"content":"abc"}}],"usage":{"completion_tokens":3}}"#;
        check(10, &[running, running], &[3, 0], 0, 3);
        // So are log-probabilities.
        let logprobs = r#"{"choices":[{"delta":{"content":"ab"},"logprobs":{"content":[
            {"token":"a","logprob":-1.0},{"token":"b","logprob":-2.0}]}}]}"#;
        check(10, &[logprobs], &[2], 0, 2);
        // Chunks without text count nothing.
        check(10, &[r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, r#"{"choices":[]}"#], &[], 0, 0);
    }

    #[test]
    fn reasoning_and_cached_tokens_are_told() {
        let mut answer = Answer::new(10, false);
        for name in ["reasoning_content", "reasoning"] {
            let delta = answer.chunk(&format!(r#"{{"choices":[{{"delta":{{"{name}":"hm","content":null}}}}]}}"#));
            assert_eq!(delta.expect("reads").expect("a delta").reasoning, "hm");
        }
        answer.chunk(A).expect("reads");
        assert_eq!(answer.usage(), Usage { completion_tokens: 3, reasoning_tokens: 2, ..Usage::default() });
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1}}}"#;
        answer.chunk(usage).expect("reads");
        let expected = Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 1 };
        assert_eq!(answer.usage(), expected);
    }

    #[test]
    fn text_completions_and_their_logprobs_are_read() {
        let mut answer = Answer::new(10, true);
        let chunk = r#"{"choices":[{"text":"a","finish_reason":"length","logprobs":{"tokens":["a"],
            "token_logprobs":[-0.5],"top_logprobs":[{"b":-2.0,"a":-0.5}]}}]}"#;
        let delta = answer.chunk(chunk).expect("reads").expect("a delta");
        assert_eq!(delta.text, "a");
        assert_eq!(delta.logprobs[0].top, [(b"a".to_vec(), -0.5), (b"b".to_vec(), -2.0)]);
        assert_eq!(answer.finish_reason(), Some(FinishReason::Length));
    }

    #[test]
    fn what_is_no_chunk_is_a_failure() {
        for bad in ["", "null", "{", r#"{"choices":3}"#, r#"{"error":{"message":"secret"}}"#] {
            let error = Answer::new(10, false).chunk(bad).expect_err(bad);
            assert!(matches!(&error, BackendError::Internal(text) if !text.contains("secret")), "{error:?}");
        }
    }
}
