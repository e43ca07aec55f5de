//! The sessions of one connection. A session id names and never proves: nothing here is reachable from another
//! connection, so knowing an id is worth nothing.

use std::collections::HashMap;

use protocol::{
    ApiError, ErrorCode, JobId, SessionId,
    native::{MessageId, PromptMessage},
};

use super::{
    history::{Caps, History},
    turn::{Kept, Turn},
};

/// The session of prompts that name neither a session nor a job, where no session was opened.
const UNNAMED: &str = "default";

/// One conversation.
#[derive(Default)]
pub(super) struct Session {
    pub(super) history: History,
    /// What its prompts are charged to, where it was said.
    pub(super) job: Option<JobId>,
    chain: Option<u64>,
    /// It was opened by a prompt, not by `session_init`: it goes again if nothing comes of that prompt.
    implicit: bool,
    pub(super) turn: Option<Turn>,
    /// A `session_end` waits for the turn to end.
    pub(super) ending: Option<Option<MessageId>>,
}

/// All sessions of a connection, by their names on it.
#[derive(Default)]
pub(super) struct Sessions {
    open: HashMap<SessionId, Session>,
}

/// A prompt's place: which session, charged to what, after how much conversation.
pub(super) struct Place<'a> {
    pub(super) session_id: SessionId,
    pub(super) job: Option<JobId>,
    /// The conversation before the prompt.
    pub(super) history: &'a History,
    /// Place of the prompt in the conversation, from 1.
    pub(super) index: u64,
}

/// What the end of a turn brought about.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ended {
    /// The `session_end` that waited for it, by its id.
    pub(super) session_end: Option<Option<MessageId>>,
    /// The setting for which the history was trimmed.
    pub(super) trimmed_for: Option<&'static str>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn get_mut(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.open.get_mut(id)
    }

    /// A session that this connection opened.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`.
    pub(super) fn existing(&mut self, id: &SessionId) -> Result<&mut Session, ApiError> {
        self.open.get_mut(id).ok_or_else(|| {
            ApiError::new(ErrorCode::SessionNotFound, "This connection has no such session. Send session_init first.")
        })
    }

    /// Whether `id` may be opened (again) now.
    ///
    /// # Errors
    /// `STREAM_IN_PROGRESS`, or `RATE_LIMIT` at `max` sessions.
    pub(super) fn may_open(&self, id: &SessionId, max: usize) -> Result<(), ApiError> {
        match self.open.get(id) {
            Some(session) => session.idle(),
            None if self.open.len() < max => Ok(()),
            None => Err(ApiError::new(
                ErrorCode::RateLimit,
                format!("This connection has {max} sessions, which is the limit. End one with session_end."),
            )
            .with("sessions_per_connection_max", max)),
        }
    }

    /// Opens a session, or begins it anew; ask [`Self::may_open`] before.
    pub(super) fn open(&mut self, id: SessionId, history: History, job: Option<JobId>, chain: Option<u64>) {
        self.open.insert(id, Session { history, job, chain, ..Session::default() });
    }

    pub(super) fn remove(&mut self, id: &SessionId) {
        self.open.remove(id);
    }

    /// Running turns: of one session or of all.
    pub(super) fn turns(&self, id: Option<&SessionId>) -> impl Iterator<Item = &Turn> {
        let named = move |session: &SessionId| id.is_none_or(|id| id == session);
        self.open.iter().filter(move |(session, _)| named(session)).filter_map(|(_, session)| session.turn.as_ref())
    }

    /// Finds or opens the session of a prompt, and checks the prompt against it. `context` is the conversation that
    /// came with the prompt, in place of the session's own.
    ///
    /// # Errors
    /// `STREAM_IN_PROGRESS`, `RATE_LIMIT`, `CHAIN_MISMATCH`, `INVALID_JOB`, `INVALID_MESSAGE_INDEX`; nothing changed.
    pub(super) fn place<'a>(
        &'a mut self,
        prompt: &PromptMessage,
        context: Option<&'a History>,
        max: usize,
    ) -> Result<Place<'a>, ApiError> {
        let session_id = self.resolve(prompt);
        self.may_open(&session_id, max)?;
        let known = self.open.get(&session_id);
        let empty = History::default();
        let before = context.or(known.map(|session| &session.history)).unwrap_or(&empty);
        let index = before.count() + 1;
        check_index(prompt.message_index, index)?;
        if let Some(session) = known {
            session.check(prompt)?;
        }
        let session = self.open.entry(session_id.clone()).or_insert_with(|| Session {
            implicit: true,
            job: prompt.job_id.clone(),
            chain: prompt.chain_id,
            ..Session::default()
        });
        let job = prompt.job_id.clone().or_else(|| session.job.clone());
        Ok(Place { session_id, job, history: context.unwrap_or(&session.history), index })
    }

    /// Ends a session's turn. `kept` joins its history; the answer names the setting for which that was trimmed, and the
    /// `session_end` that waited for the turn.
    pub(super) fn end_turn(&mut self, id: &SessionId, kept: Option<Kept>, caps: Caps) -> Ended {
        let Some(session) = self.open.get_mut(id) else { return Ended::default() };
        session.turn = None;
        let mut trimmed_for = None;
        if let Some(kept) = kept {
            if let Some(context) = kept.context {
                session.history = context;
            }
            session.history.drop_oldest(kept.trimmed_messages);
            trimmed_for = session.history.push_turn(kept.prompt, kept.answer, caps);
        }
        let ending = session.ending.take();
        if ending.is_some() || (session.implicit && session.history.count() == 0) {
            self.open.remove(id);
        }
        Ended { session_end: ending, trimmed_for }
    }

    /// The session that a prompt means: the one it names; else the one named like its job, as SDKs do; else the one
    /// opened for its job; else, if it names neither, the only one.
    fn resolve(&self, prompt: &PromptMessage) -> SessionId {
        if let Some(id) = &prompt.session_id {
            return id.clone();
        }
        let named_by = |text: &str| SessionId::new(text).expect("a job id is as short and printable as a session id");
        match &prompt.job_id {
            Some(job) => {
                let by_name = named_by(job.as_str());
                if self.open.contains_key(&by_name) {
                    return by_name;
                }
                self.only(|session| session.job.as_ref() == Some(job)).unwrap_or(by_name)
            }
            None => self.only(|_| true).unwrap_or_else(|| named_by(UNNAMED)),
        }
    }

    /// The one session that fits, if there is exactly one.
    fn only(&self, fits: impl Fn(&Session) -> bool) -> Option<SessionId> {
        let mut fitting = self.open.iter().filter(|(_, session)| fits(session));
        let (id, _) = fitting.next()?;
        fitting.next().is_none().then(|| id.clone())
    }
}

impl Session {
    fn idle(&self) -> Result<(), ApiError> {
        match &self.turn {
            None => Ok(()),
            Some(_) => Err(ApiError::new(
                ErrorCode::StreamInProgress,
                "A prompt is being answered on this session. Wait for its end or send stream_cancel.",
            )),
        }
    }

    fn check(&self, prompt: &PromptMessage) -> Result<(), ApiError> {
        if let (Some(own), Some(other)) = (self.chain, prompt.chain_id)
            && own != other
        {
            return Err(ApiError::new(ErrorCode::ChainMismatch, "The session was opened for another chain.")
                .param("chain_id")
                .with("chain_id", own));
        }
        match (&self.job, &prompt.job_id) {
            (Some(own), Some(other)) if own != other => {
                Err(ApiError::new(ErrorCode::InvalidJob, "The session was opened for another job.").param("job_id"))
            }
            _ => Ok(()),
        }
    }
}

/// `given` must be `expected`, or 0 to skip the check.
///
/// # Errors
/// `INVALID_MESSAGE_INDEX` with both.
pub(super) fn check_index(given: u64, expected: u64) -> Result<(), ApiError> {
    if given == 0 || given == expected {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::InvalidMessageIndex,
        format!("The message index is {given} and should be {expected}; 0 skips the check."),
    )
    .with("expected", expected)
    .with("received", given))
}

#[cfg(test)]
mod tests;
