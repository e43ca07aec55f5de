//! Shortening a conversation that does not fit.

use protocol::inference::{Prompt, Role};

/// Drops the oldest turn that may go: never a system message, never the last turn, and nothing unless the prompt allows
/// it. An answer that would be left without its question goes with it. Returns how many messages went; 0 when none may.
pub(crate) fn drop_oldest(prompt: &mut Prompt) -> u32 {
    let Prompt::Chat { messages, trim_oldest: true } = prompt else { return 0 };
    let mut dropped = 0;
    loop {
        let last = messages.len().saturating_sub(1);
        let Some(oldest) = messages[..last].iter().position(|message| message.role != Role::System) else {
            return dropped;
        };
        if dropped > 0 && messages[oldest].role == Role::User {
            return dropped;
        }
        messages.remove(oldest);
        dropped += 1;
    }
}

/// Drops the older half of what may go; returns how many messages went.
pub(crate) fn drop_half(prompt: &mut Prompt) -> u32 {
    let Prompt::Chat { messages, trim_oldest: true } = prompt else { return 0 };
    let last = messages.len().saturating_sub(1);
    let may_go = messages[..last].iter().filter(|message| message.role != Role::System).count();
    let wanted = u32::try_from(may_go.div_ceil(2)).unwrap_or(u32::MAX);
    let mut dropped = 0;
    while dropped < wanted {
        match drop_oldest(prompt) {
            0 => break,
            more => dropped += more,
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use protocol::inference::Message;

    use super::*;

    fn check(before: &str, dropped: u32, after: &str) {
        let messages = before.chars().map(|c| {
            let role = match c.to_ascii_lowercase() {
                's' => Role::System,
                'u' => Role::User,
                't' => Role::Tool,
                _ => Role::Assistant,
            };
            Message { role, content: c.to_string() }
        });
        let mut prompt = Prompt::Chat { messages: messages.collect(), trim_oldest: true };
        assert_eq!(drop_oldest(&mut prompt), dropped, "{before}");
        let Prompt::Chat { messages, .. } = prompt else { panic!("still a chat") };
        assert_eq!(messages.into_iter().map(|message| message.content).collect::<String>(), after, "{before}");
    }

    #[test]
    fn the_oldest_turn_goes_with_its_answers() {
        check("", 0, "");
        check("u", 0, "u");
        check("su", 0, "su");
        check("suaU", 2, "sU");
        check("uauaU", 2, "uaU");
        check("suatasU", 4, "ssU");
        check("aU", 1, "U");
        check("uU", 1, "U");
    }

    #[test]
    fn half_goes_by_whole_turns() {
        for (turns, dropped) in [(0, 0), (1, 2), (2, 2), (3, 4), (4, 4)] {
            let mut messages = vec![Message { role: Role::System, content: "s".into() }];
            for _ in 0..turns {
                messages.push(Message { role: Role::User, content: "u".into() });
                messages.push(Message { role: Role::Assistant, content: "a".into() });
            }
            messages.push(Message { role: Role::User, content: "now".into() });
            let mut prompt = Prompt::Chat { messages, trim_oldest: true };
            assert_eq!(drop_half(&mut prompt), dropped, "{turns} turns");
        }
    }

    #[test]
    fn nothing_goes_unasked() {
        let messages = vec![Message { role: Role::User, content: "a".into() }; 3];
        assert_eq!(drop_oldest(&mut Prompt::Chat { messages, trim_oldest: false }), 0);
        assert_eq!(drop_oldest(&mut Prompt::Text("a".into())), 0);
    }
}
