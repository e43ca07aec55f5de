//! What the node ends by itself: sessions, and the connection of a token that is over.

use protocol::{ApiError, SessionId, native::ServerMessage};
use tokio::time::Instant;

use super::{CLOSING_WAIT, Closing, Connection};
use crate::{
    sessions::EndReason,
    token_watch::TokenEvent,
    ws::{CloseCode, Gone},
};

impl Connection {
    /// The token ends soon, or is over.
    pub(super) async fn token_event(&mut self, event: TokenEvent) -> Result<(), Gone> {
        match event {
            TokenEvent::Expiring { expires_at, closes_at } => {
                self.socket.send_json(&ServerMessage::TokenExpiring { expires_at, closes_at }).await
            }
            TokenEvent::Over(refusal) => {
                let reason = self.app.metrics.token_over(refusal.code);
                self.begin_close(CloseCode::TokenOver, reason, refusal);
                Ok(())
            }
        }
    }

    /// Ends the sessions that were ended from outside. A running answer is cut short, and its session ends with it.
    pub(super) async fn end_lapsed(&mut self) -> Result<(), Gone> {
        for (session_id, reason) in self.sessions.lapse() {
            self.tell_ended(&session_id, reason).await?;
        }
        Ok(())
    }

    /// Tells the client that a session is no more; the operator's word ends the connection, where it was the only one.
    pub(super) async fn tell_ended(&mut self, session_id: &SessionId, reason: EndReason) -> Result<(), Gone> {
        let ended = ServerMessage::SessionEnded { session_id, reason: reason.as_str(), message: reason.message() };
        self.socket.send_json(&ended).await?;
        if reason == EndReason::Operator && self.sessions.is_empty() {
            self.begin_close(CloseCode::SessionEnded, "the operator ended the session", reason.error());
        }
        Ok(())
    }

    /// Cuts what runs short; the loop closes the socket when its ends are told.
    fn begin_close(&mut self, code: CloseCode, reason: &'static str, refusal: ApiError) {
        self.sessions.turns(None).for_each(|turn| turn.cancel.cancel());
        self.closing = Some(Closing { code, reason, refusal, by: Instant::now() + CLOSING_WAIT });
    }
}
