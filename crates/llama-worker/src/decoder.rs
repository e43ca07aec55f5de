//! llama.cpp behind the scheduler's [`Model`].

use engine_ipc::Token;
use llama_cpp_2::{
    context::LlamaContext, llama_batch::LlamaBatch, model::LlamaModel, token::LlamaToken, token_type::LlamaTokenAttr,
};
use protocol::inference::TokenLogprob;

use crate::{
    ffi,
    sampling::{self, Sampler},
    scheduler::{Entry, Model},
};

pub(crate) struct Decoder<'model> {
    model: &'model LlamaModel,
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    /// The tags around reasoning: shown as text even where they are control tokens.
    shown: Vec<Token>,
}

impl<'model> Decoder<'model> {
    pub(crate) fn new(
        model: &'model LlamaModel,
        context: LlamaContext<'model>,
        batch_tokens: u32,
        reasoning_tags: Option<&(String, String)>,
    ) -> Self {
        let tags = reasoning_tags.into_iter().flat_map(|(open, close)| [open, close]);
        let shown = tags
            .filter_map(|tag| match model.vocab().tokenize(tag.as_bytes(), false, true).as_slice() {
                [one] => Some(one.0),
                _ => None,
            })
            .collect();
        Self { model, context, batch: LlamaBatch::new(batch_tokens as usize, 1), shown }
    }
}

fn position(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

impl Model for Decoder<'_> {
    type Sampler = Sampler;

    fn decode(&mut self, entries: &[Entry]) -> Result<(), String> {
        self.batch.clear();
        for entry in entries {
            self.batch
                .add(LlamaToken(entry.token), position(entry.position), &[position(entry.sequence)], entry.wants_logits)
                .map_err(|error| error.to_string())?;
        }
        self.context.decode(&mut self.batch).map_err(|error| format!("{error}: {}", ffi::take_errors()))
    }

    fn sample(&mut self, row: usize, sampler: &mut Sampler, index: u32) -> Token {
        sampler.sample(self.context.get_logits_ith(i32::try_from(row).unwrap_or(0)), index)
    }

    fn logprob(&mut self, row: usize, token: Token, top: u8) -> TokenLogprob {
        let logits = self.context.get_logits_ith(i32::try_from(row).unwrap_or(0));
        let (logprob, best) = sampling::logprobs(logits, token, top);
        let top = best.into_iter().map(|(token, logprob)| (self.bytes(token), logprob)).collect();
        TokenLogprob { bytes: self.bytes(token), logprob, top }
    }

    fn truncate(&mut self, sequence: u32, length: u32) -> bool {
        self.context.kv_cache_seq_rm(position(sequence), Some(length), None).is_ok()
    }

    fn ends_turn(&self, token: Token) -> bool {
        self.model.vocab().is_eog(LlamaToken(token))
    }

    fn bytes(&self, token: Token) -> Vec<u8> {
        let vocab = self.model.vocab();
        let special =
            self.shown.contains(&token) || vocab.attr(LlamaToken(token)).contains(LlamaTokenAttr::UserDefined);
        let mut bytes = Vec::with_capacity(16);
        vocab.token_to_piece_into(LlamaToken(token), &mut bytes, special, None);
        bytes
    }
}
