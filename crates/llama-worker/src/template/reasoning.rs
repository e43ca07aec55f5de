//! How models mark the part of an answer that is reasoning. Only what a template itself mentions counts: a model whose
//! template knows no such part may write `<think>` as plain text.

/// The spellings in use: DeepSeek-R1, Qwen3 and most others; Command R7B/A; Magistral; Seed-OSS.
const TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
];

/// The tags that `source` mentions. Templates that only cut the reasoning out of history name the closing one alone.
pub(super) fn tags(source: &str) -> Option<(&'static str, &'static str)> {
    TAGS.into_iter().find(|(open, close)| source.contains(open) || source.contains(close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_those_that_the_template_mentions() {
        assert_eq!(tags("{{ messages[0].content }} think"), None);
        assert_eq!(tags("{% if '</think>' in content %}"), Some(("<think>", "</think>")));
        assert_eq!(tags("{{ '<|START_THINKING|>' }}"), Some(("<|START_THINKING|>", "<|END_THINKING|>")));
        assert_eq!(tags("{{ '<seed:think>' }}"), Some(("<seed:think>", "</seed:think>")));
    }
}
