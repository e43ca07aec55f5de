use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    RequestId,
    inference::{Delta, FinishReason, TokenLogprob, Usage},
    openai::chat::Reply,
};

const USAGE: Usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 1 };

fn reply(include_usage: bool) -> Reply {
    Reply::new(&RequestId::new("r1").expect("an id"), 1_700_000_000, "m".into(), include_usage)
}

fn value(body: impl Serialize) -> Value {
    serde_json::to_value(body).expect("it serialises")
}

fn chunk(choices: Value) -> Value {
    json!({"id": "chatcmpl-r1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m",
        "choices": choices})
}

/// Half of "é" and an impossible alternative.
fn logprobs() -> Vec<TokenLogprob> {
    vec![TokenLogprob {
        bytes: vec![0xc3],
        logprob: -0.5,
        top: vec![(vec![0xc3], -0.5), (b"e".to_vec(), f32::NEG_INFINITY)],
    }]
}

fn logprobs_json() -> Value {
    json!({"content": [{"token": "\u{fffd}", "logprob": -0.5, "bytes": [195], "top_logprobs": [
        {"token": "\u{fffd}", "logprob": -0.5, "bytes": [195]},
        {"token": "e", "logprob": -9999.0, "bytes": [101]},
    ]}], "refusal": null})
}

fn usage_json() -> Value {
    json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}})
}

#[test]
fn a_body_has_openai_s_shape() {
    let answer = Delta { text: "Hello".into(), tokens: 3, ..Delta::default() };
    let expected = json!({
        "id": "chatcmpl-r1", "object": "chat.completion", "created": 1_700_000_000, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null},
            "logprobs": null, "finish_reason": "stop"}],
        "usage": usage_json(),
    });
    assert_eq!(value(reply(false).completion(&answer, FinishReason::Stop, USAGE)), expected);
}

#[test]
fn reasoning_and_log_probabilities_are_beside_the_text() {
    let answer = Delta { text: "é".into(), reasoning: "hm".into(), tokens: 1, logprobs: logprobs() };
    let body = value(reply(false).completion(&answer, FinishReason::Length, USAGE));
    let choice = json!({"index": 0, "logprobs": logprobs_json(), "finish_reason": "length",
        "message": {"role": "assistant", "content": "é", "reasoning_content": "hm", "refusal": null}});
    assert_eq!(body["choices"], json!([choice]));
}

#[test]
fn a_stream_is_these_chunks() {
    let reply = reply(false);
    let choice = |delta: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]);
    assert_eq!(value(reply.first()), chunk(choice(json!({"role": "assistant", "content": ""}))));
    let delta = Delta { text: "Hel".into(), tokens: 1, ..Delta::default() };
    assert_eq!(value(reply.delta(&delta)), chunk(choice(json!({"content": "Hel"}))));
    let delta = Delta { reasoning: "hm".into(), tokens: 1, ..Delta::default() };
    assert_eq!(value(reply.delta(&delta)), chunk(choice(json!({"reasoning_content": "hm"}))));
    let delta = Delta { tokens: 1, ..Delta::default() };
    assert!(reply.delta(&delta).is_none(), "held-back text is no event");
    let last = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}]);
    assert_eq!(value(reply.last(FinishReason::Length)), chunk(last));
    assert!(reply.usage(USAGE).is_none());
}

#[test]
fn usage_is_null_until_its_own_chunk() {
    let reply = reply(true);
    for body in [value(reply.first()), value(reply.last(FinishReason::Stop))] {
        assert_eq!(body.get("usage"), Some(&Value::Null));
    }
    let mut expected = chunk(json!([]));
    expected["usage"] = usage_json();
    assert_eq!(value(reply.usage(USAGE)), expected);
}

#[test]
fn a_token_without_text_is_an_event_when_its_probability_was_asked_for() {
    let delta = Delta { tokens: 1, logprobs: logprobs(), ..Delta::default() };
    let expected = json!([{"index": 0, "delta": {}, "logprobs": logprobs_json(), "finish_reason": null}]);
    assert_eq!(value(reply(false).delta(&delta)), chunk(expected));
}
