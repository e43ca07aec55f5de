//! The Responses API over HTTP: JSON, events, continuation.

use serde_json::{Value, json};
use testkit::sse::{Event, Events};

use crate::support::{JOB, count, post, scripted, send, words};

pub(crate) fn response(input: &str, max_output_tokens: u64) -> Value {
    json!({"model": "default", "input": input, "max_output_tokens": max_output_tokens, "temperature": 0})
}

#[tokio::test]
async fn a_response_is_whole_and_counted() {
    let (node, token) = scripted().await;
    let (status, body) = post(&node, "/v1/responses", Some(&token), &response("one two", 5)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(body["output"][0]["content"][0]["text"], words(5));
    assert_eq!((count(&body, "/usage/input_tokens"), count(&body, "/usage/output_tokens")), (2, 5));
    assert_eq!(count(&body, "/usage/total_tokens"), 7);
    assert_eq!(node.settled_job(JOB).await["used_tokens"], 5);
}

#[tokio::test]
async fn events_come_in_their_order_with_rising_numbers() {
    let (node, token) = scripted().await;
    let mut body = response("one two", 4);
    body["stream"] = json!(true);
    let events = Events::new(send(&node, "/v1/responses", Some(&token), &body).await).collect().await;
    let events: Vec<Value> = events.iter().map(Event::json).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let mut once = kinds.clone();
    once.dedup();
    assert_eq!(
        once,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            // The receipt, under a type that every client skips.
            "keepalive",
            "response.incomplete",
        ]
    );
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], json!(number));
    }
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, words(4));
}

#[tokio::test]
async fn a_response_is_continued_by_its_owner_alone() {
    let (node, token) = scripted().await;
    let (_, first) = post(&node, "/v1/responses", Some(&token), &response("one two", 3)).await;
    let continued = |id: &Value| {
        let mut body = response("three", 3);
        body["previous_response_id"] = id.clone();
        body
    };
    let (status, second) = post(&node, "/v1/responses", Some(&token), &continued(&first["id"])).await;
    assert_eq!(status, 200, "{second}");
    assert_eq!(count(&second, "/usage/input_tokens"), 6, "question, answer and the new question");

    let other = node.job_and_token("mallory", "8", 100);
    let (status, stolen) = post(&node, "/v1/responses", Some(&other), &continued(&first["id"])).await;
    let (unknown_status, unknown) = post(&node, "/v1/responses", Some(&other), &continued(&json!("resp_0"))).await;
    assert_eq!((status, &stolen), (unknown_status, &unknown), "someone else's looks like none");
    assert_eq!(stolen["error"]["code"], "previous_response_not_found");

    let mut unstored = response("one", 3);
    unstored["store"] = json!(false);
    let (_, gone) = post(&node, "/v1/responses", Some(&token), &unstored).await;
    assert_eq!(
        post(&node, "/v1/responses", Some(&token), &continued(&gone["id"])).await.1["error"]["code"],
        "previous_response_not_found"
    );
}

#[tokio::test]
async fn bad_requests_have_openais_shape_and_a_status_even_when_streamed() {
    let (node, token) = scripted().await;
    for (param, value) in
        [("input", json!(7)), ("max_output_tokens", json!(0)), ("temperature", json!(9)), ("model", json!("x"))]
    {
        let mut body = response("hi", 5);
        body["stream"] = json!(true);
        body[param] = value;
        let (status, answer) = post(&node, "/v1/responses", Some(&token), &body).await;
        assert!(matches!(status, 400 | 404), "{param}: {answer}");
        assert!(answer["error"]["message"].is_string() && answer["error"]["type"].is_string(), "{param}: {answer}");
    }
    let long = "word ".repeat(5000);
    let mut body = response(&long, 5);
    body["stream"] = json!(true);
    let (status, answer) = post(&node, "/v1/responses", Some(&token), &body).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")));
}
