use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::{
    ApiError, ErrorCode, RequestId,
    inference::{Delta, FinishReason, InferenceRequest, Prompt, TokenLogprob, Usage},
    json::parse,
};

fn with(fields: Value) -> Value {
    let mut body = json!({"model": "default", "prompt": "Once"});
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

fn read(fields: Value) -> Result<InferenceRequest, ApiError> {
    parse::<Request>(with(fields).to_string().as_bytes()).and_then(Request::into_inference)
}

#[test]
fn bad_fields_are_refused_by_name() {
    let check = |fields: Value, param: &str, words: &str| {
        let error = read(fields.clone()).expect_err(&fields.to_string());
        assert_eq!(error.param.as_deref(), Some(param), "{fields}: {error}");
        assert!(error.message.contains(words), "{fields}: {error}");
    };
    check(json!({"prompt": 7}), "prompt", "a string or an array of one string");
    check(json!({"prompt": null}), "prompt", "a string or an array of one string");
    check(json!({"prompt": []}), "prompt", "must have one string");
    check(json!({"prompt": ["a", "b"]}), "prompt", "several prompts");
    check(json!({"prompt": [1, 2]}), "prompt[0]", "token ids");
    check(json!({"prompt": [[1, 2]]}), "prompt[0]", "token ids");
    check(json!({"prompt": [null]}), "prompt[0]", "must be a string");
    check(json!({"echo": true}), "echo", "not supported");
    check(json!({"suffix": "end"}), "suffix", "not supported");
    check(json!({"n": 2}), "n", "must be 1");
    check(json!({"best_of": 3}), "best_of", "must be 1");
    check(json!({"logprobs": 6}), "logprobs", "at most 5");
    check(json!({"logprobs": true}), "logprobs", "whole number");
    check(json!({"max_tokens": 0}), "max_tokens", "at least 1");
    check(json!({"max_tokens": -5}), "max_tokens", "not negative");
    check(json!({"repetition_penalty": 11}), "repetition_penalty", "repetition_penalty must be between");
    check(json!({"top_p": "all"}), "top_p", "must be a number");
    assert_eq!(read(json!({"prompt": ""})).expect_err("empty").code, ErrorCode::EmptyPrompt);
}

#[test]
fn the_prompt_is_text_and_the_defaults_are_openai_s() {
    for prompt in [json!("Once"), json!(["Once"])] {
        let request = read(json!({"prompt": prompt, "echo": false, "suffix": "", "best_of": 1})).expect("valid");
        assert_eq!(request.prompt, Prompt::Text("Once".into()));
        assert_eq!((request.max_tokens, request.sampling.temperature), (Some(MAX_TOKENS_DEFAULT), 1.0));
    }
    let request = read(json!({"max_tokens": 40, "logprobs": 0, "stop": ["\n"], "seed": 7})).expect("valid");
    assert_eq!((request.max_tokens, request.logprobs, request.sampling.seed), (Some(40), Some(0), Some(7)));
    assert_eq!(request.stop, ["\n"]);
}

fn value(body: impl Serialize) -> Value {
    serde_json::to_value(body).expect("it serialises")
}

fn event(text: &str, logprobs: &Value, finish_reason: Option<&str>) -> Value {
    json!({"id": "cmpl-r1", "object": "text_completion", "created": 7, "model": "m",
        "choices": [{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish_reason}]})
}

fn reply(include_usage: bool) -> Reply {
    Reply::new(&RequestId::new("r1").expect("an id"), 7, "m".into(), include_usage)
}

const USAGE: Usage = Usage { prompt_tokens: 2, cached_tokens: 0, completion_tokens: 1, reasoning_tokens: 0 };

fn usage_json() -> Value {
    json!({"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}})
}

#[test]
fn a_body_and_a_stream_have_openai_s_shape() {
    let delta = Delta { text: " upon".into(), tokens: 1, ..Delta::default() };
    let mut expected = event(" upon", &Value::Null, Some("stop"));
    expected["usage"] = usage_json();
    assert_eq!(value(reply(false).completion(&delta, FinishReason::Stop, USAGE)), expected);

    let mut plain = reply(false);
    assert_eq!(value(plain.delta(&delta)), event(" upon", &Value::Null, None));
    assert!(plain.delta(&Delta { tokens: 1, ..Delta::default() }).is_none());
    assert_eq!(value(plain.last(FinishReason::Length)), event("", &Value::Null, Some("length")));
    assert!(plain.usage(USAGE).is_none());

    let counted = reply(true);
    assert_eq!(value(counted.last(FinishReason::Stop)).get("usage"), Some(&Value::Null));
    let last = value(counted.usage(USAGE));
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage_json()));
}

#[test]
fn log_probabilities_are_arrays_and_offsets_go_on_across_events() {
    let token = |text: &str, top: &[(&str, f32)]| TokenLogprob {
        bytes: text.into(),
        logprob: -1.5,
        top: top.iter().map(|(text, logprob)| (text.as_bytes().to_vec(), *logprob)).collect(),
    };
    let mut reply = reply(false);
    let first =
        Delta { text: "né".into(), logprobs: vec![token("n", &[("m", -0.5)]), token("é", &[])], ..Delta::default() };
    let logprobs = json!({"tokens": ["n", "é"], "token_logprobs": [-1.5, -1.5],
        "top_logprobs": [{"m": -0.5, "n": -1.5}, {"é": -1.5}], "text_offset": [0, 1]});
    assert_eq!(value(reply.delta(&first)), event("né", &logprobs, None));
    let second = Delta { text: "e".into(), logprobs: vec![token("e", &[])], ..Delta::default() };
    let logprobs = json!({"tokens": ["e"], "token_logprobs": [-1.5], "top_logprobs": null, "text_offset": [2]});
    assert_eq!(value(reply.delta(&second)), event("e", &logprobs, None));
}
