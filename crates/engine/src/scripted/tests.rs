use protocol::{
    RequestId, TenantId,
    inference::{InferenceRequest, Message, Role},
};

use super::*;

fn request(prompt: &str, max_tokens: u32) -> GenerateRequest {
    let messages = vec![Message { role: Role::User, content: prompt.into() }];
    GenerateRequest {
        request_id: RequestId::new("r").expect("valid"),
        tenant: TenantId::new("t").expect("valid"),
        inference: InferenceRequest::new("default", Prompt::Chat { messages, trim_oldest: false }),
        max_tokens,
        deadline: None,
        cancel: CancellationToken::new(),
    }
}

fn fast(text: ScriptedText) -> Scripted {
    let config = ScriptedConfig { token_interval: Duration::ZERO, context_tokens: 100, text, ..Default::default() };
    Scripted::start(config, Metrics::default())
}

async fn text_and_end(generation: &mut Generation) -> (String, u32, GenerationEvent) {
    let (mut text, mut tokens) = (String::new(), 0);
    loop {
        match generation.next().await.expect("an end") {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Delta(delta) => {
                text.push_str(&delta.text);
                tokens += delta.tokens;
            }
            end => return (text, tokens, end),
        }
    }
}

async fn check(backend: &Scripted, request: GenerateRequest, text: &str, tokens: u32, reason: FinishReason) {
    let mut generation = backend.generate(request).await.expect("accepted");
    let (got, counted, end) = text_and_end(&mut generation).await;
    assert_eq!((got.as_str(), counted), (text, tokens));
    let GenerationEvent::Finished { reason: got, usage } = end else { panic!("{end:?}") };
    assert_eq!((got, usage.completion_tokens), (reason, tokens));
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_with_both_numbers() {
    let long = "word ".repeat(100);
    let error = fast(ScriptedText::Numbered).generate(request(&long, 1)).await.err();
    assert_eq!(error, Some(BackendError::ContextTooLarge { prompt_tokens: 100, context_tokens: 100 }));
}

#[tokio::test]
async fn more_than_the_limit_of_streams_is_refused_and_ended_ones_make_room() {
    let config = ScriptedConfig { in_flight_max: 1, token_interval: Duration::from_secs(3600), ..Default::default() };
    let backend = Scripted::start(config, Metrics::default());
    let first = backend.generate(request("a", 5)).await.expect("accepted");
    let error = backend.generate(request("a", 5)).await.err();
    assert_eq!(error, Some(BackendError::Overloaded { queue_max: 1 }));
    drop(first);
    for _ in 0..1000 {
        if backend.generate(request("a", 5)).await.is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the dropped stream still holds its place");
}

#[tokio::test]
async fn the_words_are_numbered_until_a_limit_or_a_stop_string() {
    let backend = fast(ScriptedText::Numbered);
    check(&backend, request("a b c", 3), "w0 w1 w2", 3, FinishReason::Length).await;
    let mut stopping = request("a b c", 50);
    stopping.inference.stop = vec!["2 w3".into()];
    check(&backend, stopping, "w0 w1 w", 4, FinishReason::Stop).await;
    // 97 words of prompt leave 3 of the context.
    check(&backend, request(&"a ".repeat(97), 50), "w0 w1 w2", 3, FinishReason::Length).await;
}

#[tokio::test]
async fn an_echo_says_the_last_message() {
    let backend = fast(ScriptedText::Echo);
    check(&backend, request("say  this\nnow", 50), "say this now", 3, FinishReason::Stop).await;
    check(&backend, request("say this now", 3), "say this now", 3, FinishReason::Stop).await;
    check(&backend, request("say this now", 2), "say this", 2, FinishReason::Length).await;
}

#[tokio::test(start_paused = true)]
async fn the_pace_is_exact() {
    let config = ScriptedConfig {
        first_token_delay: Duration::from_millis(100),
        token_interval: Duration::from_millis(20),
        ..Default::default()
    };
    let backend = Scripted::start(config, Metrics::default());
    let start = Instant::now();
    check(&backend, request("a", 11), "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10", 11, FinishReason::Length).await;
    let took = start.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_millis(305)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn cancelling_and_deadlines_end_it_within_a_token() {
    let backend = Scripted::start(ScriptedConfig::default(), Metrics::default());
    let cancelled = request("a", 1000);
    let cancel = cancelled.cancel.clone();
    let mut generation = backend.generate(cancelled).await.expect("accepted");
    assert!(matches!(generation.next().await, Some(GenerationEvent::Started { .. })));
    assert!(matches!(generation.next().await, Some(GenerationEvent::Delta(_))));
    cancel.cancel();
    let (_, _, end) = text_and_end(&mut generation).await;
    assert!(matches!(end, GenerationEvent::Finished { reason: FinishReason::Cancelled, .. }), "{end:?}");

    let late = GenerateRequest { deadline: Some(Duration::from_millis(90)), ..request("a", 1000) };
    let mut generation = backend.generate(late).await.expect("accepted");
    let (text, _, end) = text_and_end(&mut generation).await;
    assert_eq!((text.as_str(), end), ("w0 w1 w2 w3 w4", GenerationEvent::Failed(BackendError::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_streams_run_side_by_side() {
    let backend = Scripted::start(ScriptedConfig::default(), Metrics::default());
    let start = Instant::now();
    let mut generations = Vec::new();
    for _ in 0..10_000 {
        generations.push(backend.generate(request("a", 5)).await.expect("accepted"));
    }
    for mut generation in generations {
        let (text, ..) = text_and_end(&mut generation).await;
        assert_eq!(text, "w0 w1 w2 w3 w4");
    }
    assert!(start.elapsed() < Duration::from_secs(1), "side by side, not one after the other");
}

#[tokio::test]
async fn shutdown_ends_streams_with_an_error_and_refuses_new_ones() {
    let config = ScriptedConfig { token_interval: Duration::from_secs(3600), ..Default::default() };
    let backend = Scripted::start(config, Metrics::default());
    let mut generation = backend.generate(request("a", 5)).await.expect("accepted");
    backend.shutdown().await;
    let (_, _, end) = text_and_end(&mut generation).await;
    assert!(matches!(end, GenerationEvent::Failed(BackendError::Unavailable(_))), "{end:?}");
    assert!(matches!(backend.generate(request("a", 5)).await, Err(BackendError::Unavailable(_))));
}
