//! The members of a client's message: those that we know, as scalars, by name.

use std::fmt;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

use super::{
    context::{Context, List, Stop},
    scalar::{AnyScalar, Scalar},
    shape::{Read, Shape},
};
use crate::{ApiError, inference::Message};

macro_rules! fields {
    ($($field:ident = $name:literal $(| $other:literal)*;)*) => {
        /// A member that is a scalar. Clients spell some in two ways.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($field,)* }

        impl Field {
            const COUNT: usize = [$(Self::$field,)*].len();

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$field => $name,)* }
            }

            fn of(name: &str) -> Option<Self> {
                match name {
                    $($name $(| $other)* => Some(Self::$field),)*
                    _ => None,
                }
            }
        }
    };
}

fields! {
    Type = "type";
    Id = "id";
    RequestId = "request_id" | "requestId";
    SessionId = "session_id" | "sessionId";
    JobId = "job_id" | "jobId";
    ChainId = "chain_id" | "chainId";
    Token = "token";
    Model = "model";
    Prompt = "prompt";
    Content = "content";
    Stream = "stream";
    MessageIndex = "message_index" | "messageIndex";
    LastMessageIndex = "last_message_index" | "lastMessageIndex";
    MaxTokens = "max_tokens" | "maxTokens";
    Temperature = "temperature";
    TopP = "top_p" | "topP";
    TopK = "top_k" | "topK";
    MinP = "min_p" | "minP";
    Seed = "seed";
    RepeatPenalty = "repeat_penalty" | "repeatPenalty";
    FrequencyPenalty = "frequency_penalty" | "frequencyPenalty";
    PresencePenalty = "presence_penalty" | "presencePenalty";
    Seq = "seq";
    Payload = "payload";
    Signature = "signature";
    KeyId = "key_id" | "keyId";
}

/// What is known of one JSON object.
#[derive(Default)]
pub(super) struct Fields {
    scalars: [Option<Scalar>; Field::COUNT],
    context: List<Message>,
    stop: List<String>,
    /// The generation request inside a message; its members win over the message's own.
    request: Option<Box<Fields>>,
    /// The first rule that was broken while reading.
    wrong: Option<ApiError>,
}

impl Fields {
    /// Reads one JSON object. On malformed JSON, what was read before stays: the `id` may be there.
    pub(super) fn read(&mut self, text: &str) -> Result<(), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Read(Object { fields: self, outer: true }).deserialize(&mut deserializer)?;
        deserializer.end()
    }

    /// A member; an explicit `null` is none.
    pub(super) fn get(&self, field: Field) -> Option<&Scalar> {
        let inner = self.request.as_deref().and_then(|request| request.get(field));
        inner.or_else(|| self.own(field))
    }

    /// A member of this object itself, whatever `request` says.
    pub(super) fn own(&self, field: Field) -> Option<&Scalar> {
        self.scalars[field as usize].as_ref()
    }

    /// The prompt: `request` wins over flat, then `prompt` over `content`.
    pub(super) fn prompt(&self) -> Option<&Scalar> {
        let inner = self.request.as_deref().and_then(Self::prompt);
        inner.or_else(|| self.own(Field::Prompt)).or_else(|| self.own(Field::Content))
    }

    pub(super) fn take_context(&mut self) -> Result<Option<Vec<Message>>, ApiError> {
        let inner = self.request.as_deref_mut().and_then(|request| request.context.take());
        inner.or_else(|| self.context.take()).transpose()
    }

    pub(super) fn take_stop(&mut self) -> Result<Option<Vec<String>>, ApiError> {
        let inner = self.request.as_deref_mut().and_then(|request| request.stop.take());
        inner.or_else(|| self.stop.take()).transpose()
    }

    /// The first rule that was broken while reading, if any was.
    pub(super) fn take_wrong(&mut self) -> Option<ApiError> {
        self.wrong.take().or_else(|| self.request.as_deref_mut()?.wrong.take())
    }

    /// One field, one value: of two that differ, some reader somewhere would take the other.
    fn put(&mut self, field: Field, value: Scalar) {
        let slot = &mut self.scalars[field as usize];
        match (&slot, value) {
            (_, Scalar::Null) => {}
            (None, value) => *slot = Some(value),
            (Some(first), value) => {
                if *first != value {
                    let name = field.name();
                    self.refuse(ApiError::invalid(name, format!("{name} is given twice with different values.")));
                }
            }
        }
    }

    fn refuse(&mut self, error: ApiError) {
        self.wrong.get_or_insert(error);
    }
}

/// A member's name, mapped without keeping the text.
pub(super) struct MemberName<F>(pub(super) F);

impl<'de, T, F: Fn(&str) -> T> DeserializeSeed<'de> for MemberName<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<T, F: Fn(&str) -> T> Visitor<'_> for MemberName<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}

enum Member {
    Scalar(Field),
    Context,
    Stop,
    Request,
    Unknown,
}

fn member(name: &str) -> Member {
    match name {
        "conversation_context" | "conversationContext" => Member::Context,
        "stop" => Member::Stop,
        "request" => Member::Request,
        _ => Field::of(name).map_or(Member::Unknown, Member::Scalar),
    }
}

/// Reads an object into [`Fields`].
struct Object<'a> {
    fields: &'a mut Fields,
    /// The message itself, not a `request` inside one: requests do not nest.
    outer: bool,
}

impl<'de> Shape<'de> for Object<'_> {
    type Value = ();

    fn scalar(self, scalar: Scalar) {
        if self.outer {
            self.fields.refuse(ApiError::new(
                crate::ErrorCode::InvalidRequest,
                "A message must be a JSON object with a type.",
            ));
        } else if scalar != Scalar::Null {
            self.fields.refuse(ApiError::invalid("request", "request must be an object."));
        }
    }

    fn object<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { fields, outer } = self;
        while let Some(member) = members.next_key_seed(MemberName(member))? {
            match member {
                Member::Scalar(field) => {
                    let value = members.next_value_seed(Read(AnyScalar))?;
                    fields.put(field, value);
                }
                Member::Context => fields.context = members.next_value_seed(Read(Context))?.or(fields.context.take()),
                Member::Stop => fields.stop = members.next_value_seed(Read(Stop))?.or(fields.stop.take()),
                Member::Request if outer => {
                    let request = fields.request.get_or_insert_default();
                    members.next_value_seed(Read(Object { fields: request, outer: false }))?;
                }
                Member::Request | Member::Unknown => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
