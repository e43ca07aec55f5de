use proptest::prelude::*;
use serde_json::{Number, json};

use crate::{
    ErrorCode, JobId, SessionId,
    inference::{Message, Role, Sampling},
    native::{BearerToken, ClientMessage, Envelope, MessageId, PromptMessage, Rejected, SignedMessage, parse},
};

fn session(id: &str) -> SessionId {
    SessionId::new(id).expect(id)
}

fn job(id: &str) -> Option<JobId> {
    Some(JobId::new(id).expect(id))
}

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.into() }
}

fn rejected(text: &str) -> Rejected {
    parse(text).expect_err(text)
}

#[test]
fn what_cannot_be_acted_on_gets_its_code_and_names_the_field() {
    use ErrorCode::{EncryptionNotSupported, InvalidJobId, InvalidRequest};
    let check = |text: &str, code: ErrorCode, param: Option<&str>| {
        let error = rejected(text).error;
        assert_eq!((error.code, error.param.as_deref()), (code, param), "{text}: {}", error.message);
    };
    for text in
        ["", "{", "nul", "{\"type\":\"ping\"", "{\"type\":\"ping\"}}", "{'type':'ping'}", "{\"type\":\"ping\",}"]
    {
        check(text, InvalidRequest, None);
    }
    for text in ["[]", "1", "\"ping\"", "null", "true", "[{\"type\":\"ping\"}]"] {
        check(text, InvalidRequest, None);
    }
    check("{}", InvalidRequest, Some("type"));
    check(r#"{"type":null}"#, InvalidRequest, Some("type"));
    check(r#"{"type":7}"#, InvalidRequest, Some("type"));
    check(r#"{"type":"PING"}"#, InvalidRequest, Some("type"));
    let signed = |members: &str| format!(r#"{{"type":"signed",{members}"request":{{"session_id":"t","seq":9}}}}"#);
    check(&signed(""), InvalidRequest, Some("session_id"));
    check(&signed(r#""session_id":"s","#), InvalidRequest, Some("seq"));
    for seq in ["-1", "1.5", "\"x\"", "18446744073709551616", "[1]"] {
        check(&signed(&format!(r#""session_id":"s","seq":{seq},"#)), InvalidRequest, Some("seq"));
    }
    check(&signed(r#""session_id":"s","seq":1,"#), InvalidRequest, Some("payload"));
    check(&signed(r#""session_id":"s","seq":1,"payload":{"type":"ping"},"#), InvalidRequest, Some("payload"));
    check(&signed(r#""session_id":"s","seq":1,"payload":"{}","#), InvalidRequest, Some("signature"));
    let key = r#""session_id":"s","seq":1,"payload":"{}","signature":"00","key_id":7,"#;
    check(&signed(key), InvalidRequest, Some("key_id"));
    let twice = r#""session_id":"s","seq":1,"payload":"{}","payload":"{ }","signature":"00","#;
    check(&signed(twice), InvalidRequest, Some("payload"));
    check(r#"{"type":"encrypted_session_init","payload":{}}"#, EncryptionNotSupported, None);
    check(r#"{"type":"encrypted_message"}"#, EncryptionNotSupported, None);

    check(r#"{"type":"ping","id":{"a":1}}"#, InvalidRequest, Some("id"));
    check(r#"{"type":"ping","id":true}"#, InvalidRequest, Some("id"));
    check(&format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(257)), InvalidRequest, Some("id"));

    check(r#"{"type":"auth"}"#, InvalidRequest, Some("token"));
    check(r#"{"type":"auth","token":5}"#, InvalidRequest, Some("token"));
    check(r#"{"type":"session_init"}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_init","session_id":""}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_init","session_id":"a b"}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_init","session_id":["s"]}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_init","session_id":"s","chain_id":"x"}"#, InvalidRequest, Some("chain_id"));
    check(r#"{"type":"session_init","session_id":"s","sessionId":"t"}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_end"}"#, InvalidRequest, Some("session_id"));
    check(r#"{"type":"session_resume","session_id":"s"}"#, InvalidRequest, Some("conversation_context"));

    for bad in
        ["0", "\"0\"", "\"000\"", "-1", "1.5", "\"1.5\"", "\"0x10\"", "\"\"", "\"+1\"", "\" 1\"", "true", "{}", "1e3"]
    {
        check(&format!(r#"{{"type":"session_init","session_id":"s","job_id":{bad}}}"#), InvalidJobId, Some("job_id"));
        check(&format!(r#"{{"type":"prompt","prompt":"x","jobId":{bad}}}"#), InvalidJobId, Some("job_id"));
    }
    check(&format!(r#"{{"type":"prompt","prompt":"x","jobId":"{}"}}"#, "9".repeat(79)), InvalidJobId, Some("job_id"));

    let context = |context: &str, param: &str| {
        let text = format!(r#"{{"type":"session_init","session_id":"s","conversation_context":{context}}}"#);
        check(&text, InvalidRequest, Some(param));
    };
    context("7", "conversation_context");
    context("{}", "conversation_context");
    context("\"hi\"", "conversation_context");
    context("[7]", "conversation_context[0]");
    context(r#"[{"role":"user","content":"x"},[]]"#, "conversation_context[1]");
    context(r#"[{"content":"x"}]"#, "conversation_context[0].role");
    context(r#"[{"role":"root","content":"x"}, 1, 2, {"a":[]}]"#, "conversation_context[0].role");
    context(r#"[{"role":"user"}]"#, "conversation_context[0].content");
    context(r#"[{"role":"user","content":[{"type":"text"}]}]"#, "conversation_context[0].content");
}

#[test]
fn prompts_that_cannot_be_acted_on() {
    use ErrorCode::{EmptyPrompt, InvalidRequest};
    let check = |fields: &str, code: ErrorCode, param: Option<&str>| {
        for text in [
            format!(r#"{{"type":"prompt",{fields}}}"#),
            format!(r#"{{"type":"inference","request":{{{fields}}}}}"#),
            format!(r#"{{"type":"prompt","prompt":"flat","max_tokens":9,"stop":"x","request":{{{fields}}}}}"#),
        ] {
            if param == Some("prompt") && fields.contains("null") && text.contains("flat") {
                continue; // the flat prompt stands in for the one that is missing
            }
            let error = rejected(&text).error;
            assert_eq!((error.code, error.param.as_deref()), (code, param), "{text}: {}", error.message);
        }
    };
    check(r#""prompt":null"#, InvalidRequest, Some("prompt"));
    check(r#""prompt":5"#, InvalidRequest, Some("prompt"));
    check(r#""prompt":["x"]"#, InvalidRequest, Some("prompt"));
    check(r#""prompt":"""#, EmptyPrompt, None);
    check(r#""prompt":" \n\t""#, EmptyPrompt, None);
    check(r#""content":"""#, EmptyPrompt, None);
    for (field, bad) in [
        ("max_tokens", &["0", "-1", "1.5", "\"x\"", "\"-1\"", "true", "[]"][..]),
        ("temperature", &["\"hot\"", "\"NaN\"", "\"inf\"", "true", "{}"]),
        ("top_k", &["-1", "0.5"]),
        ("seed", &["-1", "\"x\""]),
        ("stream", &["1", "\"false\"", "[]"]),
        ("message_index", &["-1", "1.5", "\"x\""]),
        ("model", &["1", "{}"]),
        ("stop", &["5", "{}", "true"]),
    ] {
        for bad in bad {
            check(&format!(r#""prompt":"x","{field}":{bad}"#), InvalidRequest, Some(field));
        }
    }
    check(r#""prompt":"x","stop":["a",5]"#, InvalidRequest, Some("stop[1]"));

    let error = rejected(r#"{"type":"prompt","request":"x"}"#).error;
    assert_eq!(error.param.as_deref(), Some("request"));
}

#[test]
fn a_rejection_says_which_request_and_whether_a_stream_was_promised() {
    let check = |text: &str, id: Option<&str>, session: Option<&str>, stream: bool| {
        let rejected = rejected(text);
        let expected = id.map(|id| MessageId::Text(id.into()));
        assert_eq!(rejected.id, expected, "{text}");
        assert_eq!(rejected.session_id.as_ref().map(SessionId::as_str), session, "{text}");
        assert_eq!(rejected.stream_promised, stream, "{text}");
    };
    check(r#"{"id":"a","type":"prompt","sessionId":"s","prompt":"", "stream":true}"#, Some("a"), Some("s"), true);
    check(r#"{"id":"a","type":"prompt","session_id":"s","prompt":"","stream":false}"#, Some("a"), Some("s"), false);
    check(r#"{"id":"a","type":"prompt","request":{"prompt":"","stream":false}}"#, Some("a"), None, false);
    check(r#"{"type":"inference","request":{"request_id":"r","prompt":""}}"#, Some("r"), None, true);
    check(r#"{"id":"a","type":"encrypted_message","session_id":"s"}"#, Some("a"), Some("s"), true);
    check(r#"{"id":"a","type":"encrypted_session_init"}"#, Some("a"), None, false);
    check(r#"{"id":"a","type":"nonsense","session_id":"s p a c e"}"#, Some("a"), None, false);
    check(r#"{"id":"a","type":"ping","#, Some("a"), None, false);
    check(r#"{"type":"ping" "id":"a"}"#, None, None, false);
    check(r#"{"id":["a"],"type":"prompt"}"#, None, None, true);
}

#[test]
fn ids_are_echoed_as_they_are() {
    let check = |id: &str, expected: Option<MessageId>| {
        let text = format!(r#"{{"type":"ping","id":{id}}}"#);
        let envelope = parse(&text).expect(&text);
        assert_eq!(envelope.id, expected, "{text}");
        assert_eq!(envelope.message, ClientMessage::Ping);
        if let Some(expected) = expected {
            assert_eq!(serde_json::to_string(&expected).expect("serialises"), id);
        }
    };
    check("\"a b\\n\"", Some(MessageId::Text("a b\n".into())));
    check("\"\"", Some(MessageId::Text(String::new())));
    check("7", Some(MessageId::Number(7.into())));
    check("-7", Some(MessageId::Number((-7).into())));
    check("18446744073709551615", Some(MessageId::Number(u64::MAX.into())));
    check("1.5", Some(MessageId::Number(Number::from_f64(1.5).expect("finite"))));
    check("null", None);
}

#[test]
fn sessions_in_every_spelling() {
    let check = |text: &str, expected: ClientMessage| assert_eq!(parse(text).expect(text).message, expected, "{text}");
    let init = |job_id, chain_id, token: Option<&str>, context| ClientMessage::SessionInit {
        session_id: session("954"),
        job_id,
        chain_id,
        token: token.map(|token| BearerToken(token.into())),
        context,
    };
    // The SDK's own words.
    check(
        r#"{"type":"session_init","chain_id":84532,"session_id":"954","jobId":"954","user_address":"0xab","id":"1"}"#,
        init(job("954"), Some(84532), None, vec![]),
    );
    check(r#"{"type":"session_init","sessionId":954,"job_id":954}"#, init(job("954"), None, None, vec![]));
    check(
        r#"{"type":"session_init","session_id":"954","jobId":"0954","chainId":"1"}"#,
        init(job("954"), Some(1), None, vec![]),
    );
    check(r#"{"type":"session_init","session_id":"954","sessionId":"954"}"#, init(None, None, None, vec![]));
    check(
        r#"{"type":"session_init","session_id":"954","job_id":null,"token":"t","conversation_context":null}"#,
        init(None, None, Some("t"), vec![]),
    );
    let digits = "9".repeat(78);
    check(
        &format!(r#"{{"type":"session_init","session_id":"954","job_id":"{digits}"}}"#),
        init(job(&digits), None, None, vec![]),
    );
    let context = r#"[{"role":"developer","content":"be brief","name":"x"},{"content":"hi","role":"user"}]"#;
    let messages = vec![message(Role::System, "be brief"), message(Role::User, "hi")];
    check(
        &format!(r#"{{"type":"session_init","session_id":"954","conversation_context":{context}}}"#),
        init(None, None, None, messages.clone()),
    );
    check(
        &format!(
            r#"{{"type":"session_resume","session_id":"954","conversationContext":{context},"last_message_index":"2"}}"#
        ),
        ClientMessage::SessionResume {
            session_id: session("954"),
            job_id: None,
            chain_id: None,
            token: None,
            context: messages,
            last_message_index: 2,
        },
    );
    check(r#"{"type":"session_end","sessionId":"954"}"#, ClientMessage::SessionEnd { session_id: session("954") });
    check(r#"{"type":"stream_cancel","reason":"user"}"#, ClientMessage::StreamCancel { session_id: None });
    check(
        r#"{"type":"stream_cancel","session_id":"954"}"#,
        ClientMessage::StreamCancel { session_id: Some(session("954")) },
    );
    check(
        r#"{"type":"token_refresh","session_id":"954","token":"t"}"#,
        ClientMessage::TokenRefresh { session_id: Some(session("954")), token: Some(BearerToken("t".into())) },
    );
    check(r#"{"type":"auth","token":"t"}"#, ClientMessage::Auth { token: BearerToken("t".into()) });
}

#[test]
fn prompts_in_every_spelling() {
    let check = |text: &str, change: fn(&mut PromptMessage)| {
        let mut expected = PromptMessage {
            session_id: None,
            job_id: None,
            chain_id: None,
            model: "default".into(),
            prompt: "hi".into(),
            context: None,
            max_tokens: None,
            sampling: Sampling::default(),
            stop: vec![],
            stream: true,
            message_index: 0,
        };
        change(&mut expected);
        assert_eq!(parse(text).expect(text).message, ClientMessage::Prompt(Box::new(expected)), "{text}");
    };
    // The SDK's own words.
    check(
        r#"{"type":"prompt","chain_id":84532,"jobId":"954","prompt":"flat","web_search":false,"max_searches":0,
            "search_queries":null,"request":{"model":"m","prompt":"hi","max_tokens":5,"temperature":0.5,"stream":true},
            "id":"2"}"#,
        |expected| {
            expected.chain_id = Some(84532);
            expected.job_id = job("954");
            expected.model = "m".into();
            expected.max_tokens = Some(5);
            expected.sampling.temperature = 0.5;
        },
    );
    check(r#"{"type":"prompt","prompt":"hi"}"#, |_| {});
    check(r#"{"type":"prompt","content":"hi","request":null}"#, |_| {});
    check(r#"{"type":"prompt","content":"other","prompt":"hi"}"#, |_| {});
    check(r#"{"type":"prompt","prompt":"other","request":{"content":"hi"}}"#, |_| {});
    check(r#"{"type":"inference","request":{"prompt":"hi","request":{"prompt":"nested"}}}"#, |_| {});
    check(r#"{"type":"prompt","prompt":"hi","model":null,"stop":null,"max_tokens":null,"stream":null}"#, |_| {});
    check(r#"{"type":"prompt","prompt":"hi","conversation_context":[]}"#, |_| {});
    check(r#"{"type":"prompt","prompt":"hi","max_tokens":99999999999999}"#, |e| e.max_tokens = Some(u32::MAX));
    check(
        r#"{"type":"prompt","prompt":"hi","max_tokens":"7","temperature":"0.5","messageIndex":"3","stream":false,
            "stop":"x","top_p":0.9,"topK":40,"min_p":0.1,"seed":1,"repeat_penalty":1.1,"presence_penalty":-1,
            "frequencyPenalty":1}"#,
        |expected| {
            expected.max_tokens = Some(7);
            expected.message_index = 3;
            expected.stream = false;
            expected.stop = vec!["x".into()];
            expected.sampling = Sampling {
                temperature: 0.5,
                top_p: 0.9,
                top_k: 40,
                min_p: 0.1,
                seed: Some(1),
                repeat_penalty: 1.1,
                frequency_penalty: 1.0,
                presence_penalty: -1.0,
                logit_bias: vec![],
            };
        },
    );
    check(
        r#"{"type":"inference","id":1,"request":{"model":"m","prompt":"hi","max_tokens":5,"temperature":0,"stream":true,
            "request_id":"r","conversation_context":[{"role":"assistant","content":"yes?"}],"job_id":3,
            "session_id":"s","chain_id":1,"stop":["a","b"]}}"#,
        |expected| {
            expected.session_id = Some(session("s"));
            expected.job_id = job("3");
            expected.chain_id = Some(1);
            expected.model = "m".into();
            expected.max_tokens = Some(5);
            expected.sampling.temperature = 0.0;
            expected.context = Some(vec![message(Role::Assistant, "yes?")]);
            expected.stop = vec!["a".into(), "b".into()];
        },
    );
}

#[test]
fn a_signed_message_is_its_payload_as_sent() {
    let payload = r#"{"type":"ping", "id":1}"#;
    let text =
        json!({ "type": "signed", "session_id": 7, "seq": 12, "payload": payload, "signature": "ab", "id": "x" });
    let Envelope { id, message } = parse(&text.to_string()).expect("reads");
    assert_eq!(id, Some(MessageId::Text("x".into())));
    let ClientMessage::Signed(signed) = message else { panic!("signed") };
    let expected = SignedMessage {
        session_id: session("7"),
        seq: 12,
        payload: payload.into(),
        signature: "ab".into(),
        key_id: None,
    };
    assert_eq!(*signed, expected);
}

#[test]
fn nesting_and_breadth_are_skipped_and_not_built() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let objects = "{\"a\":".repeat(200_000) + "1" + &"}".repeat(200_000);
    for value in [&deep, &objects, &format!("[{}1]", "1,".repeat(200_000))] {
        for field in ["unknown", "reason", "conversation_context", "stop", "request"] {
            // A field that `ping` does not have is skipped, or refused by name; it never overflows the stack.
            match parse(&format!(r#"{{"type":"ping","{field}":{value}}}"#)) {
                Ok(envelope) => assert_eq!(envelope.message, ClientMessage::Ping),
                Err(rejected) => assert_eq!(rejected.error.code, ErrorCode::InvalidRequest),
            }
        }
    }
    let stops = vec!["x"; 100_000];
    let text = json!({ "type": "prompt", "prompt": "hi", "stop": stops }).to_string();
    let ClientMessage::Prompt(prompt) = parse(&text).expect("parses").message else { panic!("a prompt") };
    assert_eq!(prompt.stop.len(), crate::inference::STOP_STRINGS_MAX + 1);
}

#[test]
fn debug_output_holds_no_content() {
    let text = r#"{"type":"prompt","session_id":"s","prompt":"SECRET","stop":["SECRET"],
        "conversation_context":[{"role":"user","content":"SECRET"}]}"#;
    assert!(!format!("{:?}", parse(text)).contains("SECRET"));
    let text = r#"{"type":"signed","session_id":"s","seq":1,"payload":"SECRET","signature":"SECRET"}"#;
    assert!(!format!("{:?}", parse(text)).contains("SECRET"));
    let text = r#"{"type":"session_init","session_id":"s","token":"SECRET"}"#;
    assert!(!format!("{:?}", parse(text)).contains("SECRET"));
    for bad in [r#"{"type":"SECRET"}"#, r#"{"type":"prompt","prompt":SECRET}"#, r#"{"type":"ping","id":"x"} SECRET"#] {
        assert!(!format!("{:?}", parse(bad)).contains("SECRET"), "{bad}");
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)),
        "[a-z0-9]{0,4}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
            prop::collection::hash_map("role|content|prompt|request", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_fields_are_answered(
        kind in "prompt|inference|session_init|session_resume|session_end|stream_cancel|token_refresh|auth|ping|signed",
        fields in prop::collection::hash_map(
            "session_id|jobId|prompt|content|request|stop|conversation_context|max_tokens|temperature|stream|message_index|token",
            any_json(), 0..6),
    ) {
        let mut message = json!(fields);
        message["type"] = json!(kind);
        message["id"] = json!("the id");
        let id = match parse(&message.to_string()) {
            Ok(envelope) => envelope.id,
            Err(rejected) => rejected.id,
        };
        prop_assert_eq!(id, Some(MessageId::Text("the id".into())));
    }
}
