use protocol::{
    RequestId,
    inference::{Message, Role},
    native::{ClientMessage, parse},
};
use serde_json::{Value, json};

use super::*;
use crate::{
    Settings,
    native_ws::turn::Asked,
    pipeline::Authenticated,
    sessions::{Line, Transport, Wish},
};

const CAPS: Caps = Caps { messages_max: 100, bytes_max: 1000 };
const MAX: usize = 4;

fn id(text: &str) -> SessionId {
    SessionId::new(text).expect(text)
}

fn job(text: &str) -> JobId {
    JobId::new(text).expect(text)
}

/// A prompt with these fields, as a client writes them.
fn prompt(mut fields: Value) -> PromptMessage {
    fields["type"] = json!("prompt");
    fields["prompt"] = json!("hi");
    match parse(&fields.to_string()).expect("a prompt").message {
        ClientMessage::Prompt(prompt) => *prompt,
        other => panic!("{other:?}"),
    }
}

fn history(messages: usize) -> History {
    let message = |index: usize| Message {
        role: if index.is_multiple_of(2) { Role::User } else { Role::Assistant },
        content: "x".into(),
    };
    History::new((0..messages).map(message).collect(), CAPS).expect("fits").0
}

fn turn(session: &str) -> Turn {
    Turn::new(Asked {
        id: None,
        session_id: id(session),
        request_id: RequestId::new("r").expect("an id"),
        stream: true,
        prompt: "hi".into(),
        context: None,
        answer_index: 2,
    })
}

fn kept() -> Option<Kept> {
    Some(Kept { context: None, trimmed_messages: 0, prompt: "hi".into(), answer: "there".into() })
}

/// A place among the sessions of a node of its own.
fn ticket() -> Ticket {
    let all = crate::Sessions::new(crate::Metrics::register(&mut telemetry::Registry::default(), "test"));
    let (line, who) = (Line::new(Transport::NativeWs, None), Authenticated::local());
    let wish = Wish { who: &who, name: None, job: None, resume: false };
    all.open(&line, wish, &Settings::default()).expect("a place")
}

/// Opens a session as `session_init` does.
fn open(sessions: &mut Sessions, name: &str, history: History, job: Option<JobId>) {
    sessions.open(id(name), ticket());
    sessions.begin(&id(name), history, job, Some(1));
}

/// Sessions by name and job.
fn sessions(named: &[(&str, Option<&str>)]) -> Sessions {
    let mut sessions = Sessions::default();
    for (name, job_id) in named {
        open(&mut sessions, name, History::default(), job_id.map(job));
    }
    sessions
}

fn place<'a>(
    sessions: &'a mut Sessions,
    prompt: &PromptMessage,
    context: Option<&'a History>,
) -> Result<Place<'a>, ApiError> {
    sessions.place(prompt, context, MAX, |_| Ok(ticket()))
}

#[test]
fn a_prompt_finds_its_session() {
    let check = |open: &[(&str, Option<&str>)], fields: Value, expected: &str, charged: Option<&str>| {
        let mut sessions = sessions(open);
        let asked = prompt(fields.clone());
        let place = place(&mut sessions, &asked, None).unwrap_or_else(|error| panic!("{fields}: {error}"));
        assert_eq!((place.session_id.as_str(), place.index), (expected, 1), "{fields}");
        assert_eq!(place.job, charged.map(job), "{fields}");
    };
    check(&[("954", Some("954"))], json!({ "jobId": "954" }), "954", Some("954"));
    check(&[("954", Some("954")), ("b", Some("954"))], json!({ "jobId": 954 }), "954", Some("954"));
    check(&[("a", Some("954")), ("b", Some("7"))], json!({ "jobId": "954" }), "a", Some("954"));
    check(&[("a", Some("954")), ("b", Some("954"))], json!({ "jobId": "954" }), "954", Some("954"));
    check(&[("a", Some("954"))], json!({}), "a", Some("954"));
    check(&[("a", Some("954"))], json!({ "session_id": "a" }), "a", Some("954"));
    check(&[("a", None)], json!({ "session_id": "a", "jobId": "7" }), "a", Some("7"));
    check(&[], json!({ "jobId": "954" }), "954", Some("954"));
    check(&[], json!({ "session_id": "a", "jobId": "954" }), "a", Some("954"));
    check(&[], json!({}), "default", None);
    check(&[("a", None), ("b", None)], json!({}), "default", None);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_and_opens_nothing() {
    let check = |open: &[(&str, Option<&str>)], running: Option<&str>, fields: Value, expected: ErrorCode| {
        let mut sessions = sessions(open);
        if let Some(running) = running {
            sessions.get_mut(&id(running)).expect("open").turn = Some(turn(running));
        }
        let result = place(&mut sessions, &prompt(fields.clone()), None);
        assert_eq!(result.map(|_| ()).expect_err("refused").code, expected, "{fields}");
        assert_eq!(sessions.open.len(), open.len(), "{fields}");
    };
    let a: &[(&str, Option<&str>)] = &[("a", Some("7"))];
    check(a, Some("a"), json!({ "session_id": "a" }), ErrorCode::StreamInProgress);
    check(a, Some("a"), json!({ "jobId": 7 }), ErrorCode::StreamInProgress);
    check(a, None, json!({ "session_id": "a", "jobId": 8 }), ErrorCode::InvalidJob);
    check(a, None, json!({ "session_id": "a", "chain_id": 2 }), ErrorCode::ChainMismatch);
    check(a, None, json!({ "session_id": "a", "message_index": 2 }), ErrorCode::InvalidMessageIndex);
    check(&[], None, json!({ "session_id": "a", "message_index": 7 }), ErrorCode::InvalidMessageIndex);
    let full: &[(&str, Option<&str>)] = &[("a", None), ("b", None), ("c", None), ("d", None)];
    check(full, None, json!({ "session_id": "e" }), ErrorCode::RateLimit);
}

#[test]
fn the_message_index_counts_the_conversation_before_the_prompt() {
    let check = |own: usize, context: Option<usize>, given: u64, expected: Result<u64, ErrorCode>| {
        let mut sessions = Sessions::default();
        open(&mut sessions, "a", history(own), None);
        let context = context.map(history);
        let prompt = prompt(json!({ "session_id": "a", "message_index": given }));
        let index =
            place(&mut sessions, &prompt, context.as_ref()).map(|place| place.index).map_err(|error| error.code);
        assert_eq!(index, expected, "{own} {context:?} {given}");
    };
    let wrong = Err(ErrorCode::InvalidMessageIndex);
    check(2, None, 1, wrong);
    check(2, None, 2, wrong);
    check(2, None, 4, wrong);
    check(2, Some(4), 3, wrong);
    check(2, None, u64::MAX, wrong);
    check(0, None, 1, Ok(1));
    check(2, None, 3, Ok(3));
    check(2, None, 0, Ok(3));
    check(2, Some(4), 5, Ok(5));
    check(4, Some(1), 2, Ok(2));
}

#[test]
fn a_turn_joins_the_history_or_leaves_no_trace() {
    let mut sessions = Sessions::default();
    let implicit = prompt(json!({ "session_id": "a", "jobId": 7 }));
    place(&mut sessions, &implicit, None).expect("fits");
    assert_eq!(sessions.end_turn(&id("a"), None, CAPS), Ended::default());
    assert!(sessions.is_empty(), "a refused prompt does not keep a session");

    place(&mut sessions, &implicit, None).expect("fits");
    sessions.end_turn(&id("a"), kept(), CAPS);
    assert_eq!(place(&mut sessions, &implicit, None).expect("fits").index, 3);
    sessions.end_turn(&id("a"), None, CAPS);
    assert_eq!(sessions.existing(&id("a")).expect("kept").history.count(), 2);

    let replaced = Kept { context: Some(history(4)), trimmed_messages: 2, ..kept().expect("some") };
    sessions.end_turn(&id("a"), Some(replaced), CAPS);
    let history = &sessions.existing(&id("a")).expect("kept").history;
    assert_eq!((history.count(), history.messages().len()), (6, 4));

    let ended = sessions.end_turn(&id("a"), kept(), Caps { messages_max: 2, bytes_max: 1000 });
    assert_eq!(ended.trimmed_for, Some("history_messages_max"));
}

#[test]
fn a_session_that_is_to_end_ends_with_its_turn() {
    let mut sessions = sessions(&[("a", None)]);
    let session = sessions.get_mut(&id("a")).expect("open");
    session.turn = Some(turn("a"));
    session.ending = Some(Some(MessageId::Text("e".into())));
    assert_eq!(sessions.may_open(&id("a"), MAX).expect_err("busy").code, ErrorCode::StreamInProgress);
    let ended = sessions.end_turn(&id("a"), kept(), CAPS);
    assert_eq!(ended.session_end, Some(Some(MessageId::Text("e".into()))));
    assert!(sessions.existing(&id("a")).is_err());
}

#[test]
fn turns_are_found_by_session_or_all() {
    let mut sessions = sessions(&[("a", None), ("b", None), ("c", None)]);
    for name in ["a", "b"] {
        sessions.get_mut(&id(name)).expect("open").turn = Some(turn(name));
    }
    let check = |named: Option<&str>, count: usize| {
        assert_eq!(sessions.turns(named.map(id).as_ref()).count(), count, "{named:?}");
    };
    check(Some("nobody"), 0);
    check(Some("c"), 0);
    check(Some("a"), 1);
    check(None, 2);
}
