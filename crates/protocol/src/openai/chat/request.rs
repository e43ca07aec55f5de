//! The request.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use super::content::Content;
use crate::{
    ApiError,
    inference::{InferenceRequest, Message, Prompt, ResponseFormat, Role},
    openai::options::{Options, Stop, StreamOptions, Streaming, validate},
};

/// Most messages of one request.
pub const MESSAGES_MAX: usize = 4096;

/// The body of `POST /v1/chat/completions`. Fields that change nothing here (`user`, `metadata`, `store`,
/// `service_tier`, …) are ignored like unknown ones.
#[derive(Deserialize)]
pub struct Request {
    model: String,
    messages: Vec<InputMessage>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<i64>,
    repeat_penalty: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    stop: Option<Stop>,
    logprobs: Option<bool>,
    top_logprobs: Option<u8>,
    response_format: Option<Format>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    tools: Option<Vec<IgnoredAny>>,
    tool_choice: Option<Value>,
    functions: Option<Vec<IgnoredAny>>,
    function_call: Option<Value>,
    modalities: Option<Vec<String>>,
    audio: Option<IgnoredAny>,
    web_search_options: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct InputMessage {
    role: Role,
    content: Option<Content>,
    tool_calls: Option<Vec<IgnoredAny>>,
    function_call: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: FormatKind,
    json_schema: Option<NamedSchema>,
    /// llama-server and others take the schema of a `json_object` here.
    schema: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FormatKind {
    Text,
    JsonObject,
    JsonSchema,
}

/// `name`, `description` and `strict` are for models that are asked; ours is held to the schema by a grammar.
#[derive(Deserialize)]
struct NamedSchema {
    schema: Option<Map<String, Value>>,
}

impl Request {
    /// How to stream, if at all.
    #[must_use]
    pub fn streaming(&self) -> Option<Streaming> {
        Streaming::of(self.stream, self.stream_options)
    }

    /// The request in the node's own vocabulary, every range checked.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the field's name, `EMPTY_PROMPT`.
    pub fn into_inference(self) -> Result<InferenceRequest, ApiError> {
        self.refuse_unsupported()?;
        if self.max_tokens.is_some() && self.max_completion_tokens.is_some() {
            return Err(ApiError::invalid(
                "max_tokens",
                "max_tokens is the old name of max_completion_tokens; send only one of them.",
            ));
        }
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs: true.")),
        };
        let spellings = [
            ("max_tokens", self.max_completion_tokens.map(|_| "max_completion_tokens")),
            ("repeat_penalty", self.repetition_penalty.map(|_| "repetition_penalty")),
        ];
        let request = InferenceRequest {
            model: self.model,
            prompt: Prompt::Chat { messages: messages(self.messages)?, trim_oldest: false },
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            sampling: Options {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                min_p: self.min_p,
                seed: self.seed,
                repeat_penalty: self.repeat_penalty,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: self.presence_penalty,
                logit_bias: self.logit_bias,
            }
            .into_sampling()?,
            stop: self.stop.unwrap_or_default().0,
            response_format: self.response_format.map_or(Ok(ResponseFormat::Text), response_format)?,
            logprobs,
        };
        validate(&request, &spellings)?;
        Ok(request)
    }

    /// What would change the answer, and that this node cannot do, must not be ignored.
    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let refuse = |param: &str, message: &str| Err(ApiError::invalid(param, message));
        if self.n.is_some_and(|n| n != 1) {
            return refuse("n", "n must be 1: this node gives one choice a request. Send the request several times.");
        }
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return refuse("tools", "Tools are not supported by this node. Send the request without them.");
        }
        if self.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
            return refuse("functions", "Functions are not supported by this node. Send the request without them.");
        }
        for (param, choice) in [("tool_choice", &self.tool_choice), ("function_call", &self.function_call)] {
            if choice.as_ref().is_some_and(|choice| choice != "none" && choice != "auto") {
                return refuse(param, &format!("{param} can only be none or auto: this node calls no tools."));
            }
        }
        if self.modalities.as_ref().is_some_and(|all| all.iter().any(|modality| modality != "text")) {
            return refuse("modalities", "modalities can only be [\"text\"]: this node answers in text.");
        }
        if self.audio.is_some() {
            return refuse("audio", "This node answers in text. Leave audio out.");
        }
        if self.web_search_options.is_some() {
            return refuse("web_search_options", "This node does not search the web. Leave web_search_options out.");
        }
        Ok(())
    }
}

fn messages(input: Vec<InputMessage>) -> Result<Vec<Message>, ApiError> {
    if input.len() > MESSAGES_MAX {
        return Err(ApiError::invalid("messages", format!("messages may have at most {MESSAGES_MAX} entries.")));
    }
    input
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            let calls = message.tool_calls.is_some_and(|calls| !calls.is_empty());
            if calls || message.function_call.is_some() {
                let param = format!("messages[{index}].{}", if calls { "tool_calls" } else { "function_call" });
                let text = format!("{param}: tool calls are not supported by this node. Leave the message out.");
                return Err(ApiError::invalid(param, text));
            }
            let Some(Content(content)) = message.content else {
                let param = format!("messages[{index}].content");
                let text = format!("{param} is required.");
                return Err(ApiError::invalid(param, text));
            };
            Ok(Message { role: message.role, content })
        })
        .collect()
}

fn response_format(format: Format) -> Result<ResponseFormat, ApiError> {
    let schema = match format.kind {
        FormatKind::Text => return Ok(ResponseFormat::Text),
        FormatKind::JsonObject => match format.schema {
            None => return Ok(ResponseFormat::JsonObject),
            Some(schema) => schema,
        },
        FormatKind::JsonSchema => {
            format.json_schema.and_then(|named| named.schema).or(format.schema).ok_or_else(|| {
                let param = "response_format.json_schema.schema";
                ApiError::invalid(param, format!("{param} is required."))
            })?
        }
    };
    Ok(ResponseFormat::JsonSchema(Value::Object(schema).to_string()))
}
