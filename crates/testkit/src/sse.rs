//! Server-sent events (WHATWG HTML section 9.2), read as a client does.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::timeout;

/// Time for the next event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The `event` field; empty where the server gave none.
    pub name: String,
    /// The `data` field.
    pub data: String,
}

impl Event {
    /// The data as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in the event {self:?}"))
    }
}

/// A response's events.
#[derive(Debug)]
pub struct Events {
    response: Option<reqwest::Response>,
    buffered: Vec<u8>,
}

impl Events {
    /// The events of a response.
    ///
    /// # Panics
    /// When it is not an event stream.
    #[must_use]
    pub fn new(response: reqwest::Response) -> Self {
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        assert!(
            response.status() == 200 && kind.starts_with("text/event-stream"),
            "an event stream, not {} {kind}",
            response.status()
        );
        Self { response: Some(response), buffered: Vec::new() }
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Panics
    /// When none came in time, or the connection broke.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffered.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffered.drain(..end + 2).collect();
                if let Some(event) = parse(&String::from_utf8(block).expect("events are UTF-8")) {
                    return Some(event);
                }
                continue;
            }
            let response = self.response.as_mut()?;
            match timeout(EVENT_TIMEOUT, response.chunk()).await.expect("an event in time") {
                Ok(Some(chunk)) => self.buffered.extend_from_slice(&chunk),
                Ok(None) => self.response = None,
                Err(error) => panic!("the stream broke: {error}"),
            }
        }
    }

    /// Every event to the end of the stream.
    ///
    /// # Panics
    /// As [`Self::next`].
    pub async fn collect(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The chunks of a plain body to its end or first error.
///
/// # Panics
/// When a chunk did not come in time.
pub async fn read_to_end(response: reqwest::Response) -> Vec<u8> {
    let mut stream = response.bytes_stream();
    let mut body = Vec::new();
    while let Some(Ok(chunk)) = timeout(EVENT_TIMEOUT, stream.next()).await.expect("a chunk in time") {
        body.extend_from_slice(&chunk);
    }
    body
}

/// One block of lines; `None` for a comment.
fn parse(block: &str) -> Option<Event> {
    let (mut name, mut data) = (String::new(), Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => data.push(value),
            _ => {}
        }
    }
    (!data.is_empty()).then(|| Event { name, data: data.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_events_and_comments_are_none() {
        let event = |name: &str, data: &str| Some(Event { name: name.into(), data: data.into() });
        assert_eq!(parse("event: a\ndata: 1\n\n"), event("a", "1"));
        assert_eq!(parse("data:1\ndata: 2\n\n"), event("", "1\n2"));
        assert_eq!(parse(": keep-alive\n\n"), None);
    }
}
