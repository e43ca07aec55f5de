use super::{ReasoningTags, stop::longest_overlap};

/// Separates a leading `<think>…</think>` part from the answer.
///
/// The opening tag counts only at the beginning (white space before it is allowed): later it is the model talking about
/// tags. Line breaks right after a tag belong to the markup and are dropped.
#[derive(Debug)]
pub(super) struct ReasoningSplitter {
    tags: Option<ReasoningTags>,
    state: State,
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space and perhaps the beginning of a tag so far.
    Undecided,
    /// Inside; `true` until the first character that is not a line break.
    Inside(bool),
    /// Behind it, or there was none; `true` as above.
    Answer(bool),
}

impl ReasoningSplitter {
    pub(super) fn new(tags: Option<ReasoningTags>) -> Self {
        let state = match &tags {
            None => State::Answer(false),
            Some(tags) if tags.starts_inside => State::Inside(true),
            Some(_) => State::Undecided,
        };
        Self { tags, state, held: String::new() }
    }

    pub(super) fn is_inside(&self) -> bool {
        matches!(self.state, State::Inside(_))
    }

    /// Reasoning and answer that are decided by now.
    pub(super) fn push(&mut self, text: &str) -> (String, String) {
        let Some(tags) = &self.tags else { return (String::new(), text.to_owned()) };
        let mut text = std::mem::take(&mut self.held) + text;
        let mut reasoning = String::new();
        if self.state == State::Undecided {
            let start = text.trim_start();
            if let Some(inside) = start.strip_prefix(&tags.open) {
                text = inside.to_owned();
                self.state = State::Inside(true);
            } else if tags.open.starts_with(start) {
                self.held = text;
                return (reasoning, String::new());
            } else {
                self.state = State::Answer(false);
            }
        }
        if let State::Inside(mut trim) = self.state {
            if let Some(position) = text.find(&tags.close) {
                reasoning = trimmed(&text[..position], &mut trim);
                text = text[position + tags.close.len()..].to_owned();
                self.state = State::Answer(true);
            } else {
                self.held = text.split_off(text.len() - longest_overlap(&text, &tags.close));
                reasoning = trimmed(&text, &mut trim);
                self.state = State::Inside(trim);
                return (reasoning, String::new());
            }
        }
        let State::Answer(mut trim) = self.state else { return (reasoning, String::new()) };
        let answer = trimmed(&text, &mut trim);
        self.state = State::Answer(trim);
        (reasoning, answer)
    }

    /// No more text: what was held was not a tag.
    pub(super) fn finish(&mut self) -> (String, String) {
        let held = std::mem::take(&mut self.held);
        if self.is_inside() { (held, String::new()) } else { (String::new(), held) }
    }
}

/// `text` without leading line breaks while `trim` holds; it holds until something else was seen.
fn trimmed(text: &str, trim: &mut bool) -> String {
    if !*trim {
        return text.to_owned();
    }
    let text = text.trim_start_matches(['\n', '\r']);
    *trim = text.is_empty();
    text.to_owned()
}
