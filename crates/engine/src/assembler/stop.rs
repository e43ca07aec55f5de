/// Ends the text before the first stop string. Of several, the one that is complete first wins (of those, the longest):
/// the only rule under which the cuts between tokens do not matter.
#[derive(Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    /// A suffix that may be the beginning of a stop string; shorter than the longest one.
    held: String,
    stopped: bool,
}

impl StopMatcher {
    pub(super) fn new(mut stops: Vec<String>) -> Self {
        stops.retain(|stop| !stop.is_empty());
        Self { stops, held: String::new(), stopped: false }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The text that cannot be part of a stop string any more.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        let mut text = std::mem::take(&mut self.held) + text;
        let first = self.stops.iter().filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start))).min();
        if let Some((_end, start)) = first {
            self.stopped = true;
            text.truncate(start);
            return text;
        }
        let held = self.stops.iter().map(|stop| longest_overlap(&text, stop)).max().unwrap_or(0);
        self.held = text.split_off(text.len() - held);
        text
    }

    /// No more text: what was held is not a stop string.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest suffix of `text` that is a proper prefix of `pattern`. Both are UTF-8, so such a suffix begins
/// and ends between characters.
pub(super) fn longest_overlap(text: &str, pattern: &str) -> usize {
    let longest = text.len().min(pattern.len().saturating_sub(1));
    (1..=longest).rev().find(|&n| text.as_bytes().ends_with(&pattern.as_bytes()[..n])).unwrap_or(0)
}
