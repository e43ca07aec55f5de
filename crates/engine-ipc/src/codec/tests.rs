use std::{io::Cursor, path::PathBuf};

use proptest::prelude::*;
use protocol::{
    TenantId,
    inference::{FinishReason, Message, Prompt, ResponseFormat, Role, Sampling, TokenLogprob},
};

use super::*;
use crate::{
    Event, FromWorker, GpuConfig, Refusal, SequenceEvent, StepStats, Submit, ToWorker, WorkerConfig, WorkerId,
};

fn submit() -> Submit {
    let messages = vec![Message { role: Role::User, content: "grüß dich \u{0}\u{10FFFF}".into() }];
    Submit {
        id: WorkerId(u64::MAX),
        tenant: TenantId::new("t").expect("an id"),
        prompt: Prompt::Chat { messages, trim_oldest: true },
        generated: vec![0, -1, i32::MAX, i32::MIN],
        max_tokens: 1,
        sampling: Sampling { logit_bias: vec![(7, -100.0)], seed: Some(0), ..Sampling::default() },
        seed: 1,
        response_format: ResponseFormat::JsonSchema("{}".into()),
        logprobs: Some(20),
    }
}

fn step() -> FromWorker {
    let logprob = TokenLogprob { bytes: vec![0xff], logprob: f32::NEG_INFINITY, top: vec![(vec![], 0.0)] };
    let events = vec![
        Event::Admitted { prompt_tokens: 1, cached_tokens: 2, trimmed_messages: 3, starts_in_reasoning: true },
        Event::Token { token: -1, bytes: vec![0xe2, 0x82], logprob: Some(Box::new(logprob)) },
        Event::Finished(FinishReason::Length),
        Event::Refused(Refusal::QueueFull { queue_max: 9 }),
    ];
    let events = events.into_iter().map(|event| SequenceEvent { id: WorkerId(3), event }).collect();
    FromWorker::Step { events, stats: StepStats { step_us: u32::MAX, ..StepStats::default() } }
}

#[test]
fn an_announced_length_over_the_limit_is_refused_before_anything_is_allocated() {
    for length in [FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
        let error = read_frame::<ToWorker>(&mut Cursor::new(length.to_le_bytes())).expect_err("too large");
        assert!(matches!(error, FrameError::TooLarge(announced) if announced == length as usize), "{error}");
        assert!(!error.is_closed());
    }
}

#[test]
fn a_frame_that_does_not_fit_is_not_written() {
    let frame = ToWorker::Submit(Box::new(Submit { prompt: Prompt::Text("x".repeat(FRAME_BYTES_MAX)), ..submit() }));
    let mut written = Vec::new();
    assert!(matches!(write_frame(&mut written, &frame), Err(FrameError::TooLarge(_))));
    assert!(written.is_empty(), "a part of a frame would break the stream");
}

#[test]
fn a_cut_frame_is_closed_wherever_it_is_cut() {
    let whole = encode(&step()).expect("it fits");
    for end in 0..whole.len() {
        let error = read_frame::<FromWorker>(&mut Cursor::new(&whole[..end])).expect_err("cut");
        assert!(error.is_closed(), "cut at {end}: {error}");
    }
}

#[test]
fn a_body_that_is_too_short_or_names_no_variant_is_malformed() {
    let whole = encode(&step()).expect("it fits");
    let body = &whole[4..];
    for end in 0..body.len() {
        assert!(matches!(decode::<FromWorker>(&body[..end]), Err(FrameError::Malformed(_))), "cut at {end}");
    }
    assert!(matches!(decode::<ToWorker>(&[99]), Err(FrameError::Malformed(_))));
}

#[test]
fn frames_of_every_kind_come_back_as_they_were_one_after_another() {
    let config = WorkerConfig {
        model: PathBuf::from("/m/ä.gguf"),
        sequences: 1,
        context_tokens: 0,
        batch_tokens: 2,
        queue_max: 3,
        threads: 4,
        prefix_cache: true,
        gpu: GpuConfig { layers: u32::MAX, main_device: -1 },
        chat_template: Some(String::new()),
        memory_bytes: Some(1 << 33),
    };
    let to = [
        ToWorker::Configure(Box::new(config)),
        ToWorker::Submit(Box::new(submit())),
        ToWorker::Cancel(WorkerId(0)),
        ToWorker::Ping(u64::MAX),
        ToWorker::Shutdown,
    ];
    let from = [
        FromWorker::Loading { per_mille: 1000 },
        FromWorker::LoadFailed { reason: "no".into() },
        step(),
        FromWorker::Pong(0),
    ];
    let mut stream = Vec::new();
    to.iter().for_each(|frame| write_frame(&mut stream, frame).expect("it fits"));
    from.iter().for_each(|frame| write_frame(&mut stream, frame).expect("it fits"));
    let mut stream = Cursor::new(stream);
    for frame in &to {
        assert_eq!(&read_frame::<ToWorker>(&mut stream).expect("whole"), frame);
    }
    for frame in &from {
        assert_eq!(&read_frame::<FromWorker>(&mut stream).expect("whole"), frame);
    }
    assert!(read_frame::<ToWorker>(&mut stream).expect_err("the end").is_closed());
}

proptest! {
    /// Whatever a broken peer sends is an error, never a panic.
    #[test]
    fn any_bytes_decode_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = decode::<ToWorker>(&bytes);
        let _ = decode::<FromWorker>(&bytes);
        let _ = read_frame::<ToWorker>(&mut Cursor::new(&bytes));
    }

    #[test]
    fn token_events_come_back(
        tokens in proptest::collection::vec((any::<u64>(), any::<i32>(), proptest::collection::vec(any::<u8>(), 0..16)), 0..32),
    ) {
        let events = tokens
            .into_iter()
            .map(|(id, token, bytes)| SequenceEvent { id: WorkerId(id), event: Event::Token { token, bytes, logprob: None } })
            .collect();
        let frame = FromWorker::Step { events, stats: StepStats::default() };
        let bytes = encode(&frame).expect("it fits");
        prop_assert_eq!(decode::<FromWorker>(&bytes[4..]).expect("whole"), frame);
    }
}
