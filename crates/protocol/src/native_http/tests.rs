use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::{
    ApiError, ErrorCode, JobId, RequestId,
    inference::{Delta, FinishReason, InferenceRequest, Prompt, Role, Usage},
    json::parse,
    openai::chat::MESSAGES_MAX,
};

fn read(body: &Value) -> Result<(Option<JobId>, InferenceRequest), ApiError> {
    parse::<Request>(body.to_string().as_bytes()).and_then(Request::into_inference)
}

#[test]
fn bad_fields_are_refused_by_name() {
    use ErrorCode::{EmptyPrompt, InvalidJobId, InvalidRequest};
    let check = |body: Value, code: ErrorCode, param: Option<&str>| {
        let error = read(&body).expect_err(&body.to_string());
        assert_eq!((error.code, error.param.as_deref()), (code, param), "{body}: {error}");
    };
    check(json!({}), InvalidRequest, Some("prompt"));
    check(json!([]), InvalidRequest, None);
    check(json!({"prompt": 7}), InvalidRequest, Some("prompt"));
    check(json!({"prompt": " "}), EmptyPrompt, Some("prompt"));
    check(
        json!({"prompt": "", "conversation_context": [{"role": "user", "content": "a"}]}),
        EmptyPrompt,
        Some("prompt"),
    );
    check(json!({"messages": []}), EmptyPrompt, None);
    check(json!({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}), InvalidRequest, Some("prompt"));
    let turn = json!({"role": "user", "content": "a"});
    check(json!({"messages": [turn], "conversation_context": [turn]}), InvalidRequest, Some("conversation_context"));
    check(json!({"messages": vec![turn.clone(); MESSAGES_MAX + 1]}), InvalidRequest, Some("messages"));
    let context = json!({"prompt": "a", "conversation_context": vec![turn; MESSAGES_MAX]});
    check(context, InvalidRequest, Some("conversation_context"));
    check(json!({"messages": [{"role": "user"}]}), InvalidRequest, Some("messages[0].content"));
    check(
        json!({"prompt": "a", "conversation_context": [{"role": "x"}]}),
        InvalidRequest,
        Some("conversation_context[0].role"),
    );
    check(json!({"prompt": "a", "max_tokens": 0}), InvalidRequest, Some("max_tokens"));
    check(json!({"prompt": "a", "max_tokens": "5"}), InvalidRequest, Some("max_tokens"));
    check(json!({"prompt": "a", "temperature": 3}), InvalidRequest, Some("temperature"));
    check(json!({"prompt": "a", "model": 7}), InvalidRequest, Some("model"));
    check(json!({"prompt": "a", "stream": 1}), InvalidRequest, Some("stream"));
    check(json!({"prompt": "a", "job_id": 0}), InvalidJobId, Some("job_id"));
    check(json!({"prompt": "a", "jobId": "0"}), InvalidJobId, Some("job_id"));
    check(json!({"prompt": "a", "job_id": "a b"}), InvalidJobId, Some("job_id"));
    check(json!({"prompt": "a", "job_id": -1}), InvalidRequest, Some("job_id"));
}

#[test]
fn both_ways_to_say_a_conversation_are_read() {
    let prompt = json!({"prompt": "b", "conversation_context": [{"role": "system", "content": "a"}], "jobId": 12});
    let (job, first) = read(&prompt).expect("valid");
    let messages = [json!({"role": "system", "content": "a"}), json!({"role": "user", "content": "b"})];
    let (none, second) = read(&json!({"messages": messages, "web_search": false, "chain_id": 84532})).expect("valid");
    assert_eq!(first, second);
    assert_eq!((job, none), (Some(JobId::new("12").expect("an id")), None));
    let Prompt::Chat { messages, trim_oldest: false } = first.prompt else { panic!("a chat") };
    assert_eq!(messages.iter().map(|turn| turn.role).collect::<Vec<_>>(), [Role::System, Role::User]);
    assert_eq!(first.model, "default");
}

fn value(body: impl Serialize) -> Value {
    serde_json::to_value(body).expect("it serialises")
}

#[test]
fn bodies_and_events_have_the_native_names() {
    let id = RequestId::new("r1").expect("an id");
    let usage = Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 0 };
    let usage_json = json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
        "context_window_size": 2048, "cached_tokens": 4});
    let delta = Delta { text: "Hello".into(), tokens: 3, ..Delta::default() };
    let mut reply = Reply::new(id, "m".into(), Some(2048));
    let body = json!({"model": "m", "content": "Hello", "tokens_used": 3, "finish_reason": "stop",
        "request_id": "r1", "usage": usage_json});
    assert_eq!(value(reply.body(&delta, FinishReason::Stop, &usage, None)), body);

    let chunk = json!({"type": "stream_chunk", "content": "Hello", "tokens": 3, "chunk_index": 0, "final": false,
        "request_id": "r1"});
    assert_eq!(value(reply.chunk(&delta)), chunk);
    assert!(reply.chunk(&Delta::default()).is_none());
    let last = json!({"type": "stream_chunk", "content": "", "tokens": 0, "chunk_index": 1, "final": true,
        "request_id": "r1"});
    assert_eq!(value(reply.final_chunk()), last);
    let end = json!({"type": "stream_end", "reason": "complete", "finish_reason": "length", "tokens_used": 3,
        "usage": usage_json, "model": "m", "request_id": "r1"});
    assert_eq!(value(reply.end(FinishReason::Length, &usage)), end);

    let error = ApiError::context_too_large(9, 8);
    let [event, end] = reply.failure(&error).map(value);
    assert_eq!(
        event,
        json!({"type": "error", "error_type": "CONTEXT_TOO_LARGE", "message": error.message,
        "request_id": "r1", "details": {"prompt_tokens": 9, "context_window_size": 8}})
    );
    assert_eq!(end, json!({"type": "stream_end", "reason": "error", "model": "m", "request_id": "r1"}));
}
