//! What Chat Completions and Completions have in common: sampling, stop strings, `stream_options`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use crate::{
    ApiError,
    inference::{InferenceRequest, STOP_STRINGS_MAX, Sampling},
};

/// The sampling fields of a request as they were sent. Both spellings of the repeat penalty are in use: llama-server's
/// `repeat_penalty` and vLLM's `repetition_penalty`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) repeat_penalty: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
}

impl Options {
    /// # Errors
    /// `INVALID_REQUEST` for what has no meaning; ranges are checked by [`InferenceRequest::validate`].
    pub(crate) fn into_sampling(self) -> Result<Sampling, ApiError> {
        let default = Sampling::default();
        if self.repeat_penalty.is_some() && self.repetition_penalty.is_some() {
            return Err(ApiError::invalid(
                "repetition_penalty",
                "repetition_penalty and repeat_penalty are the same; send only one of them.",
            ));
        }
        Ok(Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: self.top_k.map_or(Ok(default.top_k), top_k)?,
            min_p: self.min_p.unwrap_or(default.min_p),
            // OpenAI's seed is a signed integer: the same bits, read unsigned.
            seed: self.seed.map(i64::cast_unsigned),
            repeat_penalty: self.repeat_penalty.or(self.repetition_penalty).unwrap_or(default.repeat_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            logit_bias: self.logit_bias.map_or_else(|| Ok(Vec::new()), logit_bias)?,
        })
    }
}

/// vLLM writes "off" as -1, llama-server as 0.
fn top_k(value: i64) -> Result<u32, ApiError> {
    match value {
        -1 => Ok(0),
        _ => u32::try_from(value)
            .map_err(|_| ApiError::invalid("top_k", "top_k must be -1 or 0 (off), or a positive whole number.")),
    }
}

fn logit_bias(entries: BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    entries
        .into_iter()
        .map(|(token, bias)| token.parse().map(|token| (token, bias)))
        .collect::<Result<_, _>>()
        .map_err(|_| ApiError::invalid("logit_bias", "The keys of logit_bias must be token ids written as strings."))
}

/// Validates a request whose fields may have been sent under another name: the error names what the client wrote.
pub(crate) fn validate(request: &InferenceRequest, spellings: &[(&str, Option<&str>)]) -> Result<(), ApiError> {
    request.validate().map_err(|mut error| {
        let sent = spellings.iter().find_map(|(ours, theirs)| {
            if error.param.as_deref() == Some(*ours) { theirs.map(|theirs| (*ours, theirs)) } else { None }
        });
        if let Some((ours, theirs)) = sent {
            error.message = error.message.replace(ours, theirs);
            error.param = Some(theirs.to_owned());
        }
        error
    })
}

/// `stop`: one string or an array of them.
#[derive(Default)]
pub(crate) struct Stop(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;

        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut strings = Vec::new();
                while let Some(text) = seq.next_element()? {
                    if strings.len() == STOP_STRINGS_MAX {
                        return Err(A::Error::custom(format_args!("may have at most {STOP_STRINGS_MAX} strings")));
                    }
                    strings.push(text);
                }
                Ok(Stop(strings))
            }
        }

        deserializer.deserialize_any(StopVisitor)
    }
}

/// `stream_options`.
#[derive(Clone, Copy, Default, Deserialize)]
pub(crate) struct StreamOptions {
    include_usage: Option<bool>,
}

/// How to stream an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// End with a chunk that holds the usage.
    pub include_usage: bool,
}

impl Streaming {
    /// `None` for one body in place of a stream; `stream_options` means nothing then.
    pub(crate) fn of(stream: Option<bool>, options: Option<StreamOptions>) -> Option<Self> {
        let include_usage = options.and_then(|options| options.include_usage).unwrap_or(false);
        stream.unwrap_or(false).then_some(Self { include_usage })
    }
}
