//! A request that crashes workers is found, and nobody else pays for it.

use super::{fake::collect, *};

/// Requests as they arrive, and a worker that has them all.
async fn crowd(count: usize) -> (Harness, fake::FakeWorker, Vec<(WorkerId, Generation)>) {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let mut crowd = Vec::new();
    for _ in 0..count {
        let generation = harness.backend.generate(request(50)).await.expect("accepted");
        crowd.push((worker.next_submit().await.id, generation));
    }
    (harness, worker, crowd)
}

/// The worker gets this request now, and nothing else before `goes_past` was done to it.
async fn only(worker: &mut fake::FakeWorker, id: WorkerId) {
    assert_eq!(worker.next_submit().await.id, id);
    worker.event(id, Event::Prepared).await;
    worker.admit(id, 1, 0).await;
}

/// Ends an answer well and checks that it is one.
async fn finish(worker: &mut fake::FakeWorker, id: WorkerId, generation: Generation) {
    worker.event(id, Event::Finished(FinishReason::Stop)).await;
    let end = collect(generation).await.end;
    assert!(matches!(end, Some(GenerationEvent::Finished { reason: FinishReason::Stop, .. })), "{end:?}");
}

fn is_poisonous(end: Option<&GenerationEvent>) -> bool {
    let Some(GenerationEvent::Failed(error)) = end else { return false };
    let told = protocol::ApiError::from(error.clone());
    *error == BackendError::Poisonous && !told.code.is_retryable()
}

#[tokio::test(start_paused = true)]
async fn the_second_crash_fails_the_culprit_and_no_bystander() {
    let (mut harness, mut worker, mut crowd) = crowd(4).await;
    let ids: Vec<WorkerId> = crowd.iter().map(|(id, _)| *id).collect();
    for id in &ids {
        worker.event(*id, Event::Prepared).await;
        worker.admit(*id, 1, 0).await;
        worker.token(*id, 1, "a").await;
    }
    drop(worker);

    // One at a time: each next one when the one before has a token. The third is the poison.
    let mut worker = harness.next_ready_worker().await;
    let fresh = harness.backend.generate(request(50)).await.expect("accepted");
    for id in &ids[..2] {
        only(&mut worker, *id).await;
        worker.token(*id, 2, "b").await;
    }
    only(&mut worker, ids[2]).await;
    drop(worker);
    let (_, poison) = crowd.remove(2);
    let answer = collect(poison).await;
    assert!(is_poisonous(answer.end.as_ref()), "{:?}", answer.end);
    assert_eq!(answer.text, "a", "what was delivered stands");
    assert_eq!(harness.metrics.poisoned.get(), 1);

    // The one that was not tried is still a suspect; then come all others, also who arrived meanwhile.
    let mut worker = harness.next_ready_worker().await;
    only(&mut worker, ids[3]).await;
    worker.token(ids[3], 2, "b").await;
    assert_eq!(worker.next_submit().await.generated, [1, 2]);
    assert_eq!(worker.next_submit().await.id, ids[1]);
    let last = worker.next_submit().await.id;
    for (id, generation) in crowd.into_iter().chain([(last, fresh)]) {
        worker.admit(id, 1, 0).await;
        finish(&mut worker, id, generation).await;
    }
    // Another crash of that minute is the first that nothing explains but one: no reason to refuse anyone.
    drop(worker);
    let _worker = harness.next_ready_worker().await;
    assert!(harness.backend.generate(request(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crashes_while_it_is_prepared_is_found_too() {
    let (mut harness, mut worker, mut crowd) = crowd(3).await;
    let (queued, innocent, poison) = (crowd[0].0, crowd[1].0, crowd[2].0);
    worker.event(queued, Event::Prepared).await;
    drop(worker);
    let mut worker = harness.next_ready_worker().await;
    assert_eq!(worker.next_submit().await.id, innocent, "who only waited is no suspect");
    worker.event(innocent, Event::Prepared).await;
    assert_eq!(worker.next_submit().await.id, poison);
    drop(worker);
    let (_, generation) = crowd.remove(2);
    assert!(is_poisonous(collect(generation).await.end.as_ref()));
    let mut worker = harness.next_ready_worker().await;
    for (id, generation) in crowd {
        only(&mut worker, id).await;
        finish(&mut worker, id, generation).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_cancelled_makes_way() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let asked = request(50);
    let cancel = asked.cancel.clone();
    let _first = harness.backend.generate(asked).await.expect("accepted");
    let _second = harness.backend.generate(request(60)).await.expect("accepted");
    for _ in 0..2 {
        let id = worker.next_submit().await.id;
        worker.admit(id, 1, 0).await;
    }
    drop(worker);
    let mut worker = harness.next_ready_worker().await;
    let first = worker.next_submit().await;
    assert_eq!(first.max_tokens, 50);
    cancel.cancel();
    // Either order of the two is fine: the worker forgets the one and gets the other.
    let (mut cancelled, mut submitted) = (false, false);
    while !(cancelled && submitted) {
        match worker.receive_work().await {
            ToWorker::Cancel(id) => cancelled = id == first.id,
            ToWorker::Submit(submit) => submitted = submit.max_tokens == 60,
            other => panic!("{other:?}"),
        }
    }
}
