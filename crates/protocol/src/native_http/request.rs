//! The request.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};

use crate::{
    ApiError, ErrorCode, JobId,
    inference::{InferenceRequest, Message, Prompt, ResponseFormat, Role},
    openai::{
        chat::MESSAGES_MAX,
        options::{Options, Stop, validate},
    },
};

/// The body of `POST /v1/inference`. Unknown fields are ignored.
#[derive(Deserialize)]
pub struct Request {
    model: Option<String>,
    prompt: Option<String>,
    conversation_context: Option<Vec<Message>>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
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
    stream: Option<bool>,
    #[serde(alias = "jobId")]
    job_id: Option<JobNumber>,
}

/// A job id as text or as a number.
struct JobNumber(String);

impl<'de> Deserialize<'de> for JobNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JobVisitor;

        impl de::Visitor<'_> for JobVisitor {
            type Value = JobNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a whole number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<JobNumber, E> {
                Ok(JobNumber(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<JobNumber, E> {
                Ok(JobNumber(number.to_string()))
            }
        }

        deserializer.deserialize_any(JobVisitor)
    }
}

impl Request {
    /// Whether to stream.
    #[must_use]
    pub fn streaming(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// The job that is named, if one is, and the request in the node's own vocabulary, every range checked.
    ///
    /// # Errors
    /// `INVALID_JOB_ID`, `INVALID_REQUEST` with the field's name, `EMPTY_PROMPT`.
    pub fn into_inference(self) -> Result<(Option<JobId>, InferenceRequest), ApiError> {
        let job = self.job_id.map(|JobNumber(text)| job(text)).transpose()?;
        let spellings = [("repeat_penalty", self.repetition_penalty.map(|_| "repetition_penalty"))];
        let request = InferenceRequest {
            model: self.model.unwrap_or_else(|| "default".to_owned()),
            prompt: Prompt::Chat {
                messages: messages(self.prompt, self.conversation_context, self.messages)?,
                trim_oldest: false,
            },
            max_tokens: self.max_tokens,
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
            response_format: ResponseFormat::Text,
            logprobs: None,
        };
        validate(&request, &spellings)?;
        Ok((job, request))
    }
}

fn job(text: String) -> Result<JobId, ApiError> {
    JobId::new(text).ok().filter(|job| job.as_str() != JobId::NONE).ok_or_else(|| {
        let message = "job_id must be the id of a job: a whole number from 1, or the name that the node gave it.";
        ApiError::new(ErrorCode::InvalidJobId, message).param("job_id")
    })
}

/// The conversation, from the one or the other way to say it.
fn messages(
    prompt: Option<String>,
    context: Option<Vec<Message>>,
    messages: Option<Vec<Message>>,
) -> Result<Vec<Message>, ApiError> {
    let (field, messages) = match (prompt, messages) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("prompt", "Send either prompt or messages, not both."));
        }
        (None, None) => return Err(ApiError::invalid("prompt", "prompt (or messages) is required.")),
        (None, Some(_)) if context.as_ref().is_some_and(|context| !context.is_empty()) => {
            let message = "conversation_context belongs to prompt; messages is the whole conversation already.";
            return Err(ApiError::invalid("conversation_context", message));
        }
        (None, Some(messages)) => ("messages", messages),
        (Some(prompt), None) => {
            if prompt.trim().is_empty() {
                return Err(
                    ApiError::new(ErrorCode::EmptyPrompt, "The prompt is empty. Say something.").param("prompt")
                );
            }
            let mut turns = context.unwrap_or_default();
            turns.push(Message { role: Role::User, content: prompt });
            ("conversation_context", turns)
        }
    };
    if messages.len() > MESSAGES_MAX {
        return Err(ApiError::invalid(field, format!("A conversation may have at most {MESSAGES_MAX} messages.")));
    }
    Ok(messages)
}
