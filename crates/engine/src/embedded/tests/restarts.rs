use super::{fake::collect, *};

/// Eight streams, each some way into its answer, lose their worker and end as if nothing had happened.
#[tokio::test(start_paused = true)]
async fn a_crash_in_the_middle_of_eight_streams_is_invisible() {
    const TOKENS: i32 = 10;
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let mut generations = Vec::new();
    let mut ids = Vec::new();
    for n in 0..8 {
        let mut generation = harness.backend.generate(request(100)).await.expect("accepted");
        let id = worker.next_submit().await.id;
        worker.admit(id, 5, 0).await;
        // Consumers differ: some took what was there before the crash, some nothing.
        if n % 2 == 0 {
            generation.next().await;
        }
        ids.push(id);
        generations.push(generation);
    }
    // Request n got n tokens; one character is cut in two by the crash.
    let text = |n: usize, token: i32| if token == 3 { vec![0xE2, 0x86] } else { format!("{n}.{token} ").into_bytes() };
    let rest = |n: usize, token: i32| if token == 4 { vec![0x92] } else { text(n, token) };
    let event = |n: usize, token: i32| Event::Token { token, bytes: rest(n, token), logprob: None };
    for (n, id) in ids.iter().enumerate() {
        for token in 0..i32::try_from(n).expect("small") {
            worker.event(*id, event(n, token)).await;
        }
    }
    drop(worker);

    let mut worker = harness.next_ready_worker().await;
    for (n, id) in ids.iter().enumerate() {
        let submit = worker.next_submit().await;
        let so_far: Vec<i32> = (0..i32::try_from(n).expect("small")).collect();
        assert_eq!((submit.id, &submit.generated), (*id, &so_far), "in order of arrival, with its tokens");
        worker.admit(submit.id, 5, 3).await;
        for token in i32::try_from(n).expect("small")..TOKENS {
            worker.event(submit.id, event(n, token)).await;
        }
        worker.event(submit.id, Event::Finished(FinishReason::Stop)).await;
    }
    for (n, generation) in generations.into_iter().enumerate() {
        let answer = collect(generation).await;
        let expected: Vec<u8> = (0..TOKENS).flat_map(|token| rest(n, token)).collect();
        assert_eq!(answer.text.as_bytes(), expected, "request {n}");
        assert_eq!((answer.tokens, answer.usage().completion_tokens), (10, 10));
        assert_eq!((answer.usage().prompt_tokens, answer.usage().cached_tokens), (5, 0), "those of the first worker");
        assert_eq!(answer.started, u32::from(n % 2 == 1), "told once");
    }
    assert_eq!((harness.metrics.worker_restarts.get(), harness.metrics.resubmitted.get()), (1, 8));
    assert_eq!((harness.metrics.generated.get(), harness.metrics.prompt.get()), (80, 40), "nothing counted twice");
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_last_token_was_there_is_whole() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let generation = harness.backend.generate(request(2)).await.expect("accepted");
    let id = worker.next_submit().await.id;
    worker.admit(id, 1, 0).await;
    worker.token(id, 1, "a").await;
    worker.token(id, 2, "b").await;
    drop(worker);
    let answer = collect(generation).await;
    assert_eq!((answer.text.as_str(), answer.usage().completion_tokens), ("ab", 2));
    assert!(matches!(answer.end, Some(GenerationEvent::Finished { reason: FinishReason::Length, .. })));
}

#[tokio::test(start_paused = true)]
async fn three_crashes_within_a_minute_fail_requests_until_a_worker_is_ready_again() {
    let mut harness = Harness::start(|_| {});
    let worker = harness.next_ready_worker().await;
    let generation = harness.backend.generate(request(5)).await.expect("accepted");
    drop(worker);
    for _ in 0..2 {
        // While it loads: no request can be the reason.
        drop(harness.next_worker().await);
    }
    let answer = collect(generation).await;
    let is_unavailable = |error: &BackendError| matches!(error, BackendError::Unavailable(reason) if reason.contains("3 times within 60 s"));
    assert!(matches!(&answer.end, Some(GenerationEvent::Failed(error)) if is_unavailable(error)), "{:?}", answer.end);
    harness.until_readiness(|readiness| matches!(readiness, Readiness::Failed(_))).await;
    let refused = harness.backend.generate(request(5)).await.err();
    assert!(refused.as_ref().is_some_and(is_unavailable), "{refused:?}");

    let mut worker = harness.next_worker().await;
    worker.send(FromWorker::Loading { per_mille: 10 }).await;
    assert!(matches!(*harness.backend.readiness().borrow(), Readiness::Failed(_)), "red until it is ready");
    worker.send(FromWorker::Ready(Box::new(model()))).await;
    harness.until_ready().await;
    let generation = harness.backend.generate(request(5)).await.expect("accepted again");
    let id = worker.next_submit().await.id;
    worker.admit(id, 1, 0).await;
    worker.event(id, Event::Finished(FinishReason::Stop)).await;
    assert!(matches!(collect(generation).await.end, Some(GenerationEvent::Finished { .. })));
}

#[tokio::test(start_paused = true)]
async fn crashes_that_are_far_apart_do_not_add_up() {
    let mut harness = Harness::start(|config| config.silence_max = Duration::from_secs(3600));
    let mut worker = harness.next_ready_worker().await;
    let _generation = harness.backend.generate(request(50)).await.expect("accepted");
    for _ in 0..6 {
        let id = worker.next_submit().await.id;
        // Each time it goes past the place of the crash before, so it is not the reason.
        worker.admit(id, 1, 0).await;
        worker.token(id, 1, "a").await;
        tokio::time::advance(Duration::from_secs(31)).await;
        drop(worker);
        worker = harness.next_ready_worker().await;
    }
    harness.until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_worker_is_replaced_and_a_busy_one_is_not() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let generation = harness.backend.generate(request(5)).await.expect("accepted");
    let id = worker.next_submit().await.id;
    worker.admit(id, 1, 0).await;
    // It answers each ping for ten minutes: nothing happens to it.
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(600) {
        let ToWorker::Ping(n) = worker.receive().await else { panic!("only pings") };
        worker.send(FromWorker::Pong(n)).await;
    }
    assert_eq!(harness.metrics.worker_restarts.get(), 0);
    worker.token(id, 1, "a").await;
    // Then it hangs: its socket stays open, nothing comes.
    let mut next = harness.next_ready_worker().await;
    let submit = next.next_submit().await;
    assert_eq!((submit.id, submit.generated), (id, vec![1]));
    next.admit(id, 1, 0).await;
    next.token(id, 2, "b").await;
    next.event(id, Event::Finished(FinishReason::Stop)).await;
    assert_eq!(collect(generation).await.text, "ab");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_hangs_while_it_loads_is_replaced() {
    let mut harness = Harness::start(|_| {});
    let _hung = harness.next_worker().await;
    harness.next_ready_worker().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_ends_the_worker() {
    for bytes in [&[4, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF][..], &[0xFF; 8], &[0, 0, 0, 0]] {
        let mut harness = Harness::start(|_| {});
        let mut worker = harness.next_ready_worker().await;
        let generation = harness.backend.generate(request(5)).await.expect("accepted");
        let id = worker.next_submit().await.id;
        worker.send_bytes(bytes).await;
        let mut next = harness.next_ready_worker().await;
        assert_eq!(next.next_submit().await.id, id, "{bytes:?}");
        next.admit(id, 1, 0).await;
        next.event(id, Event::Finished(FinishReason::Stop)).await;
        assert!(matches!(collect(generation).await.end, Some(GenerationEvent::Finished { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_before_the_admission_ends_the_worker() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let _generation = harness.backend.generate(request(5)).await.expect("accepted");
    let id = worker.next_submit().await.id;
    worker.token(id, 1, "a").await;
    assert_eq!(harness.next_ready_worker().await.next_submit().await.generated, Vec::<i32>::new());
}
