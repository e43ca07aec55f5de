//! Prompts and what comes of them.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use protocol::{
    ApiError, SessionId,
    inference::{FinishReason, InferenceRequest, Message, Prompt, Role, Usage},
    native::{MessageId, PromptMessage},
    receipt::Receipt,
};

use super::{Connection, Failure};
use crate::{
    answering::{self, Event},
    native_ws::{
        history::{Caps, History},
        sessions::Ended,
        turn::{Asked, Turn},
    },
    pipeline::{AnswerEvent, Received, Request},
    request_id,
    sessions::Wish,
    ws::Gone,
};

/// The endpoint's name in metrics.
const ENDPOINT: &str = "native_ws";

impl Connection {
    /// Hands a prompt to the pipeline; what becomes of it comes to [`Self::report`].
    pub(super) async fn prompt(
        &mut self,
        id: Option<MessageId>,
        mut asked: PromptMessage,
        received: Received,
    ) -> Result<(), Failure> {
        let who = self.identity.current()?;
        // The pipeline asks again; here it comes before anything of the connection changes.
        self.must_be_signed(&who, &received)?;
        let settings = self.app.settings();
        let context = match asked.context.take() {
            Some(context) => Some(History::new(context, Caps::of(&settings))?.0),
            None => None,
        };
        let max = settings.sessions_per_connection_max;
        let (app, line) = (&self.app, &self.line);
        let open = |name: &SessionId| {
            let job = asked.job_id.as_ref().or(who.job());
            app.sessions.open(line, Wish { who: &who, name: Some(name), job, resume: false }, &settings)
        };
        let place = match self.sessions.place(&asked, context.as_ref(), max, open) {
            Ok(place) => place,
            Err(error) => {
                self.count_limit(&error);
                return Err(error.into());
            }
        };
        let mut messages = place.history.messages().to_vec();
        messages.push(Message { role: Role::User, content: asked.prompt.clone() });
        let (session_id, job, answer_index) = (place.session_id, place.job, place.index + 1);
        let request = Request {
            id: request_id::fresh(),
            endpoint: ENDPOINT,
            received,
            session: Some(session_id.clone()),
            job,
            inference: InferenceRequest {
                max_tokens: asked.max_tokens,
                sampling: asked.sampling,
                stop: asked.stop,
                ..InferenceRequest::new(asked.model, Prompt::Chat { messages, trim_oldest: true })
            },
        };
        let activity = place.activity;
        let turn = Turn::new(Asked {
            id,
            session_id: session_id.clone(),
            request_id: request.id.clone(),
            stream: asked.stream,
            prompt: asked.prompt,
            context,
            answer_index,
        });
        let events = answering::events(Arc::clone(&self.app), who, request, turn.cancel.clone());
        let session = self.sessions.existing(&session_id)?;
        session.turn = Some(turn);
        session.activity = Some(activity);
        let mut events = events.map(move |event| (session_id.clone(), event)).boxed();
        // A refusal that needs no waiting goes out before the next message is read: replies keep the order of their
        // requests where they can.
        let first = events.next().now_or_never().flatten();
        self.answers.push(events);
        match first {
            Some((session_id, event)) => Ok(self.report(session_id, event).await?),
            None => Ok(()),
        }
    }

    /// Stops the running answer of one session, or of all; their ends follow. Silent where nothing runs.
    pub(super) fn stream_cancel(
        &mut self,
        session_id: Option<&SessionId>,
        received: &Received,
    ) -> Result<(), ApiError> {
        let who = self.identity.known()?;
        self.must_be_signed(&who, received)?;
        self.sessions.turns(session_id).for_each(|turn| turn.cancel.cancel());
        Ok(())
    }

    /// Tells the client what happened to its prompt.
    pub(super) async fn report(&mut self, session_id: SessionId, event: Event) -> Result<(), Gone> {
        let Some(turn) = self.sessions.get_mut(&session_id).and_then(|session| session.turn.as_mut()) else {
            return Ok(());
        };
        match event {
            Event::Accepted(info) => turn.accepted(info.requested_tokens, info.max_tokens, info.context_tokens),
            Event::Answer(AnswerEvent::Started { trimmed_messages, .. }) => turn.started(trimmed_messages),
            Event::Answer(AnswerEvent::Delta(delta)) => {
                if let Some(chunk) = turn.delta(&delta) {
                    self.socket.send_json(&chunk).await?;
                }
            }
            Event::Answer(AnswerEvent::Finished(settled)) => {
                self.finish(session_id, settled.reason, &settled.usage, settled.receipt()).await?;
            }
            Event::NotStarted => self.finish(session_id, FinishReason::Cancelled, &Usage::default(), None).await?,
            Event::Answer(AnswerEvent::Failed { error, settled }) => {
                self.fail(session_id, &error, Some(&settled.usage), settled.receipt()).await?;
            }
            Event::Refused(error) => self.fail(session_id, &error, None, None).await?,
        }
        Ok(())
    }

    async fn finish(
        &mut self,
        session_id: SessionId,
        reason: FinishReason,
        usage: &Usage,
        receipt: Option<&Receipt>,
    ) -> Result<(), Gone> {
        let Some(mut turn) = self.take_turn(&session_id) else { return Ok(()) };
        for frame in turn.finished(reason, usage, receipt) {
            self.socket.send_json(&frame).await?;
        }
        let ended = self.sessions.end_turn(&session_id, turn.kept(reason), Caps::of(&self.app.settings()));
        self.after_turn(&session_id, ended).await
    }

    async fn fail(
        &mut self,
        session_id: SessionId,
        error: &ApiError,
        usage: Option<&Usage>,
        receipt: Option<&Receipt>,
    ) -> Result<(), Gone> {
        let Some(turn) = self.take_turn(&session_id) else { return Ok(()) };
        self.app.metrics.error_sent(error.code);
        for frame in turn.failed(error, usage, receipt) {
            self.socket.send_json(&frame).await?;
        }
        let ended = self.sessions.end_turn(&session_id, None, Caps::of(&self.app.settings()));
        self.after_turn(&session_id, ended).await
    }

    fn take_turn(&mut self, session_id: &SessionId) -> Option<Turn> {
        self.sessions.get_mut(session_id)?.turn.take()
    }

    async fn after_turn(&mut self, session_id: &SessionId, ended: Ended) -> Result<(), Gone> {
        if let Some(limit) = ended.trimmed_for {
            self.app.metrics.limit_hit(limit);
        }
        if let Some(id) = ended.session_end {
            self.acknowledge_end(id.as_ref(), session_id).await?;
        }
        match ended.lapsed {
            Some(reason) => self.tell_ended(session_id, reason).await,
            None => Ok(()),
        }
    }
}
