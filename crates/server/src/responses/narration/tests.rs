use std::collections::HashMap;

use protocol::{
    inference::{Message, TokenLogprob},
    openai::responses::CreateResponse,
};
use serde_json::Value;

use super::*;
use crate::responses::plan::plan;

fn narration(request: &str, lane: Option<&str>) -> Narration {
    let request: CreateResponse = protocol::json::parse(request.as_bytes()).expect(request);
    let earlier: [Message; 0] = [];
    let mut response = plan(request, &earlier, "resp_1".to_owned(), 1 << 20).expect("valid").response;
    response.created_at = 7;
    Narration::new(response, lane.map(Into::into))
}

fn started() -> AnswerEvent {
    AnswerEvent::Started { prompt_tokens: 5, cached_tokens: 3, trimmed_messages: 0 }
}

fn text(text: &str) -> AnswerEvent {
    AnswerEvent::Delta(Delta { text: text.to_owned(), tokens: 1, ..Delta::default() })
}

fn thought(text: &str) -> AnswerEvent {
    AnswerEvent::Delta(Delta { reasoning: text.to_owned(), tokens: 1, ..Delta::default() })
}

fn settled(reason: FinishReason) -> Settled {
    let usage = Usage { prompt_tokens: 5, cached_tokens: 3, completion_tokens: 2, reasoning_tokens: 1 };
    Settled { reason, usage, charged_tokens: 2, receipt: None }
}

fn finished(reason: FinishReason) -> AnswerEvent {
    AnswerEvent::Finished(settled(reason))
}

fn failed(code: ErrorCode) -> AnswerEvent {
    let error = ApiError::new(code, "it broke").param("input");
    AnswerEvent::Failed { error, settled: settled(FinishReason::Cancelled) }
}

/// The events as they go out. Item ids are random, so they are named in their order of appearance.
fn tell(narration: &mut Narration, events: Vec<AnswerEvent>) -> Vec<Value> {
    let told = events.into_iter().flat_map(|event| narration.next(event, 9));
    let mut told: Vec<Value> = told.map(|event| serde_json::to_value(event).expect("serialises")).collect();
    let mut names = HashMap::new();
    for event in &mut told {
        rename(event, &mut names);
    }
    told
}

fn rename(value: &mut Value, names: &mut HashMap<String, String>) {
    match value {
        Value::String(text) if text.starts_with("msg_") || text.starts_with("rs_") => {
            let (prefix, hex) = text.split_once('_').expect("a prefix");
            assert_eq!(hex.len(), 32, "128 bits");
            let next = format!("{prefix}_{}", names.len());
            *text = names.entry(text.clone()).or_insert(next).clone();
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, names)),
        _ => {}
    }
}

/// One line an event, with a response shortened to its status and the texts of its output.
fn lines(told: &[Value]) -> String {
    let mut lines = String::new();
    for event in told {
        let mut event = event.clone();
        let fields = event.as_object_mut().expect("an object");
        if let Some(response) = fields.get("response") {
            let texts: Vec<_> = response["output"].as_array().into_iter().flatten().collect();
            let texts: Vec<_> = texts.iter().map(|item| (&item["status"], &item["content"][0]["text"])).collect();
            let short = format!("{} {}", response["status"].as_str().expect("a status"), serde_json::json!(texts));
            fields.insert("response".to_owned(), short.into());
        }
        lines += &format!("{event}\n");
    }
    lines
}

#[track_caller]
fn check(events: Vec<AnswerEvent>, expected: &str) {
    let mut narration = narration(r#"{"input":"hi"}"#, None);
    let found = lines(&tell(&mut narration, events));
    let expected: String = expected.lines().map(|line| format!("{}\n", line.trim())).collect();
    assert_eq!(found.trim(), expected.trim(), "\nfound:\n{found}");
}

#[test]
fn a_failure_keeps_what_was_told() {
    check(
        vec![started(), text("Hel"), failed(ErrorCode::ModelUnavailable)],
        r#"{"type":"response.created","response":"in_progress []","sequence_number":0}
        {"type":"response.in_progress","response":"in_progress []","sequence_number":1}
        {"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg_0","status":"in_progress","role":"assistant","content":[]},"sequence_number":2}
        {"type":"response.content_part.added","item_id":"msg_0","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]},"sequence_number":3}
        {"type":"response.output_text.delta","item_id":"msg_0","output_index":0,"content_index":0,"delta":"Hel","logprobs":[],"sequence_number":4}
        {"type":"response.output_text.done","item_id":"msg_0","output_index":0,"content_index":0,"text":"Hel","logprobs":[],"sequence_number":5}
        {"type":"response.content_part.done","item_id":"msg_0","output_index":0,"content_index":0,"part":{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]},"sequence_number":6}
        {"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg_0","status":"incomplete","role":"assistant","content":[{"type":"output_text","text":"Hel","annotations":[],"logprobs":[]}]},"sequence_number":7}
        {"type":"response.failed","response":"failed [[\"incomplete\",\"Hel\"]]","sequence_number":8}"#,
    );
}

#[test]
fn text_is_told_piece_by_piece_and_whole() {
    check(
        vec![started(), text("Hel"), text("lo"), finished(FinishReason::Stop)],
        r#"{"type":"response.created","response":"in_progress []","sequence_number":0}
        {"type":"response.in_progress","response":"in_progress []","sequence_number":1}
        {"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg_0","status":"in_progress","role":"assistant","content":[]},"sequence_number":2}
        {"type":"response.content_part.added","item_id":"msg_0","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]},"sequence_number":3}
        {"type":"response.output_text.delta","item_id":"msg_0","output_index":0,"content_index":0,"delta":"Hel","logprobs":[],"sequence_number":4}
        {"type":"response.output_text.delta","item_id":"msg_0","output_index":0,"content_index":0,"delta":"lo","logprobs":[],"sequence_number":5}
        {"type":"response.output_text.done","item_id":"msg_0","output_index":0,"content_index":0,"text":"Hello","logprobs":[],"sequence_number":6}
        {"type":"response.content_part.done","item_id":"msg_0","output_index":0,"content_index":0,"part":{"type":"output_text","text":"Hello","annotations":[],"logprobs":[]},"sequence_number":7}
        {"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg_0","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello","annotations":[],"logprobs":[]}]},"sequence_number":8}
        {"type":"response.completed","response":"completed [[\"completed\",\"Hello\"]]","sequence_number":9}"#,
    );
}

#[test]
fn reasoning_is_an_item_of_its_own_before_the_message() {
    check(
        vec![started(), thought("Hm"), text("Hello"), finished(FinishReason::Stop)],
        r#"{"type":"response.created","response":"in_progress []","sequence_number":0}
        {"type":"response.in_progress","response":"in_progress []","sequence_number":1}
        {"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs_0","status":"in_progress","summary":[],"content":[]},"sequence_number":2}
        {"type":"response.content_part.added","item_id":"rs_0","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":""},"sequence_number":3}
        {"type":"response.reasoning_text.delta","item_id":"rs_0","output_index":0,"content_index":0,"delta":"Hm","sequence_number":4}
        {"type":"response.reasoning_text.done","item_id":"rs_0","output_index":0,"content_index":0,"text":"Hm","sequence_number":5}
        {"type":"response.content_part.done","item_id":"rs_0","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":"Hm"},"sequence_number":6}
        {"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"rs_0","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"Hm"}]},"sequence_number":7}
        {"type":"response.output_item.added","output_index":1,"item":{"type":"message","id":"msg_1","status":"in_progress","role":"assistant","content":[]},"sequence_number":8}
        {"type":"response.content_part.added","item_id":"msg_1","output_index":1,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]},"sequence_number":9}
        {"type":"response.output_text.delta","item_id":"msg_1","output_index":1,"content_index":0,"delta":"Hello","logprobs":[],"sequence_number":10}
        {"type":"response.output_text.done","item_id":"msg_1","output_index":1,"content_index":0,"text":"Hello","logprobs":[],"sequence_number":11}
        {"type":"response.content_part.done","item_id":"msg_1","output_index":1,"content_index":0,"part":{"type":"output_text","text":"Hello","annotations":[],"logprobs":[]},"sequence_number":12}
        {"type":"response.output_item.done","output_index":1,"item":{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"Hello","annotations":[],"logprobs":[]}]},"sequence_number":13}
        {"type":"response.completed","response":"completed [[\"completed\",\"Hm\"],[\"completed\",\"Hello\"]]","sequence_number":14}"#,
    );
}

/// The last event of an answer, and the narration after it.
fn end(request: &str, events: Vec<AnswerEvent>) -> (Value, Narration) {
    let mut narration = narration(request, None);
    let last = tell(&mut narration, events).pop().expect("events");
    (last, narration)
}

#[test]
fn every_end_has_its_event_and_status() {
    let check = |event: AnswerEvent, kind: &str, status: &str, reason: Option<&str>| {
        let (last, narration) = end(r#"{"input":"hi"}"#, vec![started(), text("a"), event]);
        let response = &last["response"];
        assert_eq!((&last["type"], &response["status"]), (&Value::from(kind), &Value::from(status)));
        assert_eq!(response["incomplete_details"]["reason"], Value::from(reason), "{kind}");
        let item_status = if status == "completed" { "completed" } else { "incomplete" };
        assert_eq!(response["output"][0]["status"], item_status, "{kind}");
        assert_eq!(narration.answer_text().as_deref(), Some("a"));
        assert_eq!(response["usage"]["total_tokens"], 7, "what was counted is told however it ended");
        assert_eq!(response["completed_at"].is_u64(), status == "completed");
    };
    check(failed(ErrorCode::Internal), "response.failed", "failed", None);
    check(finished(FinishReason::Length), "response.incomplete", "incomplete", Some("max_output_tokens"));
    check(finished(FinishReason::Cancelled), "response.incomplete", "cancelled", None);
    check(finished(FinishReason::Stop), "response.completed", "completed", None);
}

#[test]
fn a_failed_response_has_a_code_of_the_closed_set() {
    for code in ErrorCode::ALL {
        let (last, _) = end(r#"{"input":"hi"}"#, vec![started(), failed(*code)]);
        let told = last["response"]["error"]["code"].as_str().expect("a code");
        assert!(["server_error", "rate_limit_exceeded", "invalid_prompt"].contains(&told), "{code}: {told}");
    }
}

#[test]
fn server_sent_events_announce_the_error_with_its_own_code() {
    let mut narration = narration(r#"{"input":"hi"}"#, None).announcing_errors();
    let told = tell(&mut narration, vec![started(), failed(ErrorCode::Timeout)]);
    let [.., error, last] = told.as_slice() else { panic!("an error and an end") };
    let expected = r#"{"type":"error","code":"timeout","message":"it broke","param":"input","sequence_number":2}"#;
    assert_eq!(error.to_string(), expected);
    assert_eq!((&last["type"], &last["sequence_number"]), (&"response.failed".into(), &3.into()));
}

#[test]
fn an_answer_that_breaks_off_is_told_as_failed() {
    let mut narration = narration(r#"{"input":"hi"}"#, None);
    assert!(!narration.has_begun());
    let told = narration.broken(&ApiError::new(ErrorCode::Internal, "it broke"));
    let kinds: Vec<_> = told.iter().map(|told| told.event.name()).collect();
    assert_eq!(kinds, ["response.created", "response.in_progress", "response.failed"]);
    assert_eq!(narration.response().usage, None, "nothing was counted, so nothing is claimed");
}

#[test]
fn a_model_that_says_nothing_still_has_a_message() {
    let (last, narration) = end(r#"{"input":"hi"}"#, vec![started(), finished(FinishReason::Stop)]);
    assert_eq!(last["response"]["output"][0]["content"][0]["text"], "");
    assert_eq!(narration.answer_text().as_deref(), Some(""));
    let (last, narration) = end(r#"{"input":"hi"}"#, vec![started(), finished(FinishReason::Length)]);
    assert_eq!((&last["response"]["output"], narration.answer_text()), (&Value::Array(Vec::new()), None));
}

#[test]
fn a_warm_up_has_an_id_and_no_output() {
    let mut narration = narration(r#"{"input":"hi"}"#, Some("a"));
    let told = narration.warmed_up(9);
    let kinds: Vec<_> = told.iter().map(|told| told.event.name()).collect();
    assert_eq!(kinds, ["response.created", "response.in_progress", "response.completed"]);
    assert!(told.iter().all(|told| told.stream_id.as_deref() == Some("a")));
    assert_eq!(narration.response().usage.map(|usage| usage.total_tokens), Some(0));
}

#[test]
fn log_probabilities_follow_their_text_and_are_repeated_whole() {
    let token = |bytes: &[u8], logprob: f32| TokenLogprob {
        bytes: bytes.to_vec(),
        logprob,
        top: vec![(bytes.to_vec(), logprob), (b"x".to_vec(), -4.0)],
    };
    let delta = |text: &str, logprobs: Vec<TokenLogprob>| {
        AnswerEvent::Delta(Delta { text: text.to_owned(), logprobs, ..Delta::default() })
    };
    let mut narration = narration(r#"{"input":"hi","top_logprobs":2}"#, None);
    let told = tell(
        &mut narration,
        vec![
            delta("a", vec![token(b"a", -0.5)]),
            // Half a character: its text comes with the next token.
            delta("", vec![token(b"\xc3", -1.0)]),
            delta("é", vec![token(b"\xa9", -2.0)]),
            finished(FinishReason::Stop),
        ],
    );
    let of = |kind: &str| -> Vec<_> {
        let events = told.iter().filter(|event| event["type"] == kind);
        events.map(|event| event["logprobs"].as_array().expect("logprobs").len()).collect()
    };
    assert_eq!(of("response.output_text.delta"), [1, 2]);
    assert_eq!(of("response.output_text.done"), [3]);
    let whole = &told.last().expect("an end")["response"]["output"][0]["content"][0]["logprobs"];
    assert_eq!(whole[1]["bytes"], serde_json::json!([0xc3]));
    assert_eq!((&whole[0]["token"], &whole[0]["top_logprobs"][1]["token"]), (&"a".into(), &"x".into()));
}

#[test]
fn a_json_response_is_whole() {
    let request = r#"{"input":"hi","instructions":"be brief","store":false,
        "text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}}}"#;
    let (_, narration) = end(request, vec![started(), text("{}"), finished(FinishReason::Stop)]);
    let mut found = serde_json::to_value(narration.response()).expect("serialises");
    rename(&mut found, &mut HashMap::new());
    let expected = r#"{"id":"resp_1","object":"response","created_at":7,"completed_at":9,"status":"completed","background":false,"error":null,"incomplete_details":null,"instructions":"be brief","max_output_tokens":null,"metadata":{},"model":"default","output":[{"type":"message","id":"msg_0","status":"completed","role":"assistant","content":[{"type":"output_text","text":"{}","annotations":[],"logprobs":[]}]}],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},"store":false,"temperature":1.0,"text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":3,"cache_write_tokens":0},"output_tokens":2,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":7},"user":null}"#;
    assert_eq!(found.to_string(), expected);
}
