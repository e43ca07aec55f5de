use super::*;

/// Answers with the sequence's position as the token; remembers every batch.
#[derive(Default)]
struct Fake {
    batches: Vec<Vec<Entry>>,
    /// Ends its turn with this token.
    end: Option<Token>,
    cannot_truncate: bool,
}

impl Model for Fake {
    type Sampler = ();

    fn decode(&mut self, entries: &[Entry]) -> Result<(), String> {
        self.batches.push(entries.to_vec());
        Ok(())
    }

    fn sample(&mut self, row: usize, (): &mut (), index: u32) -> Token {
        let entry = self.batches.last().expect("a batch")[row];
        assert!(entry.wants_logits);
        if self.end == Some(index.cast_signed()) { -1 } else { 1000 + entry.position.cast_signed() }
    }

    fn logprob(&mut self, _row: usize, token: Token, _top: u8) -> TokenLogprob {
        TokenLogprob { bytes: self.bytes(token), logprob: 0.0, top: Vec::new() }
    }

    fn truncate(&mut self, _sequence: u32, length: u32) -> bool {
        length == 0 || !self.cannot_truncate
    }

    fn ends_turn(&self, token: Token) -> bool {
        token == -1
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        token.to_string().into_bytes()
    }
}

const LIMITS: Limits = Limits { sequences: 2, context_tokens: 64, batch_tokens: 8, queue_max: 3, prefix_cache: true };

fn scheduler(limits: Limits) -> Scheduler<Fake> {
    Scheduler::new(Fake::default(), limits)
}

fn request(id: u64, tenant: &str, tokens: &[Token], max_tokens: u32) -> Prepared<()> {
    Prepared {
        id: WorkerId(id),
        tenant: TenantId::new(tenant).unwrap(),
        tokens: tokens.to_vec(),
        prompt_tokens: count(tokens.len()),
        generated_tokens: 0,
        max_tokens,
        trimmed_messages: 0,
        starts_in_reasoning: false,
        logprobs: None,
        sampler: (),
    }
}

fn submit(scheduler: &mut Scheduler<Fake>, request: Prepared<()>) -> Option<SequenceEvent> {
    let refused = scheduler.arrived(request.id);
    scheduler.prepared(request);
    refused
}

fn step(scheduler: &mut Scheduler<Fake>) -> Vec<SequenceEvent> {
    let mut events = Vec::new();
    scheduler.step(&mut events).unwrap();
    events
}

fn last_batch(scheduler: &Scheduler<Fake>) -> Vec<(u32, u32)> {
    scheduler.model.batches.last().unwrap().iter().map(|entry| (entry.sequence, entry.position)).collect()
}

fn cached(events: &[SequenceEvent]) -> Vec<u32> {
    let tokens = |event: &SequenceEvent| match event.event {
        Event::Admitted { cached_tokens, .. } => Some(cached_tokens),
        _ => None,
    };
    events.iter().filter_map(tokens).collect()
}

fn tokens_of(events: &[SequenceEvent], id: u64) -> Vec<Token> {
    let token = |event: &SequenceEvent| match event.event {
        Event::Token { token, .. } if event.id == WorkerId(id) => Some(token),
        _ => None,
    };
    events.iter().filter_map(token).collect()
}

/// Steps until nothing is left.
fn run(scheduler: &mut Scheduler<Fake>) -> Vec<SequenceEvent> {
    let mut all = Vec::new();
    for _ in 0..1000 {
        if scheduler.is_idle() {
            return all;
        }
        all.extend(step(scheduler));
    }
    panic!("it never ends");
}

#[test]
fn a_long_prompt_stalls_a_running_answer_for_no_step() {
    let mut scheduler = scheduler(LIMITS);
    submit(&mut scheduler, request(1, "a", &[1, 2], 20));
    assert_eq!(tokens_of(&step(&mut scheduler), 1), [1001]);
    let long: Vec<Token> = (0..30).collect();
    submit(&mut scheduler, request(2, "b", &long, 5));
    for _ in 0..4 {
        let events = step(&mut scheduler);
        assert_eq!(tokens_of(&events, 1).len(), 1, "one token each step");
        let batch = scheduler.model.batches.last().unwrap();
        assert!(batch.len() <= 8, "the batch limit holds");
        assert_eq!(batch[0].sequence, 0, "decoding comes first");
    }
}

#[test]
fn prompts_share_the_room_evenly() {
    let mut scheduler = scheduler(LIMITS);
    submit(&mut scheduler, request(1, "a", &[0; 20], 1));
    submit(&mut scheduler, request(2, "b", &[0; 20], 1));
    step(&mut scheduler);
    let batch = last_batch(&scheduler);
    for sequence in 0..2 {
        assert_eq!(batch.iter().filter(|(of, _)| *of == sequence).count(), 4);
    }
}

#[test]
fn what_a_short_prompt_does_not_need_goes_to_a_long_one() {
    let mut scheduler = scheduler(LIMITS);
    submit(&mut scheduler, request(1, "a", &[0; 20], 1));
    submit(&mut scheduler, request(2, "b", &[0; 2], 1));
    step(&mut scheduler);
    assert_eq!(last_batch(&scheduler).len(), 8);
}

#[test]
fn tenants_take_turns() {
    let mut scheduler = scheduler(Limits { sequences: 1, queue_max: 10, ..LIMITS });
    for id in 1..=3 {
        submit(&mut scheduler, request(id, "greedy", &[id as Token], 1));
    }
    submit(&mut scheduler, request(4, "modest", &[4], 1));
    let admitted: Vec<u64> = run(&mut scheduler)
        .iter()
        .filter(|event| matches!(event.event, Event::Admitted { .. }))
        .map(|event| event.id.0)
        .collect();
    assert_eq!(admitted, [1, 4, 2, 3]);
}

#[test]
fn one_more_than_may_wait_is_refused() {
    let mut scheduler = scheduler(Limits { sequences: 1, queue_max: 1, ..LIMITS });
    assert_eq!(submit(&mut scheduler, request(1, "a", &[1], 5)), None);
    step(&mut scheduler);
    assert_eq!(submit(&mut scheduler, request(2, "a", &[1], 5)), None);
    let refused = submit(&mut scheduler, request(3, "a", &[1], 5)).expect("refused");
    assert_eq!(refused.event, Event::Refused(Refusal::QueueFull { queue_max: 1 }));
    let events = run(&mut scheduler);
    assert_eq!(tokens_of(&events, 3), [] as [Token; 0]);
    assert_eq!(tokens_of(&events, 2).len(), 5);
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let mut scheduler = scheduler(LIMITS);
    submit(&mut scheduler, request(1, "a", &[1, 2, 3], 2));
    let first = run(&mut scheduler);
    assert_eq!(cached(&first), [0]);
    // Prompt and the answer's first token are computed; the last token never was.
    let mut second = vec![1, 2, 3];
    second.extend(tokens_of(&first, 1));
    second.extend([7, 8]);
    submit(&mut scheduler, request(2, "a", &second, 1));
    assert_eq!(cached(&step(&mut scheduler)), [4]);
    assert_eq!(last_batch(&scheduler), [(0, 4), (0, 5), (0, 6)]);
}

#[test]
fn a_repeated_prompt_still_computes_its_last_token() {
    let mut scheduler = scheduler(LIMITS);
    for id in 1..=2 {
        submit(&mut scheduler, request(id, "a", &[1, 2, 3], 1));
        let events = run(&mut scheduler);
        assert_eq!(cached(&events), [if id == 1 { 0 } else { 2 }]);
        assert_eq!(tokens_of(&events, id), [1002]);
    }
}

#[test]
fn nothing_is_shared_between_tenants() {
    let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS });
    submit(&mut scheduler, request(1, "a", &[1, 2, 3, 4], 1));
    run(&mut scheduler);
    submit(&mut scheduler, request(2, "b", &[1, 2, 3, 4], 1));
    let events = run(&mut scheduler);
    assert_eq!(cached(&events), [0]);
    assert_eq!(last_batch(&scheduler), [(0, 0), (0, 1), (0, 2), (0, 3)], "all of it is computed anew");
    submit(&mut scheduler, request(3, "a", &[1, 2, 3, 4], 1));
    assert_eq!(cached(&run(&mut scheduler)), [0], "and the first tenant's is gone");
}

#[test]
fn without_the_cache_nothing_is_kept() {
    let mut scheduler = scheduler(Limits { prefix_cache: false, ..LIMITS });
    for id in 1..=2 {
        submit(&mut scheduler, request(id, "a", &[1, 2, 3], 1));
        assert_eq!(cached(&run(&mut scheduler)), [0]);
    }
}

#[test]
fn a_model_that_cannot_go_back_computes_everything() {
    let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS });
    scheduler.model.cannot_truncate = true;
    submit(&mut scheduler, request(1, "a", &[1, 2, 3, 4], 1));
    run(&mut scheduler);
    submit(&mut scheduler, request(2, "a", &[1, 2, 9, 9], 1));
    assert_eq!(cached(&run(&mut scheduler)), [0]);
}

#[test]
fn cancelling_works_at_every_stage() {
    let mut scheduler = scheduler(Limits { sequences: 1, ..LIMITS });
    // While it is prepared.
    assert_eq!(scheduler.arrived(WorkerId(1)), None);
    scheduler.cancel(WorkerId(1));
    scheduler.prepared(request(1, "a", &[1], 5));
    assert!(scheduler.is_idle());
    // While it decodes, and while another waits.
    submit(&mut scheduler, request(2, "a", &[1], 50));
    step(&mut scheduler);
    submit(&mut scheduler, request(3, "b", &[1], 5));
    submit(&mut scheduler, request(4, "c", &[5; 20], 5));
    scheduler.cancel(WorkerId(3));
    scheduler.cancel(WorkerId(2));
    let events = step(&mut scheduler);
    assert_eq!(tokens_of(&events, 2), [] as [Token; 0], "not one more token");
    assert_eq!(events[0].id, WorkerId(4), "the sequence is free at once");
    // In the middle of its prompt.
    scheduler.cancel(WorkerId(4));
    assert!(scheduler.is_idle());
    scheduler.cancel(WorkerId(99));
    assert_eq!(step(&mut scheduler), []);
}

#[test]
fn an_answer_ends_with_its_turn_its_limit_or_the_context() {
    let check = |end, max_tokens, prompt: usize, reason, tokens| {
        let mut scheduler = scheduler(LIMITS);
        scheduler.model.end = end;
        submit(&mut scheduler, request(1, "a", &vec![0; prompt], max_tokens));
        let events = run(&mut scheduler);
        assert_eq!(events.last().unwrap().event, Event::Finished(reason));
        assert_eq!(tokens_of(&events, 1).len(), tokens);
    };
    check(Some(3), 10, 2, FinishReason::Stop, 3);
    check(Some(0), 10, 2, FinishReason::Stop, 0);
    check(None, 10, 2, FinishReason::Length, 10);
    check(None, 1000, 60, FinishReason::Length, 5);
}

#[test]
fn a_resumed_request_counts_what_it_had() {
    let mut scheduler = scheduler(LIMITS);
    let mut resumed = request(1, "a", &[1, 2, 1001, 1002], 5);
    (resumed.prompt_tokens, resumed.generated_tokens) = (2, 2);
    submit(&mut scheduler, resumed);
    let events = run(&mut scheduler);
    assert!(matches!(events[0].event, Event::Admitted { prompt_tokens: 2, .. }));
    assert_eq!(tokens_of(&events, 1), [1003, 1004, 1005], "as if nothing had happened");
}

#[test]
fn a_resumed_request_that_had_all_its_tokens_only_ends() {
    let mut scheduler = scheduler(LIMITS);
    let mut resumed = request(1, "a", &[1, 2, 1001, 1002], 2);
    (resumed.prompt_tokens, resumed.generated_tokens) = (2, 2);
    submit(&mut scheduler, resumed);
    submit(&mut scheduler, request(2, "a", &[0; 65], 2));
    let events = run(&mut scheduler);
    let ends = events.iter().filter(|event| event.event == Event::Finished(FinishReason::Length)).count();
    assert_eq!((ends, scheduler.model.batches.len()), (2, 0), "nothing is computed for it");
}

#[test]
fn a_conversation_survives_another_that_only_begins_alike() {
    let mut scheduler = scheduler(LIMITS);
    let first: Vec<Token> = (0..20).collect();
    submit(&mut scheduler, request(1, "a", &first, 1));
    run(&mut scheduler);
    let other: Vec<Token> = (0..15).chain(50..60).collect();
    submit(&mut scheduler, request(2, "a", &other, 1));
    assert_eq!(cached(&run(&mut scheduler)), [0], "it takes the empty sequence");
    let second_turn: Vec<Token> = (0..25).collect();
    submit(&mut scheduler, request(3, "a", &second_turn, 1));
    assert_eq!(cached(&run(&mut scheduler)), [20]);
}

#[test]
fn the_prefix_that_was_unused_for_longest_makes_room() {
    let mut scheduler = scheduler(LIMITS);
    for (id, tenant) in [(1, "a"), (2, "b")] {
        submit(&mut scheduler, request(id, tenant, &[1, 2, 3, 4], 1));
        run(&mut scheduler);
    }
    submit(&mut scheduler, request(3, "c", &[1, 2, 3, 4], 1));
    run(&mut scheduler);
    submit(&mut scheduler, request(4, "b", &[1, 2, 3, 4], 1));
    assert_eq!(cached(&run(&mut scheduler)), [3], "the second tenant's is still there");
    assert_eq!(scheduler.cache_evictions, 1);
}
