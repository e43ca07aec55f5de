use serde_json::{Value, json};

use crate::{
    ApiError, ErrorCode,
    inference::{InferenceRequest, Prompt, ResponseFormat, Role, Sampling},
    json::parse,
    openai::{
        Streaming,
        chat::{MESSAGES_MAX, Request},
    },
};

fn base() -> Value {
    json!({"model": "default", "messages": [{"role": "user", "content": "hi"}]})
}

/// The base request with these fields set.
fn with(fields: Value) -> Value {
    let mut body = base();
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

fn read(body: &Value) -> Result<InferenceRequest, ApiError> {
    parse::<Request>(body.to_string().as_bytes()).and_then(Request::into_inference)
}

fn refused(body: &Value, param: Option<&str>, words: &str) {
    let error = read(body).expect_err(&body.to_string());
    assert_eq!(error.param.as_deref(), param, "{body}: {error}");
    assert!(error.message.contains(words), "{body}: {error}");
    assert_eq!(error.code.http_status(), 400, "{body}: {error}");
}

#[test]
fn fields_of_the_wrong_type_are_refused_by_name() {
    let check = |fields: Value, param: &str, words: &str| refused(&with(fields), Some(param), words);
    check(json!({"model": 7}), "model", "must be a string");
    check(json!({"model": null}), "model", "must be a string");
    check(json!({"messages": "hi"}), "messages", "must be an array");
    check(json!({"messages": {"role": "user"}}), "messages", "must be an array");
    check(json!({"messages": ["hi"]}), "messages[0]", "must be an object");
    check(json!({"messages": [{"content": "hi"}]}), "messages[0].role", "is required");
    check(json!({"messages": [{"role": "user"}]}), "messages[0].content", "is required");
    check(json!({"messages": [{"role": "user", "content": null}]}), "messages[0].content", "is required");
    check(json!({"messages": [{"role": "pirate", "content": "hi"}]}), "messages[0].role", "must be one of");
    check(json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content", "a string or an array");
    check(json!({"messages": [{"role": "user", "content": []}]}), "messages[0].content", "at least one part");
    check(json!({"temperature": "hot"}), "temperature", "must be a number");
    check(json!({"temperature": [1]}), "temperature", "must be a number");
    check(json!({"max_tokens": "many"}), "max_tokens", "whole number");
    check(json!({"max_tokens": -1}), "max_tokens", "not negative");
    check(json!({"max_tokens": 1.5}), "max_tokens", "whole number");
    check(json!({"max_tokens": 5_000_000_000_u64}), "max_tokens", "too large");
    check(json!({"top_logprobs": 300, "logprobs": true}), "top_logprobs", "too large");
    check(json!({"seed": 1.5}), "seed", "whole number");
    check(json!({"stop": 7}), "stop", "a string or an array of strings");
    check(json!({"stop": ["a", 7]}), "stop[1]", "must be a string");
    check(json!({"stop": vec!["x"; 17]}), "stop", "at most 16");
    check(json!({"logit_bias": [1]}), "logit_bias", "must be an object");
    check(json!({"logit_bias": {"5": "x"}}), "logit_bias.5", "must be a number");
    check(json!({"logit_bias": {"hello": 1}}), "logit_bias", "token ids");
    check(json!({"logit_bias": {"-5": 1}}), "logit_bias", "token ids");
    check(json!({"stream": "yes"}), "stream", "true or false");
    check(json!({"stream_options": {"include_usage": 1}}), "stream_options.include_usage", "true or false");
    check(json!({"response_format": "json"}), "response_format", "must be an object");
    check(json!({"response_format": {}}), "response_format.type", "is required");
    check(json!({"response_format": {"type": "xml"}}), "response_format.type", "json_schema");
    let schema = "response_format.json_schema.schema";
    check(json!({"response_format": {"type": "json_schema"}}), schema, "is required");
    check(json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}), schema, "is required");
    check(json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 7}}}), schema, "an object");
}

#[test]
fn absurd_values_are_refused_by_the_name_that_was_sent() {
    let check = |fields: Value, param: &str| refused(&with(fields), Some(param), param);
    check(json!({"temperature": -1}), "temperature");
    check(json!({"temperature": 1e300}), "temperature");
    check(json!({"top_p": 1.1}), "top_p");
    check(json!({"top_k": -2}), "top_k");
    check(json!({"min_p": 2}), "min_p");
    check(json!({"frequency_penalty": 2.5}), "frequency_penalty");
    check(json!({"presence_penalty": -2.5}), "presence_penalty");
    check(json!({"repeat_penalty": 0}), "repeat_penalty");
    check(json!({"repetition_penalty": 0}), "repetition_penalty");
    check(json!({"repetition_penalty": 1, "repeat_penalty": 1}), "repetition_penalty");
    check(json!({"logit_bias": {"5": 101}}), "logit_bias");
    check(json!({"max_tokens": 0}), "max_tokens");
    check(json!({"max_completion_tokens": 0}), "max_completion_tokens");
    check(json!({"max_tokens": 1, "max_completion_tokens": 1}), "max_tokens");
    check(json!({"top_logprobs": 3}), "top_logprobs");
    check(json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs");
    check(json!({"messages": vec![json!({"role": "user", "content": "x"}); MESSAGES_MAX + 1]}), "messages");
}

#[test]
fn what_the_node_cannot_do_is_refused_and_not_ignored() {
    let check = |fields: Value, param: &str| refused(&with(fields), Some(param), "");
    check(json!({"n": 2}), "n");
    check(json!({"n": 0}), "n");
    check(json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools");
    check(json!({"functions": [{"name": "f"}]}), "functions");
    check(json!({"tool_choice": "required"}), "tool_choice");
    check(json!({"tool_choice": {"type": "function"}}), "tool_choice");
    check(json!({"function_call": {"name": "f"}}), "function_call");
    check(json!({"modalities": ["text", "audio"]}), "modalities");
    check(json!({"audio": {"voice": "alloy"}}), "audio");
    check(json!({"web_search_options": {}}), "web_search_options");
    let message = |message: Value| json!({"messages": [{"role": "user", "content": "hi"}, message]});
    let calls = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    check(message(json!({"role": "assistant", "content": null, "tool_calls": calls})), "messages[1].tool_calls");
    check(message(json!({"role": "assistant", "function_call": {"name": "f"}})), "messages[1].function_call");
    let part = |part: Value| message(json!({"role": "user", "content": [{"type": "text", "text": "see"}, part]}));
    let kind = "messages[1].content[1].type";
    let image = json!({"type": "image_url", "image_url": {"url": "data:"}});
    refused(&with(part(image)), Some(kind), "is image_url, but this node reads text only");
    let audio = json!({"input_audio": {"data": ""}, "type": "input_audio"});
    refused(&with(part(audio)), Some(kind), "is input_audio");
    refused(&with(part(json!({"type": "smell"}))), Some(kind), "must be \"text\"");
    check(part(json!({"type": "text"})), "messages[1].content[1].text");
    check(part(json!({"type": "text", "text": 7})), "messages[1].content[1].text");
    check(part(json!("hi")), "messages[1].content[1]");
}

#[test]
fn nothing_to_answer_is_its_own_code() {
    for messages in [json!([]), json!([{"role": "user", "content": ""}])] {
        let error = read(&with(json!({"messages": messages}))).expect_err("empty");
        assert_eq!(error.code, ErrorCode::EmptyPrompt);
    }
    refused(&json!({"messages": []}), Some("model"), "required");
    refused(&json!({"model": "default"}), Some("messages"), "required");
    refused(&json!("hello"), None, "must be an object");
}

#[test]
fn null_and_unknown_fields_are_as_if_absent() {
    let nulls = json!({
        "max_tokens": null, "max_completion_tokens": null, "temperature": null, "top_p": null, "top_k": null,
        "min_p": null, "seed": null, "repeat_penalty": null, "repetition_penalty": null, "frequency_penalty": null,
        "presence_penalty": null, "logit_bias": null, "stop": null, "logprobs": null, "top_logprobs": null,
        "response_format": null, "stream": null, "stream_options": null, "n": null, "tools": null,
        "tool_choice": null, "functions": null, "function_call": null, "modalities": null, "audio": null,
        "web_search_options": null, "user": "u", "metadata": {"k": "v"}, "store": true, "unheard_of": [1, {}],
    });
    let request = read(&with(nulls)).expect("valid");
    assert_eq!(request, read(&base()).expect("valid"));
    assert_eq!((request.sampling, request.max_tokens, request.logprobs), (Sampling::default(), None, None));
    let empty =
        json!({"n": 1, "tools": [], "functions": [], "tool_choice": "auto", "modalities": ["text"], "stop": []});
    assert!(read(&with(empty)).is_ok());
}

#[test]
fn every_field_arrives() {
    let request = read(&json!({
        "model": "m", "messages": [
            {"role": "developer", "content": "be brief", "name": "op"},
            {"role": "system", "content": "really"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b", "type": "text"}]},
            {"role": "assistant", "content": "c", "tool_calls": [], "function_call": null},
            {"role": "tool", "content": "d", "tool_call_id": "x"},
        ],
        "max_completion_tokens": 5, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.25, "seed": -1,
        "repetition_penalty": 1.5, "frequency_penalty": -1, "presence_penalty": 1, "logit_bias": {"50256": -100, "7": 2},
        "stop": "END", "logprobs": true, "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema":
            {"name": "x", "strict": true, "schema": {"type": "object", "properties": {"b": {}, "a": {}}}}},
    }))
    .expect("valid");
    let Prompt::Chat { messages, trim_oldest: false } = &request.prompt else { panic!("{request:?}") };
    let turns: Vec<_> = messages.iter().map(|turn| (turn.role, turn.content.as_str())).collect();
    let expected = [
        (Role::System, "be brief"),
        (Role::System, "really"),
        (Role::User, "a\nb"),
        (Role::Assistant, "c"),
        (Role::Tool, "d"),
    ];
    assert_eq!(turns, expected);
    assert_eq!(request.max_tokens, Some(5));
    let mut logit_bias = request.sampling.logit_bias.clone();
    logit_bias.sort_by_key(|(token, _)| *token);
    assert_eq!(logit_bias, [(7, 2.0), (50256, -100.0)]);
    let sampling = Sampling {
        temperature: 0.0,
        top_p: 0.5,
        top_k: 3,
        min_p: 0.25,
        seed: Some(u64::MAX),
        repeat_penalty: 1.5,
        frequency_penalty: -1.0,
        presence_penalty: 1.0,
        logit_bias: Vec::new(),
    };
    assert_eq!(Sampling { logit_bias: Vec::new(), ..request.sampling }, sampling);
    assert_eq!((request.stop, request.logprobs), (vec!["END".to_owned()], Some(2)));
    // The order of properties is the order in which a grammar asks for them.
    let schema = r#"{"type":"object","properties":{"b":{},"a":{}}}"#;
    assert_eq!(request.response_format, ResponseFormat::JsonSchema(schema.into()));
}

#[test]
fn the_other_spellings_arrive_too() {
    let check = |fields: Value, read_back: fn(&InferenceRequest) -> bool| {
        let request = read(&with(fields.clone())).expect("valid");
        assert!(read_back(&request), "{fields}");
    };
    check(json!({"max_tokens": 9}), |r| r.max_tokens == Some(9));
    check(json!({"repeat_penalty": 1.25}), |r| r.sampling.repeat_penalty == 1.25);
    check(json!({"top_k": -1}), |r| r.sampling.top_k == 0);
    check(json!({"stop": ["a", "b"]}), |r| r.stop == ["a", "b"]);
    check(json!({"logprobs": true}), |r| r.logprobs == Some(0));
    check(json!({"logprobs": false, "top_logprobs": 0}), |r| r.logprobs.is_none());
    check(json!({"response_format": {"type": "text"}}), |r| r.response_format == ResponseFormat::Text);
    check(json!({"response_format": {"type": "json_object"}}), |r| r.response_format == ResponseFormat::JsonObject);
    check(json!({"response_format": {"type": "json_object", "schema": {"type": "object"}}}), |r| {
        r.response_format == ResponseFormat::JsonSchema(r#"{"type":"object"}"#.into())
    });
}

#[test]
fn streaming_is_only_what_was_asked_for() {
    let check = |fields: Value, expected: Option<bool>| {
        let request: Request = parse(with(fields).to_string().as_bytes()).map_err(|e| e.to_string()).expect("valid");
        assert_eq!(request.streaming(), expected.map(|include_usage| Streaming { include_usage }));
    };
    check(json!({}), None);
    check(json!({"stream": false, "stream_options": {"include_usage": true}}), None);
    check(json!({"stream": true}), Some(false));
    check(json!({"stream": true, "stream_options": {}}), Some(false));
    check(json!({"stream": true, "stream_options": {"include_usage": true}}), Some(true));
}
