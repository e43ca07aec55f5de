use super::{fake::collect, *};

/// A request with two tokens delivered, and its worker.
async fn running(change: impl FnOnce(&mut GenerateRequest)) -> (Harness, fake::FakeWorker, Generation, WorkerId) {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let mut asked = request(100);
    change(&mut asked);
    let mut generation = harness.backend.generate(asked).await.expect("accepted");
    let id = worker.next_submit().await.id;
    worker.admit(id, 3, 1).await;
    generation.next().await;
    for (token, text) in [(1, "a"), (2, "b")] {
        worker.token(id, token, text).await;
        assert!(matches!(generation.next().await, Some(GenerationEvent::Delta(_))));
    }
    (harness, worker, generation, id)
}

#[tokio::test(start_paused = true)]
async fn cancelling_stops_the_generation_itself() {
    let cancel = CancellationToken::new();
    let (harness, mut worker, generation, id) = running(|asked| {
        asked.cancel = cancel.clone();
        asked.inference.stop = vec!["END".into()];
    })
    .await;
    // Held back, so neither delivered nor counted.
    worker.token(id, 3, "EN").await;
    cancel.cancel();
    assert_eq!(worker.receive_work().await, ToWorker::Cancel(id));
    // A step that was under way: of nobody.
    worker.token(id, 4, "late").await;
    let answer = collect(generation).await;
    assert!(matches!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Cancelled, .. })));
    assert_eq!((answer.text.as_str(), answer.usage().completion_tokens), ("", 2));
    assert_eq!(answer.usage().prompt_tokens, 3);
    assert_eq!(harness.metrics.cancelled.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_goes_away_stops_the_generation() {
    let (_harness, mut worker, generation, id) = running(|_| {}).await;
    drop(generation);
    assert_eq!(worker.receive_work().await, ToWorker::Cancel(id));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_stops_the_generation() {
    let (harness, mut worker, generation, id) =
        running(|asked| asked.deadline = Some(Duration::from_millis(1500))).await;
    assert_eq!(worker.receive_work().await, ToWorker::Cancel(id));
    let answer = collect(generation).await;
    assert_eq!(answer.end, Some(GenerationEvent::Failed(BackendError::Timeout)));
    assert_eq!((harness.metrics.timed_out.get(), harness.metrics.cancelled.get()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_string_stops_the_generation_and_is_not_shown() {
    let (_harness, mut worker, generation, id) = running(|asked| asked.inference.stop = vec!["END".into()]).await;
    worker.step(vec![(id, fake::token(3, "c E")), (id, fake::token(4, "ND d")), (id, fake::token(5, "e"))]).await;
    assert_eq!(worker.receive_work().await, ToWorker::Cancel(id));
    worker.token(id, 6, "late").await;
    let answer = collect(generation).await;
    assert_eq!((answer.text.as_str(), answer.tokens), ("c ", 2), "tokens up to the match");
    assert_eq!(answer.usage().completion_tokens, 4);
    assert!(matches!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Stop, .. })));
}

#[tokio::test(start_paused = true)]
async fn what_was_held_back_belongs_to_an_answer_that_ends_by_itself() {
    let (_harness, mut worker, generation, id) = running(|asked| asked.inference.stop = vec!["END".into()]).await;
    worker.token(id, 3, "EN").await;
    worker.event(id, Event::Finished(FinishReason::Length)).await;
    let answer = collect(generation).await;
    assert_eq!((answer.text.as_str(), answer.usage().completion_tokens), ("EN", 3));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_never_reads_holds_nobody_up() {
    let (harness, mut worker, slow, slow_id) = running(|_| {}).await;
    let quick = harness.backend.generate(request(1)).await.expect("accepted");
    let quick_id = worker.next_submit().await.id;
    for token in 0..10_000 {
        worker.token(slow_id, token, "x").await;
    }
    worker.admit(quick_id, 1, 0).await;
    worker.token(quick_id, 1, "quick").await;
    worker.event(quick_id, Event::Finished(FinishReason::Stop)).await;
    assert_eq!(collect(quick).await.text, "quick");
    worker.event(slow_id, Event::Finished(FinishReason::Stop)).await;
    let answer = collect(slow).await;
    assert_eq!((answer.text.len(), answer.tokens, answer.usage().completion_tokens), (10_000, 10_000, 10_002));
}
