use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::body::BodyDataStream;
use futures_util::StreamExt;
use serde_json::json;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

/// Everything that a body says, and whether it ended in order.
async fn read(data: &mut BodyDataStream) -> (String, bool) {
    let mut text = String::new();
    while let Some(chunk) = data.next().await {
        match chunk {
            Ok(chunk) => text.push_str(std::str::from_utf8(&chunk).expect("text")),
            Err(_) => return (text, false),
        }
    }
    (text, true)
}

/// Sets a flag when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test]
async fn events_are_these_bytes() {
    let (sender, body) = channel(LONG, LONG);
    let mut out = sender.clone();
    let task = tokio::spawn(drive(
        async move {
            out.send(Event::json(&json!({"text": "a\nb\r\u{2028}"}))).await?;
            out.send(Event::named("response.created", &json!({"n": 1}))).await?;
            out.send(Event::done()).await
        },
        sender,
    ));
    let expected = "data: {\"text\":\"a\\nb\\r\u{2028}\"}\n\n\
                    event: response.created\ndata: {\"n\":1}\n\n\
                    data: [DONE]\n\n";
    assert_eq!(read(&mut body.into_data_stream()).await, (expected.to_owned(), true));
    assert_eq!(task.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let (sender, body) = channel(LONG, SHORT);
    let task = tokio::spawn(drive(std::future::pending(), sender));
    let mut data = body.into_data_stream();
    for _ in 0..2 {
        let chunk = data.next().await.expect("a chunk").expect("no failure");
        assert_eq!(&chunk[..], b": ping\n\n");
    }
    task.abort();
}

#[tokio::test]
async fn a_client_that_leaves_drops_the_work() {
    let (sender, body) = channel(LONG, LONG);
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Dropped(Arc::clone(&dropped));
    let work = async move {
        let _guard = guard;
        std::future::pending().await
    };
    let task = tokio::spawn(drive(work, sender));
    drop(body);
    let result = timeout(Duration::from_secs(10), task).await.expect("it ends by itself").expect("no panic");
    assert_eq!(result, Err(Gone::Away));
    assert!(dropped.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_given_up_and_never_sees_an_orderly_end() {
    let (sender, body) = channel(SHORT, LONG);
    let mut out = sender.clone();
    let endless = async move {
        loop {
            out.send(Event::json(&1)).await?;
        }
    };
    let task = tokio::spawn(drive(endless, sender));
    let result = timeout(Duration::from_secs(10), task).await.expect("it ends by itself").expect("no panic");
    assert_eq!(result, Err(Gone::NotReading));
    let (text, whole) = read(&mut body.into_data_stream()).await;
    assert_eq!(text, "data: 1\n\n".repeat(QUEUE_EVENTS_MAX), "the queue is bounded");
    assert!(!whole);
}

#[tokio::test]
async fn a_panic_cuts_the_stream_off() {
    let (sender, body) = channel(LONG, LONG);
    let mut out = sender.clone();
    let work = async move {
        out.send(Event::json(&1)).await?;
        panic!("a bug")
    };
    let task = tokio::spawn(drive(work, sender));
    assert_eq!(read(&mut body.into_data_stream()).await, ("data: 1\n\n".to_owned(), false));
    assert!(task.await.is_err());
}
