//! `/v1/ws`: every message, as existing clients send it.

use serde_json::json;

use crate::support::{JOB, count, open_session, prompt, scripted, scripted_at, session, until_idle, words};

#[tokio::test]
async fn a_client_of_the_marketplace_is_answered_word_for_word() {
    let (node, _) = scripted().await;
    let token = node.job_and_token("0x9bA1000000000000000000000000000000001234", "954", 1000);
    let mut socket = node.native(&token).await;
    assert_eq!(socket.json().await["type"], "connected");
    let ack = socket
        .request(
            json!({
                "type": "session_init", "chain_id": 84532, "session_id": "954", "jobId": "954",
                "user_address": "0x9bA1000000000000000000000000000000001234",
            }),
            "session_init_ack",
        )
        .await;
    assert_eq!((&ack["status"], &ack["session_id"]), (&json!("success"), &json!("954")));
    assert_eq!((&ack["job_id"], &ack["chain_id"]), (&json!("954"), &json!(84532)));
    assert!(ack["message"].is_string(), "{ack}");
    assert!(ack["token"].is_string() && ack["expires_at"].is_u64(), "{ack}");

    let id = socket
        .send(json!({
            "type": "prompt", "chain_id": 84532, "jobId": "954", "prompt": "What is 2 + 2?",
            "web_search": false, "max_searches": 0, "search_queries": null,
            "request": {"model": "default", "prompt": "What is 2 + 2?", "max_tokens": 5, "temperature": 0.7, "stream": true},
        }))
        .await;
    let answer = socket.answer(&id).await;
    assert_eq!(answer.text, words(5));
    assert_eq!(answer.reasons(), ("complete", "length"));
    assert_eq!(answer.error, None);
}

#[tokio::test]
async fn a_stream_counts_what_it_says() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "one two three", 12)).await;
    let answer = socket.answer(&id).await;
    assert_eq!(answer.text, words(12));
    let last = answer.chunks.last().expect("a chunk");
    assert_eq!((&last["final"], &last["content"]), (&json!(true), &json!("")));
    assert!(answer.chunks.iter().all(|chunk| chunk["session_id"] == "s"));
    assert_eq!(answer.tokens, 12);
    assert_eq!(count(&answer.end, "/tokens_used"), 12);
    assert_eq!(count(&answer.end, "/usage/completion_tokens"), 12);
    let prompt_tokens = count(&answer.end, "/usage/prompt_tokens");
    assert!(prompt_tokens >= 3, "{}", answer.end);
    assert_eq!(count(&answer.end, "/usage/total_tokens"), prompt_tokens + 12);
    assert!(count(&answer.end, "/usage/context_window_size") >= prompt_tokens + 12);
    assert_eq!(answer.end["session_id"], "s");
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 12);
}

#[tokio::test]
async fn without_a_stream_one_response_comes() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let mut message = prompt("s", "one two", 6);
    message["stream"] = json!(false);
    message["message_index"] = json!(1);
    let response = socket.request(message, "response").await;
    assert_eq!(response["content"], words(6));
    assert_eq!(count(&response, "/tokens_used"), 6);
    assert_eq!(count(&response, "/usage/completion_tokens"), 6);
    assert_eq!(count(&response, "/message_index"), 2, "the answer's index is the prompt's + 1");
    assert!(response["completion_time_ms"].is_u64() && response["session_id"] == "s", "{response}");
}

#[tokio::test]
async fn both_spellings_and_number_or_string_are_one() {
    let (node, token) = scripted().await;
    let inits = [
        json!({"session_id": "a", "job_id": JOB, "chain_id": 1}),
        json!({"sessionId": "b", "jobId": 7, "chainId": 1}),
        json!({"session_id": "c", "job_id": 7}),
    ];
    let mut socket = node.native(&token).await;
    for mut init in inits {
        let id = init.get("session_id").or(init.get("sessionId")).cloned().expect("an id");
        init["type"] = json!("session_init");
        let ack = socket.request(init, "session_init_ack").await;
        assert_eq!(ack["session_id"], id);
        assert_eq!(ack["job_id"], JOB);
    }
    let id = socket.send(json!({"type": "prompt", "sessionId": "b", "content": "flat and old", "max_tokens": 2})).await;
    assert_eq!(socket.answer(&id).await.text, words(2));
}

#[tokio::test]
async fn the_request_object_wins_over_flat_fields() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let mut message = prompt("s", "flat", 9);
    message["request"] =
        json!({"model": "default", "prompt": "nested words", "max_tokens": 3, "temperature": 0, "stream": true});
    let id = socket.send(message).await;
    assert_eq!(socket.answer(&id).await.text, words(3));
}

#[tokio::test]
async fn inference_carries_its_own_context() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let request = |context: serde_json::Value| {
        json!({"type": "inference", "request": {
            "model": "default", "prompt": "and now", "max_tokens": 4, "temperature": 0, "stream": true,
            "request_id": "r-1", "conversation_context": context, "job_id": JOB, "session_id": "s", "chain_id": 1,
        }})
    };
    let id = socket.send(request(json!([]))).await;
    let short = socket.answer(&id).await;
    assert_eq!(short.text, words(4));
    let context = json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one two three four five"},
        {"role": "assistant", "content": "six seven"},
    ]);
    let id = socket.send(request(context)).await;
    let long = socket.answer(&id).await;
    let tokens = |answer: &testkit::Answer| count(&answer.end, "/usage/prompt_tokens");
    assert!(tokens(&long) >= tokens(&short) + 9, "the context is part of the prompt: {} {}", short.end, long.end);
}

#[tokio::test]
async fn the_node_keeps_the_history_of_a_session() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let mut tokens = Vec::new();
    for index in [1, 3, 5] {
        let mut message = prompt("s", "one two three", 4);
        message["message_index"] = json!(index);
        let id = socket.send(message).await;
        let answer = socket.answer(&id).await;
        assert_eq!(answer.error, None, "message_index {index}");
        tokens.push(count(&answer.end, "/usage/prompt_tokens"));
    }
    assert!(
        tokens[1] >= tokens[0] + 7 && tokens[2] >= tokens[1] + 7,
        "question and answer join the history: {tokens:?}"
    );

    // A new session begins with nothing.
    open_session(&mut socket, "fresh").await;
    let id = socket.send(prompt("fresh", "one two three", 4)).await;
    assert_eq!(count(&socket.answer(&id).await.end, "/usage/prompt_tokens"), tokens[0]);
}

#[tokio::test]
async fn a_long_conversation_is_trimmed_and_goes_on() {
    let (node, token) = scripted_at(0).await;
    let mut socket = session(&node, &token, "s").await;
    let words_1000 = "word ".repeat(1000);
    for turn in 0..8 {
        let id = socket.send(prompt("s", &words_1000, 100)).await;
        let answer = socket.answer(&id).await;
        assert_eq!(answer.error, None, "turn {turn}");
        assert_eq!(answer.tokens, 100);
    }
}

#[tokio::test]
async fn a_session_is_resumed_with_its_conversation() {
    let (node, token) = scripted().await;
    let context = json!([
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four five six"},
    ]);
    for (last_message_index, job) in [(2, json!(JOB)), (0, json!(7)), (2, json!(null))] {
        let mut socket = node.native(&token).await;
        let mut resume = json!({
            "type": "session_resume", "session_id": "s", "conversation_context": context,
            "last_message_index": last_message_index,
        });
        if !job.is_null() {
            resume["job_id"] = job;
        }
        let ack = socket.request(resume, "session_resume_ack").await;
        assert_eq!(ack["session_id"], "s");
        let mut message = prompt("s", "seven", 2);
        message["message_index"] = json!(3);
        let id = socket.send(message).await;
        let answer = socket.answer(&id).await;
        assert_eq!(answer.error, None);
        assert!(count(&answer.end, "/usage/prompt_tokens") >= 7, "{}", answer.end);
    }
}

#[tokio::test]
async fn an_ended_session_is_gone() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let ack = socket.request(json!({"type": "session_end", "session_id": "s"}), "session_end_ack").await;
    assert_eq!(ack["session_id"], "s");
    let error = socket.request(json!({"type": "session_end", "session_id": "s"}), "error").await;
    assert_eq!(error["code"], "SESSION_NOT_FOUND");
    // Its name can be used again, and its history does not come back.
    open_session(&mut socket, "s").await;
    let mut message = prompt("s", "again", 2);
    message["message_index"] = json!(1);
    let id = socket.send(message).await;
    assert_eq!(socket.answer(&id).await.error, None);
}

#[tokio::test]
async fn cancelling_stops_the_generation_itself() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let id = socket.send(prompt("s", "go on", 3000)).await;
    let first = socket.expect("stream_chunk").await;
    let mut seen = count(&first, "/tokens");
    socket.send(json!({"type": "stream_cancel", "session_id": "s", "reason": "enough", "id": id})).await;
    let end = loop {
        let message = socket.json().await;
        match message["type"].as_str() {
            Some("stream_chunk") => seen += count(&message, "/tokens"),
            Some("receipt") => {}
            Some("stream_end") => break message,
            _ => panic!("{message}"),
        }
    };
    assert_eq!((&end["reason"], &end["finish_reason"]), (&json!("cancelled"), &json!("cancelled")));
    assert_eq!(end["id"], json!(id), "the end carries the prompt's id");
    assert_eq!(count(&end, "/tokens_used"), seen, "what was delivered is what is counted");
    until_idle(&node).await;
    let used = count(&node.settled_job(JOB).await, "/used_tokens");
    assert_eq!(used, seen);
    assert!(used < 1000, "{used} of 3000 tokens after a cancel at the first");

    // The session goes on.
    let id = socket.send(prompt("s", "again", 3)).await;
    assert_eq!(socket.answer(&id).await.text, words(3));
}

#[tokio::test]
async fn cancelling_nothing_is_silent() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    for cancel in [json!({"type": "stream_cancel"}), json!({"type": "stream_cancel", "session_id": "s"})] {
        socket.send(cancel.clone()).await;
        socket.send(cancel).await;
    }
    socket.request(json!({"type": "ping"}), "pong").await;
}

#[tokio::test]
async fn pings_of_both_kinds_are_answered() {
    let (node, token) = scripted().await;
    let mut socket = node.native(&token).await;
    assert_eq!(socket.json().await["type"], "connected");
    socket.request(json!({"type": "ping", "id": "p-1"}), "pong").await;
    socket.send_ping(b"are you there").await;
    socket.expect_pong(b"are you there").await;
}

#[tokio::test]
async fn a_refreshed_token_works() {
    let (node, token) = scripted().await;
    let mut socket = session(&node, &token, "s").await;
    let request = json!({"type": "token_refresh", "session_id": "s", "token": token});
    let refreshed = socket.request(request, "token_refreshed").await;
    let fresh = refreshed["token"].as_str().expect("a token");
    assert!(refreshed["expires_at"].is_u64(), "{refreshed}");
    let mut second = session(&node, fresh, "t").await;
    let id = second.send(prompt("t", "hello", 2)).await;
    assert_eq!(second.answer(&id).await.text, words(2));
    let error = socket.request(json!({"type": "token_refresh", "session_id": "s", "token": "x.y.z"}), "error").await;
    assert_eq!(error["code"], "INVALID_TOKEN");
}

#[tokio::test]
async fn sessions_of_one_connection_stream_side_by_side() {
    let (node, token) = scripted().await;
    let mut socket = node.native(&token).await;
    open_session(&mut socket, "a").await;
    open_session(&mut socket, "b").await;
    let ids = [socket.send(prompt("a", "first", 40)).await, socket.send(prompt("b", "second", 40)).await];
    let (mut texts, mut ended, mut switches, mut last) = ([String::new(), String::new()], 0, 0, None);
    while ended < 2 {
        let message = socket.json().await;
        let which = ids.iter().position(|id| message["id"] == json!(id)).unwrap_or_else(|| panic!("{message}"));
        match message["type"].as_str() {
            Some("stream_chunk") => texts[which] += message["content"].as_str().expect("text"),
            Some("receipt") => {}
            Some("stream_end") => ended += 1,
            _ => panic!("{message}"),
        }
        switches += usize::from(last.replace(which) != Some(which));
    }
    assert_eq!(texts, [words(40), words(40)]);
    assert!(switches > 4, "the streams take turns: {switches} switches");
}
