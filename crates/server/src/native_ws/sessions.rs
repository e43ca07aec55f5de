//! The sessions of one connection. A session id names and never proves: nothing here is reachable from another
//! connection, so knowing an id is worth nothing.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use protocol::{
    ApiError, ErrorCode, JobId, SessionId,
    native::{MessageId, PromptMessage},
};

use super::{
    history::{Caps, History},
    turn::{Kept, Turn},
};
use crate::sessions::{Activity, EndReason, Ticket};

/// The session of prompts that name neither a session nor a job, where no session was opened.
const UNNAMED: &str = "default";

/// Sessions that the node ended and whose names a connection remembers, to say so where they are used again.
const LAPSED_MAX: usize = 64;

/// One conversation.
pub(super) struct Session {
    /// Its place among the node's sessions.
    ticket: Ticket,
    pub(super) history: History,
    /// What its prompts are charged to, where it was said.
    pub(super) job: Option<JobId>,
    chain: Option<u64>,
    /// It was opened by a prompt, not by `session_init`: it goes again if nothing comes of that prompt.
    implicit: bool,
    pub(super) turn: Option<Turn>,
    /// Its turn keeps it from being idle.
    pub(super) activity: Option<Activity>,
    /// A `session_end` waits for the turn to end.
    pub(super) ending: Option<Option<MessageId>>,
}

/// All sessions of a connection, by their names on it.
#[derive(Default)]
pub(super) struct Sessions {
    open: HashMap<SessionId, Session>,
    /// The latest that the node ended, and why.
    lapsed: VecDeque<(SessionId, EndReason)>,
}

/// A prompt's place: which session, charged to what, after how much conversation.
pub(super) struct Place<'a> {
    pub(super) session_id: SessionId,
    pub(super) job: Option<JobId>,
    /// The conversation before the prompt.
    pub(super) history: &'a History,
    /// Place of the prompt in the conversation, from 1.
    pub(super) index: u64,
    /// Keeps the session from being idle until it is dropped.
    pub(super) activity: Activity,
}

/// What the end of a turn brought about.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ended {
    /// The `session_end` that waited for it, by its id.
    pub(super) session_end: Option<Option<MessageId>>,
    /// The session had to end, for this reason.
    pub(super) lapsed: Option<EndReason>,
    /// The setting for which the history was trimmed.
    pub(super) trimmed_for: Option<&'static str>,
}

impl Sessions {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a prompt is being answered on any.
    pub(super) fn is_answering(&self) -> bool {
        self.open.values().any(|session| session.turn.is_some())
    }

    pub(super) fn get_mut(&mut self, id: &SessionId) -> Option<&mut Session> {
        self.open.get_mut(id)
    }

    /// A session that this connection opened.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`, or `SESSION_EXPIRED` for one that the node ended.
    pub(super) fn existing(&mut self, id: &SessionId) -> Result<&mut Session, ApiError> {
        let lapsed = self.why_lapsed(id);
        self.open.get_mut(id).ok_or_else(|| match lapsed {
            Some(reason) => reason.error(),
            None => ApiError::new(
                ErrorCode::SessionNotFound,
                "This connection has no such session. Send session_init first.",
            ),
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

    /// Whether the session is open, and so needs no new place among the node's; its life begins anew then.
    pub(super) fn renew(&mut self, id: &SessionId) -> bool {
        let open = self.open.get(id).filter(|session| session.ticket.ended().is_none());
        if let Some(session) = open {
            session.ticket.renew();
        }
        open.is_some()
    }

    /// Opens a session with a place of its own; ask [`Self::may_open`] before.
    pub(super) fn open(&mut self, id: SessionId, ticket: Ticket) {
        self.lapsed.retain(|(lapsed, _)| *lapsed != id);
        self.open.insert(id, Session::new(ticket));
    }

    /// Begins the conversation of an open session anew.
    pub(super) fn begin(&mut self, id: &SessionId, history: History, job: Option<JobId>, chain: Option<u64>) {
        if let Some(session) = self.open.get_mut(id) {
            (session.history, session.job, session.chain) = (history, job, chain);
            session.implicit = false;
        }
    }

    /// Removes what was ended from outside, and gives its names. Where an answer runs it is cut short, and
    /// [`Self::end_turn`] removes the session.
    pub(super) fn lapse(&mut self) -> Vec<(SessionId, EndReason)> {
        let over: Vec<(SessionId, EndReason)> =
            self.open.iter().filter_map(|(id, session)| Some((id.clone(), session.ticket.ended()?))).collect();
        over.into_iter().filter(|(id, reason)| self.remove_lapsed(id, *reason)).collect()
    }

    /// False where a running answer must end first.
    fn remove_lapsed(&mut self, id: &SessionId, reason: EndReason) -> bool {
        if let Some(turn) = self.open.get(id).and_then(|session| session.turn.as_ref()) {
            turn.cancel.cancel();
            return false;
        }
        self.open.remove(id);
        self.lapsed.retain(|(lapsed, _)| lapsed != id);
        self.lapsed.push_back((id.clone(), reason));
        if self.lapsed.len() > LAPSED_MAX {
            self.lapsed.pop_front();
        }
        true
    }

    /// Why the node ended this session, if it did.
    fn why_lapsed(&self, id: &SessionId) -> Option<EndReason> {
        let open = self.open.get(id).and_then(|session| session.ticket.ended());
        open.or_else(|| self.lapsed.iter().find(|(lapsed, _)| lapsed == id).map(|(_, reason)| *reason))
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
    /// came with the prompt, in place of the session's own. `open` gets a new session its place among the node's.
    ///
    /// # Errors
    /// `STREAM_IN_PROGRESS`, `RATE_LIMIT`, `CHAIN_MISMATCH`, `INVALID_JOB`, `INVALID_MESSAGE_INDEX`, `SESSION_EXPIRED`,
    /// and those of `open`; nothing changed.
    pub(super) fn place<'a>(
        &'a mut self,
        prompt: &PromptMessage,
        context: Option<&'a History>,
        max: usize,
        open: impl FnOnce(&SessionId) -> Result<Ticket, ApiError>,
    ) -> Result<Place<'a>, ApiError> {
        let session_id = self.resolve(prompt);
        self.may_open(&session_id, max)?;
        if let Some(reason) = self.why_lapsed(&session_id) {
            return Err(reason.error());
        }
        let known = self.open.get(&session_id);
        let empty = History::default();
        let before = context.or(known.map(|session| &session.history)).unwrap_or(&empty);
        let index = before.count() + 1;
        check_index(prompt.message_index, index)?;
        if let Some(session) = known {
            session.check(prompt)?;
        }
        let session = match self.open.entry(session_id.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Session {
                implicit: true,
                job: prompt.job_id.clone(),
                chain: prompt.chain_id,
                ..Session::new(open(&session_id)?)
            }),
        };
        let job = prompt.job_id.clone().or_else(|| session.job.clone());
        let activity = session.ticket.activity();
        Ok(Place { session_id, job, history: context.unwrap_or(&session.history), index, activity })
    }

    /// Ends a session's turn. `kept` joins its history; the answer names the setting for which that was trimmed, and the
    /// `session_end` that waited for the turn.
    pub(super) fn end_turn(&mut self, id: &SessionId, kept: Option<Kept>, caps: Caps) -> Ended {
        let Some(session) = self.open.get_mut(id) else { return Ended::default() };
        session.turn = None;
        session.activity = None;
        let mut trimmed_for = None;
        if let Some(kept) = kept {
            if let Some(context) = kept.context {
                session.history = context;
            }
            session.history.drop_oldest(kept.trimmed_messages);
            trimmed_for = session.history.push_turn(kept.prompt, kept.answer, caps);
        }
        let (ending, lapsed) = (session.ending.take(), session.ticket.ended());
        if let Some(reason) = lapsed {
            self.remove_lapsed(id, reason);
        } else if ending.is_some() || (session.implicit && session.history.count() == 0) {
            self.open.remove(id);
        }
        Ended { session_end: ending, lapsed, trimmed_for }
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
            None => self.only(|_| true).or_else(|| self.latest_lapsed()).unwrap_or_else(|| named_by(UNNAMED)),
        }
    }

    /// A prompt that names nothing meant the session that is no more, and must hear so.
    fn latest_lapsed(&self) -> Option<SessionId> {
        self.lapsed.back().filter(|_| self.open.is_empty()).map(|(id, _)| id.clone())
    }

    /// The one session that fits, if there is exactly one.
    fn only(&self, fits: impl Fn(&Session) -> bool) -> Option<SessionId> {
        let mut fitting = self.open.iter().filter(|(_, session)| fits(session));
        let (id, _) = fitting.next()?;
        fitting.next().is_none().then(|| id.clone())
    }
}

impl Session {
    fn new(ticket: Ticket) -> Self {
        Self {
            ticket,
            history: History::default(),
            job: None,
            chain: None,
            implicit: false,
            turn: None,
            activity: None,
            ending: None,
        }
    }

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
