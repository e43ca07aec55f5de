//! Messages about identity and sessions.

use protocol::{
    ApiError, ErrorCode, JobId, SessionId,
    inference::Message,
    native::{BearerToken, MessageId, ServerMessage},
};

use super::{Connection, Failure};
use crate::{
    native_ws::{
        history::{Caps, History},
        sessions::check_index,
    },
    pipeline::Received,
    sessions::Wish,
    ws::Gone,
};

/// `status` of an acknowledgement.
const SUCCESS: &str = "success";
/// A message index that skips the check.
const INDEX_UNCHECKED: u64 = 0;

/// What opens a session.
pub(super) struct Named {
    pub(super) session_id: SessionId,
    pub(super) job_id: Option<JobId>,
    pub(super) chain_id: Option<u64>,
    /// Whether it continues one that another connection had.
    pub(super) resume: bool,
}

impl Connection {
    pub(super) async fn authenticate(&mut self, id: Option<&MessageId>, token: &BearerToken) -> Result<(), Failure> {
        let who = self.identity.take(&self.app, &token.0).await?;
        let ack = ServerMessage::AuthAck { status: SUCCESS, expires_at: who.expires_at(), id };
        Ok(self.socket.send_json(&ack).await?)
    }

    pub(super) async fn session_init(
        &mut self,
        id: Option<&MessageId>,
        named: Named,
        context: Vec<Message>,
        received: &Received,
    ) -> Result<(), Failure> {
        let Named { session_id, chain_id, .. } = &named;
        let job = self.open(&named, (context, INDEX_UNCHECKED), received).await?;
        let who = self.identity.current()?;
        let issued = self.app.pipeline.refresh(&who, Some(session_id))?;
        let ack = ServerMessage::SessionInitAck {
            status: SUCCESS,
            session_id,
            job_id: Some(&job),
            chain_id: *chain_id,
            message: "The session is open.",
            token: issued.as_ref().map(|issued| issued.token.as_str()),
            expires_at: issued.as_ref().map(|issued| issued.expires_at),
            id,
        };
        Ok(self.socket.send_json(&ack).await?)
    }

    pub(super) async fn session_resume(
        &mut self,
        id: Option<&MessageId>,
        named: Named,
        conversation: (Vec<Message>, u64),
        received: &Received,
    ) -> Result<(), Failure> {
        let message_count = conversation.0.len() as u64;
        let job = self.open(&named, conversation, received).await?;
        let ack = ServerMessage::SessionResumeAck {
            status: SUCCESS,
            session_id: &named.session_id,
            job_id: Some(&job),
            chain_id: named.chain_id,
            message_count,
            id,
        };
        Ok(self.socket.send_json(&ack).await?)
    }

    /// Opens a session, or begins it anew, with a conversation and its last message's index; gives the job that its
    /// prompts are charged to.
    async fn open(
        &mut self,
        named: &Named,
        (context, last_message_index): (Vec<Message>, u64),
        received: &Received,
    ) -> Result<JobId, ApiError> {
        let who = self.identity.current()?;
        self.must_be_signed(&who, received)?;
        check_index(last_message_index, context.len() as u64)?;
        let settings = self.app.settings();
        let max = settings.sessions_per_connection_max;
        self.sessions.may_open(&named.session_id, max).inspect_err(|error| self.count_limit(error))?;
        let (history, trimmed_for) = History::new(context, Caps::of(&settings))?;
        if let Some(limit) = trimmed_for {
            self.app.metrics.limit_hit(limit);
        }
        let charged = self.app.pipeline.check_job(&who, named.job_id.as_ref(), received).await?;
        let job = named.job_id.clone().unwrap_or(charged);
        if !self.sessions.renew(&named.session_id) {
            let wish = Wish { who: &who, name: Some(&named.session_id), job: Some(&job), resume: named.resume };
            let ticket = self.app.sessions.open(&self.line, wish, &settings)?;
            self.sessions.open(named.session_id.clone(), ticket);
        }
        self.sessions.begin(&named.session_id, history, named.job_id.clone(), named.chain_id);
        Ok(job)
    }

    pub(super) async fn session_end(
        &mut self,
        id: Option<MessageId>,
        session_id: SessionId,
        received: &Received,
    ) -> Result<(), Failure> {
        let who = self.identity.known()?;
        self.must_be_signed(&who, received)?;
        let session = self.sessions.existing(&session_id)?;
        if session.ending.is_some() {
            return Err(ApiError::new(ErrorCode::SessionNotFound, "The session is being ended already.").into());
        }
        if let Some(turn) = &session.turn {
            // The acknowledgement follows the end of its stream.
            turn.cancel.cancel();
            session.ending = Some(id);
            return Ok(());
        }
        self.sessions.remove(&session_id);
        Ok(self.acknowledge_end(id.as_ref(), &session_id).await?)
    }

    pub(super) async fn acknowledge_end(&mut self, id: Option<&MessageId>, session_id: &SessionId) -> Result<(), Gone> {
        self.socket.send_json(&ServerMessage::SessionEndAck { status: SUCCESS, session_id, id }).await
    }

    pub(super) async fn token_refresh(
        &mut self,
        id: Option<&MessageId>,
        session_id: Option<SessionId>,
        received: &Received,
    ) -> Result<(), Failure> {
        let known = self.identity.known()?;
        self.must_be_signed(&known, received)?;
        if let Some(session_id) = &session_id {
            self.sessions.existing(session_id)?;
        }
        let who = self.identity.current()?;
        let issued = self.app.pipeline.refresh(&who, session_id.as_ref())?;
        if let Some(issued) = &issued {
            // The connection lives as long as its newest token.
            self.identity.take(&self.app, &issued.token).await?;
        }
        let refreshed = ServerMessage::TokenRefreshed {
            token: issued.as_ref().map(|issued| issued.token.as_str()),
            expires_at: issued.as_ref().map(|issued| issued.expires_at),
            session_id: session_id.as_ref(),
            id,
        };
        Ok(self.socket.send_json(&refreshed).await?)
    }

    /// Counts the limit that a refusal by [`crate::native_ws::sessions`] stands for.
    pub(super) fn count_limit(&self, error: &ApiError) {
        if error.code == ErrorCode::RateLimit {
            self.app.metrics.limit_hit("sessions_per_connection_max");
        }
    }
}
