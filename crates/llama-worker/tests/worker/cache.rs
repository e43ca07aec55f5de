use protocol::inference::Role;

use crate::harness::{Worker, chat, config};

const SYSTEM: (Role, &str) = (
    Role::System,
    "You are a helpful assistant of a small library by the sea. You know every book on its shelves and like to talk \
     about them, and you never tell anyone how a story ends.",
);

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut worker = Worker::start(config());
    let first = worker.answer("a", chat(&[SYSTEM, (Role::User, "Do you have books about whales?")]), |_| {});
    assert_eq!(first.cached_tokens, 0);
    let said = first.text();
    let turns =
        [SYSTEM, (Role::User, "Do you have books about whales?"), (Role::Assistant, &said), (Role::User, "And ships?")];
    let second = worker.answer("a", chat(&turns), |_| {});
    assert!(second.cached_tokens >= first.prompt_tokens, "{} of {}", second.cached_tokens, first.prompt_tokens);
    let uncached = worker.answer("b", chat(&turns), |_| {});
    assert_eq!(uncached.cached_tokens, 0, "another tenant shares nothing");
    assert_eq!(uncached.tokens, second.tokens, "and the cache changes no answer");
    worker.stop();
}

#[test]
fn conversations_of_one_tenant_keep_their_prefixes_beside_each_other() {
    let mut worker = Worker::start(config());
    let questions =
        ["Do you have books about whales?", "Which book is the oldest one?", "Is there a map of the coast?"];
    let mut said = Vec::new();
    for question in questions {
        said.push(worker.answer("a", chat(&[SYSTEM, (Role::User, question)]), |s| s.max_tokens = 8));
    }
    for (question, first) in questions.iter().zip(&said) {
        let text = first.text();
        let turns = [SYSTEM, (Role::User, question), (Role::Assistant, &text), (Role::User, "Thank you. Why?")];
        let second = worker.answer("a", chat(&turns), |s| s.max_tokens = 2);
        assert!(
            second.cached_tokens >= first.prompt_tokens,
            "{question}: {} cached of {}",
            second.cached_tokens,
            first.prompt_tokens
        );
    }
    worker.stop();
}

#[test]
fn a_cancelled_answer_leaves_its_prefix() {
    let mut worker = Worker::start(config());
    let prompt = || chat(&[SYSTEM, (Role::User, "Tell me about every book you have.")]);
    let id = worker.submit("a", prompt(), |s| s.max_tokens = 300);
    let mut answer = crate::harness::Answer::default();
    while answer.tokens.len() < 3 {
        worker.step(id, &mut answer);
    }
    worker.send(&engine_ipc::ToWorker::Cancel(id));
    let again = worker.answer("a", prompt(), |s| s.max_tokens = 3);
    assert_eq!(again.cached_tokens, answer.prompt_tokens - 1, "all but the token that gives the logits");
    assert_eq!(again.tokens, answer.tokens[..3]);
    worker.stop();
}
