//! Continuous batching: which tokens go into the next batch, and what comes of them.
//!
//! A step is one batch. Every sequence that decodes comes first, with one token; the room that is left is shared evenly
//! by the prompts that are being computed, so a long prompt stalls nobody for more than one chunk and no prompt waits
//! for another to finish. Waiting requests get a sequence in turn between tenants, first come first served within one.
//!
//! Each sequence has cells of its own for a whole context, so cells cannot run out in the middle of an answer. When a
//! request ends, its sequence keeps what was computed; the next request of the *same tenant* that begins alike takes
//! it over and computes only the rest. Requests of other tenants clear it, the longest unused first.

mod queue;

use std::{collections::HashMap, time::Instant};

use engine_ipc::{Event, Refusal, SequenceEvent, StepStats, Token, WorkerId};
use protocol::{
    TenantId,
    inference::{FinishReason, TokenLogprob},
};

use self::queue::Queue;
use crate::prepare::Prepared;

/// Tokens at a prompt's end that open the answer and may be missing when the answer is history: `<think>` and the like.
const ANSWER_OPENING_TOKENS_MAX: usize = 4;

/// One token of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    pub(crate) position: u32,
    pub(crate) sequence: u32,
    pub(crate) wants_logits: bool,
}

/// What the scheduler needs of a model.
pub(crate) trait Model {
    /// A request's way of choosing tokens.
    type Sampler;
    /// Computes a batch.
    fn decode(&mut self, entries: &[Entry]) -> Result<(), String>;
    /// The token number `index` of an answer, by the logits of the batch's entry `row`.
    fn sample(&mut self, row: usize, sampler: &mut Self::Sampler, index: u32) -> Token;
    /// Its log-probability, with the `top` best.
    fn logprob(&mut self, row: usize, token: Token, top: u8) -> TokenLogprob;
    /// Forgets what a sequence holds from `length` on. False where the model cannot forget a part.
    fn truncate(&mut self, sequence: u32, length: u32) -> bool;
    /// Whether the token ends the model's turn.
    fn ends_turn(&self, token: Token) -> bool;
    /// What the token stands for.
    fn bytes(&self, token: Token) -> Vec<u8>;
}

/// The scheduler's limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) sequences: u32,
    pub(crate) context_tokens: u32,
    pub(crate) batch_tokens: u32,
    pub(crate) queue_max: u32,
    pub(crate) prefix_cache: bool,
}

/// A sequence's place.
struct Slot<S> {
    /// The tokens whose cells are computed.
    computed: Vec<Token>,
    /// How many of them were the last request's prompt.
    prompt_tokens: usize,
    /// Whose they are.
    tenant: Option<TenantId>,
    last_used: u64,
    active: Option<Active<S>>,
}

/// A request that has a sequence.
struct Active<S> {
    request: Prepared<S>,
    /// The token that was sampled and is not computed yet; none while the prompt is.
    next: Option<Token>,
}

pub(crate) struct Scheduler<M: Model> {
    model: M,
    limits: Limits,
    slots: Vec<Slot<M::Sampler>>,
    waiting: Queue<Prepared<M::Sampler>>,
    /// Requests that are being prepared; true once cancelled.
    preparing: HashMap<WorkerId, bool>,
    clock: u64,
    cache_hit_tokens: u64,
    cache_evictions: u64,
    batch: Vec<Entry>,
    /// Which slot wants the logits of which row of the batch.
    sampling: Vec<(usize, usize)>,
}

impl<M: Model> Scheduler<M> {
    pub(crate) fn new(model: M, limits: Limits) -> Self {
        let slots = (0..limits.sequences)
            .map(|_| Slot { computed: Vec::new(), prompt_tokens: 0, tenant: None, last_used: 0, active: None })
            .collect();
        Self {
            model,
            limits,
            slots,
            waiting: Queue::default(),
            preparing: HashMap::new(),
            clock: 0,
            cache_hit_tokens: 0,
            cache_evictions: 0,
            batch: Vec::new(),
            sampling: Vec::new(),
        }
    }

    /// Whether there is nothing to compute.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.iter().all(|slot| slot.active.is_none())
    }

    /// A request arrived. Refused when as many wait as may.
    pub(crate) fn arrived(&mut self, id: WorkerId) -> Option<SequenceEvent> {
        let free = self.slots.iter().filter(|slot| slot.active.is_none()).count();
        let waiting = self.waiting.len() + self.preparing.len();
        if waiting >= free + self.limits.queue_max as usize {
            let event = Event::Refused(Refusal::QueueFull { queue_max: self.limits.queue_max });
            return Some(SequenceEvent { id, event });
        }
        self.preparing.insert(id, false);
        None
    }

    /// It is prepared; it waits for a sequence unless it was refused or cancelled meanwhile.
    pub(crate) fn prepared(&mut self, request: Prepared<M::Sampler>) -> Option<SequenceEvent> {
        let id = request.id;
        let is_wanted = self.preparing.remove(&id) == Some(false);
        is_wanted.then(|| {
            self.waiting.push(request.tenant.clone(), request);
            SequenceEvent { id, event: Event::Prepared }
        })
    }

    /// It cannot be prepared. False when nobody waits for it any more.
    pub(crate) fn forget(&mut self, id: WorkerId) -> bool {
        self.preparing.remove(&id) == Some(false)
    }

    /// Ends a request wherever it is. What was computed for it stays a cached prefix. True if it is being prepared.
    pub(crate) fn cancel(&mut self, id: WorkerId) -> bool {
        if let Some(cancelled) = self.preparing.get_mut(&id) {
            *cancelled = true;
            return true;
        }
        if !self.waiting.remove(|request| request.id == id) {
            let found = self.slots.iter().position(|slot| slot.active.as_ref().is_some_and(|a| a.request.id == id));
            if let Some(index) = found {
                self.release(index);
            }
        }
        false
    }

    /// Computes one batch and reports what came of it.
    ///
    /// # Errors
    /// When the model fails; the scheduler is of no use then.
    pub(crate) fn step(&mut self, events: &mut Vec<SequenceEvent>) -> Result<StepStats, String> {
        let started = Instant::now();
        self.admit(events);
        self.fill();
        let decode_tokens = self.sampling.len();
        let mut decode_us = 0;
        if !self.batch.is_empty() {
            let decoding = Instant::now();
            self.model.decode(&self.batch)?;
            decode_us = micros(decoding);
            self.sample(events);
        }
        let prefill = self.batch.len() - decode_tokens.min(self.batch.len());
        Ok(StepStats {
            active: count(self.slots.iter().filter(|slot| slot.active.is_some()).count()),
            queued: count(self.waiting.len() + self.preparing.len()),
            kv_used_tokens: count(self.slots.iter().map(|slot| slot.computed.len()).sum()),
            kv_capacity_tokens: self.limits.context_tokens.saturating_mul(self.limits.sequences),
            decode_tokens: count(decode_tokens),
            prefill_tokens: count(prefill),
            step_us: if self.batch.is_empty() { 0 } else { micros(started).max(1) },
            decode_us,
            cache_hit_tokens_total: self.cache_hit_tokens,
            cache_evictions_total: self.cache_evictions,
        })
    }

    /// Gives free sequences to waiting requests.
    fn admit(&mut self, events: &mut Vec<SequenceEvent>) {
        while self.slots.iter().any(|slot| slot.active.is_none()) {
            let Some(request) = self.waiting.pop() else { return };
            let admitted = |cached_tokens| SequenceEvent {
                id: request.id,
                event: Event::Admitted {
                    prompt_tokens: request.prompt_tokens,
                    cached_tokens,
                    trimmed_messages: request.trimmed_messages,
                    starts_in_reasoning: request.starts_in_reasoning,
                },
            };
            // A worker may die between an answer's last token and its end: there is nothing left to compute then.
            let is_full = request.tokens.len() > self.limits.context_tokens as usize;
            if request.generated_tokens >= request.max_tokens || is_full {
                let finished = Event::Finished(FinishReason::Length);
                events.extend([admitted(0), SequenceEvent { id: request.id, event: finished }]);
                continue;
            }
            let index = self.place(&request);
            let kept = self.keep_prefix(index, &request);
            self.cache_hit_tokens += u64::from(kept);
            events.push(admitted(kept.min(request.prompt_tokens)));
            self.clock += 1;
            let slot = &mut self.slots[index];
            slot.tenant = Some(request.tenant.clone());
            slot.last_used = self.clock;
            slot.prompt_tokens = request.prompt_tokens as usize;
            slot.active = Some(Active { request, next: None });
        }
    }

    /// The free sequence to take: the one whose conversation the request goes on with; otherwise an empty one, otherwise
    /// the one that was unused for longest. Only to begin alike is not enough: all conversations of a tenant may share a
    /// system prompt, and the one must not cost the other its prefix while there is room for both.
    fn place(&self, request: &Prepared<M::Sampler>) -> usize {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.active.is_none());
        let rank = |slot: &Slot<M::Sampler>| {
            let own = slot.tenant.as_ref() == Some(&request.tenant);
            let shared = if own { common(&slot.computed, &request.tokens) } else { 0 };
            let goes_on = shared + ANSWER_OPENING_TOKENS_MAX >= slot.prompt_tokens.min(slot.computed.len());
            (if goes_on { shared } else { 0 }, slot.computed.is_empty(), u64::MAX - slot.last_used)
        };
        free.max_by_key(|(index, slot)| (rank(slot), std::cmp::Reverse(*index))).map_or(0, |(index, _)| index)
    }

    /// Keeps what the sequence and the request have in common, and clears the rest. At least one token of the request is
    /// left to compute: its logits choose the answer's first.
    fn keep_prefix(&mut self, index: usize, request: &Prepared<M::Sampler>) -> u32 {
        let slot = &mut self.slots[index];
        let mut keep = 0;
        if self.limits.prefix_cache && slot.tenant.as_ref() == Some(&request.tenant) {
            keep = common(&slot.computed, &request.tokens).min(request.tokens.len().saturating_sub(1));
        }
        if keep == slot.computed.len() {
            return count(keep);
        }
        if keep == 0 {
            self.cache_evictions += 1;
        }
        if !self.model.truncate(count(index), count(keep)) {
            // Recurrent and sliding-window models cannot go back: everything is computed anew.
            keep = 0;
            self.model.truncate(count(index), 0);
        }
        slot.computed.truncate(keep);
        count(keep)
    }

    /// Fills the batch: first one token of every sequence that decodes, then prompts in even shares.
    fn fill(&mut self) {
        self.batch.clear();
        self.sampling.clear();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(active) = &mut slot.active else { continue };
            if let Some(token) = active.next.take() {
                self.sampling.push((index, self.batch.len()));
                self.batch.push(Entry {
                    token,
                    position: count(slot.computed.len()),
                    sequence: count(index),
                    wants_logits: true,
                });
                slot.computed.push(token);
            }
        }
        let decoding = self.sampling.len();
        let mut prompts: Vec<usize> = (0..self.slots.len())
            .filter(|index| !self.sampling[..decoding].iter().any(|(decodes, _)| decodes == index))
            .filter(|index| self.slots[*index].active.is_some())
            .collect();
        // The shortest rest first: what it does not need of its share goes to the longer ones.
        let rest = |slot: &Slot<M::Sampler>| {
            slot.active.as_ref().map_or(0, |active| active.request.tokens.len() - slot.computed.len())
        };
        prompts.sort_by_key(|index| rest(&self.slots[*index]));
        let prompt_count = prompts.len();
        for (nth, index) in prompts.into_iter().enumerate() {
            let room = (self.limits.batch_tokens as usize).saturating_sub(self.batch.len());
            let share = room / (prompt_count - nth);
            let slot = &mut self.slots[index];
            let Some(active) = &slot.active else { continue };
            let from = slot.computed.len();
            let to = active.request.tokens.len().min(from + share);
            for at in from..to {
                let wants_logits = at + 1 == active.request.tokens.len();
                if wants_logits {
                    self.sampling.push((index, self.batch.len()));
                }
                let token = active.request.tokens[at];
                self.batch.push(Entry { token, position: count(at), sequence: count(index), wants_logits });
                slot.computed.push(token);
            }
        }
    }

    /// Chooses the next token of every sequence whose logits were computed.
    fn sample(&mut self, events: &mut Vec<SequenceEvent>) {
        let sampling = std::mem::take(&mut self.sampling);
        for (index, row) in &sampling {
            let Some(active) = &mut self.slots[*index].active else { continue };
            let request = &mut active.request;
            let id = request.id;
            let token = self.model.sample(*row, &mut request.sampler, request.generated_tokens);
            if self.model.ends_turn(token) {
                events.push(SequenceEvent { id, event: Event::Finished(FinishReason::Stop) });
                self.release(*index);
                continue;
            }
            request.generated_tokens += 1;
            let logprob = request.logprobs.map(|top| Box::new(self.model.logprob(*row, token, top)));
            events.push(SequenceEvent { id, event: Event::Token { token, bytes: self.model.bytes(token), logprob } });
            let slot = &mut self.slots[*index];
            let Some(active) = &mut slot.active else { continue };
            // The token itself needs a cell, too.
            let full = slot.computed.len() >= self.limits.context_tokens as usize;
            if active.request.generated_tokens >= active.request.max_tokens || full {
                events.push(SequenceEvent { id, event: Event::Finished(FinishReason::Length) });
                self.release(*index);
            } else {
                active.next = Some(token);
            }
        }
        self.sampling = sampling;
    }

    /// Ends a sequence's request; what was computed stays for its tenant.
    fn release(&mut self, index: usize) {
        self.clock += 1;
        let slot = &mut self.slots[index];
        slot.active = None;
        slot.last_used = self.clock;
        if !self.limits.prefix_cache {
            slot.computed.clear();
            slot.tenant = None;
            self.model.truncate(count(index), 0);
        }
    }
}

/// Length of what two token rows begin with alike.
fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
