//! A message's `content`: a string, or an array of parts of which this node reads those of text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// The text of a message. Parts are joined by line breaks, as vLLM and llama-server do.
pub(super) struct Content(pub(super) String);

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    _kind: PartKind,
    text: String,
}

struct PartKind;

/// Part types that OpenAI has and a text model does not.
const OTHER_PARTS: [&str; 6] = ["image_url", "input_image", "input_audio", "audio", "file", "video_url"];

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
                Ok(Content(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let Some(Part { mut text, .. }) = seq.next_element()? else {
                    return Err(A::Error::custom("must have at least one part"));
                };
                while let Some(part) = seq.next_element::<Part>()? {
                    text.push('\n');
                    text.push_str(&part.text);
                }
                Ok(Content(text))
            }
        }

        deserializer.deserialize_any(ContentVisitor)
    }
}

impl<'de> Deserialize<'de> for PartKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindVisitor;

        impl Visitor<'_> for KindVisitor {
            type Value = PartKind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"text\"")
            }

            fn visit_str<E: Error>(self, kind: &str) -> Result<PartKind, E> {
                if kind == "text" {
                    return Ok(PartKind);
                }
                // Only names that we know are repeated.
                Err(match OTHER_PARTS.iter().find(|other| **other == kind) {
                    Some(other) => {
                        E::custom(format_args!("is {other}, but this node reads text only; leave the part out"))
                    }
                    None => E::custom("must be \"text\""),
                })
            }
        }

        deserializer.deserialize_str(KindVisitor)
    }
}
