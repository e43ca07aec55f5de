//! What a client sends.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_json::Value;

use crate::inference::Role;

/// The body of `POST /v1/responses` and of a WebSocket's `response.create`. `null` means "not given" everywhere, and
/// fields that change nothing here (`user`, `service_tier`, `prompt_cache_key`, …) are read over.
#[derive(Clone, Default, Deserialize)]
pub struct CreateResponse {
    /// Model name; the loaded one when absent.
    pub model: Option<String>,
    /// The new turn: text of the user, or items.
    pub input: Option<TextOr<InputItem>>,
    /// A system message for this response alone: it is not inherited through `previous_response_id`.
    pub instructions: Option<String>,
    /// The response that this one continues.
    pub previous_response_id: Option<String>,
    /// Whether it can be continued later and over other connections; true when absent.
    pub store: Option<bool>,
    /// Most tokens to generate, reasoning included.
    pub max_output_tokens: Option<u32>,
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// 0 to 1.
    pub top_p: Option<f32>,
    /// Alternatives that are reported with each token, 0 to 20.
    pub top_logprobs: Option<u8>,
    /// Additional output; `message.output_text.logprobs` is served.
    pub include: Option<Vec<String>>,
    /// The form of the answer.
    pub text: Option<TextConfig>,
    /// Up to 16 pairs that are given back with the response.
    pub metadata: Option<BTreeMap<String, String>>,
    /// What to do when the conversation does not fit the context.
    pub truncation: Option<Truncation>,
    /// Answer as server-sent events. Not used over WebSocket.
    pub stream: Option<bool>,
    /// Answer later; not served.
    pub background: Option<bool>,
    /// Functions that the model may call; not served. Only their number is read.
    pub tools: Option<Vec<IgnoredAny>>,
    /// `none`, `auto`, or what must be called.
    pub tool_choice: Option<Value>,
    /// Given back.
    pub parallel_tool_calls: Option<bool>,
    /// Options of reasoning models. The loaded model decides how it thinks; the options are given back.
    pub reasoning: Option<Value>,
    /// A server-side conversation; not served.
    pub conversation: Option<IgnoredAny>,
    /// A stored prompt template; not served.
    pub prompt: Option<IgnoredAny>,
    /// WebSocket mode: `false` prepares the conversation without an answer.
    pub generate: Option<bool>,
    /// An opaque name of the end user; given back.
    pub user: Option<String>,

    // Extensions of vLLM, llama-server and the Open Responses specification.
    /// The k most likely; 0 is off.
    pub top_k: Option<u32>,
    /// Tokens at least this likely relative to the best; 0 is off.
    pub min_p: Option<f32>,
    /// Seed of the random choice.
    pub seed: Option<u64>,
    /// Multiplicative penalty; 1 is off.
    pub repeat_penalty: Option<f32>,
    /// -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Strings at which to stop.
    pub stop: Option<TextOr<String>>,
}

impl fmt::Debug for CreateResponse {
    /// Never prints content: prompts do not reach logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateResponse").field("model", &self.model).finish_non_exhaustive()
    }
}

/// One item of the input. Only messages have an effect; other kinds are told apart by `kind`.
#[derive(Clone, Deserialize)]
pub struct InputItem {
    /// `message` when absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Who said it; a message has one.
    pub role: Option<Role>,
    /// What was said; a message has it.
    pub content: Option<TextOr<ContentPart>>,
}

/// A part of a message.
#[derive(Clone, Deserialize)]
pub struct ContentPart {
    /// `input_text`, `output_text`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a text part.
    pub text: Option<String>,
}

/// A string or an array.
#[derive(Clone, PartialEq, Eq)]
pub enum TextOr<T> {
    /// A string.
    Text(String),
    /// An array.
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    /// Not `untagged`, which buffers the value and loses the path of an error inside it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(TextOr::List)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// The `text` object: request and response alike.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TextConfig {
    /// The form; text when absent.
    #[serde(default, deserialize_with = "or_default")]
    pub format: TextFormat,
    /// Given back; the loaded model has no such dial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verbosity: Option<String>,
}

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Free text.
    #[default]
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// A name for the client's own use.
        name: String,
        /// The schema.
        schema: Value,
        /// Given back.
        #[serde(skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// Given back; the schema is always enforced.
        #[serde(skip_serializing_if = "Option::is_none")]
        strict: Option<bool>,
    },
}

/// What to do when the conversation does not fit the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// Drop the oldest turns.
    Auto,
    /// Fail.
    #[default]
    Disabled,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The envelope of a WebSocket message from a client. `response.create` carries a [`CreateResponse`] beside these
/// fields, which is read from the same text once the type and the lane are known.
#[derive(Debug, Clone, Deserialize)]
pub struct ClientEvent {
    /// `response.create`, `response.cancel`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The lane.
    pub stream_id: Option<Value>,
    /// What `response.cancel` names.
    pub response_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    fn read(text: &str) -> CreateResponse {
        parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn wrong_types_are_refused_by_path() {
        let check = |text: &str, param: &str, message: &str| {
            let error = parse::<CreateResponse>(text.as_bytes()).expect_err(text);
            assert_eq!((error.param.as_deref(), error.message.as_str()), (Some(param), message), "{text}");
        };
        check(r#"{"input":7}"#, "input", "input must be a string or an array.");
        check(r#"{"input":{}}"#, "input", "input must be a string or an array.");
        check(r#"{"input":["a"]}"#, "input[0]", "input[0] must be an object.");
        check(
            r#"{"input":[{"role":"user","content":false}]}"#,
            "input[0].content",
            "input[0].content must be a string or an array.",
        );
        check(
            r#"{"input":[{"role":"user","content":[{"type":"input_text","text":7}]}]}"#,
            "input[0].content[0].text",
            "input[0].content[0].text must be a string.",
        );
        check(
            r#"{"input":[{"role":"user","content":[{"text":"a"}]}]}"#,
            "input[0].content[0].type",
            "input[0].content[0].type is required.",
        );
        check(
            r#"{"max_output_tokens":-1}"#,
            "max_output_tokens",
            "max_output_tokens must be a whole number that is not negative or too large.",
        );
        check(r#"{"temperature":"hot"}"#, "temperature", "temperature must be a number.");
        check(r#"{"store":"yes"}"#, "store", "store must be true or false.");
        check(r#"{"metadata":{"a":1}}"#, "metadata.a", "metadata.a must be a string.");
        check(r#"{"truncation":"some"}"#, "truncation", "truncation must be `auto` or `disabled`.");
        check(r#"{"tools":{}}"#, "tools", "tools must be an array.");
    }

    #[test]
    fn null_is_not_given() {
        let request = read(
            r#"{"model":null,"input":null,"instructions":null,"store":null,"text":{"format":null},"tools":null,
                "conversation":null,"prompt":null,"stop":null,"unknown_field":[1,{"a":2}]}"#,
        );
        assert!(request.model.is_none() && request.input.is_none() && request.conversation.is_none());
        assert_eq!(request.text.expect("given").format, TextFormat::Text);
    }

    #[test]
    fn formats_are_read_and_written_alike() {
        for format in [
            r#"{"type":"text"}"#,
            r#"{"type":"json_object"}"#,
            r#"{"type":"json_schema","name":"a","schema":{"type":"object"},"strict":true}"#,
        ] {
            let request = read(&format!(r#"{{"text":{{"format":{format}}}}}"#));
            let text = serde_json::to_string(&request.text.expect("given").format).expect("serialises");
            assert_eq!(text, format);
        }
    }

    #[test]
    fn debug_output_holds_no_content() {
        let request = read(r#"{"input":"the secret words","instructions":"the secret words"}"#);
        assert!(!format!("{request:?}").contains("secret"));
    }
}
