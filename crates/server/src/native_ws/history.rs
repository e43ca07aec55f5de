//! The conversation of a session, within its caps.

use protocol::{
    ApiError, ErrorCode,
    inference::{Message, Role},
};

use crate::Settings;

/// Caps of one session's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    /// Messages, at least 1.
    pub(super) messages_max: usize,
    /// Bytes of all contents together.
    pub(super) bytes_max: usize,
}

impl Caps {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { messages_max: settings.history_messages_max.max(1), bytes_max: settings.history_bytes_max }
    }
}

/// A conversation so far. Over its caps the oldest messages go, each with the answers that would be left without their
/// question (chat templates refuse a conversation that begins with an answer). The first system message stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct History {
    messages: Vec<Message>,
    bytes: usize,
    /// Messages of the conversation as the client counts them, those that were dropped included.
    count: u64,
}

impl History {
    /// A history that begins with `context`; names the setting for which messages had to go.
    ///
    /// # Errors
    /// `CONTEXT_TOO_LARGE` when the system message alone is over the cap.
    pub(super) fn new(context: Vec<Message>, caps: Caps) -> Result<(Self, Option<&'static str>), ApiError> {
        let bytes = context.iter().map(|message| message.content.len()).sum();
        let mut history = Self { count: context.len() as u64, bytes, messages: context };
        let trimmed = history.trim(caps);
        if history.bytes > caps.bytes_max {
            return Err(ApiError::new(
                ErrorCode::ContextTooLarge,
                format!("The system message has more than {} bytes. Shorten it.", caps.bytes_max),
            )
            .with("bytes_max", caps.bytes_max));
        }
        Ok((history, trimmed))
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Messages so far as the client counts them.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Adds a question and its answer; names the setting for which messages had to go.
    pub(super) fn push_turn(&mut self, prompt: String, answer: String, caps: Caps) -> Option<&'static str> {
        self.bytes += prompt.len() + answer.len();
        self.count += 2;
        self.messages.push(Message { role: Role::User, content: prompt });
        self.messages.push(Message { role: Role::Assistant, content: answer });
        self.trim(caps)
    }

    /// Drops the oldest `count` messages, system messages aside: the engine left them out of its prompt, so they will
    /// never fit again.
    pub(super) fn drop_oldest(&mut self, count: u32) {
        let turns = self.messages.iter().filter(|message| message.role != Role::System).count();
        self.drop_turns(turns.min(count as usize));
    }

    fn trim(&mut self, caps: Caps) -> Option<&'static str> {
        let over = |messages: usize, bytes: usize| messages > caps.messages_max || bytes > caps.bytes_max;
        let limit = match over(self.messages.len(), self.bytes) {
            true if self.messages.len() > caps.messages_max => "history_messages_max",
            true => "history_bytes_max",
            false => return None,
        };
        let (mut kept, mut bytes, mut turns) = (self.messages.len(), self.bytes, 0);
        for message in self.messages.iter().filter(|message| message.role != Role::System) {
            if !over(kept, bytes) {
                break;
            }
            (kept, bytes, turns) = (kept - 1, bytes - message.content.len(), turns + 1);
        }
        self.drop_turns(turns);
        // What is over now is system messages: the first is the one to keep.
        while over(self.messages.len(), self.bytes) && self.messages.len() > 1 {
            self.bytes -= self.messages.remove(1).content.len();
        }
        Some(limit)
    }

    /// Drops the oldest `turns` messages that are not the system's, and then what no longer has its question.
    fn drop_turns(&mut self, turns: usize) {
        if turns == 0 {
            return;
        }
        let (mut to_drop, mut bytes, mut orphans) = (turns, 0, true);
        self.messages.retain(|message| {
            if message.role == Role::System {
                return true;
            }
            if to_drop > 0 {
                to_drop -= 1;
                bytes += message.content.len();
                return false;
            }
            orphans &= message.role != Role::User;
            if orphans {
                bytes += message.content.len();
            }
            !orphans
        });
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One message a letter: `s`ystem, `u`ser, `a`ssistant, `t`ool; each has one byte.
    fn context(roles: &str) -> Vec<Message> {
        let role = |letter| match letter {
            's' => Role::System,
            'u' => Role::User,
            't' => Role::Tool,
            _ => Role::Assistant,
        };
        roles.chars().map(|letter| Message { role: role(letter), content: letter.into() }).collect()
    }

    fn text(history: &History) -> String {
        history.messages().iter().map(|message| message.content.as_str()).collect()
    }

    fn caps(messages_max: usize, bytes_max: usize) -> Caps {
        Caps { messages_max, bytes_max }
    }

    #[test]
    fn the_oldest_goes_with_its_answers_and_the_system_message_stays() {
        let check = |before: &str, messages_max: usize, after: &str| {
            for caps in [caps(messages_max, 1000), caps(1000, messages_max)] {
                let (history, limit) = History::new(context(before), caps).expect(before);
                assert_eq!(text(&history), after, "{before} within {caps:?}");
                assert_eq!((history.bytes, history.count), (after.len(), before.len() as u64), "{before}");
                let expected = if caps.messages_max < 1000 { "history_messages_max" } else { "history_bytes_max" };
                assert_eq!(limit, (before != after).then_some(expected), "{before}");
            }
        };
        check("", 2, "");
        check("sua", 3, "sua");
        check("suaua", 4, "sua");
        check("suaua", 3, "sua");
        check("suaua", 2, "s");
        check("uaua", 3, "ua");
        check("uatatua", 4, "ua");
        check("susu", 3, "ssu");
        check("sss", 2, "ss");
        check("ssu", 1, "s");
        // An unusual beginning is the client's own and stays until something must go.
        check("au", 2, "au");
    }

    #[test]
    fn of_several_system_messages_the_first_stays() {
        let system = |content: &str| Message { role: Role::System, content: content.into() };
        let (history, _) = History::new(vec![system("1"), system("2"), system("3")], caps(1, 10)).expect("fits");
        assert_eq!(text(&history), "1");
    }

    #[test]
    fn a_system_message_over_the_cap_is_refused() {
        let message = Message { role: Role::System, content: "x".repeat(11) };
        let error = History::new(vec![message], caps(8, 10)).expect_err("too large");
        assert_eq!(error.code, ErrorCode::ContextTooLarge);
    }

    #[test]
    fn an_answer_larger_than_the_cap_leaves_the_system_message() {
        let (mut history, _) = History::new(context("sua"), caps(8, 10)).expect("fits");
        let limit = history.push_turn("question".into(), "x".repeat(11), caps(8, 10));
        assert_eq!(limit, Some("history_bytes_max"));
        assert_eq!((text(&history).as_str(), history.count()), ("s", 5));
    }

    #[test]
    fn what_the_engine_left_out_goes() {
        let check = |before: &str, count: u32, after: &str| {
            let (mut history, _) = History::new(context(before), caps(100, 100)).expect(before);
            history.drop_oldest(count);
            assert_eq!(text(&history), after, "{before} without {count}");
            assert_eq!((history.bytes, history.count), (after.len(), before.len() as u64));
        };
        check("suaua", 0, "suaua");
        check("suaua", 2, "sua");
        check("suaua", 1, "sua");
        check("suaua", 4, "s");
        check("suaua", u32::MAX, "s");
        check("", 3, "");
    }

    proptest! {
        #[test]
        fn caps_hold_and_the_system_message_stays(
            roles in "s?[uats]{0,12}",
            turns in prop::collection::vec((0_usize..20, 0_usize..20), 0..12),
            drops in prop::collection::vec(0_u32..4, 12),
            messages_max in 1_usize..8,
            bytes_max in 1_usize..40,
        ) {
            let caps = caps(messages_max, bytes_max);
            let has_system = roles.contains('s');
            let (mut history, _) = History::new(context(&roles), caps).expect("messages of one byte fit");
            for ((prompt, answer), drop) in turns.iter().zip(drops) {
                let before = history.count();
                history.drop_oldest(drop);
                history.push_turn("p".repeat(*prompt), "a".repeat(*answer), caps);
                prop_assert_eq!(history.count(), before + 2);
                prop_assert!(history.messages().len() <= messages_max);
                prop_assert!(history.bytes <= bytes_max);
                prop_assert_eq!(history.bytes, history.messages().iter().map(|m| m.content.len()).sum::<usize>());
                prop_assert_eq!(history.messages().iter().any(|m| m.role == Role::System), has_system);
            }
        }
    }
}
