//! Server-sent events (WHATWG HTML section 9.2) as an HTTP body.
//!
//! [`respond`] runs a transport's translation as a task of its own, which writes events into a short queue that the
//! connection empties:
//!
//! - the client goes away: hyper drops the body, and the task is dropped with the answer in it, so generation stops;
//! - the client does not read: the queue stays full past `write_timeout`, and the task ends the same way;
//! - nothing is generated for a while: comments keep proxies from taking the silence for a dead connection;
//! - the task ends early: the body fails rather than ends, so a client never takes half an answer for a whole one.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use serde::Serialize;
use tokio::{
    sync::mpsc::{self, error::SendTimeoutError},
    time::timeout,
};

use crate::App;

/// Events that wait for the connection. Short: the engine merges what is not yet taken into fewer, longer deltas.
const QUEUE_EVENTS_MAX: usize = 4;
/// A comment line, which every client ignores.
const KEEP_ALIVE: Bytes = Bytes::from_static(b": ping\n\n");

/// One event, ready for the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event(Bytes);

impl Event {
    /// `data: <json>`.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::write("", value)
    }

    /// `event: <name>` and `data: <json>`.
    pub(crate) fn named(name: &str, value: &impl Serialize) -> Self {
        Self::write(&format!("event: {name}\n"), value)
    }

    /// `data: [DONE]`, by which OpenAI's SDKs know a whole stream.
    pub(crate) const fn done() -> Self {
        Self(Bytes::from_static(b"data: [DONE]\n\n"))
    }

    fn write(head: &str, value: &impl Serialize) -> Self {
        let mut text = format!("{head}data: ").into_bytes();
        // JSON escapes line breaks, so the text is one line.
        serde_json::to_writer(&mut text, value).expect("wire types have string keys and serialise");
        text.extend_from_slice(b"\n\n");
        Self(text.into())
    }
}

/// There is nobody left to send to: stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Gone {
    /// The connection is closed.
    #[error("the client is gone")]
    Away,
    /// Nothing was taken for `write_timeout`.
    #[error("the client does not read")]
    NotReading,
}

/// Where events go.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Item>,
    write_timeout: Duration,
}

#[derive(Debug)]
enum Item {
    Event(Event),
    End,
}

impl Sender {
    /// Sends one event.
    ///
    /// # Errors
    /// [`Gone`]: return it, the client cannot be told.
    pub(crate) async fn send(&mut self, event: Event) -> Result<(), Gone> {
        self.put(Item::Event(event)).await
    }

    async fn put(&self, item: Item) -> Result<(), Gone> {
        self.queue.send_timeout(item, self.write_timeout).await.map_err(|error| match error {
            SendTimeoutError::Timeout(_) => Gone::NotReading,
            SendTimeoutError::Closed(_) => Gone::Away,
        })
    }
}

/// Answers with the events that `produce` sends. The future that it returns is dropped when the client goes away.
pub(crate) fn respond<F, Fut>(app: &Arc<App>, produce: F) -> Response
where
    F: FnOnce(Sender) -> Fut,
    Fut: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let settings = app.settings();
    let (sender, body) = channel(settings.write_timeout, settings.ping_interval);
    let production = produce(sender.clone());
    let metrics = app.metrics.clone();
    app.tasks.spawn(async move {
        if drive(production, sender).await == Err(Gone::NotReading) {
            metrics.limit_hit("write_timeout");
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx and its kin would otherwise collect the whole stream before they pass it on.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// Runs `production` to its end, unless the client goes away first.
async fn drive(production: impl Future<Output = Result<(), Gone>>, sender: Sender) -> Result<(), Gone> {
    tokio::select! {
        biased;
        () = sender.queue.closed() => Err(Gone::Away),
        result = production => {
            result?;
            sender.put(Item::End).await
        }
    }
}

fn channel(write_timeout: Duration, keep_alive: Duration) -> (Sender, Body) {
    let (queue, receiver) = mpsc::channel(QUEUE_EVENTS_MAX);
    let chunks = stream::unfold(Some(receiver), move |receiver| async move {
        let mut receiver = receiver?;
        match timeout(keep_alive, receiver.recv()).await {
            Ok(Some(Item::Event(Event(text)))) => Some((Ok(text), Some(receiver))),
            Ok(Some(Item::End)) => None,
            Ok(None) => Some((Err(CutOff), None)),
            Err(_) => Some((Ok(KEEP_ALIVE), Some(receiver))),
        }
    });
    (Sender { queue, write_timeout }, Body::from_stream(chunks))
}

/// Breaks the connection off: what was sent is not the whole answer.
#[derive(Debug, thiserror::Error)]
#[error("the stream was cut off")]
struct CutOff;

#[cfg(test)]
mod tests;
