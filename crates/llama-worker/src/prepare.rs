//! The prepare thread: everything that a request needs before it can have a sequence, and that takes longer than a step
//! may: templates, tokenizing, grammars.

use std::sync::mpsc::{Receiver, SyncSender};

use engine_ipc::{Refusal, Submit, Token, WorkerId};
use protocol::TenantId;

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

/// Prepares until the reader is gone.
pub(crate) fn run(loaded: &Loaded, submissions: &Receiver<Box<Submit>>, step: &SyncSender<ToStep>) {
    while let Ok(submit) = submissions.recv() {
        let id = submit.id;
        let message = match prepare(loaded, *submit) {
            Ok(prepared) => ToStep::Prepared(Box::new(prepared)),
            Err(refusal) => ToStep::Refused(id, refusal),
        };
        if step.send(message).is_err() {
            return;
        }
    }
}

fn prepare(loaded: &Loaded, submit: Submit) -> Result<Prepared, Refusal> {
    let reserve = submit.max_tokens;
    let mut tokenized = prompt::tokenize(loaded, submit.prompt, reserve)?;
    let prompt_tokens = count(&tokenized.tokens);
    let mut sampler = Sampler::new(&loaded.model, &submit.sampling, &submit.response_format, submit.seed)?;
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

fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}
