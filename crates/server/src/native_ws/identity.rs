//! Who speaks on a connection.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::{ApiError, ErrorCode};

use crate::{App, pipeline::Authenticated};

/// Tokens that may be refused, and messages that may come too early, before the connection is closed.
const FAILURES_MAX: u32 = 16;

/// The proven identity of a connection. Once proven, its subject and the key that it is bound to never change.
pub(super) struct Identity {
    who: Option<Arc<Authenticated>>,
    failures: u32,
}

impl Identity {
    /// Nobody yet: a token must come first.
    pub(super) fn unknown() -> Self {
        Self { who: None, failures: 0 }
    }

    pub(super) fn proven(who: Authenticated) -> Self {
        Self { who: Some(Arc::new(who)), failures: 0 }
    }

    /// Who was proven to speak, whether the token is still valid or not.
    pub(super) fn proven_as(&self) -> Option<&Authenticated> {
        self.who.as_deref()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.who.is_some()
    }

    /// Whether the client has failed to prove itself too often to go on.
    pub(super) fn is_hopeless(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    /// Who may start something now.
    ///
    /// # Errors
    /// `AUTH_FAILED` before a token came, `TOKEN_EXPIRED` after its time: what runs goes on, nothing new starts.
    pub(super) fn current(&mut self) -> Result<Arc<Authenticated>, ApiError> {
        let who = self.known()?;
        who.still_valid()?;
        Ok(who)
    }

    /// Who the connection belongs to, whether the token is still valid or not.
    ///
    /// # Errors
    /// `AUTH_FAILED` before a token came.
    pub(super) fn known(&mut self) -> Result<Arc<Authenticated>, ApiError> {
        self.who.clone().ok_or_else(|| {
            self.failures += 1;
            ApiError::new(
                ErrorCode::AuthFailed,
                "A token is needed first: in the Authorization header of the upgrade, in an auth message, or in \
                 session_init.",
            )
        })
    }

    /// Takes a token that came in a frame.
    ///
    /// # Errors
    /// The token's own code, or `SESSION_AUTH_DENIED` when it is someone else's than the connection.
    pub(super) async fn take(&mut self, app: &App, token: &str) -> Result<Arc<Authenticated>, ApiError> {
        let fresh = app.pipeline.authenticate(Some(token)).await.inspect_err(|_| self.failures += 1)?;
        let is_other = |who: &Authenticated| who.subject() != fresh.subject() || who.bound_key() != fresh.bound_key();
        if self.who.as_deref().is_some_and(is_other) {
            self.failures += 1;
            return Err(ApiError::new(
                ErrorCode::SessionAuthDenied,
                "This connection belongs to another subject than the token, or is bound to another key. Open a \
                 connection of its own for it.",
            ));
        }
        let fresh = Arc::new(fresh);
        self.who = Some(Arc::clone(&fresh));
        self.failures = 0;
        Ok(fresh)
    }
}

/// Unix seconds.
pub(super) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
