//! From messages to tokens.
//!
//! The rendered prompt is tokenized with special tokens parsed, since templates write them out. What a *user* wrote must
//! not become one: `<|im_end|>` in a message would end the turn and begin a forged one. So a message whose content
//! holds the text of a special token is rendered as a placeholder, and its content is tokenized apart, as plain text.
//! Where a template does not pass the placeholder through unchanged, such a message is refused.

use engine_ipc::{Refusal, Token};
use llama_cpp_2::{token::LlamaToken, vocab::LlamaVocab};
use protocol::inference::{Message, Prompt, Role};

use crate::{load::Loaded, template::TemplateError};

/// A prompt in tokens.
#[derive(Debug, PartialEq)]
pub(crate) struct Tokenized {
    pub(crate) tokens: Vec<Token>,
    pub(crate) trimmed_messages: u32,
    pub(crate) starts_in_reasoning: bool,
}

/// Tokenizes a prompt, and shortens a conversation that may be shortened until `reserve` tokens of answer fit too.
///
/// # Errors
/// [`Refusal`]: too large, or a conversation that the template does not take.
pub(crate) fn tokenize(loaded: &Loaded, prompt: Prompt, reserve: u32) -> Result<Tokenized, Refusal> {
    let context = loaded.context_tokens;
    let (mut messages, trim) = match prompt {
        Prompt::Text(text) => {
            let vocab = loaded.model.vocab();
            let tokens = ids(vocab.tokenize(text.as_bytes(), true, true));
            return fit(Tokenized { tokens, trimmed_messages: 0, starts_in_reasoning: false }, context);
        }
        Prompt::Chat { messages, trim_oldest } => (messages, trim_oldest),
    };
    // An answer of a quarter of the context is what history may be dropped for; a longer one ends with `length`.
    let room = context.saturating_sub(reserve.min(context / 4));
    let mut trimmed_messages = 0;
    loop {
        let (tokens, starts_in_reasoning) = chat(loaded, &messages)?;
        let tokenized = Tokenized { tokens, trimmed_messages, starts_in_reasoning };
        if !trim || tokenized.tokens.len() <= room as usize || !drop_oldest(&mut messages) {
            return fit(tokenized, context);
        }
        trimmed_messages += 1;
    }
}

/// Drops the oldest message that is neither a system message nor the last.
fn drop_oldest(messages: &mut Vec<Message>) -> bool {
    let last = messages.len().saturating_sub(1);
    match messages.iter().take(last).position(|message| message.role != Role::System) {
        Some(oldest) => {
            messages.remove(oldest);
            true
        }
        None => false,
    }
}

fn fit(tokenized: Tokenized, context_tokens: u32) -> Result<Tokenized, Refusal> {
    let prompt_tokens = u32::try_from(tokenized.tokens.len()).unwrap_or(u32::MAX);
    if prompt_tokens >= context_tokens {
        return Err(Refusal::ContextTooLarge { prompt_tokens, context_tokens });
    }
    if prompt_tokens == 0 {
        return Err(Refusal::Invalid { param: "prompt".into(), message: "The prompt has no tokens.".into() });
    }
    Ok(tokenized)
}

fn chat(loaded: &Loaded, messages: &[Message]) -> Result<(Vec<Token>, bool), Refusal> {
    let vocab = loaded.model.vocab();
    let rendered = loaded.template.render(messages).map_err(refuse)?;
    let forged: Vec<bool> = messages.iter().map(|message| holds_special(&vocab, &message.content)).collect();
    let bos = !vocab
        .text(vocab.bos())
        .is_some_and(|bos| bos.to_str().is_ok_and(|bos| !bos.is_empty() && rendered.text.starts_with(bos)));
    if !forged.contains(&true) {
        return Ok((ids(vocab.tokenize(rendered.text.as_bytes(), bos, true)), rendered.starts_in_reasoning));
    }
    let refused = || Refusal::Invalid {
        param: "messages".into(),
        message: "A message holds a control token of this model, and its chat template cannot quote it. Remove it."
            .into(),
    };
    let mut quoted = messages.to_vec();
    for (index, message) in quoted.iter_mut().enumerate().filter(|(index, _)| forged[*index]) {
        message.content = placeholder(index);
    }
    let with_placeholders = loaded.template.render(&quoted).map_err(refuse)?.text;
    let mut tokens = Vec::new();
    let (mut rest, mut first) = (with_placeholders.as_str(), true);
    let mut plain = String::new();
    for (index, message) in messages.iter().enumerate().filter(|(index, _)| forged[*index]) {
        let (before, after) = rest.split_once(&placeholder(index)).ok_or_else(refused)?;
        plain.push_str(before);
        plain.push_str(&message.content);
        tokens.extend(vocab.tokenize(before.as_bytes(), first && bos, true));
        tokens.extend(vocab.tokenize(message.content.as_bytes(), false, false));
        (rest, first) = (after, false);
    }
    plain.push_str(rest);
    // A template that trims or repeats contents would say something else with the contents in place.
    if plain != rendered.text {
        return Err(refused());
    }
    tokens.extend(vocab.tokenize(rest.as_bytes(), false, true));
    Ok((ids(tokens), rendered.starts_in_reasoning))
}

/// Stands for a message's content. Private-use characters: no template and no vocabulary knows them.
fn placeholder(index: usize) -> String {
    format!("\u{F8F0}{index}\u{F8F1}")
}

/// Whether text that a user wrote would become a special token.
fn holds_special(vocab: &LlamaVocab<'_>, text: &str) -> bool {
    // Every special token's text has one of these; the tokenizer decides.
    text.contains(['<', '[', '|', '\u{2581}', '\u{FF5C}'])
        && vocab.tokenize(text.as_bytes(), false, true) != vocab.tokenize(text.as_bytes(), false, false)
}

fn ids(tokens: Vec<LlamaToken>) -> Vec<Token> {
    tokens.into_iter().map(|token| token.0).collect()
}

fn refuse(error: TemplateError) -> Refusal {
    match error {
        TemplateError::Rejected { .. } | TemplateError::TooComplex => {
            Refusal::Invalid { param: "messages".into(), message: error.to_string() }
        }
        other => Refusal::Internal { detail: other.to_string() },
    }
}
