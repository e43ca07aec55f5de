use serde::de::{MapAccess, SeqAccess};

use super::{
    fields::MemberName,
    scalar::{AnyScalar, Scalar},
    shape::{Read, Shape, skip},
};
use crate::{
    ApiError,
    inference::{Message, Role, STOP_STRINGS_MAX},
};

/// A list, or what is wrong with its first element that is wrong; `None` is `null`.
pub(super) type List<T> = Option<Result<Vec<T>, ApiError>>;

/// `conversation_context`: `[{role, content}, ...]`.
pub(super) struct Context;

impl<'de> Shape<'de> for Context {
    type Value = List<Message>;

    fn scalar(self, scalar: Scalar) -> List<Message> {
        let error = || ApiError::invalid("conversation_context", "conversation_context must be a list of messages.");
        (scalar != Scalar::Null).then(|| Err(error()))
    }

    fn list<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<Message>, A::Error> {
        let mut messages = Vec::new();
        while let Some(turn) = items.next_element_seed(Read(Turn { index: messages.len() }))? {
            match turn {
                Ok(message) => messages.push(message),
                Err(error) => {
                    skip(&mut items)?;
                    return Ok(Some(Err(error)));
                }
            }
        }
        Ok(Some(Ok(messages)))
    }
}

/// One element of `conversation_context`.
struct Turn {
    index: usize,
}

impl Turn {
    fn message(&self, role: &Scalar, content: Scalar) -> Result<Message, ApiError> {
        let role = match role.text(&self.name(".role"))? {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            _ => {
                return Err(ApiError::invalid(
                    self.name(".role"),
                    "The role of a message must be system, user, assistant or tool.",
                ));
            }
        };
        let Scalar::Text(content) = content else {
            return Err(ApiError::invalid(self.name(".content"), "The content of a message must be a string."));
        };
        Ok(Message { role, content })
    }

    fn name(&self, field: &str) -> String {
        format!("conversation_context[{}]{field}", self.index)
    }
}

impl<'de> Shape<'de> for Turn {
    type Value = Result<Message, ApiError>;

    fn scalar(self, _: Scalar) -> Self::Value {
        Err(ApiError::invalid(self.name(""), "A message must be an object with role and content."))
    }

    fn object<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut role, mut content) = (Scalar::Null, Scalar::Null);
        while let Some(name) = members.next_key_seed(MemberName(|name: &str| match name {
            "role" => Some(true),
            "content" => Some(false),
            _ => None,
        }))? {
            let value = members.next_value_seed(Read(AnyScalar))?;
            match name {
                Some(true) => role = value,
                Some(false) => content = value,
                None => {}
            }
        }
        Ok(self.message(&role, content))
    }
}

/// `stop`: a string or a list of strings.
pub(super) struct Stop;

impl<'de> Shape<'de> for Stop {
    type Value = List<String>;

    fn scalar(self, scalar: Scalar) -> List<String> {
        match scalar {
            Scalar::Null => None,
            Scalar::Text(one) => Some(Ok(vec![one])),
            _ => Some(Err(ApiError::invalid("stop", "stop must be a string or a list of strings."))),
        }
    }

    fn list<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<String>, A::Error> {
        let mut stops = Vec::new();
        // One more than is allowed is kept, for the check of the whole request to see.
        while stops.len() <= STOP_STRINGS_MAX {
            match items.next_element_seed(Read(AnyScalar))? {
                None => return Ok(Some(Ok(stops))),
                Some(Scalar::Text(stop)) => stops.push(stop),
                Some(_) => {
                    skip(&mut items)?;
                    let name = format!("stop[{}]", stops.len());
                    return Ok(Some(Err(ApiError::invalid(name, "A stop string must be a string."))));
                }
            }
        }
        skip(&mut items)?;
        Ok(Some(Ok(stops)))
    }
}
