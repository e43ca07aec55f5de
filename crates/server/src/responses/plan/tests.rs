use super::*;

fn read(text: &str) -> CreateResponse {
    protocol::json::parse(text.as_bytes()).expect(text)
}

fn translate(text: &str) -> Result<Plan, ApiError> {
    plan(read(text), &[], "resp_1".to_owned(), 1 << 20)
}

fn said(messages: &[Message]) -> Vec<(Role, &str)> {
    messages.iter().map(|message| (message.role, message.content.as_str())).collect()
}

fn prompt(plan: &Plan) -> Vec<(Role, &str)> {
    match &plan.inference.prompt {
        Prompt::Chat { messages, .. } => said(messages),
        Prompt::Text(_) => panic!("responses are conversations"),
    }
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let check = |text: &str, param: &str| {
        let error = translate(text).expect_err(text);
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::InvalidRequest, Some(param)), "{text}");
    };
    check(r#"{"input":"a","background":true}"#, "background");
    check(r#"{"input":"a","tools":[{"type":"web_search"}]}"#, "tools");
    check(r#"{"input":"a","tool_choice":"required"}"#, "tool_choice");
    check(r#"{"input":"a","tool_choice":{"type":"function","name":"f"}}"#, "tool_choice");
    check(r#"{"input":"a","conversation":"conv_1"}"#, "conversation");
    check(r#"{"input":"a","prompt":{"id":"p"}}"#, "prompt");
    check(r#"{"input":[{"type":"function_call_output","call_id":"c","output":"x"}]}"#, "input[0].type");
    check(r#"{"input":[{"role":"user","content":"a"},{"type":"item_reference","id":"x"}]}"#, "input[1].type");
    check(r#"{"input":[{"content":"a"}]}"#, "input[0].role");
    check(r#"{"input":[{"role":"tool","content":"a"}]}"#, "input[0].role");
    check(r#"{"input":[{"role":"user"}]}"#, "input[0].content");
    check(
        r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_image","image_url":"x"}]}]}"#,
        "input[0].content[1].type",
    );
    check(r#"{"input":[{"role":"user","content":[{"type":"input_text"}]}]}"#, "input[0].content[0].text");
    check(r#"{"input":"a","max_output_tokens":0}"#, "max_output_tokens");
    check(r#"{"input":"a","temperature":3}"#, "temperature");
    check(r#"{"input":"a","top_p":-1}"#, "top_p");
    check(r#"{"input":"a","top_logprobs":21}"#, "top_logprobs");
    check(r#"{"input":"a","stop":[""]}"#, "stop");
    check(r#"{"input":"a","text":{"format":{"type":"json_schema","name":"a b","schema":{}}}}"#, "text.format.name");
    check(r#"{"input":"a","text":{"format":{"type":"json_schema","name":"a","schema":7}}}"#, "text.format.schema");
    check(&format!(r#"{{"input":"a","metadata":{{"a":"{}"}}}}"#, "x".repeat(513)), "metadata");
    check(&format!(r#"{{"input":"a","metadata":{{"{}":""}}}}"#, "x".repeat(65)), "metadata");
    let pairs: Vec<String> = (0..17).map(|key| format!(r#""{key}":"""#)).collect();
    check(&format!(r#"{{"input":"a","metadata":{{{}}}}}"#, pairs.join(",")), "metadata");
}

#[test]
fn nothing_to_answer_is_its_own_code() {
    for text in ["{}", r#"{"input":""}"#, r#"{"input":[]}"#, r#"{"input":[{"role":"user","content":[]}]}"#] {
        let error = translate(text).expect_err(text);
        assert_eq!((error.code, error.param.as_deref()), (ErrorCode::EmptyPrompt, Some("input")), "{text}");
    }
}

#[test]
fn input_becomes_messages() {
    let check = |text: &str, expected: &[(Role, &str)]| {
        let plan = translate(text).expect(text);
        assert_eq!(said(&plan.conversation), expected, "{text}");
        assert_eq!(prompt(&plan), expected, "{text}");
    };
    check(r#"{"input":"hi"}"#, &[(Role::User, "hi")]);
    check(r#"{"input":[{"role":"user","content":"hi"}]}"#, &[(Role::User, "hi")]);
    check(
        r#"{"input":[{"role":"developer","content":"be brief"},
            {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
            {"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
            {"type":"message","id":"msg_1","status":"completed","role":"assistant",
             "content":[{"type":"output_text","text":"c","annotations":[],"logprobs":[]}]},
            {"role":"user","content":"d"}]}"#,
        &[(Role::System, "be brief"), (Role::User, "ab"), (Role::Assistant, "c"), (Role::User, "d")],
    );
}

#[test]
fn instructions_lead_and_are_not_part_of_the_conversation() {
    let earlier = translate(r#"{"input":"one","instructions":"be brief"}"#).expect("valid");
    assert_eq!(prompt(&earlier), [(Role::System, "be brief"), (Role::User, "one")]);
    assert_eq!(said(&earlier.conversation), [(Role::User, "one")]);
    assert_eq!(earlier.response.instructions.as_deref(), Some("be brief"));

    let next = read(r#"{"input":"two","instructions":"be long","previous_response_id":"resp_1"}"#);
    let next = plan(next, &earlier.conversation, "resp_2".to_owned(), 1 << 20).expect("valid");
    assert_eq!(prompt(&next), [(Role::System, "be long"), (Role::User, "one"), (Role::User, "two")]);
    assert_eq!(next.response.previous_response_id.as_deref(), Some("resp_1"));
}

#[test]
fn a_conversation_is_bounded_in_bytes() {
    let earlier = translate(r#"{"input":"12345"}"#).expect("valid").conversation;
    let next = |bytes_max| plan(read(r#"{"input":"67890"}"#), &earlier, "resp_2".to_owned(), bytes_max);
    assert_eq!(next(9).expect_err("10 bytes").code, ErrorCode::PayloadTooLarge);
    assert!(next(10).is_ok());
}

#[test]
fn options_reach_the_engine_and_are_given_back() {
    let plan = translate(
        r#"{"model":"m","input":"a","max_output_tokens":7,"temperature":0.5,"top_p":0.25,"top_k":3,"min_p":0.125,
            "seed":9,"stop":"x","truncation":"auto","store":false,"metadata":{"a":"b"},"top_logprobs":2,
            "include":["message.output_text.logprobs","reasoning.encrypted_content"],"user":"u",
            "reasoning":{"effort":"low"},"tool_choice":"none","tools":[],"parallel_tool_calls":false,
            "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}},"verbosity":"low"}}"#,
    )
    .expect("valid");
    let inference = &plan.inference;
    assert_eq!((inference.model.as_str(), inference.max_tokens, inference.logprobs), ("m", Some(7), Some(2)));
    assert!(matches!(inference.prompt, Prompt::Chat { trim_oldest: true, .. }));
    assert_eq!((inference.sampling.temperature, inference.sampling.top_p), (0.5, 0.25));
    assert_eq!((inference.sampling.top_k, inference.sampling.min_p, inference.sampling.seed), (3, 0.125, Some(9)));
    assert_eq!(inference.stop, ["x"]);
    assert_eq!(inference.response_format, ResponseFormat::JsonSchema(r#"{"type":"object"}"#.to_owned()));
    let given_back = serde_json::to_value(&plan.response).expect("serialises");
    for (field, expected) in [
        ("id", json!("resp_1")),
        ("temperature", json!(0.5)),
        ("max_output_tokens", json!(7)),
        ("store", json!(false)),
        ("metadata", json!({"a": "b"})),
        ("user", json!("u")),
        ("reasoning", json!({"effort": "low"})),
        ("truncation", json!("auto")),
        ("tool_choice", json!("none")),
        ("tools", json!([])),
        ("top_logprobs", json!(2)),
        ("parallel_tool_calls", json!(false)),
        (
            "text",
            json!({"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"}),
        ),
    ] {
        assert_eq!(given_back[field], expected, "{field}");
    }
}

#[test]
fn log_probabilities_are_reported_only_where_asked_for() {
    let check = |text: &str, expected: Option<u8>| {
        assert_eq!(translate(text).expect(text).inference.logprobs, expected, "{text}");
    };
    check(r#"{"input":"a"}"#, None);
    check(r#"{"input":"a","top_logprobs":0}"#, None);
    check(r#"{"input":"a","include":["reasoning.encrypted_content"]}"#, None);
    check(r#"{"input":"a","include":["message.output_text.logprobs"]}"#, Some(0));
    check(r#"{"input":"a","top_logprobs":3}"#, Some(3));
}
