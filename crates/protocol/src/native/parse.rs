use super::{
    MESSAGE_ID_BYTES_MAX,
    fields::{Field, Fields},
    request::{BearerToken, ClientMessage, Envelope, MessageId, PromptMessage},
    scalar::{Scalar, decimal},
    signed,
};
use crate::{ApiError, ErrorCode, JobId, SessionId, inference::Sampling};

/// Every type that [`parse`] knows, for the error that says so.
const TYPES: &str = "auth, session_init, session_resume, session_end, prompt, inference, stream_cancel, token_refresh, \
                     ping, signed";
/// Messages of the encrypted variant begin with this.
const ENCRYPTED: &str = "encrypted_";

/// A message that cannot be acted on, with all that its `error` reply needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// The request's id, where it could be read; also from JSON that breaks off after it.
    pub id: Option<MessageId>,
    /// The session that it names.
    pub session_id: Option<SessionId>,
    /// The client waits for a stream, so `stream_end` must follow the error.
    pub stream_promised: bool,
    /// What is wrong.
    pub error: ApiError,
}

/// Reads a text frame.
///
/// # Errors
/// [`Rejected`] with `INVALID_REQUEST`, `INVALID_JOB_ID`, `EMPTY_PROMPT` or `ENCRYPTION_NOT_SUPPORTED`.
pub fn parse(text: &str) -> Result<Envelope, Rejected> {
    let mut fields = Fields::default();
    let read = fields.read(text);
    // The id goes first: whatever is wrong with the rest, the reply must find its request.
    let id = message_id(&fields);
    let result = match (&id, read) {
        (_, Err(error)) => Err(not_json(&error)),
        (Err(error), Ok(())) => Err(error.clone()),
        (Ok(_), Ok(())) => fields.take_wrong().map_or_else(|| message(&mut fields), Err),
    };
    let id = id.unwrap_or_default();
    match result {
        Ok(message) => Ok(Envelope { id, message }),
        Err(error) => Err(Rejected {
            id,
            session_id: session_id(&fields).ok().flatten(),
            stream_promised: stream_promised(&fields),
            error,
        }),
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    // Position and category only: serde_json's own sentence may quote the client's text.
    let what = if error.is_eof() { "ends too early" } else { "is malformed" };
    ApiError::new(
        ErrorCode::InvalidRequest,
        format!("The JSON {what} at line {}, column {}.", error.line(), error.column()),
    )
}

fn stream_promised(fields: &Fields) -> bool {
    let streams = match fields.own(Field::Type) {
        Some(Scalar::Text(kind)) => matches!(kind.as_str(), "prompt" | "inference" | "encrypted_message"),
        _ => false,
    };
    streams && fields.get(Field::Stream) != Some(&Scalar::Bool(false))
}

fn message(fields: &mut Fields) -> Result<ClientMessage, ApiError> {
    let kind = required(fields.own(Field::Type), Field::Type)?.text("type")?.to_owned();
    match kind.as_str() {
        "auth" => Ok(ClientMessage::Auth { token: required(token(fields)?, Field::Token)? }),
        "session_init" => Ok(ClientMessage::SessionInit {
            session_id: required(session_id(fields)?, Field::SessionId)?,
            job_id: job_id(fields)?,
            chain_id: chain_id(fields)?,
            token: token(fields)?,
            context: fields.take_context()?.unwrap_or_default(),
        }),
        "session_resume" => Ok(ClientMessage::SessionResume {
            session_id: required(session_id(fields)?, Field::SessionId)?,
            job_id: job_id(fields)?,
            chain_id: chain_id(fields)?,
            token: token(fields)?,
            last_message_index: unsigned(fields, Field::LastMessageIndex)?.unwrap_or(0),
            context: fields.take_context()?.ok_or_else(|| missing("conversation_context"))?,
        }),
        "session_end" => Ok(ClientMessage::SessionEnd { session_id: required(session_id(fields)?, Field::SessionId)? }),
        "prompt" | "inference" => Ok(ClientMessage::Prompt(Box::new(prompt(fields)?))),
        "stream_cancel" => Ok(ClientMessage::StreamCancel { session_id: session_id(fields)? }),
        "token_refresh" => Ok(ClientMessage::TokenRefresh { session_id: session_id(fields)?, token: token(fields)? }),
        "ping" => Ok(ClientMessage::Ping),
        "signed" => Ok(ClientMessage::Signed(Box::new(signed::read(fields)?))),
        kind if kind.starts_with(ENCRYPTED) => Err(ApiError::new(
            ErrorCode::EncryptionNotSupported,
            "This node does not serve the encrypted variant. Send session_init and prompt over TLS.",
        )),
        _ => Err(ApiError::invalid("type", format!("The message type is unknown. Known are {TYPES}."))),
    }
}

fn prompt(fields: &mut Fields) -> Result<PromptMessage, ApiError> {
    let prompt = required(fields.prompt(), Field::Prompt)?.text("prompt")?;
    if prompt.trim().is_empty() {
        return Err(ApiError::new(ErrorCode::EmptyPrompt, "The prompt is empty. Send at least one word."));
    }
    let max_tokens = fields.get(Field::MaxTokens).map(|value| value.limit("max_tokens")).transpose()?;
    if max_tokens == Some(0) {
        return Err(ApiError::invalid("max_tokens", "max_tokens must be at least 1."));
    }
    let model = match fields.get(Field::Model) {
        Some(model) => model.text("model")?,
        None => "default",
    };
    Ok(PromptMessage {
        session_id: session_id(fields)?,
        job_id: job_id(fields)?,
        chain_id: chain_id(fields)?,
        model: model.to_owned(),
        prompt: prompt.to_owned(),
        max_tokens,
        sampling: sampling(fields)?,
        stream: fields.get(Field::Stream).map_or(Ok(true), |value| value.boolean("stream"))?,
        message_index: unsigned(fields, Field::MessageIndex)?.unwrap_or(0),
        stop: fields.take_stop()?.unwrap_or_default(),
        // SDKs send an empty list where they leave the conversation to the node.
        context: fields.take_context()?.filter(|context| !context.is_empty()),
    })
}

fn sampling(fields: &Fields) -> Result<Sampling, ApiError> {
    let float = |field: Field, default: f32| fields.get(field).map_or(Ok(default), |value| value.float(field.name()));
    let default = Sampling::default();
    Ok(Sampling {
        temperature: float(Field::Temperature, default.temperature)?,
        top_p: float(Field::TopP, default.top_p)?,
        top_k: fields.get(Field::TopK).map_or(Ok(default.top_k), |value| value.limit("top_k"))?,
        min_p: float(Field::MinP, default.min_p)?,
        seed: unsigned(fields, Field::Seed)?,
        repeat_penalty: float(Field::RepeatPenalty, default.repeat_penalty)?,
        frequency_penalty: float(Field::FrequencyPenalty, default.frequency_penalty)?,
        presence_penalty: float(Field::PresencePenalty, default.presence_penalty)?,
        logit_bias: default.logit_bias,
    })
}

fn missing(name: &str) -> ApiError {
    ApiError::invalid(name, format!("{name} is missing."))
}

pub(super) fn required<T>(value: Option<T>, field: Field) -> Result<T, ApiError> {
    value.ok_or_else(|| missing(field.name()))
}

fn unsigned(fields: &Fields, field: Field) -> Result<Option<u64>, ApiError> {
    fields.get(field).map(|value| value.unsigned(field.name())).transpose()
}

fn token(fields: &Fields) -> Result<Option<BearerToken>, ApiError> {
    fields.own(Field::Token).map(|value| Ok(BearerToken(value.text("token")?.to_owned()))).transpose()
}

fn chain_id(fields: &Fields) -> Result<Option<u64>, ApiError> {
    unsigned(fields, Field::ChainId)
}

fn message_id(fields: &Fields) -> Result<Option<MessageId>, ApiError> {
    // `inference` may carry its id as `request.request_id` only.
    match fields.own(Field::Id).or_else(|| fields.get(Field::RequestId)) {
        None => Ok(None),
        Some(Scalar::Number(number)) => Ok(Some(MessageId::Number(number.clone()))),
        Some(Scalar::Text(text)) if text.len() <= MESSAGE_ID_BYTES_MAX => Ok(Some(MessageId::Text(text.clone()))),
        Some(_) => Err(ApiError::invalid(
            "id",
            format!("id must be a number, or a string of at most {MESSAGE_ID_BYTES_MAX} bytes."),
        )),
    }
}

fn session_id(fields: &Fields) -> Result<Option<SessionId>, ApiError> {
    let Some(value) = fields.get(Field::SessionId) else { return Ok(None) };
    let text = match value {
        Scalar::Text(text) => text.clone(),
        Scalar::Number(number) => number.to_string(),
        _ => return Err(ApiError::invalid("session_id", "session_id must be a string.")),
    };
    SessionId::new(text).map(Some).map_err(|reason| ApiError::invalid("session_id", format!("session_id {reason}.")))
}

/// A job id is a decimal number that is not 0: a JSON number or the digits as a string.
fn job_id(fields: &Fields) -> Result<Option<JobId>, ApiError> {
    let Some(value) = fields.get(Field::JobId) else { return Ok(None) };
    let digits = match value {
        Scalar::Number(number) => number.as_u64().map(|id| id.to_string()),
        Scalar::Text(text) => decimal(text).map(str::to_owned),
        _ => None,
    };
    digits.filter(|digits| digits != JobId::NONE).and_then(|digits| JobId::new(digits).ok()).map(Some).ok_or_else(
        || {
            ApiError::new(
                ErrorCode::InvalidJobId,
                "job_id must be a whole number above 0, as a number or in decimal digits.",
            )
            .param("job_id")
        },
    )
}
