//! A client's request, translated: what the pipeline is to answer, the conversation that it continues, and the
//! response object that will tell about it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use protocol::{
    ApiError, ErrorCode,
    inference::{
        InferenceRequest, JSON_SCHEMA_BYTES_MAX, Message, Prompt, ResponseFormat, Role, Sampling, TOP_LOGPROBS_MAX,
    },
    openai::responses::{
        ContentPart, CreateResponse, InputItem, Response, Status, TextConfig, TextFormat, TextOr, Truncation,
    },
};
use serde_json::{Value, json};

/// Pairs of metadata, as OpenAI limits them.
const METADATA_PAIRS_MAX: usize = 16;
/// Characters of a metadata key.
const METADATA_KEY_CHARS_MAX: usize = 64;
/// Characters of a metadata value.
const METADATA_VALUE_CHARS_MAX: usize = 512;
/// Characters of a JSON schema's name.
const SCHEMA_NAME_CHARS_MAX: usize = 64;
/// The `include` value that asks for log-probabilities.
const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Plan {
    /// For the pipeline.
    pub inference: InferenceRequest,
    /// The earlier turns and the new ones, without `instructions`: what a continuation continues.
    pub conversation: Vec<Message>,
    /// The response before anything happened. `model` and `created_at` are known once it is admitted.
    pub response: Response,
}

/// Translates a request that continues `previous` as the response `id`.
///
/// # Errors
/// `INVALID_REQUEST` with the field, `EMPTY_PROMPT`, or `PAYLOAD_TOO_LARGE` for a conversation over
/// `conversation_bytes_max`.
pub(super) fn plan(
    request: CreateResponse,
    previous: &[Message],
    id: String,
    conversation_bytes_max: usize,
) -> Result<Plan, ApiError> {
    refuse_what_is_not_served(&request)?;
    let metadata = metadata(request.metadata)?;
    let text = request.text.unwrap_or_default();
    let truncation = request.truncation.unwrap_or_default();
    let input = messages(request.input)?;
    let bytes: usize = previous.iter().chain(&input).map(|message| message.content.len()).sum();
    if bytes > conversation_bytes_max {
        return Err(ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!(
                "The conversation has {bytes} bytes and may have {conversation_bytes_max}. \
                 Start a new one without previous_response_id."
            ),
        )
        .param("input"));
    }
    let conversation = [previous, &input].concat();
    let instructions = request.instructions.as_ref().map(|text| Message { role: Role::System, content: text.clone() });
    let wants_logprobs = request.include.iter().flatten().any(|value| value == INCLUDE_LOGPROBS)
        || request.top_logprobs.is_some_and(|top| top > 0);
    if request.top_logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
        return Err(ApiError::invalid("top_logprobs", format!("top_logprobs must be at most {TOP_LOGPROBS_MAX}.")));
    }
    if request.max_output_tokens == Some(0) {
        return Err(ApiError::invalid("max_output_tokens", "max_output_tokens must be at least 1."));
    }
    let default = Sampling::default();
    let inference = InferenceRequest {
        model: request.model.unwrap_or_else(|| "default".to_owned()),
        prompt: Prompt::Chat {
            messages: instructions.into_iter().chain(conversation.iter().cloned()).collect(),
            trim_oldest: truncation == Truncation::Auto,
        },
        max_tokens: request.max_output_tokens,
        sampling: Sampling {
            temperature: request.temperature.unwrap_or(default.temperature),
            top_p: request.top_p.unwrap_or(default.top_p),
            top_k: request.top_k.unwrap_or(default.top_k),
            min_p: request.min_p.unwrap_or(default.min_p),
            seed: request.seed,
            repeat_penalty: request.repeat_penalty.unwrap_or(default.repeat_penalty),
            frequency_penalty: request.frequency_penalty.unwrap_or(default.frequency_penalty),
            presence_penalty: request.presence_penalty.unwrap_or(default.presence_penalty),
            logit_bias: Vec::new(),
        },
        stop: match request.stop {
            None => Vec::new(),
            Some(TextOr::Text(text)) => vec![text],
            Some(TextOr::List(list)) => list,
        },
        response_format: response_format(&text)?,
        logprobs: wants_logprobs.then_some(request.top_logprobs.unwrap_or(0)),
    };
    inference.validate().map_err(|error| match error.code {
        ErrorCode::EmptyPrompt => error.param("input"),
        _ => error,
    })?;
    let response = Response {
        id,
        object: "response",
        created_at: 0,
        completed_at: None,
        status: Status::InProgress,
        background: false,
        error: None,
        incomplete_details: None,
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        metadata,
        model: inference.model.clone(),
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        previous_response_id: request.previous_response_id,
        reasoning: request.reasoning.unwrap_or_else(|| json!({ "effort": null, "summary": null })),
        store: request.store.unwrap_or(true),
        temperature: inference.sampling.temperature,
        text,
        tool_choice: request.tool_choice.unwrap_or_else(|| Value::from("auto")),
        tools: [],
        top_logprobs: inference.logprobs.unwrap_or(0),
        top_p: inference.sampling.top_p,
        truncation,
        usage: None,
        user: request.user,
    };
    Ok(Plan { inference, conversation, response })
}

/// Silence about these would mislead: the answer would not be the one that was asked for.
fn refuse_what_is_not_served(request: &CreateResponse) -> Result<(), ApiError> {
    if request.background == Some(true) {
        return Err(ApiError::invalid("background", "Background responses are not served here. Use stream."));
    }
    if request.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return Err(ApiError::invalid("tools", "Tools are not served here. Send none."));
    }
    if !matches!(&request.tool_choice, None | Some(Value::Null))
        && !matches!(request.tool_choice.as_ref().and_then(Value::as_str), Some("auto" | "none"))
    {
        return Err(ApiError::invalid("tool_choice", "Tools are not served here: tool_choice must be auto or none."));
    }
    if request.conversation.is_some() {
        return Err(ApiError::invalid(
            "conversation",
            "Conversation objects are not served here. Use previous_response_id.",
        ));
    }
    if request.prompt.is_some() {
        return Err(ApiError::invalid("prompt", "Stored prompts are not served here. Use instructions and input."));
    }
    Ok(())
}

fn metadata(pairs: Option<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, ApiError> {
    let pairs = pairs.unwrap_or_default();
    let too_long = |text: &str, chars_max: usize| text.chars().nth(chars_max).is_some();
    if pairs.len() > METADATA_PAIRS_MAX
        || pairs
            .iter()
            .any(|(key, value)| too_long(key, METADATA_KEY_CHARS_MAX) || too_long(value, METADATA_VALUE_CHARS_MAX))
    {
        return Err(ApiError::invalid(
            "metadata",
            format!(
                "metadata may have at most {METADATA_PAIRS_MAX} pairs, with keys of at most {METADATA_KEY_CHARS_MAX} \
                 and values of at most {METADATA_VALUE_CHARS_MAX} characters."
            ),
        ));
    }
    Ok(pairs)
}

fn messages(input: Option<TextOr<InputItem>>) -> Result<Vec<Message>, ApiError> {
    match input {
        None => Ok(Vec::new()),
        Some(TextOr::Text(content)) => Ok(vec![Message { role: Role::User, content }]),
        Some(TextOr::List(items)) => {
            let messages = items.into_iter().enumerate().map(|(index, item)| message(index, item));
            messages.filter_map(Result::transpose).collect()
        }
    }
}

/// An item's message; `None` for one without effect on what follows.
fn message(index: usize, item: InputItem) -> Result<Option<Message>, ApiError> {
    match item.kind.as_deref() {
        None | Some("message") => {}
        // Clients give a response's whole output back. What was thought is not part of the conversation: chat
        // templates drop it, too.
        Some("reasoning") => return Ok(None),
        Some(_) => {
            return Err(ApiError::invalid(
                format!("input[{index}].type"),
                "Only message and reasoning items are served here; tools, files and references are not.",
            ));
        }
    }
    let role = match item.role {
        Some(Role::Tool) | None => {
            return Err(ApiError::invalid(
                format!("input[{index}].role"),
                "A message needs one of the roles user, assistant, system, developer.",
            ));
        }
        Some(role) => role,
    };
    let content = match item.content {
        None => return Err(ApiError::invalid(format!("input[{index}].content"), "A message needs content.")),
        Some(TextOr::Text(text)) => text,
        Some(TextOr::List(parts)) => {
            let mut content = String::new();
            for (place, part) in parts.into_iter().enumerate() {
                content.push_str(&text_of(index, place, part)?);
            }
            content
        }
    };
    Ok(Some(Message { role, content }))
}

fn text_of(index: usize, place: usize, part: ContentPart) -> Result<String, ApiError> {
    let field = |name: &str| format!("input[{index}].content[{place}].{name}");
    match (part.kind.as_str(), part.text) {
        ("input_text" | "output_text" | "text", Some(text)) => Ok(text),
        ("input_text" | "output_text" | "text", None) => {
            Err(ApiError::invalid(field("text"), "A text part needs text."))
        }
        _ => Err(ApiError::invalid(
            field("type"),
            "Only input_text and output_text parts are served here; images, audio and files are not.",
        )),
    }
}

fn response_format(text: &TextConfig) -> Result<ResponseFormat, ApiError> {
    let (name, schema) = match &text.format {
        TextFormat::Text => return Ok(ResponseFormat::Text),
        TextFormat::JsonObject => return Ok(ResponseFormat::JsonObject),
        TextFormat::JsonSchema { name, schema, .. } => (name, schema),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !(1..=SCHEMA_NAME_CHARS_MAX).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(ApiError::invalid(
            "text.format.name",
            format!("The schema's name must be 1 to {SCHEMA_NAME_CHARS_MAX} of a-z, A-Z, 0-9, underscore and dash."),
        ));
    }
    if !schema.is_object() {
        return Err(ApiError::invalid("text.format.schema", "The schema must be a JSON object."));
    }
    let schema = schema.to_string();
    if schema.len() > JSON_SCHEMA_BYTES_MAX {
        return Err(ApiError::invalid(
            "text.format.schema",
            format!("The schema may have at most {JSON_SCHEMA_BYTES_MAX} bytes."),
        ));
    }
    Ok(ResponseFormat::JsonSchema(schema))
}
