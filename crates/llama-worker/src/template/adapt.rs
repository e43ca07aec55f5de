//! Restates a conversation for templates that take less than people send. Nothing that was said is dropped: texts are
//! joined, and a role that a template does not know speaks as the user.

use protocol::inference::{Message, Role};

/// What joins two texts that become one message.
const JOINT: &str = "\n\n";

/// The conversation in the roles that a template takes: a system message's text goes before the user message that
/// follows it, a tool's result becomes a user message.
pub(super) fn known_roles(messages: &[Message], takes_system: bool, takes_tool: bool) -> Vec<Message> {
    let mut adapted: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut held: Option<String> = None;
    for message in messages {
        let role = if message.role == Role::Tool && !takes_tool { Role::User } else { message.role };
        let content = &message.content;
        match (role, held.take()) {
            (Role::System, earlier) if !takes_system => held = Some(joined(&earlier.unwrap_or_default(), content)),
            (Role::User, Some(earlier)) => adapted.push(user(joined(&earlier, content))),
            (_, earlier) => {
                adapted.extend(earlier.map(user));
                adapted.push(Message { role, content: content.clone() });
            }
        }
    }
    adapted.extend(held.map(user));
    adapted
}

/// The conversation as strictly alternating user and assistant messages, the user first, after at most one system
/// message (none where `keep_system` is false).
pub(super) fn alternating(messages: &[Message], keep_system: bool) -> Vec<Message> {
    let leading = messages.iter().take_while(|message| message.role == Role::System).count();
    let (system, rest) = messages.split_at(if keep_system { leading } else { 0 });
    let mut adapted: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    for message in system {
        append(&mut adapted, Role::System, &message.content);
    }
    if rest.first().is_some_and(|message| message.role == Role::Assistant) {
        adapted.push(user(String::new()));
    }
    for message in rest {
        let role = if message.role == Role::Assistant { Role::Assistant } else { Role::User };
        append(&mut adapted, role, &message.content);
    }
    adapted
}

fn append(adapted: &mut Vec<Message>, role: Role, content: &str) {
    match adapted.last_mut() {
        Some(last) if last.role == role => last.content = joined(&last.content, content),
        _ => adapted.push(Message { role, content: content.to_owned() }),
    }
}

fn user(content: String) -> Message {
    Message { role: Role::User, content }
}

fn joined(first: &str, second: &str) -> String {
    if first.is_empty() || second.is_empty() { format!("{first}{second}") } else { [first, second].join(JOINT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(text: &str) -> Vec<Message> {
        text.split_whitespace()
            .map(|turn| {
                let (role, content) = turn.split_once(':').expect("role:content");
                let role = match role {
                    "s" => Role::System,
                    "u" => Role::User,
                    "a" => Role::Assistant,
                    _ => Role::Tool,
                };
                Message { role, content: content.to_owned() }
            })
            .collect()
    }

    fn shown(messages: &[Message]) -> String {
        let turn = |m: &Message| {
            let role = match m.role {
                Role::System => 's',
                Role::User => 'u',
                Role::Assistant => 'a',
                Role::Tool => 't',
            };
            format!("{role}:{}", m.content.replace(JOINT, "+"))
        };
        messages.iter().map(turn).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn system_texts_move_into_the_next_user_message() {
        let check = |input: &str, expected: &str| {
            assert_eq!(shown(&known_roles(&conversation(input), false, true)), expected);
        };
        check("u:1 a:2", "u:1 a:2");
        check("s:1 u:2", "u:1+2");
        check("s:1 s:2 u:3 a:4", "u:1+2+3 a:4");
        check("s:1 a:2 u:3", "u:1 a:2 u:3");
        check("u:1 a:2 s:3", "u:1 a:2 u:3");
        check("s:1 t:2", "u:1 t:2");
    }

    #[test]
    fn a_tool_speaks_as_the_user_where_its_role_is_unknown() {
        let check = |input: &str, takes_system: bool, expected: &str| {
            assert_eq!(shown(&known_roles(&conversation(input), takes_system, false)), expected);
        };
        check("s:1 u:2 a:3 t:4 t:5", true, "s:1 u:2 a:3 u:4 u:5");
        check("u:1 a:2 s:3 t:4", false, "u:1 a:2 u:3+4");
    }

    #[test]
    fn alternation_keeps_every_text() {
        let check = |input: &str, keep_system: bool, expected: &str| {
            assert_eq!(shown(&alternating(&conversation(input), keep_system)), expected);
        };
        check("u:1 u:2 a:3 a:4 u:5", true, "u:1+2 a:3+4 u:5");
        check("s:1 s:2 u:3", true, "s:1+2 u:3");
        check("s:1 u:2 u:3", false, "u:1+2+3");
        check("u:1 a:2 s:3 u:4", true, "u:1 a:2 u:3+4");
        check("u:1 a:2 t:3", true, "u:1 a:2 u:3");
        check("a:1 u:2", true, "u: a:1 u:2");
        check("s:0 a:1 u:2", true, "s:0 u: a:1 u:2");
    }
}
