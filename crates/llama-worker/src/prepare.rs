//! The prepare threads: everything that a request needs before it can have a sequence, and that takes longer than a step
//! may: templates, tokenizing, grammars.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender},
    },
};

use engine_ipc::{Refusal, Submit, Token, WorkerId};
use protocol::{TenantId, inference::Prompt};

use crate::{load::Loaded, prompt, run::ToStep, sampling::Sampler};

/// A request that waits for a sequence.
pub(crate) struct Prepared<S = Sampler> {
    pub(crate) id: WorkerId,
    pub(crate) tenant: TenantId,
    /// Prompt, then what an earlier worker generated.
    pub(crate) tokens: Vec<Token>,
    pub(crate) prompt_tokens: u32,
    pub(crate) generated_tokens: u32,
    pub(crate) max_tokens: u32,
    pub(crate) trimmed_messages: u32,
    pub(crate) starts_in_reasoning: bool,
    pub(crate) logprobs: Option<u8>,
    pub(crate) sampler: S,
}

/// Requests that were refused or cancelled before they were prepared: nobody wants the work any more. An entry is there
/// from the step thread's decision until it hears of the request's preparation, so there are no more than requests.
#[derive(Debug, Default)]
pub(crate) struct Unwanted(Mutex<HashSet<WorkerId>>);

impl Unwanted {
    fn ids(&self) -> MutexGuard<'_, HashSet<WorkerId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, id: WorkerId) {
        self.ids().insert(id);
    }

    /// Its preparation is over.
    pub(crate) fn over(&self, id: WorkerId) {
        self.ids().remove(&id);
    }

    fn contains(&self, id: WorkerId) -> bool {
        self.ids().contains(&id)
    }
}

/// Prepares until the reader is gone.
pub(crate) fn run(
    submissions: &Receiver<Box<Submit>>,
    unwanted: &Unwanted,
    step: &SyncSender<ToStep>,
    mut prepare: impl FnMut(Submit) -> Result<Prepared, Refusal>,
) {
    while let Ok(submit) = submissions.recv() {
        let id = submit.id;
        let prepared = if unwanted.contains(id) {
            Err(Refusal::Internal { detail: "it was refused or cancelled before it was prepared".into() })
        } else {
            prepare(*submit)
        };
        let message = match prepared {
            Ok(prepared) => ToStep::Prepared(Box::new(prepared)),
            Err(refusal) => ToStep::Refused(id, refusal),
        };
        if step.send(message).is_err() {
            return;
        }
    }
}

pub(crate) fn prepare(loaded: &Loaded, submit: Submit) -> Result<Prepared, Refusal> {
    let reserve = submit.max_tokens;
    let mut tokenized = prompt::tokenize(loaded, submit.prompt, reserve)?;
    let prompt_tokens = count(&tokenized.tokens);
    // Where there is no context left, there is no token to come.
    let answer_tokens_max = submit.max_tokens.min(loaded.context_tokens);
    let mut sampler =
        Sampler::new(&loaded.model, &submit.sampling, answer_tokens_max, &submit.response_format, submit.seed)?;
    for token in &submit.generated {
        sampler.accept(*token);
    }
    let generated_tokens = count(&submit.generated);
    tokenized.tokens.extend(submit.generated);
    Ok(Prepared {
        id: submit.id,
        tenant: submit.tenant,
        tokens: tokenized.tokens,
        prompt_tokens,
        generated_tokens,
        max_tokens: submit.max_tokens,
        trimmed_messages: tokenized.trimmed_messages,
        starts_in_reasoning: tokenized.starts_in_reasoning,
        logprobs: submit.logprobs,
        sampler,
    })
}

/// What a prompt's preparation takes time for.
pub(crate) fn prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Chat { messages, .. } => messages.iter().map(|message| message.content.len()).sum(),
    }
}

fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use protocol::inference::{ResponseFormat, Sampling};

    use super::*;

    fn submit(id: u64) -> Box<Submit> {
        Box::new(Submit {
            id: WorkerId(id),
            tenant: TenantId::new("a").expect("a tenant"),
            prompt: Prompt::Text("Once".into()),
            generated: Vec::new(),
            max_tokens: 1,
            sampling: Sampling::default(),
            seed: 0,
            response_format: ResponseFormat::Text,
            logprobs: None,
        })
    }

    #[test]
    fn nothing_is_done_for_requests_that_nobody_wants_any_more() {
        let (to_prepare, submissions) = sync_channel(3);
        let (to_step, from_prepare) = sync_channel(3);
        let unwanted = Unwanted::default();
        unwanted.insert(WorkerId(2));
        (1..=3).for_each(|id| to_prepare.send(submit(id)).expect("room"));
        drop(to_prepare);
        let mut prepared = Vec::new();
        run(&submissions, &unwanted, &to_step, |submit| {
            prepared.push(submit.id.0);
            Err(Refusal::Internal { detail: "no model".into() })
        });
        assert_eq!(prepared, [1, 3]);
        drop(to_step);
        let told = from_prepare.iter().filter_map(|message| match message {
            ToStep::Refused(id, _) => Some(id.0),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [1, 2, 3], "the step thread hears of each, to forget it");
        unwanted.over(WorkerId(2));
        assert!(!unwanted.contains(WorkerId(2)));
    }
}
