//! Against servers on loopback that do exactly what each test says.

mod server;

use protocol::{
    RequestId, TenantId,
    inference::{InferenceRequest, Message, Prompt, Role},
};

use self::server::{Act, Server, head, json, tail, text, whole};
use super::*;

fn request() -> GenerateRequest {
    let message = |role, content: &str| Message { role, content: content.into() };
    let messages = vec![message(Role::User, "one"), message(Role::Assistant, "two"), message(Role::User, "three")];
    GenerateRequest {
        request_id: RequestId::new("request").expect("valid"),
        tenant: TenantId::new("tenant").expect("valid"),
        inference: InferenceRequest::new("default", Prompt::Chat { messages, trim_oldest: true }),
        max_tokens: 100,
        deadline: None,
        cancel: CancellationToken::new(),
    }
}

async fn backend(addresses: &[&Server], change: impl FnOnce(&mut UpstreamConfig)) -> Upstream {
    let mut config = UpstreamConfig::new(addresses.iter().map(|server| server.address.clone()).collect());
    change(&mut config);
    let backend = Upstream::start(config, Metrics::default()).expect("starts");
    until(&backend, |readiness| matches!(readiness, Readiness::Ready(_))).await;
    backend
}

async fn until(backend: &Upstream, is_it: impl FnMut(&Readiness) -> bool) -> Readiness {
    let mut readiness = backend.readiness();
    let waiting = readiness.wait_for(is_it);
    let found = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("within 20 s");
    found.expect("the backend lives").clone()
}

#[derive(Debug, Default)]
struct Answer {
    text: String,
    tokens: u32,
    end: Option<GenerationEvent>,
}

async fn collect(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = generation.next().await {
        match event {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Delta(delta) => {
                answer.text.push_str(&delta.text);
                answer.tokens += delta.tokens;
            }
            end => answer.end = Some(end),
        }
    }
    answer
}

async fn answer(server: &Server, change: impl FnOnce(&mut UpstreamConfig)) -> Answer {
    let backend = backend(&[server], change).await;
    collect(backend.generate(request()).await.expect("accepted")).await
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let check = |config: UpstreamConfig| Upstream::start(config, Metrics::default()).expect_err("refused");
    assert!(matches!(check(UpstreamConfig::new(vec![])), UpstreamError::NoAddress));
    assert!(matches!(check(UpstreamConfig::new(vec!["host:1".into()])), UpstreamError::Address(_)));
    let mut config = UpstreamConfig::new(vec!["http://host".into()]);
    config.api_key = Some(ApiKey::new("a\nb"));
    assert!(matches!(check(config), UpstreamError::ApiKey));
}

#[tokio::test]
async fn an_unreachable_server_shows_with_its_address_and_answers_nothing() {
    let config = UpstreamConfig::new(vec!["http://127.0.0.1:9".into()]);
    let backend = Upstream::start(config, Metrics::default()).expect("starts");
    until(&backend, |readiness| matches!(readiness, Readiness::Failed(why) if why.contains("127.0.0.1:9"))).await;
    assert!(matches!(backend.generate(request()).await, Err(BackendError::Unavailable(_))));
}

#[tokio::test]
async fn a_server_without_the_wanted_model_says_what_it_has() {
    let server = Server::start(vec![]).await;
    let mut config = UpstreamConfig::new(vec![server.address.clone()]);
    config.model = Some("other".into());
    let backend = Upstream::start(config, Metrics::default()).expect("starts");
    until(&backend, |readiness| matches!(readiness, Readiness::Failed(why) if why.ends_with("`other`, but: m"))).await;
}

#[tokio::test]
async fn an_answer_is_the_same_however_the_network_cuts_it() {
    let mut bytes = head();
    for piece in ["He", "llo → ", "é"] {
        bytes.extend(text(piece));
    }
    bytes.extend(tail(3));
    for size in [1, 3, 64] {
        let acts = bytes.chunks(size).map(|piece| Act::Send(piece.to_vec())).collect();
        let server = Server::start(vec![acts]).await;
        let answer = answer(&server, |_| {}).await;
        assert_eq!((answer.text.as_str(), answer.tokens), ("Hello → é", 3), "pieces of {size}");
        let usage = Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3, reasoning_tokens: 0 };
        assert_eq!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Stop, usage }));
    }
}

#[tokio::test]
async fn the_servers_count_corrects_upwards_only() {
    for (claimed, counted) in [(1, 2), (2, 2), (7, 7), (1_000_000, 100)] {
        let bytes = [head(), text("a"), text("b"), tail(claimed)].concat();
        let server = Server::start(vec![vec![Act::Send(bytes)]]).await;
        let answer = answer(&server, |_| {}).await;
        assert_eq!(answer.tokens, counted, "{claimed} claimed");
        let Some(GenerationEvent::Finished { usage, .. }) = answer.end else { panic!("{answer:?}") };
        assert_eq!(usage.completion_tokens, counted);
    }
}

#[tokio::test]
async fn the_request_carries_the_key_and_no_log_does() {
    let mut server = Server::start(vec![whole(&["a"])]).await;
    answer(&server, |config| config.api_key = Some(ApiKey::new("sesame"))).await;
    let seen = server.seen.recv().await.expect("a request");
    assert!(seen.head.to_ascii_lowercase().contains("authorization: bearer sesame"), "{}", seen.head);
    assert!(seen.head.starts_with("POST /v1/chat/completions"), "{}", seen.head);
    assert_eq!((&seen.body["model"], &seen.body["messages"][2]["content"]), (&"m".into(), &"three".into()));
    assert!(!format!("{:?}", ApiKey::new("sesame")).contains("sesame"));
}

#[tokio::test]
async fn error_answers_are_told_apart() {
    let check = async |status: u16, body: &str, error: BackendError| {
        let server = Server::start(vec![vec![Act::Send(json(status, body))]]).await;
        let backend = backend(&[&server], |_| {}).await;
        let mut asked = request();
        if let Prompt::Chat { trim_oldest, .. } = &mut asked.inference.prompt {
            *trim_oldest = false;
        }
        assert_eq!(backend.generate(asked).await.err(), Some(error), "{status} {body}");
    };
    let too_long = r#"{"error":{"type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}"#;
    check(400, too_long, BackendError::ContextTooLarge { prompt_tokens: 9, context_tokens: 8 }).await;
    check(429, "{}", BackendError::Overloaded { queue_max: 256 }).await;
    let status = |n| BackendError::Unavailable(format!("the upstream answered with status {n}"));
    check(401, "{}", status(401)).await;
    check(500, "not json", status(500)).await;
    // A redirect is not followed.
    check(307, "", status(307)).await;
}

#[tokio::test]
async fn a_conversation_that_may_be_shortened_is() {
    let too_long = json(400, r#"{"error":{"code":"context_length_exceeded"}}"#);
    let mut server = Server::start(vec![vec![Act::Send(too_long)], whole(&["a"])]).await;
    let backend = backend(&[&server], |_| {}).await;
    let mut generation = backend.generate(request()).await.expect("accepted");
    let started = GenerationEvent::Started { prompt_tokens: 0, cached_tokens: 0, trimmed_messages: 2 };
    assert_eq!(generation.next().await, Some(started));
    server.seen.recv().await.expect("the whole conversation");
    let shortened = server.seen.recv().await.expect("the shortened one");
    assert_eq!(shortened.body["messages"], serde_json::json!([{"role": "user", "content": "three"}]));
}

#[tokio::test]
async fn silence_ends_by_a_timeout() {
    let quick = |config: &mut UpstreamConfig| {
        config.first_token_timeout = Duration::from_millis(200);
        config.idle_timeout = Duration::from_millis(200);
    };
    let server = Server::start(vec![vec![Act::Hang]]).await;
    let silent = backend(&[&server], quick).await;
    assert_eq!(silent.generate(request()).await.err(), Some(BackendError::Timeout));

    for (bytes, said) in [(head(), ""), ([head(), text("a")].concat(), "a")] {
        let server = Server::start(vec![vec![Act::Send(bytes), Act::Hang]]).await;
        let answer = answer(&server, quick).await;
        assert_eq!((answer.text.as_str(), answer.end), (said, Some(GenerationEvent::Failed(BackendError::Timeout))));
    }

    let server = Server::start(vec![vec![Act::Send([head(), text("a")].concat()), Act::Hang]]).await;
    let patient = backend(&[&server], |_| {}).await;
    let asked = GenerateRequest { deadline: Some(Duration::from_millis(200)), ..request() };
    let answer = collect(patient.generate(asked).await.expect("accepted")).await;
    assert_eq!(answer.end, Some(GenerationEvent::Failed(BackendError::Timeout)));
}

#[tokio::test]
async fn an_answer_that_breaks_off_fails_and_what_was_said_stands() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let piece = text("a");
    let chunk = [format!("{:x}\r\n", piece.len()).into_bytes(), piece.clone(), b"\r\n".to_vec()].concat();
    for bytes in [[chunked, chunk].concat(), [head(), piece].concat()] {
        let server = Server::start(vec![vec![Act::Send(bytes)]]).await;
        let answer = answer(&server, |_| {}).await;
        assert_eq!((answer.text.as_str(), answer.tokens), ("a", 1));
        assert!(matches!(answer.end, Some(GenerationEvent::Failed(BackendError::Unavailable(_)))), "{answer:?}");
    }
}

#[tokio::test]
async fn before_the_first_token_another_address_takes_over() {
    let role = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n".to_vec();
    for failing in [vec![Act::Send(json(503, "{}"))], vec![], vec![Act::Send([head(), role].concat())]] {
        let (bad, good) = (Server::start(vec![failing]).await, Server::start(vec![whole(&["good"])]).await);
        let backend = backend(&[&bad, &good], |_| {}).await;
        for _ in 0..2 {
            let answer = collect(backend.generate(request()).await.expect("accepted")).await;
            assert_eq!((answer.text.as_str(), answer.tokens), ("good", 1), "{:?}", answer.end);
        }
    }
}

#[tokio::test]
async fn requests_go_where_the_least_is_in_flight() {
    let hanging = || vec![vec![Act::Send([head(), text("a")].concat()), Act::Hang]];
    let (mut one, mut two) = (Server::start(hanging()).await, Server::start(hanging()).await);
    let config = UpstreamConfig::new(vec![one.address.clone(), two.address.clone()]);
    let backend = Upstream::start(config, Metrics::default()).expect("starts");
    until(&backend, |readiness| matches!(readiness, Readiness::Ready(_))).await;
    let mut generations = Vec::new();
    for _ in 0..4 {
        generations.push(backend.generate(request()).await.expect("accepted"));
    }
    for server in [&mut one, &mut two] {
        assert!(server.seen.try_recv().is_ok() && server.seen.try_recv().is_ok() && server.seen.try_recv().is_err());
    }
}

#[tokio::test]
async fn cancelling_or_going_away_closes_the_connection() {
    let hanging = vec![Act::Send([head(), text("a"), text("b")].concat()), Act::Hang];
    let mut server = Server::start(vec![hanging.clone(), hanging, vec![Act::Hang]]).await;
    let backend = backend(&[&server], |_| {}).await;

    let asked = request();
    let cancel = asked.cancel.clone();
    let mut generation = backend.generate(asked).await.expect("accepted");
    let mut tokens = 0;
    while tokens < 2 {
        if let GenerationEvent::Delta(delta) = generation.next().await.expect("a delta") {
            tokens += delta.tokens;
        }
    }
    cancel.cancel();
    let answer = collect(generation).await;
    let usage = Usage { completion_tokens: 2, ..Usage::default() };
    assert_eq!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Cancelled, usage }));
    closed(&mut server, 1).await;

    drop(backend.generate(request()).await.expect("accepted"));
    closed(&mut server, 2).await;

    // Also while the headers are still awaited.
    let asked = request();
    let cancel = asked.cancel.clone();
    let (generation, ()) = tokio::join!(backend.generate(asked), async {
        for _ in 0..3 {
            server.seen.recv().await.expect("a request");
        }
        cancel.cancel();
    });
    let answer = collect(generation.expect("it ends as cancelled")).await;
    assert!(matches!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Cancelled, .. })));
    closed(&mut server, 3).await;
}

async fn closed(server: &mut Server, count: usize) {
    let waiting = server.closed.wait_for(|closed| *closed >= count);
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("within 20 s").expect("the server lives");
}

#[tokio::test]
async fn a_server_that_floods_is_cut_off() {
    let endless = vec![b'x'; 10_000];
    let server = Server::start(vec![vec![Act::Send([head(), endless].concat()), Act::Hang]]).await;
    let answer_ = answer(&server, |config| config.line_bytes_max = 1000).await;
    assert!(matches!(answer_.end, Some(GenerationEvent::Failed(BackendError::Internal(_)))), "{answer_:?}");

    let many = [head(), b": comment\n".repeat(1000)].concat();
    let server = Server::start(vec![vec![Act::Send(many), Act::Hang]]).await;
    let answer_ = answer(&server, |config| config.answer_bytes_max = 5000).await;
    assert!(matches!(answer_.end, Some(GenerationEvent::Failed(BackendError::Internal(_)))), "{answer_:?}");
}

#[tokio::test]
async fn more_than_the_limit_is_refused_and_ended_ones_make_room() {
    let hanging = vec![Act::Send([head(), text("a")].concat()), Act::Hang];
    let server = Server::start(vec![hanging]).await;
    let backend = backend(&[&server], |config| config.in_flight_max = 1).await;
    let generation = backend.generate(request()).await.expect("accepted");
    assert_eq!(backend.generate(request()).await.err(), Some(BackendError::Overloaded { queue_max: 1 }));
    drop(generation);
    let again = async {
        while backend.generate(request()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("within 20 s");
}

#[tokio::test]
async fn shutting_down_fails_what_is_live() {
    let server = Server::start(vec![vec![Act::Send([head(), text("a")].concat()), Act::Hang]]).await;
    let backend = backend(&[&server], |_| {}).await;
    let generation = backend.generate(request()).await.expect("accepted");
    backend.shutdown().await;
    assert!(matches!(collect(generation).await.end, Some(GenerationEvent::Failed(BackendError::Unavailable(_)))));
    assert!(matches!(backend.generate(request()).await, Err(BackendError::Unavailable(_))));
}
