use super::*;

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.into() }
}

fn tokenized(length: usize, dropped: usize) -> Tokenized {
    Tokenized { tokens: vec![0; length], trimmed_messages: u32::try_from(dropped).unwrap(), starts_in_reasoning: false }
}

#[test]
fn the_oldest_go_first_but_no_system_message_and_not_the_last() {
    let conversation = [
        message(Role::System, "s"),
        message(Role::User, "1"),
        message(Role::Assistant, "2"),
        message(Role::System, "t"),
        message(Role::User, "3"),
    ];
    let check = |dropped, kept: &str| {
        let left: String = without_oldest(&conversation, dropped).into_iter().map(|message| message.content).collect();
        assert_eq!(left, kept);
    };
    check(0, "s12t3");
    check(1, "s2t3");
    check(2, "st3");
    check(99, "st3");
    assert_eq!(droppable(&[]).count(), 0);
}

#[test]
fn as_little_is_dropped_as_fits_in_few_attempts() {
    let check = |messages: usize, room, expected: usize| {
        let attempts = std::cell::Cell::new(0);
        let attempt = |dropped| {
            attempts.set(attempts.get() + 1);
            Ok(tokenized((messages - dropped) * 10, dropped))
        };
        let best = fewest_dropped(tokenized(messages * 10, 0), messages - 1, room, attempt).unwrap();
        assert_eq!(best.trimmed_messages as usize, expected, "{messages} messages in {room}");
        assert!(attempts.get() <= 16, "{} attempts", attempts.get());
    };
    check(10, 95, 1);
    check(10, 10, 9);
    check(10, 5, 9);
    check(2, 10, 1);
    check(1, 5, 0);
    check(10_000, 40_000, 6_000);
}

#[test]
fn contents_take_the_places_of_their_placeholders() {
    let text = format!("<u>{}</u><u>{}</u>", placeholder(0), placeholder(2));
    assert_eq!(
        pieces(&text, &[(0, "a"), (2, "b")]),
        Some(vec![(true, "<u>"), (false, "a"), (true, "</u><u>"), (false, "b"), (true, "</u>")])
    );
    assert_eq!(pieces(&text, &[(1, "a")]), None, "the template left it out");
    assert_eq!(pieces(&text, &[(2, "a"), (0, "b")]), None, "the template changed the order");
}
