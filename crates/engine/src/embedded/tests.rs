//! The supervisor against workers that are played by the test itself, over an in-memory pipe and paused time.

mod endings;
mod fake;
mod restarts;
mod suspicion;
mod waiting;

use std::time::Duration;

use engine_ipc::{Event, FromWorker, Refusal, ToWorker};
use protocol::inference::FinishReason;

use self::fake::{Harness, model, request};
use super::*;
use crate::backend::GenerationEvent;

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_before_the_first_load() {
    let mut harness = Harness::start(|_| {});
    let refused = |result: Result<Generation, BackendError>| matches!(result, Err(BackendError::Unavailable(reason)) if reason.contains("loading"));
    assert!(refused(harness.backend.generate(request(1)).await));
    let mut worker = harness.next_worker().await;
    worker.send(FromWorker::Loading { per_mille: 500 }).await;
    harness.until_readiness(|readiness| *readiness == Readiness::Starting { per_mille: 500 }).await;
    assert!(refused(harness.backend.generate(request(1)).await));
    worker.send(FromWorker::Ready(Box::new(model()))).await;
    harness.until_ready().await;
    assert!(harness.backend.generate(request(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_model_that_cannot_be_loaded_shows_with_its_reason() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_worker().await;
    worker.send(FromWorker::LoadFailed { reason: "no such file: x.gguf".into() }).await;
    harness.until_readiness(|readiness| *readiness == Readiness::Failed("no such file: x.gguf".into())).await;
    let result = harness.backend.generate(request(1)).await;
    assert!(matches!(result, Err(BackendError::Unavailable(reason)) if reason.contains("x.gguf")));
    // It is tried again, and may work then.
    harness.next_ready_worker().await;
    assert!(harness.backend.generate(request(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_be_started_shows_with_its_reason() {
    let harness = Harness::without_program();
    harness
        .until_readiness(|readiness| matches!(readiness, Readiness::Failed(reason) if reason.contains("no program")))
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_worker_gets_its_configuration_and_the_model_is_announced() {
    let mut harness = Harness::start(|config| {
        config.model_name = Some("mine".into());
        config.model_digest = Some("sha256:abc".into());
        config.worker.sequences = 3;
        config.worker.queue_max = 5;
    });
    let mut worker = harness.next_worker().await;
    let ToWorker::Configure(configuration) = worker.receive().await else { panic!("Configure comes first") };
    assert_eq!((configuration.sequences, configuration.queue_max), (3, 8), "the queue holds all live requests");
    worker.send(FromWorker::Ready(Box::new(model()))).await;
    let Readiness::Ready(served) = harness.until_ready().await else { panic!("ready") };
    let served = served.find("default").expect("one model");
    assert_eq!((served.name.as_str(), served.digest.as_deref()), ("mine", Some("sha256:abc")));
    assert_eq!(served.context_tokens, Some(model().context_tokens));
}

#[tokio::test(start_paused = true)]
async fn an_answer_streams_and_is_counted() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let mut asked = request(10);
    asked.inference.sampling.seed = Some(7);
    let mut generation = harness.backend.generate(asked).await.expect("accepted");
    let submit = worker.next_submit().await;
    assert_eq!((submit.seed, submit.max_tokens, submit.generated.len()), (7, 10, 0));
    worker.admit(submit.id, 11, 4).await;
    let started = GenerationEvent::Started { prompt_tokens: 11, cached_tokens: 4, trimmed_messages: 0 };
    assert_eq!(generation.next().await, Some(started));
    for (token, text) in [(1, "He"), (2, "llo")] {
        worker.token(submit.id, token, text).await;
        let Some(GenerationEvent::Delta(delta)) = generation.next().await else { panic!("a delta") };
        assert_eq!((delta.text.as_str(), delta.tokens), (text, 1));
    }
    worker.event(submit.id, Event::Finished(FinishReason::Stop)).await;
    let Some(GenerationEvent::Finished { reason, usage }) = generation.next().await else { panic!("the end") };
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (11, 4, 2));
    assert_eq!(generation.next().await, None);
    assert_eq!((harness.metrics.prompt.get(), harness.metrics.generated.get()), (11, 2));
}

#[tokio::test(start_paused = true)]
async fn all_tokens_of_one_step_travel_in_one_delta() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let mut generation = harness.backend.generate(request(10)).await.expect("accepted");
    let id = worker.next_submit().await.id;
    worker.admit(id, 1, 0).await;
    generation.next().await;
    worker.step(vec![(id, fake::token(1, "a")), (id, fake::token(2, "b"))]).await;
    let Some(GenerationEvent::Delta(delta)) = generation.next().await else { panic!("a delta") };
    assert_eq!((delta.text.as_str(), delta.tokens), ("ab", 2));
}

#[tokio::test(start_paused = true)]
async fn reasoning_is_separated_by_the_models_tags() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_worker().await;
    let tags = Some(("<think>".to_owned(), "</think>".to_owned()));
    worker.send(FromWorker::Ready(Box::new(engine_ipc::ModelInfo { reasoning_tags: tags, ..model() }))).await;
    harness.until_ready().await;
    let generation = harness.backend.generate(request(10)).await.expect("accepted");
    let id = worker.next_submit().await.id;
    let admitted =
        Event::Admitted { prompt_tokens: 1, cached_tokens: 0, trimmed_messages: 0, starts_in_reasoning: true };
    worker.event(id, admitted).await;
    for (token, text) in [(1, "hm"), (2, "</think>"), (3, "\n\nyes")] {
        worker.token(id, token, text).await;
    }
    worker.event(id, Event::Finished(FinishReason::Stop)).await;
    let answer = fake::collect(generation).await;
    assert_eq!((answer.reasoning.as_str(), answer.text.as_str()), ("hm", "yes"));
    let usage = answer.usage();
    assert_eq!((usage.completion_tokens, usage.reasoning_tokens), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn refusals_of_the_worker_are_told_as_they_are() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    for (refusal, error) in [
        (
            Refusal::ContextTooLarge { prompt_tokens: 9, context_tokens: 8 },
            BackendError::ContextTooLarge { prompt_tokens: 9, context_tokens: 8 },
        ),
        (
            Refusal::Invalid { param: "response_format".into(), message: "no".into() },
            BackendError::Invalid { param: "response_format".into(), message: "no".into() },
        ),
        (Refusal::QueueFull { queue_max: 3 }, BackendError::Overloaded { queue_max: 3 }),
        (Refusal::Internal { detail: "x".into() }, BackendError::Internal("x".into())),
    ] {
        let mut generation = harness.backend.generate(request(1)).await.expect("accepted");
        let id = worker.next_submit().await.id;
        worker.event(id, Event::Refused(refusal)).await;
        assert_eq!(generation.next().await, Some(GenerationEvent::Failed(error)));
        assert_eq!(generation.next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_fits_no_frame_is_refused() {
    let mut harness = Harness::start(|_| {});
    let _worker = harness.next_ready_worker().await;
    let mut huge = request(1);
    huge.inference.prompt = Prompt::Text("x".repeat(PROMPT_BYTES_MAX + 1));
    assert!(matches!(harness.backend.generate(huge).await, Err(BackendError::Invalid { .. })));
}

#[tokio::test(start_paused = true)]
async fn shutting_down_asks_the_worker_and_fails_what_is_live() {
    let mut harness = Harness::start(|_| {});
    let mut worker = harness.next_ready_worker().await;
    let generation = harness.backend.generate(request(5)).await.expect("accepted");
    worker.next_submit().await;
    harness.backend.shutdown().await;
    let answer = fake::collect(generation).await;
    assert!(matches!(answer.end, Some(GenerationEvent::Failed(BackendError::Unavailable(_)))), "{:?}", answer.end);
    assert!(matches!(harness.backend.generate(request(1)).await, Err(BackendError::Unavailable(_))));
    assert_eq!(worker.receive_work().await, ToWorker::Shutdown);
    harness.no_more_workers().await;
}
