//! `prompt`: a string, or an array of one. OpenAI also takes several prompts and token ids, which are refused.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// The text to continue.
pub(super) struct PromptText(pub(super) String);

/// An element of the array form.
struct Element(String);

impl<'de> Deserialize<'de> for PromptText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = PromptText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of one string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<PromptText, E> {
                Ok(PromptText(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<PromptText, E> {
                Ok(PromptText(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PromptText, A::Error> {
                let Some(Element(text)) = seq.next_element()? else {
                    return Err(A::Error::custom("must have one string"));
                };
                match seq.next_element::<Element>()? {
                    None => Ok(PromptText(text)),
                    Some(_) => Err(A::Error::custom("has several prompts; send one a request")),
                }
            }
        }

        deserializer.deserialize_any(PromptVisitor)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        /// Said of numbers and of arrays of them.
        const TOKENS: &str = "has token ids, which are not supported; send the text";

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
                Ok(Element(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
                Ok(Element(text))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Element, E> {
                Err(E::custom(TOKENS))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Element, A::Error> {
                Err(A::Error::custom(TOKENS))
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}
