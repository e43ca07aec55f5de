//! The channel between a backend and one consumer. It never blocks the producer and never drops: deltas that the
//! consumer has not taken are merged into one, so what is pending is at most the answer itself, which `max_tokens`
//! bounds. When the consumer drops its end, `cancel` fires and the backend stops generating.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backend::GenerationEvent;

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<GenerationEvent>,
    /// The producer sent its last event or is gone.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

/// The backend's end.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
}

/// The consumer's end; dropping it cancels the generation.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    cancel: CancellationToken,
}

/// A channel whose consumer cancels `cancel` by going away.
#[must_use]
pub fn channel(cancel: CancellationToken) -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, cancel })
}

impl Sender {
    /// Hands an event over; a delta is merged into a delta that still waits.
    pub fn send(&self, event: GenerationEvent) {
        let mut state = self.shared.state.lock();
        debug_assert!(!state.closed, "nothing follows Finished or Failed");
        state.closed = matches!(event, GenerationEvent::Finished { .. } | GenerationEvent::Failed(_));
        match (state.pending.back_mut(), event) {
            (Some(GenerationEvent::Delta(waiting)), GenerationEvent::Delta(more)) => {
                waiting.text.push_str(&more.text);
                waiting.reasoning.push_str(&more.reasoning);
                waiting.tokens += more.tokens;
                waiting.logprobs.extend(more.logprobs);
            }
            (_, event) => state.pending.push_back(event),
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_one();
    }
}

impl Receiver {
    /// The next event; `None` after the last. Cancel-safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        loop {
            {
                let mut state = self.shared.state.lock();
                if let Some(event) = state.pending.pop_front() {
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            self.shared.changed.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use protocol::inference::{Delta, FinishReason, Usage};

    use super::*;

    fn delta(text: &str) -> GenerationEvent {
        GenerationEvent::Delta(Delta { text: text.into(), tokens: 1, ..Delta::default() })
    }

    #[tokio::test]
    async fn pending_deltas_are_merged_and_order_is_kept() {
        let (sender, mut receiver) = channel(CancellationToken::new());
        sender.send(GenerationEvent::Started { prompt_tokens: 3, cached_tokens: 0, trimmed_messages: 0 });
        for text in ["a", "b", "c"] {
            sender.send(delta(text));
        }
        sender.send(GenerationEvent::Finished { reason: FinishReason::Stop, usage: Usage::default() });
        assert!(matches!(receiver.next().await, Some(GenerationEvent::Started { .. })));
        let Some(GenerationEvent::Delta(merged)) = receiver.next().await else { panic!("a delta") };
        assert_eq!((merged.text.as_str(), merged.tokens), ("abc", 3));
        assert!(matches!(receiver.next().await, Some(GenerationEvent::Finished { .. })));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn dropping_the_consumer_cancels_and_dropping_the_producer_ends() {
        let cancel = CancellationToken::new();
        let (sender, receiver) = channel(cancel.clone());
        drop(receiver);
        assert!(cancel.is_cancelled());
        sender.send(delta("into the void"));

        let (sender, mut receiver) = channel(CancellationToken::new());
        drop(sender);
        assert_eq!(receiver.next().await, None);
    }
}
