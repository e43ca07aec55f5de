/// Splits an event stream into lines, however the network cut it, and yields the `data` ones
/// (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>). The servers in question
/// put each event's data on one line, so a line is an event; comments and other fields are skipped.
#[derive(Debug)]
pub(super) struct DataLines {
    line: Vec<u8>,
    line_bytes_max: usize,
}

/// A line is longer than the limit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

impl DataLines {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { line: Vec::new(), line_bytes_max }
    }

    /// Takes bytes and returns the data of every line that is whole now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, LineTooLong> {
        let mut events = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + piece.len() > self.line_bytes_max {
                return Err(LineTooLong);
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.line);
                if let Some(data) = line.strip_prefix("data:") {
                    events.push(data.trim().to_owned());
                }
                self.line.clear();
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_over_the_limit_is_refused_before_it_is_whole() {
        let mut lines = DataLines::new(8);
        assert_eq!(lines.push(b"data: 1\n"), Ok(vec!["1".into()]));
        assert_eq!(lines.push(b"data: 1"), Ok(vec![]));
        assert_eq!(lines.push(b"23"), Err(LineTooLong));
    }

    #[test]
    fn lines_are_the_same_at_every_cut() {
        let text = ": comment\r\nevent: x\r\ndata: {\"a\":\"é→\"}\r\n\r\ndata:b\n\ndata: [DONE]\n\ndata: unfinished"
            .as_bytes();
        let expected = ["{\"a\":\"é→\"}", "b", "[DONE]"];
        for size in 1..text.len() {
            let mut lines = DataLines::new(100);
            let events: Vec<String> =
                text.chunks(size).flat_map(|bytes| lines.push(bytes).expect("short lines")).collect();
            assert_eq!(events, expected, "pieces of {size}");
        }
    }
}
