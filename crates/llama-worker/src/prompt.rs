//! From messages to tokens.
//!
//! The rendered prompt is tokenized with special tokens parsed, since templates write them out. What a *user* wrote must
//! not become one: `<|im_end|>` in a message would end the turn and begin a forged one. So a message whose content
//! holds the text of a control token is rendered as a placeholder, and its content is tokenized apart, as plain text.
//! Where a template does not pass the placeholder through unchanged, such a message is refused.

use engine_ipc::{Refusal, Token};
use llama_cpp_2::token::LlamaToken;
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
    let (messages, trim) = match prompt {
        Prompt::Text(text) => {
            let vocab = loaded.model.vocab();
            let tokens = ids(vocab.tokenize(text.as_bytes(), true, true));
            return fit(Tokenized { tokens, trimmed_messages: 0, starts_in_reasoning: false }, context);
        }
        Prompt::Chat { messages, trim_oldest } => (messages, trim_oldest),
    };
    // An answer of a quarter of the context is what history may be dropped for; a longer one ends with `length`.
    let room = context.saturating_sub(reserve.min(context / 4));
    let attempt = |dropped: usize| -> Result<Tokenized, Refusal> {
        let (tokens, starts_in_reasoning) = chat(loaded, &without_oldest(&messages, dropped))?;
        Ok(Tokenized { tokens, trimmed_messages: u32::try_from(dropped).unwrap_or(u32::MAX), starts_in_reasoning })
    };
    let whole = attempt(0)?;
    if !trim || whole.tokens.len() <= room as usize {
        return fit(whole, context);
    }
    fit(fewest_dropped(whole, droppable(&messages).count(), room as usize, attempt)?, context)
}

/// The least trimmed of the attempts 0 to `most` that has at most `room` tokens, or the last. Each attempt renders and
/// tokenizes the whole conversation, so one for each message that goes would take quadratic time; this takes log(n).
fn fewest_dropped(
    whole: Tokenized,
    most: usize,
    room: usize,
    attempt: impl Fn(usize) -> Result<Tokenized, Refusal>,
) -> Result<Tokenized, Refusal> {
    if most == 0 {
        return Ok(whole);
    }
    let (mut low, mut high) = (1, most);
    let mut best = attempt(most)?;
    while low < high {
        let middle = low + (high - low) / 2;
        let tried = attempt(middle)?;
        if tried.tokens.len() <= room {
            (best, high) = (tried, middle);
        } else {
            low = middle + 1;
        }
    }
    Ok(best)
}

/// Places of the messages that may be dropped: neither a system message nor the last, the oldest first.
fn droppable(messages: &[Message]) -> impl Iterator<Item = usize> {
    let last = messages.len().saturating_sub(1);
    (0..last).filter(|index| messages[*index].role != Role::System)
}

fn without_oldest(messages: &[Message], dropped: usize) -> Vec<Message> {
    let dropped: Vec<usize> = droppable(messages).take(dropped).collect();
    let kept = messages.iter().enumerate().filter(|(index, _)| dropped.binary_search(index).is_err());
    kept.map(|(_, message)| message.clone()).collect()
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
    let forged: Vec<bool> = messages.iter().map(|message| holds_control(loaded, &message.content)).collect();
    let bos = !vocab
        .text(vocab.bos())
        .is_some_and(|bos| bos.to_str().is_ok_and(|bos| !bos.is_empty() && rendered.text.starts_with(bos)));
    if !forged.contains(&true) {
        return Ok((ids(vocab.tokenize(rendered.text.as_bytes(), bos, true)), rendered.starts_in_reasoning));
    }
    let mut quoted = messages.to_vec();
    for (index, message) in quoted.iter_mut().enumerate().filter(|(index, _)| forged[*index]) {
        message.content = placeholder(index);
    }
    let with_placeholders = loaded.template.render(&quoted).map_err(refuse)?.text;
    let forging: Vec<(usize, &str)> = (0..messages.len())
        .filter(|index| forged[*index])
        .map(|index| (index, messages[index].content.as_str()))
        .collect();
    // Many templates trim contents.
    let trimmed: Vec<(usize, &str)> = forging.iter().map(|(index, content)| (*index, content.trim())).collect();
    for contents in [forging, trimmed] {
        if let Some(pieces) = pieces(&with_placeholders, &contents)
            && pieces.iter().map(|(_, text)| *text).collect::<String>() == rendered.text
        {
            let mut tokens = Vec::new();
            for (place, (by_template, text)) in pieces.into_iter().enumerate() {
                tokens.extend(vocab.tokenize(text.as_bytes(), place == 0 && bos, by_template));
            }
            return Ok((ids(tokens), rendered.starts_in_reasoning));
        }
    }
    // A template that repeats or changes contents would say something else with the contents in place.
    Err(Refusal::Invalid {
        param: "messages".into(),
        message: "A message holds a control token of this model, and its chat template cannot quote it. Remove it."
            .into(),
    })
}

/// Puts contents in the places of their placeholders: pieces of text, each with whether the template wrote it.
fn pieces<'a>(text: &'a str, contents: &[(usize, &'a str)]) -> Option<Vec<(bool, &'a str)>> {
    let mut pieces = Vec::with_capacity(contents.len() * 2 + 1);
    let mut rest = text;
    for (index, content) in contents {
        let (before, after) = rest.split_once(&placeholder(*index))?;
        pieces.extend([(true, before), (false, *content)]);
        rest = after;
    }
    pieces.push((true, rest));
    Some(pieces)
}

/// Stands for a message's content. Private-use characters: no template and no vocabulary knows them.
fn placeholder(index: usize) -> String {
    format!("\u{F8F0}{index}\u{F8F1}")
}

/// Whether text that a user wrote would become a control token.
fn holds_control(loaded: &Loaded, text: &str) -> bool {
    let vocab = loaded.model.vocab();
    text.contains(loaded.control_starts.as_slice())
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

#[cfg(test)]
mod tests;
