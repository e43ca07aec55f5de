//! `/v1/ws`: what bad input gets. Never silence, always the request's id, and the connection stays usable.

use serde_json::{Value, json};
use testkit::Socket;

use crate::support::{JOB, count, generated, prompt, scripted, scripted_at, session, words};

/// Every field that some client reads.
fn assert_error(frame: &Value, code: &str, id: Option<&str>) {
    assert_eq!(frame["type"], "error", "{frame}");
    assert_eq!(frame["code"], code, "{frame}");
    assert_eq!(frame["error_code"], code, "{frame}");
    let message = frame["message"].as_str().expect("a sentence");
    assert!(message.len() > 10 && frame["error"] == frame["message"], "{frame}");
    if let Some(id) = id {
        assert_eq!(frame["id"], id, "{frame}");
    }
}

/// What follows until the node answers a ping must be the error and perhaps the end of the promised stream.
async fn failure(socket: &mut Socket, sent: &str) -> Value {
    socket.send_text(sent).await;
    socket.send(json!({"type": "ping", "id": "after"})).await;
    let mut error = None;
    loop {
        let message = socket.json().await;
        match message["type"].as_str() {
            Some("connected") => {}
            Some("pong") => return error.unwrap_or_else(|| panic!("silence after {sent}")),
            Some("error") if error.is_none() => error = Some(message),
            Some("stream_end") => assert_eq!(message["reason"], "error", "{message} after {sent}"),
            _ => panic!("{message} after {sent}"),
        }
    }
}

#[tokio::test]
async fn each_failure_has_its_code_and_the_connection_goes_on() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let with = |change: &[(&str, Value)]| {
        let mut message = prompt("s", "hello", 5);
        message["id"] = json!("p");
        for (field, value) in change {
            message[*field] = value.clone();
        }
        message.to_string()
    };
    let table = [
        ("{", "INVALID_REQUEST", false),
        ("", "INVALID_REQUEST", false),
        ("[1, 2]", "INVALID_REQUEST", false),
        ("\"prompt\"", "INVALID_REQUEST", false),
        ("null", "INVALID_REQUEST", false),
        (r#"{"id": "p"}"#, "INVALID_REQUEST", true),
        (r#"{"type": "no_such_type", "id": "p"}"#, "INVALID_REQUEST", true),
        (r#"{"type": 5, "id": "p"}"#, "INVALID_REQUEST", true),
        (r#"{"type": "session_init", "id": "p"}"#, "INVALID_REQUEST", true),
        (r#"{"type": "session_init", "session_id": "x", "job_id": 0, "id": "p"}"#, "INVALID_JOB_ID", true),
        (r#"{"type": "session_init", "session_id": "x", "job_id": "0", "id": "p"}"#, "INVALID_JOB_ID", true),
        (r#"{"type": "session_init", "session_id": "a b", "job_id": "7", "id": "p"}"#, "INVALID_REQUEST", true),
        (r#"{"type": "session_end", "session_id": "nobody", "id": "p"}"#, "SESSION_NOT_FOUND", true),
        (r#"{"type": "encrypted_session_init", "id": "p", "payload": {}}"#, "ENCRYPTION_NOT_SUPPORTED", true),
        (
            r#"{"type": "session_resume", "session_id": "r", "job_id": "7", "conversation_context": [{"role": "user", "content": "a"}], "last_message_index": 5, "id": "p"}"#,
            "INVALID_MESSAGE_INDEX",
            true,
        ),
    ];
    for (sent, code, has_id) in table {
        let error = failure(&mut socket, sent).await;
        assert_error(&error, code, has_id.then_some("p"));
    }
    let table = [
        ("prompt", json!(""), "EMPTY_PROMPT"),
        ("prompt", json!(" \n\t "), "EMPTY_PROMPT"),
        ("prompt", json!(5), "INVALID_REQUEST"),
        ("prompt", json!(["a"]), "INVALID_REQUEST"),
        ("max_tokens", json!(0), "INVALID_REQUEST"),
        ("max_tokens", json!(-3), "INVALID_REQUEST"),
        ("max_tokens", json!(1.5), "INVALID_REQUEST"),
        ("max_tokens", json!("many"), "INVALID_REQUEST"),
        ("temperature", json!(-0.1), "INVALID_REQUEST"),
        ("temperature", json!(2.5), "INVALID_REQUEST"),
        ("temperature", json!(1e300), "INVALID_REQUEST"),
        ("temperature", json!("hot"), "INVALID_REQUEST"),
        ("top_p", json!(7), "INVALID_REQUEST"),
        ("model", json!("no-such-model"), "MODEL_NOT_FOUND"),
        ("message_index", json!(2), "INVALID_MESSAGE_INDEX"),
        ("message_index", json!(99), "INVALID_MESSAGE_INDEX"),
    ];
    for (field, value, code) in table {
        let error = failure(&mut socket, &with(&[(field, value.clone())])).await;
        assert_error(&error, code, Some("p"));
        if field != "message_index" {
            let mut request = json!({"prompt": "x", "max_tokens": 1, "stream": true});
            request[field] = value;
            let error = failure(&mut socket, &with(&[("request", request)])).await;
            assert_error(&error, code, Some("p"));
        }
    }
    assert_eq!(generated(&node.metrics().await), 0.0, "nothing of this was answered");

    let id = socket.send(prompt("s", "and now a good one", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3));
    assert_eq!(count(&node.settled_job(JOB).await, "/used_tokens"), 3);
}

#[tokio::test]
async fn an_unknown_model_lists_the_models() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let mut message = prompt("s", "hello", 3);
    message["model"] = json!("gpt-99");
    let id = socket.send(message).await;
    let answer = socket.answer(&id).await;
    let error = answer.error.clone().expect("an error");
    assert_error(&error, "MODEL_NOT_FOUND", Some(&id));
    assert!(error.to_string().contains("scripted"), "the models that there are: {error}");
    assert_eq!(answer.reasons().0, "error");
    assert!(answer.chunks.is_empty());
}

#[tokio::test]
async fn a_prompt_over_the_context_says_both_numbers() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", &"word ".repeat(10_000), 5)).await;
    let answer = socket.answer(&id).await;
    let error = answer.error.expect("an error");
    assert_error(&error, "CONTEXT_TOO_LARGE", Some(&id));
    assert!(count(&error, "/prompt_tokens") >= 10_000, "{error}");
    assert!(count(&error, "/context_window_size") < 10_000, "{error}");
    let id = socket.send(prompt("s", "short", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3), "the failed prompt is not part of the history");
}

#[tokio::test]
async fn a_second_prompt_while_one_streams_is_refused_and_the_first_goes_on() {
    let (node, token) = scripted_at(100).await;
    let mut socket = session(&node, &token, "s").await;
    let first = socket.send(prompt("s", "first", 60)).await;
    let chunk = socket.expect("stream_chunk").await;
    let second = socket.send(prompt("s", "second", 60)).await;
    let (mut text, mut refused) = (chunk["content"].as_str().expect("text").to_owned(), false);
    loop {
        let message = socket.json().await;
        let kind = message["type"].as_str().expect("a type");
        if message["id"] == json!(second) {
            match kind {
                "error" => assert_error(&message, "STREAM_IN_PROGRESS", Some(&second)),
                "stream_end" => assert_eq!(message["reason"], "error", "{message}"),
                _ => panic!("{message}"),
            }
            refused |= kind == "error";
            continue;
        }
        assert_eq!(message["id"], json!(first), "{message}");
        match kind {
            "stream_chunk" => text += message["content"].as_str().expect("text"),
            "receipt" => {}
            "stream_end" => break assert_eq!(message["reason"], "complete"),
            _ => panic!("{message}"),
        }
    }
    assert_eq!(text, words(60));
    assert!(refused);
    assert_eq!(count(&node.settled_job(JOB).await, "/used_tokens"), 60, "only the first is charged");
}

#[tokio::test]
async fn a_session_id_of_another_connection_is_worth_nothing() {
    let (node, token) = scripted_at(100).await;
    let thief_token = node.job_and_token("mallory", "66", 1000);
    let mut owner = session(&node, &token, "954").await;
    let id = owner.send(prompt("954", "my words", 100)).await;
    owner.expect("stream_chunk").await;

    let mut thief = node.native(&thief_token).await;
    thief.send(json!({"type": "stream_cancel", "session_id": "954"})).await;
    thief.request(json!({"type": "ping"}), "pong").await;
    let error = thief.request(json!({"type": "session_end", "session_id": "954"}), "error").await;
    assert_eq!(error["code"], "SESSION_NOT_FOUND");
    // The same name on another connection is another session.
    thief.request(json!({"type": "session_init", "session_id": "954", "job_id": "66"}), "session_init_ack").await;
    let mut message = prompt("954", "hers", 2);
    message["message_index"] = json!(1);
    let theirs = thief.send(message).await;
    assert_eq!(thief.answer(&theirs).await.error, None);

    let mut tokens = 0;
    loop {
        let message = owner.json().await;
        assert_eq!(message["id"], json!(id));
        if message["type"] == "stream_end" {
            assert_eq!((&message["reason"], count(&message, "/tokens_used")), (&json!("complete"), 100));
            break;
        }
        if message["type"] == "receipt" {
            continue;
        }
        tokens += count(&message, "/tokens");
    }
    assert!(tokens < 100, "the first chunk was read before");
}
