use engine_ipc::{Event, FromWorker, Refusal, ToWorker};
use protocol::inference::{FinishReason, Message, Prompt, ResponseFormat, Role, Sampling};

use crate::harness::{Answer, Worker, ask, chat, config};

#[test]
fn greedy_answers_repeat_and_stop_at_the_end_of_the_turn() {
    let mut worker = Worker::start(config());
    assert_eq!((worker.info.context_tokens, worker.info.sequences), (512, 4));
    assert!(worker.info.has_chat_template && worker.info.parameters > 0 && !worker.info.system.is_empty());
    let prompt = || ask("What is the capital of France? Answer in one short sentence.");
    let first = worker.answer("a", prompt(), |s| s.max_tokens = 64);
    assert_eq!(first.finished, Some(FinishReason::Stop), "{:?}", first.text());
    assert!(first.text().contains("Paris"), "{:?}", first.text());
    assert!(!first.text().contains("<|im_end|>"), "the end of the turn is not text");
    assert!(first.tokens.len() < 64);
    let second = worker.answer("b", prompt(), |s| s.max_tokens = 64);
    assert_eq!(first.tokens, second.tokens);
    let short = worker.answer("b", prompt(), |s| s.max_tokens = 3);
    assert_eq!((short.finished, short.tokens.as_slice()), (Some(FinishReason::Length), &first.tokens[..3]));
    worker.stop();
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let mut worker = Worker::start(config());
    let mut told = |seed, resumed: &[i32]| {
        let sampling = Sampling { temperature: 1.2, ..Sampling::default() };
        worker
            .answer("a", ask("Tell me a story about a lighthouse."), |s| {
                (s.sampling, s.seed, s.generated, s.max_tokens) = (sampling, seed, resumed.to_vec(), 24);
            })
            .tokens
    };
    let once = told(1, &[]);
    assert_eq!(told(1, &[]), once);
    assert_ne!(told(2, &[]), once);
    assert_eq!(told(1, &once[..10]), once[10..], "a resumed answer draws what it would have drawn");
    worker.stop();
}

#[test]
fn a_resumed_answer_goes_on_where_it_stopped() {
    let mut worker = Worker::start(config());
    let sampling = Sampling { temperature: 0.0, repeat_penalty: 1.3, ..Sampling::default() };
    let mut told = |generated: &[i32]| {
        worker.answer("a", ask("List five colours."), |s| {
            (s.sampling, s.generated, s.max_tokens) = (sampling.clone(), generated.to_vec(), 20);
        })
    };
    let whole = told(&[]);
    let resumed = told(&whole.tokens[..8]);
    assert_eq!(resumed.tokens, whole.tokens[8..], "the penalties know what was said before");
    assert_eq!(resumed.prompt_tokens, whole.prompt_tokens, "what was generated is not prompt");
    assert_eq!(resumed.finished, whole.finished);
    let nothing_left = told(&whole.tokens);
    assert_eq!((nothing_left.tokens.len(), nothing_left.finished), (0, Some(FinishReason::Length)));
    worker.stop();
}

#[test]
fn answers_are_the_same_alone_and_side_by_side() {
    let mut worker = Worker::start(config());
    let prompts = ["Name a river.", "Say hello in French.", "What is 2 + 2?", "Name a colour."];
    let alone: Vec<_> = prompts.map(|prompt| worker.answer("a", ask(prompt), |s| s.max_tokens = 8).tokens).into();
    let mut batched: Vec<(_, Answer)> =
        prompts.map(|prompt| (worker.submit("b", ask(prompt), |s| s.max_tokens = 8), Answer::default())).into();
    while batched.iter().any(|(_, answer)| answer.finished.is_none()) {
        let FromWorker::Step { events, .. } = worker.frame() else { panic!("a step") };
        for event in events {
            let (_, answer) = batched.iter_mut().find(|(id, _)| *id == event.id).unwrap();
            match event.event {
                Event::Token { token, .. } => answer.tokens.push(token),
                Event::Finished(reason) => answer.finished = Some(reason),
                _ => {}
            }
        }
    }
    let same = batched.iter().zip(&alone).filter(|((_, answer), alone)| answer.tokens == **alone).count();
    // Batching changes the order of additions: a tie between two tokens may fall the other way.
    assert!(same >= 3, "{same} of 4 alike");
    worker.stop();
}

#[test]
fn log_probabilities_are_sane() {
    let mut worker = Worker::start(config());
    let answer = worker.answer("a", ask("What is the capital of France?"), |s| s.logprobs = Some(5));
    assert_eq!(answer.logprobs.len(), answer.tokens.len());
    for logprob in &answer.logprobs {
        assert!(logprob.logprob <= 0.0 && logprob.top.len() == 5);
        assert!(logprob.top.windows(2).all(|pair| pair[0].1 >= pair[1].1), "best first");
        assert!((logprob.top[0].1 - logprob.logprob).abs() < 1e-4, "greedy takes the best");
        assert!(logprob.top.iter().map(|(_, logprob)| f64::from(*logprob).exp()).sum::<f64>() <= 1.0 + 1e-3);
    }
    worker.stop();
}

#[test]
fn json_is_json() {
    let mut worker = Worker::start(config());
    let schema = r#"{"type":"object","properties":{"city":{"type":"string","maxLength":20},
        "people":{"type":"integer"}},"required":["city","people"],"additionalProperties":false}"#;
    for temperature in [0.0, 1.5] {
        let answer = worker.answer("a", ask("Describe Paris as JSON."), |s| {
            s.response_format = ResponseFormat::JsonSchema(schema.into());
            (s.sampling.temperature, s.max_tokens) = (temperature, 120);
        });
        assert_eq!(answer.finished, Some(FinishReason::Stop), "{:?}", answer.text());
        let value: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert!(value["city"].is_string() && value["people"].is_i64(), "{value}");
    }
    let answer = worker.answer("a", ask("Give me a small JSON object."), |s| {
        (s.response_format, s.max_tokens) = (ResponseFormat::JsonObject, 200);
    });
    assert!(answer.text().trim_start().starts_with('{'), "{:?}", answer.text());
    worker.stop();
}

#[test]
fn cancelling_frees_the_sequence_within_one_step() {
    let mut worker = Worker::start(config());
    let id = worker.submit("a", ask("Count from one to a thousand."), |s| s.max_tokens = 400);
    let mut answer = Answer::default();
    while answer.tokens.is_empty() {
        worker.step(id, &mut answer);
    }
    worker.send(&ToWorker::Cancel(id));
    // The pong is written after the cancel is seen, so what follows it may hold nothing of the request.
    worker.send(&ToWorker::Ping(1));
    while !matches!(worker.frame(), FromWorker::Pong(1)) {}
    let next = worker.submit("a", ask("Say hi."), |s| s.max_tokens = 2);
    let mut late = Answer::default();
    let mut other = Answer::default();
    while other.finished.is_none() {
        let FromWorker::Step { events, stats } = worker.frame() else { panic!("a step") };
        assert!(stats.active <= 1, "the cancelled one is gone");
        for event in events {
            match event.event {
                Event::Token { token, .. } if event.id == id => late.tokens.push(token),
                Event::Finished(reason) if event.id == next => other.finished = Some(reason),
                _ => {}
            }
        }
    }
    assert_eq!(late.tokens, [] as [i32; 0]);
    worker.stop();
}

#[test]
fn limits_are_refusals_with_numbers() {
    let mut worker = Worker::start(config());
    let long = "word ".repeat(600);
    let refused = worker.answer("a", ask(&long), |_| {}).refused;
    assert!(
        matches!(refused, Some(Refusal::ContextTooLarge { prompt_tokens, context_tokens: 512 }) if prompt_tokens > 512),
        "{refused:?}"
    );
    let refused = worker.answer("a", ask("hi"), |s| s.sampling.logit_bias = vec![(10_000_000, 1.0)]).refused;
    assert!(matches!(&refused, Some(Refusal::Invalid { param, .. }) if param == "logit_bias"), "{refused:?}");
    let answer = worker.answer("a", Prompt::Text("word ".repeat(505)), |s| s.max_tokens = 1000);
    assert_eq!(answer.finished, Some(FinishReason::Length), "the context ends the answer");
    assert!(answer.prompt_tokens as usize + answer.tokens.len() <= 513);
    worker.stop();
}

#[test]
fn history_is_trimmed_from_the_oldest_to_leave_room() {
    let mut worker = Worker::start(config());
    let mut messages = vec![Message { role: Role::System, content: "Be brief.".into() }];
    for turn in 0..400 {
        messages.push(Message { role: Role::User, content: format!("Question number {turn}?") });
        messages.push(Message { role: Role::Assistant, content: "Yes.".into() });
    }
    messages.push(Message { role: Role::User, content: "And now?".into() });
    let kept = messages.len();
    let prompt = Prompt::Chat { messages, trim_oldest: true };
    let answer = worker.answer("a", prompt, |s| s.max_tokens = 4);
    assert!(answer.refused.is_none(), "{:?}", answer.refused);
    assert!(answer.trimmed_messages > 700 && (answer.trimmed_messages as usize) < kept - 2);
    assert!(answer.prompt_tokens > 400, "no more is dropped than must be: {}", answer.prompt_tokens);
    worker.stop();
}

#[test]
fn bias_forbids_and_forces() {
    let mut worker = Worker::start(config());
    let prompt = || chat(&[(Role::User, "Say yes.")]);
    let free = worker.answer("a", prompt(), |s| s.max_tokens = 1).tokens[0];
    let token = u32::try_from(free).unwrap();
    let other = worker.answer("a", prompt(), |s| {
        (s.sampling.logit_bias, s.max_tokens) = (vec![(token, -100.0)], 1);
    });
    assert_ne!(other.tokens.first(), Some(&free));
    let forced = worker.answer("a", prompt(), |s| {
        (s.sampling.logit_bias, s.max_tokens) = (vec![(token, 100.0)], 3);
        s.sampling.temperature = 1.0;
    });
    assert_eq!(forced.tokens, [free; 3]);
    worker.stop();
}

#[test]
fn frequency_and_presence_count_the_whole_answer_and_repetition_its_window() {
    let mut worker = Worker::start(config());
    // Nothing but these two is ever likely; the first a little more. It was said once, 80 tokens ago.
    let (first, second, filler) = (1000, 2000, 3000);
    let mut next = |change: fn(&mut Sampling)| {
        let mut generated = vec![filler; 81];
        generated[0] = first;
        let answer = worker.answer("a", ask("hi"), |s| {
            s.sampling.logit_bias = vec![(1000, 100.0), (2000, 100.0)];
            change(&mut s.sampling);
            (s.generated, s.max_tokens) = (generated, 82);
        });
        answer.tokens[0]
    };
    let (liked, other) = match next(|_| ()) {
        token if token == first => (first, second),
        token => (token, first),
    };
    // Which of the two the model likes better is not ours to say: the penalty must be felt by the one that was said.
    if liked == first {
        assert_eq!(next(|s| s.repeat_penalty = 10.0), liked, "it is outside the window");
        assert_eq!(next(|s| s.presence_penalty = 100.0), other);
        assert_eq!(next(|s| s.frequency_penalty = 100.0), other);
    } else {
        assert_eq!(next(|s| s.repeat_penalty = 10.0), liked);
        assert_eq!(next(|s| s.presence_penalty = -100.0), other, "a reward is felt alike");
        assert_eq!(next(|s| s.frequency_penalty = -100.0), other);
    }
    worker.stop();
}
