use protocol::ErrorCode;
use serde_json::{Value, json};

use super::*;

fn turn(stream: bool) -> Turn {
    Turn::new(Asked {
        id: Some(MessageId::Text("a".into())),
        session_id: SessionId::new("s").expect("an id"),
        request_id: RequestId::new("r").expect("an id"),
        stream,
        prompt: "question".into(),
        context: None,
        answer_index: 2,
    })
}

fn delta(text: &str, tokens: u32) -> Delta {
    Delta { text: text.into(), tokens, ..Delta::default() }
}

fn usage() -> Usage {
    Usage { prompt_tokens: 7, cached_tokens: 3, completion_tokens: 4, reasoning_tokens: 0 }
}

fn json(frames: &[ServerMessage<'_>]) -> Value {
    serde_json::to_value(frames).expect("frames serialise")
}

/// Fields of the frames that a test is about.
fn pick(frames: &[ServerMessage<'_>], fields: &[&str]) -> Vec<Vec<Value>> {
    let Value::Array(frames) = json(frames) else { panic!("an array") };
    frames.iter().map(|frame| fields.iter().map(|field| frame[field].clone()).collect()).collect()
}

#[test]
fn chunks_account_for_every_token_once_and_count_up() {
    let mut turn = turn(true);
    turn.accepted(Some(10), 10, Some(2048));
    assert!(turn.delta(&delta("", 1)).is_none(), "nothing to show yet");
    let fields = ["content", "tokens", "chunk_index", "final"];
    let shown = delta("Hel", 1);
    let chunk = turn.delta(&shown).expect("a chunk");
    assert_eq!(pick(&[chunk], &fields), [vec![json!("Hel"), json!(2), json!(0), json!(false)]]);
    let thought = Delta { reasoning: "hm".into(), tokens: 1, ..Delta::default() };
    let chunk = turn.delta(&thought).expect("a chunk");
    assert_eq!(pick(&[chunk], &["content", "reasoning", "tokens"]), [vec![json!(""), json!("hm"), json!(1)]]);
    assert!(turn.delta(&delta("", 1)).is_none());
    let frames = turn.finished(FinishReason::Stop, &usage(), None);
    assert_eq!(pick(&frames[..1], &fields), [vec![json!(""), json!(1), json!(2), json!(true)]]);
    assert_eq!(
        json(&frames)[1],
        json!({
            "type": "stream_end", "reason": "complete", "finish_reason": "stop", "tokens_used": 4,
            "usage": {
                "prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, "context_window_size": 2048,
                "cached_tokens": 3,
            },
            "message_index": 2, "request_id": "r", "id": "a", "session_id": "s",
        })
    );
    drop(frames);
    let kept = turn.kept(FinishReason::Stop).expect("it is kept");
    assert_eq!((kept.prompt.as_str(), kept.answer.as_str()), ("question", "Hel"));
}

#[test]
fn the_end_says_how_and_what_is_kept() {
    let check = |text: &str, reason: FinishReason, said: [Value; 3], kept: bool| {
        let mut turn = turn(true);
        turn.started(3);
        let text = delta(text, 1);
        let _ = turn.delta(&text);
        let frames = turn.finished(reason, &usage(), None);
        assert_eq!(pick(&frames[1..], &["reason", "finish_reason", "message_index"]), [said.to_vec()]);
        drop(frames);
        let kept_turn = turn.kept(reason);
        assert_eq!(kept_turn.is_some(), kept, "{reason:?}");
        assert!(kept_turn.is_none_or(|kept| kept.trimmed_messages == 3));
    };
    check("", FinishReason::Cancelled, [json!("cancelled"), json!("cancelled"), Value::Null], false);
    check("a", FinishReason::Cancelled, [json!("cancelled"), json!("cancelled"), json!(2)], true);
    check("a", FinishReason::Length, [json!("complete"), json!("length"), json!(2)], true);
    check("", FinishReason::Stop, [json!("complete"), json!("stop"), json!(2)], true);
}

#[test]
fn a_lowered_limit_is_said() {
    let check = |requested: Option<u32>, granted: u32, said: Value| {
        let mut turn = turn(true);
        turn.accepted(requested, granted, None);
        let frames = turn.finished(FinishReason::Length, &usage(), None);
        assert_eq!(pick(&frames[1..], &["max_tokens"]), [vec![said]], "{requested:?} {granted}");
    };
    check(Some(100), 10, json!(10));
    check(Some(10), 10, Value::Null);
    check(None, 10, Value::Null);
}

#[test]
fn without_stream_there_is_one_response() {
    let mut turn = turn(false);
    turn.accepted(Some(100), 4, Some(2048));
    assert!(turn.delta(&Delta { reasoning: "hm".into(), ..delta("Hel", 2) }).is_none());
    assert!(turn.delta(&delta("lo", 2)).is_none());
    let mut frames = json(&turn.finished(FinishReason::Length, &usage(), None));
    assert!(frames[0]["completion_time_ms"].take().is_u64());
    assert_eq!(
        frames,
        json!([{
            "type": "response", "content": "Hello", "reasoning": "hm", "tokens_used": 4, "message_index": 2,
            "completion_time_ms": null, "finish_reason": "length",
            "usage": {
                "prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11, "context_window_size": 2048,
                "cached_tokens": 3,
            },
            "max_tokens": 4, "request_id": "r", "id": "a", "session_id": "s",
        }])
    );
}

#[test]
fn a_failure_ends_the_stream_that_was_promised() {
    let error = ApiError::new(ErrorCode::ModelUnavailable, "Retry.");
    let fields = ["type", "code", "reason", "tokens_used", "id", "session_id", "request_id"];
    let (error_frame, ids) = ([json!("error"), json!("MODEL_UNAVAILABLE")], [json!("a"), json!("s"), json!("r")]);
    let failed = |tokens: Value| {
        vec![
            [&error_frame[..], &[Value::Null, Value::Null], &ids[..]].concat(),
            [&[json!("stream_end"), Value::Null, json!("error"), tokens][..], &ids[..]].concat(),
        ]
    };
    assert_eq!(pick(&turn(true).failed(&error, None, None), &fields), failed(json!(0)));
    assert_eq!(pick(&turn(true).failed(&error, Some(&usage()), None), &fields), failed(json!(4)));
    assert_eq!(pick(&turn(false).failed(&error, None, None), &fields), failed(json!(0))[..1]);
}

fn receipt() -> Receipt {
    let hash = format!("sha256:{}", "0".repeat(64));
    serde_json::from_value(json!({
        "version": 1, "receipt_id": "rcpt_1", "request_id": "r", "node_id": "n", "session_id": "s", "job_id": "7",
        "subject": "alice", "model": "m", "model_digest": null, "endpoint": "native_ws", "request_hash": hash,
        "output_hash": hash, "input_tokens": 7, "output_tokens": 4, "finish_reason": "stop", "started_at": 1,
        "finished_at": 2, "sequence": 1, "previous": null, "key_id": "k", "signature": "00",
    }))
    .expect("a receipt")
}

#[test]
fn a_receipt_comes_before_the_end_and_never_as_a_second_reply() {
    let receipt = receipt();
    let error = ApiError::new(ErrorCode::Internal, "Retry.");
    let types = |frames: &[ServerMessage<'_>]| pick(frames, &["type"]).concat();
    let (mut streamed, mut whole, failed) = (turn(true), turn(false), turn(false));
    let frames = streamed.finished(FinishReason::Stop, &usage(), Some(&receipt));
    assert_eq!(types(&frames), ["stream_chunk", "receipt", "stream_end"]);
    assert_eq!(pick(&frames[1..2], &["receipt", "id", "session_id"]), [vec![json!(receipt), json!("a"), json!("s")]]);
    let frames = streamed.failed(&error, Some(&usage()), Some(&receipt));
    assert_eq!(types(&frames), ["error", "receipt", "stream_end"]);
    drop(frames);
    let whole = whole.finished(FinishReason::Stop, &usage(), Some(&receipt));
    for frames in [whole, failed.failed(&error, None, Some(&receipt))] {
        assert_eq!(pick(&frames, &["receipt"]), [vec![json!(receipt)]]);
    }
}
