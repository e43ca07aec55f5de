//! A WebSocket message from a client, read.

use protocol::openai::responses::{ClientEvent, CreateResponse};
use serde_json::Value;

use super::{
    lanes::{self, Lane},
    refusal::Refusal,
};

/// What a client wants.
#[derive(Debug)]
pub(super) enum Message {
    /// `response.create`.
    Create(Lane, Box<CreateResponse>),
    /// `response.cancel`: of the response with this id, else of what runs in this lane.
    Cancel(Lane, Option<String>),
}

impl Message {
    /// Every `type` that is served.
    #[cfg(test)]
    pub(super) const KINDS: [&'static str; 2] = ["response.create", "response.cancel"];

    /// The message's `type`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Create(..) => "response.create",
            Self::Cancel(..) => "response.cancel",
        }
    }

    /// The lane that it is for.
    pub(super) fn lane(&self) -> &Lane {
        match self {
            Self::Create(lane, _) | Self::Cancel(lane, _) => lane,
        }
    }
}

/// Reads a message.
///
/// # Errors
/// The refusal, and the lane that it is about where the message names a valid one.
pub(super) fn read(text: &str) -> Result<Message, (Lane, Refusal)> {
    let envelope: ClientEvent = protocol::json::parse(text.as_bytes()).map_err(|error| (None, error.into()))?;
    let lane = match envelope.stream_id {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(lanes::name(&name).ok_or_else(|| (None, Refusal::invalid_stream_id()))?),
        Some(_) => return Err((None, Refusal::invalid_stream_id())),
    };
    match envelope.kind.as_str() {
        "response.create" => match protocol::json::parse(text.as_bytes()) {
            Ok(request) => Ok(Message::Create(lane, Box::new(request))),
            Err(error) => Err((lane, error.into())),
        },
        "response.cancel" => Ok(Message::Cancel(lane, envelope.response_id)),
        "response.steer" => Err((lane, Refusal::unsupported("response.steer"))),
        _ => Err((lane, Refusal::unknown_type())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_refused_in_its_lane() {
        let check = |text: &str, lane: Option<&str>, code: &str, param: Option<&str>| {
            let (refused_in, refusal) = read(text).expect_err(text);
            assert_eq!(refused_in.as_deref(), lane, "{text}");
            let frame = serde_json::to_value(refusal.frame(refused_in)).expect("serialises");
            assert_eq!((&frame["error"]["code"], &frame["error"]["param"]), (&json!(code), &json!(param)), "{text}");
        };
        check("", None, "invalid_request", None);
        check("{", None, "invalid_request", None);
        check("[]", None, "invalid_request", None);
        check("{}", None, "invalid_request", Some("type"));
        check(r#"{"type":7}"#, None, "invalid_request", Some("type"));
        check(r#"{"type":"session.update"}"#, None, "invalid_request", Some("type"));
        check(r#"{"type":"session.update","stream_id":"a"}"#, Some("a"), "invalid_request", Some("type"));
        check(r#"{"type":"response.steer","previous_response_id":"r","input":"a"}"#, None, "unsupported", Some("type"));
        for name in [r#""""#, r#""a b""#, "7", "[]", "{}", "true", r#""é""#] {
            let text = format!(r#"{{"type":"response.create","input":"a","stream_id":{name}}}"#);
            check(&text, None, "invalid_stream_id", Some("stream_id"));
        }
        check(r#"{"type":"response.create","input":7,"stream_id":"a"}"#, Some("a"), "invalid_request", Some("input"));
        check(r#"{"type":"response.cancel","response_id":7}"#, None, "invalid_request", Some("response_id"));
    }

    #[test]
    fn every_message_is_in_the_table_of_rights() {
        let listed: Vec<&str> = crate::pipeline::permissions::RESPONSES.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(listed, Message::KINDS);
        for kind in Message::KINDS {
            let text = format!(r#"{{"type":{kind:?}}}"#);
            assert_eq!(read(&text).expect("a message").kind(), kind);
        }
    }

    #[test]
    fn messages_are_read() {
        let create = read(r#"{"type":"response.create","stream_id":"a","input":"hi","generate":false,"stream":true}"#);
        let Ok(Message::Create(lane, request)) = create else { panic!("a create") };
        assert_eq!((lane.as_deref(), request.generate), (Some("a"), Some(false)));
        for text in [r#"{"type":"response.create"}"#, r#"{"type":"response.create","stream_id":null}"#] {
            assert!(matches!(read(text), Ok(Message::Create(None, _))), "{text}");
        }
        let cancel = read(r#"{"type":"response.cancel","response_id":"resp_1"}"#);
        assert!(matches!(cancel, Ok(Message::Cancel(None, Some(id))) if id == "resp_1"));
    }
}
