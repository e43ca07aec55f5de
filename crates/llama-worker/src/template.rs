//! Chat templates: the Jinja source in a GGUF turns a conversation into the text that the model was trained on.
//!
//! The reference is Hugging Face's `apply_chat_template` (Jinja2 in an immutable sandbox, `trim_blocks` and
//! `lstrip_blocks` on); `fixtures/render.py` produces the expected texts of the tests with exactly that. A template is
//! untrusted input like any model file: it gets bounded fuel, recursion and size, and no loader, so it can neither crash
//! the worker nor read anything but the messages, nor loop for ever. (Slices of slices of slices cost it more time than fuel: a
//! template that was written to waste its operator's processor still can.) What it nests, in its source or in values that it builds, is walked
//! recursively by the engine: compile and render on a thread with [`STACK_BYTES`], which fits what the limits allow.
//!
//! What people send does not always fit what a template takes: some refuse a system message, some demand strict
//! alternation, some drop a system message or a tool's result in silence. [`ChatTemplate::new`] finds the last by probes, the
//! others show when the template raises; `adapt` then restates the conversation without losing a word of it.

mod adapt;
mod calendar;
mod environment;
mod json;
mod reasoning;

use std::time::SystemTime;

use minijinja::{Environment, ErrorKind, Value};
use protocol::inference::{Message, Role};

/// Largest template source in bytes; the largest known real one is under 32 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;

/// Stack of a thread that compiles or renders a template. Memory is taken only as it is touched, which real templates do
/// not. The longest chains of operators need between 16 and 64 MiB, values nested in a loop for as long as the fuel lasts
/// between 32 and 64 MiB (x86-64, minijinja 3.1); the tests hold both.
pub const STACK_BYTES: usize = 256 << 20;

/// Longest tag (`{{ … }}`, `{% … %}`) in bytes, texts in quotation marks not counted: a chain of operators is as deep as
/// it is long. The longest known real one has under 1 KiB.
pub const TAG_BYTES_MAX: usize = 8 * 1024;

/// Longest reason of a refusal that is passed on, in characters.
const REASON_CHARS_MAX: usize = 200;

/// The texts of the special tokens that templates write themselves. Empty where the model has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplateSpecials {
    /// Begin of sequence. A template that writes it must not get a second one from the tokenizer.
    pub bos_token: String,
    /// End of sequence.
    pub eos_token: String,
}

/// A conversation as the model wants to read it, up to where its answer starts.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt; special tokens are written out, so it must be tokenized with special tokens parsed.
    pub text: String,
    /// The template itself opened the reasoning part: the answer starts inside it.
    pub starts_in_reasoning: bool,
}

impl std::fmt::Debug for Rendered {
    /// Never prints the text: prompts do not reach logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rendered({} bytes, starts_in_reasoning: {})", self.text.len(), self.starts_in_reasoning)
    }
}

/// Why a template or a conversation cannot be used. Every message is safe to show and to log: none holds content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The source is over [`TEMPLATE_BYTES_MAX`].
    #[error("the chat template has {bytes} bytes, the limit is {TEMPLATE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// An expression or statement is over [`TAG_BYTES_MAX`].
    #[error(
        "the chat template has a tag of {bytes} bytes, the limit is {TAG_BYTES_MAX}; set engine.chat_template_file to replace it"
    )]
    TagTooLong {
        /// Its size, without texts in quotation marks.
        bytes: usize,
    },
    /// The source is not a template that this node can run.
    #[error("the chat template is not valid Jinja: {what} in line {line}; set engine.chat_template_file to replace it")]
    Syntax {
        /// What is wrong.
        what: String,
        /// Where, from 1; 0 where unknown.
        line: usize,
    },
    /// The template refuses this conversation in every form that keeps its content.
    #[error("the model's chat template does not accept these messages{}", .reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    Rejected {
        /// The template's own words, where they are a constant of the template.
        reason: Option<String>,
    },
    /// Rendering took more work than any real template does.
    #[error("the chat template needs more work than is allowed for a conversation of this size")]
    TooComplex,
    /// The template failed while it ran.
    #[error("the chat template failed in line {line}: {what}")]
    Failed {
        /// The kind of failure.
        what: String,
        /// Where, from 1; 0 where unknown.
        line: usize,
    },
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    specials: TemplateSpecials,
    reasoning_tags: Option<(&'static str, &'static str)>,
    /// The template shows a system message's text to the model.
    takes_system: bool,
    /// The same for a tool's result.
    takes_tool: bool,
}

impl ChatTemplate {
    /// Compiles `source` and finds out which roles it takes.
    ///
    /// # Errors
    /// [`TemplateError::TooLarge`], [`TemplateError::TagTooLong`] and [`TemplateError::Syntax`].
    pub fn new(source: &str, specials: TemplateSpecials) -> Result<Self, TemplateError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLarge { bytes: source.len() });
        }
        let bytes = environment::longest_tag(source);
        if bytes > TAG_BYTES_MAX {
            return Err(TemplateError::TagTooLong { bytes });
        }
        let mut template = Self {
            environment: environment::build(source)?,
            source: source.to_owned(),
            specials,
            reasoning_tags: reasoning::tags(source),
            takes_system: true,
            takes_tool: true,
        };
        template.takes_system = template.probe(&[Role::System, Role::User], 0);
        template.takes_tool = template.probe(&[Role::User, Role::Assistant, Role::Tool], 2);
        Ok(template)
    }

    /// Renders a conversation, ready for the model's answer.
    ///
    /// # Errors
    /// [`TemplateError::Rejected`] when the template does not take it, [`TemplateError::TooComplex`] and
    /// [`TemplateError::Failed`] when the template is at fault.
    pub fn render(&self, messages: &[Message]) -> Result<Rendered, TemplateError> {
        self.render_at(messages, SystemTime::now())
    }

    /// The tags that the template knows around a reasoning part.
    #[must_use]
    pub fn reasoning_tags(&self) -> Option<(String, String)> {
        self.reasoning_tags.map(|(open, close)| (open.to_owned(), close.to_owned()))
    }

    /// [`Self::render`] with `now` for templates that tell the model the date.
    fn render_at(&self, messages: &[Message], now: SystemTime) -> Result<Rendered, TemplateError> {
        let lacks = |role: Role, taken: bool| !taken && messages.iter().any(|message| message.role == role);
        let first = if lacks(Role::System, self.takes_system) || lacks(Role::Tool, self.takes_tool) {
            self.render_exactly(&adapt::known_roles(messages, self.takes_system, self.takes_tool), now)
        } else {
            self.render_exactly(messages, now)
        };
        let text = match first {
            Err(TemplateError::Rejected { .. }) => {
                self.render_exactly(&adapt::alternating(messages, self.takes_system), now)
            }
            other => other,
        }?;
        let starts_in_reasoning = self.reasoning_tags.is_some_and(|(open, _)| {
            // A client's own text at the end of the prompt is not the template's doing.
            let opened_by_client = messages.last().is_some_and(|message| message.content.trim_end().ends_with(open));
            text.trim_end().ends_with(open) && !opened_by_client
        });
        Ok(Rendered { text, starts_in_reasoning })
    }

    fn render_exactly(&self, messages: &[Message], now: SystemTime) -> Result<String, TemplateError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(environment::fuel(messages)));
        environment.add_function("strftime_now", move |format: &str| calendar::format(now, format));
        let context = Value::from_pairs([
            ("messages", messages.iter().map(message_value).collect()),
            ("bos_token", Value::from(self.specials.bos_token.as_str())),
            ("eos_token", Value::from(self.specials.eos_token.as_str())),
            ("add_generation_prompt", Value::from(true)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ]);
        let template = environment.get_template(environment::NAME).map_err(|error| self.explain(&error))?;
        template.render(context).map_err(|error| self.explain(&error))
    }

    /// Whether the text of the message at `place` reaches the prompt: some templates refuse a role, some ignore it.
    fn probe(&self, roles: &[Role], place: usize) -> bool {
        let mark = |index: usize| format!("probe-7f3a-{index}");
        let messages: Vec<_> =
            roles.iter().enumerate().map(|(index, &role)| Message { role, content: mark(index) }).collect();
        self.render_exactly(&messages, SystemTime::UNIX_EPOCH).is_ok_and(|text| text.contains(&mark(place)))
    }

    fn explain(&self, error: &minijinja::Error) -> TemplateError {
        if let Some(raised) = environment::raised(error) {
            // The words are passed on only if they stand in the template itself: else they may quote a message.
            let constant = !raised.is_empty() && self.source.contains(raised);
            let reason = constant.then(|| raised.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect());
            return TemplateError::Rejected { reason };
        }
        match error.kind() {
            ErrorKind::OutOfFuel => TemplateError::TooComplex,
            kind => TemplateError::Failed { what: kind.to_string(), line: error.line().unwrap_or(0) },
        }
    }
}

fn message_value(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    Value::from_pairs([("role", Value::from(role)), ("content", Value::from(message.content.as_str()))])
}

#[cfg(test)]
mod tests;
