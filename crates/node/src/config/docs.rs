//! The example file and docs/configuration.md, from the declarations.

use std::fmt::Write as _;

use crate::config::{Config, FILE_NAME, Field, Reload, SECTIONS};

/// A complete file with every key at its default, commented.
pub(crate) fn example() -> String {
    let mut text = format!(
        "# Configuration of llm-node, with every key at its default. Written by `llm-node config example`.\n\
         #\n\
         # It is read from --config FILE, or from {FILE_NAME} in the data directory. Each key can also be given as\n\
         # LLM_NODE__SECTION__KEY in the environment, which wins over the file; the command line wins over both.\n\
         # Check a file with `llm-node config check --config FILE`. Reload it with SIGHUP, or just save it.\n"
    );
    let fields = Config::fields();
    for (section, doc) in SECTIONS {
        text.push('\n');
        comment(&mut text, doc);
        let _ = writeln!(text, "[{section}]");
        for field in fields.iter().filter(|field| field.section == *section) {
            text.push('\n');
            comment(&mut text, field.doc);
            let _ = writeln!(text, "# {}{}", capitalized(&field.expected), note(field));
            if field.default.is_empty() {
                let _ = writeln!(text, "#{} =", field.name);
            } else {
                let _ = writeln!(text, "{} = {}", field.name, field.default);
            }
        }
    }
    text
}

/// The reference of all keys, in Markdown.
pub(crate) fn markdown() -> String {
    let mut text = format!(
        "# Configuration\n\n\
         <!-- Written by `llm-node config docs` (`make docs`). Do not edit: edit crates/node/src/config/sections. -->\n\n\
         A value is taken from the command line, else from the environment, else from the file, else it is the\n\
         default. The file is TOML: `--config FILE`, or `{FILE_NAME}` in the data directory. Unknown keys are errors, and\n\
         all errors are listed at once (exit code 78); `llm-node config check` does only that.\n\n\
         - In the environment, `section.key` is `LLM_NODE__SECTION__KEY`, and a list is separated by commas. An empty\n  \
         variable unsets a key that has no default.\n\
         - Durations are written `500ms`, `30s`, `5m`, `2h`, `1d`; sizes `512B`, `64KiB`, `4MiB`, `1GiB`.\n\
         - A secret `section.key` can also be given as `section.key_file`: the path of a file that holds it.\n\
         - On SIGHUP, or when the file changes, it is read again. A *live* key takes effect at once, on open\n  \
         connections too where that is possible; any other at the next start, and the log says so. A file with an\n  \
         error changes nothing, and the log says why.\n\n\
         `llm-node config example` prints [a complete file](llm-node.example.toml).\n"
    );
    let fields = Config::fields();
    for (section, doc) in SECTIONS {
        let _ = write!(text, "\n## {section}\n\n{}\n\n", one_line(doc));
        text.push_str("| key | default | takes | live | what it does |\n|---|---|---|---|---|\n");
        for field in fields.iter().filter(|field| field.section == *section) {
            let default = if field.default.is_empty() { "not set".into() } else { format!("`{}`", field.default) };
            let live = if field.reload == Reload::Live { "yes" } else { "" };
            let secret = if field.secret { " (also as a file)" } else { "" };
            let _ = writeln!(
                text,
                "| `{}` | {default} | {}{secret} | {live} | {} |",
                field.name,
                cell(&field.expected),
                cell(&one_line(field.doc))
            );
        }
    }
    text
}

fn note(field: &Field) -> String {
    let mut note = String::from(".");
    if field.secret {
        let _ = write!(note, " Better in a file that only the node can read: {}_file.", field.name);
    }
    if field.reload == Reload::Live {
        note.push_str(" Live.");
    }
    note
}

fn comment(text: &mut String, doc: &str) {
    for line in doc.trim_end().lines() {
        let _ = writeln!(text, "#{}{}", if line.is_empty() { "" } else { " " }, line.trim());
    }
}

fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}
