use serde_json::{Value, json};

use crate::{
    ApiError, ErrorCode, JobId, SessionId,
    inference::{FinishReason, Usage},
    native::{ErrorFrame, MessageId, ServerMessage, StreamChunk, StreamEnd, StreamEndReason, UsageFrame},
};

#[track_caller]
fn check(message: &ServerMessage<'_>, expected: Value) {
    assert_eq!(serde_json::to_value(message).expect("serialises"), expected);
}

fn usage() -> UsageFrame {
    UsageFrame::new(
        &Usage { prompt_tokens: 30, cached_tokens: 20, completion_tokens: 5, reasoning_tokens: 0 },
        Some(2048),
    )
}

#[test]
fn an_error_has_every_field_that_some_client_reads() {
    let id = MessageId::Number(7.into());
    let session = SessionId::new("s").expect("an id");
    let error = ApiError::context_too_large(9000, 2048).param("prompt").retry_after(3);
    let frame = ErrorFrame::new(&error, Some(&id), Some(&session), Some("r1"));
    check(
        &ServerMessage::Error(frame),
        json!({
            "type": "error", "id": 7, "session_id": "s", "request_id": "r1",
            "code": "CONTEXT_TOO_LARGE", "error_code": "CONTEXT_TOO_LARGE",
            "message": error.message, "error": error.message, "param": "prompt", "retry_after_secs": 3,
            "prompt_tokens": 9000, "context_window_size": 2048,
            "details": { "prompt_tokens": 9000, "context_window_size": 2048 },
        }),
    );
    let error = ApiError::new(ErrorCode::RateLimit, "Slower.");
    check(
        &ServerMessage::Error(ErrorFrame::new(&error, None, None, None)),
        json!({
            "type": "error", "id": null, "code": "RATE_LIMIT", "error_code": "RATE_LIMIT",
            "message": "Slower.", "error": "Slower.",
        }),
    );
}

#[test]
fn streams() {
    let id = MessageId::Text("a".into());
    let session = SessionId::new("s").expect("an id");
    let chunk = StreamChunk {
        content: "Hel",
        reasoning: "",
        tokens: 2,
        chunk_index: 0,
        r#final: false,
        id: Some(&id),
        session_id: &session,
    };
    check(
        &ServerMessage::StreamChunk(chunk.clone()),
        json!({ "type": "stream_chunk", "content": "Hel", "tokens": 2, "chunk_index": 0, "final": false, "id": "a", "session_id": "s" }),
    );
    check(
        &ServerMessage::StreamChunk(StreamChunk { content: "", reasoning: "hm", r#final: true, ..chunk }),
        json!({
            "type": "stream_chunk", "content": "", "reasoning": "hm", "tokens": 2, "chunk_index": 0, "final": true,
            "id": "a", "session_id": "s",
        }),
    );
    let end = StreamEnd {
        reason: StreamEndReason::Complete,
        finish_reason: Some(FinishReason::Length),
        tokens_used: 5,
        usage: Some(usage()),
        message_index: Some(2),
        max_tokens: Some(5),
        request_id: Some("r1"),
        id: Some(&id),
        session_id: Some(&session),
    };
    check(
        &ServerMessage::StreamEnd(end),
        json!({
            "type": "stream_end", "reason": "complete", "finish_reason": "length", "tokens_used": 5,
            "usage": {
                "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35, "context_window_size": 2048,
                "cached_tokens": 20,
            },
            "message_index": 2, "max_tokens": 5, "request_id": "r1", "id": "a", "session_id": "s",
        }),
    );
    let refused = StreamEnd {
        reason: StreamEndReason::Error,
        finish_reason: None,
        tokens_used: 0,
        usage: None,
        message_index: None,
        max_tokens: None,
        request_id: None,
        id: None,
        session_id: None,
    };
    check(
        &ServerMessage::StreamEnd(refused),
        json!({ "type": "stream_end", "reason": "error", "tokens_used": 0, "id": null }),
    );
}

#[test]
fn everything_else() {
    let id = MessageId::Text("a".into());
    let (id, status) = (Some(&id), "success");
    let session = SessionId::new("s").expect("an id");
    let job = JobId::new("954").expect("an id");
    check(
        &ServerMessage::Connected {
            version: "1.2.3",
            model: None,
            server_time: 5,
            auth_required: true,
            nonce: "00ff",
            signature_required: false,
            node_id: "n",
        },
        json!({
            "type": "connected", "version": "1.2.3", "model": null, "server_time": 5, "auth_required": true,
            "nonce": "00ff", "signature_required": false, "node_id": "n",
        }),
    );
    check(
        &ServerMessage::AuthAck { status, expires_at: Some(9), id },
        json!({ "type": "auth_ack", "status": "success", "expires_at": 9, "id": "a" }),
    );
    check(
        &ServerMessage::SessionInitAck {
            status,
            session_id: &session,
            job_id: Some(&job),
            chain_id: Some(84532),
            message: "ready",
            token: Some("t"),
            expires_at: Some(9),
            id,
        },
        json!({
            "type": "session_init_ack", "status": "success", "session_id": "s", "job_id": "954", "chain_id": 84532,
            "message": "ready", "token": "t", "expires_at": 9, "id": "a",
        }),
    );
    check(
        &ServerMessage::SessionResumeAck {
            status,
            session_id: &session,
            job_id: None,
            chain_id: None,
            message_count: 4,
            id,
        },
        json!({
            "type": "session_resume_ack", "status": "success", "session_id": "s", "job_id": null, "chain_id": null,
            "message_count": 4, "id": "a",
        }),
    );
    check(
        &ServerMessage::SessionEndAck { status, session_id: &session, id },
        json!({ "type": "session_end_ack", "status": "success", "session_id": "s", "id": "a" }),
    );
    check(
        &ServerMessage::Response {
            content: "Hello",
            reasoning: "",
            tokens_used: 5,
            message_index: 2,
            completion_time_ms: 12,
            finish_reason: FinishReason::Stop,
            usage: usage(),
            max_tokens: None,
            request_id: "r1",
            id,
            session_id: &session,
            receipt: None,
        },
        json!({
            "type": "response", "content": "Hello", "tokens_used": 5, "message_index": 2, "completion_time_ms": 12,
            "finish_reason": "stop",
            "usage": {
                "prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35, "context_window_size": 2048,
                "cached_tokens": 20,
            },
            "request_id": "r1", "id": "a", "session_id": "s",
        }),
    );
    check(
        &ServerMessage::TokenRefreshed { token: Some("t"), expires_at: Some(9), session_id: Some(&session), id },
        json!({ "type": "token_refreshed", "token": "t", "expires_at": 9, "session_id": "s", "id": "a" }),
    );
    check(
        &ServerMessage::TokenRefreshed { token: None, expires_at: None, session_id: None, id: None },
        json!({ "type": "token_refreshed", "token": null, "expires_at": null, "id": null }),
    );
    check(&ServerMessage::Pong { id }, json!({ "type": "pong", "id": "a" }));
}
