//! What the node ends by itself: the session that the socket is, and the connection of a token that is over.

use std::time::Duration;

use protocol::ApiError;
use serde_json::json;
use tokio::time::Instant;

use super::Connection;
use crate::{
    sessions::EndReason,
    token_watch::TokenEvent,
    ws::{CloseCode, Gone},
};

/// How long running answers get to end before a connection that must go is closed.
const CLOSING_WAIT: Duration = Duration::from_secs(2);

/// How a connection that must go is closed, once what runs on it has ended.
pub(super) struct Closing {
    code: CloseCode,
    reason: &'static str,
    /// What is asked meanwhile is refused with this.
    pub(super) refusal: ApiError,
    pub(super) by: Instant,
}

impl Connection {
    /// The token ends soon, or is over.
    pub(super) async fn token_event(&mut self, event: TokenEvent) -> Result<(), Gone> {
        match event {
            TokenEvent::Expiring { expires_at, closes_at } => {
                let event =
                    json!({ "type": "llm-node:token_expiring", "expires_at": expires_at, "closes_at": closes_at });
                self.socket.send_json(&event).await
            }
            TokenEvent::Over(refusal) => {
                let reason = self.app.metrics.token_over(refusal.code);
                self.begin_close(CloseCode::TokenOver, reason, refusal);
                Ok(())
            }
        }
    }

    /// The session was ended from outside.
    pub(super) fn end_lapsed(&mut self) {
        if let Some(reason) = self.ticket.ended() {
            let (code, said) = match reason {
                EndReason::Operator => (CloseCode::SessionEnded, "the operator ended the session"),
                EndReason::Replaced | EndReason::Resumed => (CloseCode::Policy, "a newer session took its place"),
                EndReason::Idle => (CloseCode::Policy, "the session was idle for too long"),
                EndReason::Lifetime => (CloseCode::Policy, "the session reached its longest life"),
            };
            self.begin_close(code, said, reason.error());
        }
    }

    /// Cuts what runs short; the loop closes the socket when its ends are told.
    fn begin_close(&mut self, code: CloseCode, reason: &'static str, refusal: ApiError) {
        self.running.values().for_each(|running| running.cancel.cancel());
        self.closing = Some(Closing { code, reason, refusal, by: Instant::now() + CLOSING_WAIT });
    }

    /// The end, where it has come: nothing runs any more, or it took too long.
    pub(super) fn may_close(&mut self) -> Option<Closing> {
        let idle = self.running.is_empty();
        self.closing.take_if(|closing| idle || closing.by <= Instant::now())
    }

    pub(super) async fn close(&mut self, closing: Closing) -> Result<(), Gone> {
        self.refuse(None, closing.refusal.into()).await?;
        self.socket.close(closing.code, closing.reason).await;
        Ok(())
    }
}
