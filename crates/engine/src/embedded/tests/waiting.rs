use super::{fake::collect, *};

#[tokio::test(start_paused = true)]
async fn requests_that_come_while_the_worker_restarts_wait_for_the_next() {
    let mut harness = Harness::start(|_| {});
    drop(harness.next_ready_worker().await);
    harness.until_readiness(|readiness| matches!(readiness, Readiness::Starting { .. })).await;
    let generation = harness.backend.generate(request(5)).await.expect("it waits");
    let mut worker = harness.next_ready_worker().await;
    let id = worker.next_submit().await.id;
    worker.admit(id, 1, 0).await;
    worker.event(id, Event::Finished(FinishReason::Stop)).await;
    assert!(matches!(collect(generation).await.end, Some(GenerationEvent::Finished { .. })));
}

#[tokio::test(start_paused = true)]
async fn they_wait_for_a_bounded_time() {
    let mut harness = Harness::start(|config| config.restart_wait_max = Duration::from_secs(20));
    drop(harness.next_ready_worker().await);
    harness.until_readiness(|readiness| matches!(readiness, Readiness::Starting { .. })).await;
    let start = tokio::time::Instant::now();
    let generation = harness.backend.generate(request(5)).await.expect("it waits");
    let mut loading = harness.next_worker().await;
    let answer = collect(generation).await;
    assert!(matches!(answer.end, Some(GenerationEvent::Failed(BackendError::Unavailable(_)))), "{:?}", answer.end);
    assert!(start.elapsed() <= Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(harness.backend.generate(request(5)).await.is_err(), "no more waiting");
    loading.send(FromWorker::Ready(Box::new(model()))).await;
    harness.until_ready().await;
    assert!(harness.backend.generate(request(5)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn more_than_the_limit_is_refused_whether_the_worker_runs_or_not() {
    let mut harness = Harness::start(|config| {
        config.worker.sequences = 1;
        config.worker.queue_max = 2;
    });
    let worker = harness.next_ready_worker().await;
    let mut generations = Vec::new();
    for _ in 0..3 {
        generations.push(harness.backend.generate(request(5)).await.expect("accepted"));
    }
    let full = Some(BackendError::Overloaded { queue_max: 2 });
    assert_eq!(harness.backend.generate(request(5)).await.err(), full);
    drop(worker);
    harness.until_readiness(|readiness| matches!(readiness, Readiness::Starting { .. })).await;
    assert_eq!(harness.backend.generate(request(5)).await.err(), full);
    assert_eq!(harness.metrics.refused.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_can_be_cancelled_and_is_never_submitted() {
    let mut harness = Harness::start(|_| {});
    drop(harness.next_ready_worker().await);
    harness.until_readiness(|readiness| matches!(readiness, Readiness::Starting { .. })).await;
    let asked = request(5);
    let cancel = asked.cancel.clone();
    let cancelled = harness.backend.generate(asked).await.expect("it waits");
    let _other = harness.backend.generate(request(7)).await.expect("it waits");
    cancel.cancel();
    let answer = collect(cancelled).await;
    assert!(matches!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Cancelled, .. })));
    assert_eq!(answer.usage(), protocol::inference::Usage::default());
    let mut worker = harness.next_ready_worker().await;
    assert_eq!(worker.next_submit().await.max_tokens, 7);
}
