//! WebSocket mode: `GET /v1/responses` upgraded. Requests in one lane run in order, lanes run side by side
//! ([`super::lanes`]); an error leaves the socket usable.
//!
//! Each lane's latest response stays in the connection's memory, which is a shelf of its own in the response store: it
//! is all that a `store: false` response has, and it is emptied when the connection ends.

mod ending;

use std::{collections::HashMap, sync::Arc, time::Instant};

use axum::{
    Extension,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::{IntoResponse as _, Response},
};
use futures_util::stream::{BoxStream, SelectAll, StreamExt as _};
use http::HeaderMap;
use protocol::{
    ApiError,
    inference::{self, InferenceRequest},
    openai::responses::{self, CreateResponse, ServerEvent},
};
use tokio::time::{Instant as TokioInstant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    admitted, conversation_bytes_max, keep,
    lanes::{Lane, Lanes},
    message::{self, Message},
    narration::Narration,
    plan::{Plan, plan},
    previous, random_id,
    refusal::Refusal,
    store::{Limits, Owner},
    unix_now,
};
use crate::{
    App,
    answering::{self, Event},
    client_address::ClientAddress,
    error::HttpError,
    gate::Caller,
    origin,
    pipeline::{self, AnswerEvent, Authenticated, Received, permissions},
    request_id,
    sessions::{Activity, Line, Ticket, Transport, Wish},
    token_watch::TokenWatch,
    ws::{self, CloseCode, Gone, Incoming, Socket},
};

/// The label `endpoint` in metrics.
const ENDPOINT: &str = "responses_ws";

pub(super) async fn connect(
    State(app): State<Arc<App>>,
    Extension(Caller(who)): Extension<Caller>,
    address: Option<Extension<ClientAddress>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let line = Line::new(Transport::ResponsesWs, address.map(|Extension(ClientAddress(address))| address));
    let ticket = match admit(&app, &headers, &who, &line) {
        Ok(ticket) => ticket,
        Err(error) => return HttpError(error).into_response(),
    };
    let serving = Arc::clone(&app);
    ws::upgrade(app, None, upgrade, |socket| async move {
        // Gone means that the client closed or does not read: nothing is left to do for it.
        let _ = Connection::new(serving, socket, who, line, ticket).run().await;
    })
}

/// Decides about the origin, and opens the session that the socket is, before there is a socket.
fn admit(app: &App, headers: &HeaderMap, who: &Authenticated, line: &Line) -> Result<Ticket, ApiError> {
    let settings = app.settings();
    origin::check(&settings, headers)?;
    app.sessions.open(line, Wish { who, name: None, job: who.job(), resume: false }, &settings)
}

fn pipeline_request(received: Received, inference: InferenceRequest) -> pipeline::Request {
    pipeline::Request { id: request_id::fresh(), endpoint: ENDPOINT, received, session: None, job: None, inference }
}

/// A request and what exactly came. This protocol has no signed messages: a token that is bound to a key is of no use
/// here, and the pipeline says so.
struct Asked {
    request: CreateResponse,
    received: Received,
}

/// A lane's request that runs.
struct Running {
    stage: Stage,
    conversation: Vec<inference::Message>,
    /// What it continues; forgotten by the connection when it fails.
    previous: Option<String>,
    cancel: CancellationToken,
    /// Keeps the session from being idle.
    _activity: Activity,
}

enum Stage {
    /// The pipeline has not taken it yet.
    Asked(Box<responses::Response>),
    /// It is being told.
    Told(Box<Narration>),
}

impl Running {
    fn response_id(&self) -> &str {
        match &self.stage {
            Stage::Asked(response) => &response.id,
            Stage::Told(narration) => &narration.response().id,
        }
    }
}

struct Connection {
    app: Arc<App>,
    socket: Socket,
    who: Arc<Authenticated>,
    identity: Owner,
    /// The connection's own memory.
    memory: Memory,
    lanes: Lanes<Box<Asked>>,
    running: HashMap<Lane, Running>,
    answers: SelectAll<BoxStream<'static, (Lane, Event)>>,
    ends_at: TokioInstant,
    /// By which the node ends the session.
    line: Line,
    ticket: Ticket,
    tokens: TokenWatch,
    /// The connection must go.
    closing: Option<ending::Closing>,
}

impl Connection {
    fn new(app: Arc<App>, socket: Socket, who: Arc<Authenticated>, line: Line, ticket: Ticket) -> Self {
        Self {
            identity: Owner::of(&who),
            memory: Memory { app: Arc::clone(&app), shelf: Owner::Connection(rand::random()), latest: HashMap::new() },
            lanes: Lanes::new(app.settings().message_bytes_max),
            running: HashMap::new(),
            answers: SelectAll::new(),
            ends_at: TokioInstant::now() + app.settings().responses_connection_lifetime,
            line,
            ticket,
            tokens: TokenWatch::default(),
            closing: None,
            who,
            app,
            socket,
        }
    }

    async fn run(mut self) -> Result<(), Gone> {
        let (drain, stop) = (self.app.drain.clone(), self.app.stop.clone());
        loop {
            while self.closing.is_none()
                && let Some((lane, asked)) = self.lanes.start()
            {
                self.start(lane, *asked).await?;
            }
            if let Some(closing) = self.may_close() {
                return self.close(closing).await;
            }
            if drain.is_cancelled() && self.lanes.is_idle() {
                self.socket.close(CloseCode::Restart, "the node is shutting down; reconnect").await;
                return Ok(());
            }
            // Not biased: neither a fast answer nor a busy client may starve the other.
            tokio::select! {
                () = stop.cancelled() => {
                    self.socket.close(CloseCode::Restart, "the node has shut down; reconnect").await;
                    return Ok(());
                }
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                // What still runs is cancelled and settled, as when the client leaves.
                () = sleep_until(self.ends_at) => {
                    self.app.metrics.limit_hit("responses_connection_lifetime");
                    self.refuse(None, Refusal::connection_limit()).await?;
                    self.socket.close(CloseCode::GoingAway, "the connection reached its lifetime; reconnect").await;
                    return Ok(());
                }
                () = self.line.rung() => self.end_lapsed(),
                event = self.tokens.next(&self.app, Some(&self.who)), if self.closing.is_none() => {
                    self.token_event(event).await?;
                }
                () = sleep_until(self.closing.as_ref().map_or(self.ends_at, |closing| closing.by)),
                    if self.closing.is_some() => {}
                Some((lane, event)) = self.answers.next() => self.report(lane, event).await?,
                incoming = self.socket.recv() => match incoming {
                    Incoming::Text(text) => self.receive(&text).await?,
                    Incoming::Binary => self.refuse(None, Refusal::binary()).await?,
                    Incoming::Closed => return Ok(()),
                },
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Gone> {
        let read = message::read(text).and_then(|message| self.admit(message));
        match read {
            Ok(Message::Create(lane, request)) => {
                let asked = Asked { request: *request, received: Received::unsigned(text.as_bytes()) };
                match self.lanes.push(lane.clone(), text.len(), Box::new(asked)) {
                    Ok(()) => Ok(()),
                    Err(full) => {
                        self.app.metrics.limit_hit("lanes_per_connection_max");
                        self.refuse(lane, full.into()).await
                    }
                }
            }
            Ok(Message::Cancel(lane, response_id)) => {
                let running = match &response_id {
                    Some(id) => self.running.values().find(|running| running.response_id() == id),
                    None => self.running.get(&lane),
                };
                match running {
                    Some(running) => {
                        running.cancel.cancel();
                        Ok(())
                    }
                    None => self.refuse(lane, Refusal::not_active()).await,
                }
            }
            Err((lane, refusal)) => self.refuse(lane, refusal).await,
        }
    }

    /// Asks for the right that the message needs; a connection that must go takes none.
    fn admit(&self, message: Message) -> Result<Message, (Lane, Refusal)> {
        let access = permissions::message(permissions::RESPONSES, message.kind());
        let allowed = match &self.closing {
            Some(closing) => Err(closing.refusal.clone()),
            None => self.who.require(access),
        };
        allowed.map_err(|error| (message.lane().clone(), Refusal::from(error)))?;
        Ok(message)
    }

    /// Begins a request whose turn has come; one that is refused ends its turn.
    async fn start(&mut self, lane: Lane, asked: Asked) -> Result<(), Gone> {
        let Asked { request, received } = asked;
        let warm_up = request.generate == Some(false);
        let continued = request.previous_response_id.clone();
        let plan = match self.plan(request) {
            Ok(plan) => plan,
            Err(error) => return self.end_refused(lane, continued, error.into()).await,
        };
        if warm_up {
            return self.warm_up(lane, continued, plan, received).await;
        }
        let cancel = CancellationToken::new();
        let request = pipeline_request(received, plan.inference);
        let running = Running {
            stage: Stage::Asked(Box::new(plan.response)),
            conversation: plan.conversation,
            previous: continued,
            cancel: cancel.clone(),
            _activity: self.ticket.activity(),
        };
        self.running.insert(lane.clone(), running);
        let events = answering::events(Arc::clone(&self.app), Arc::clone(&self.who), request, cancel);
        self.answers.push(events.map(move |event| (lane.clone(), event)).boxed());
        Ok(())
    }

    fn plan(&self, request: CreateResponse) -> Result<Plan, ApiError> {
        self.who.still_valid()?;
        let earlier = match &request.previous_response_id {
            None => None,
            Some(id) => Some(previous(&self.app, &[&self.memory.shelf, &self.identity], id)?),
        };
        let earlier = earlier.as_ref().map_or(&[][..], |stored| &stored.messages);
        plan(request, earlier, random_id("resp"), conversation_bytes_max(&self.app.settings()))
    }

    /// `generate: false`: nothing is generated or charged; the conversation can be continued by the response's id.
    async fn warm_up(
        &mut self,
        lane: Lane,
        continued: Option<String>,
        mut plan: Plan,
        received: Received,
    ) -> Result<(), Gone> {
        self.ticket.touch();
        match self.app.pipeline.check(&self.who, pipeline_request(received, plan.inference)).await {
            Ok(model) => plan.response.model = model,
            Err(error) => return self.end_refused(lane, continued, error.into()).await,
        }
        plan.response.created_at = unix_now();
        let mut narration = Narration::new(plan.response, lane.clone());
        let told = narration.warmed_up(unix_now());
        self.keep(&lane, plan.conversation, &narration);
        self.tell(told).await?;
        self.lanes.finish(&lane);
        Ok(())
    }

    /// Passes on what happened to a lane's request.
    async fn report(&mut self, lane: Lane, event: Event) -> Result<(), Gone> {
        let Some(running) = self.running.get_mut(&lane) else { return Ok(()) };
        match (event, &mut running.stage) {
            (Event::Accepted(info), Stage::Asked(response)) => {
                admitted(response, &info);
                let narration = Narration::new((**response).clone(), lane);
                running.stage = Stage::Told(Box::new(narration));
                Ok(())
            }
            (Event::Refused(error), Stage::Told(narration)) if narration.has_begun() => {
                let told = narration.broken(&error);
                self.end(lane, told).await
            }
            // A prompt that the model refuses is refused like any other request.
            (Event::Answer(AnswerEvent::Failed { error, .. }), Stage::Told(narration)) if !narration.has_begun() => {
                self.end_running(lane, error.into()).await
            }
            (Event::Answer(event), Stage::Told(narration)) => {
                let is_last = matches!(event, AnswerEvent::Finished(_) | AnswerEvent::Failed { .. });
                let told = narration.next(event, unix_now());
                if is_last { self.end(lane, told).await } else { self.tell(told).await }
            }
            (Event::Refused(error), _) => self.end_running(lane, error.into()).await,
            (Event::NotStarted, _) => {
                // The client's own wish is no failure: what it continued stays.
                self.running.remove(&lane);
                self.end_refused(lane, None, Refusal::cancelled()).await
            }
            (Event::Accepted(_), Stage::Told(_)) | (Event::Answer(_), Stage::Asked(_)) => {
                debug_assert!(false, "a request is accepted once, before its answer");
                Ok(())
            }
        }
    }

    /// A response ended: keep it, tell it, let the lane go on.
    async fn end(&mut self, lane: Lane, told: Vec<ServerEvent>) -> Result<(), Gone> {
        if let Some(running) = self.running.remove(&lane)
            && let Stage::Told(narration) = running.stage
            && !self.keep(&lane, running.conversation, &narration)
        {
            self.memory.failed(&lane, running.previous.as_deref());
        }
        self.lanes.finish(&lane);
        self.tell(told).await
    }

    async fn end_running(&mut self, lane: Lane, refusal: Refusal) -> Result<(), Gone> {
        let previous = self.running.remove(&lane).and_then(|running| running.previous);
        self.end_refused(lane, previous, refusal).await
    }

    async fn end_refused(&mut self, lane: Lane, previous: Option<String>, refusal: Refusal) -> Result<(), Gone> {
        self.memory.failed(&lane, previous.as_deref());
        self.lanes.finish(&lane);
        self.refuse(lane, refusal).await
    }

    /// Keeps a response for its identity, or in the connection's memory where it is not to be stored. Returns false
    /// for one that failed.
    fn keep(&mut self, lane: &Lane, conversation: Vec<inference::Message>, narration: &Narration) -> bool {
        let (id, stored) = (&narration.response().id, narration.response().store);
        let owner = if stored { &self.identity } else { &self.memory.shelf };
        let kept = keep(&self.app, owner, conversation, narration);
        if kept {
            self.memory.now_latest(lane, (!stored).then_some(id));
        }
        kept
    }

    async fn tell(&mut self, events: Vec<ServerEvent>) -> Result<(), Gone> {
        for event in events {
            self.socket.send_json(&event).await?;
        }
        Ok(())
    }

    async fn refuse(&mut self, lane: Lane, refusal: Refusal) -> Result<(), Gone> {
        self.app.metrics.error_sent(refusal.metric());
        self.socket.send_json(&refusal.frame(lane)).await
    }
}

/// The latest `store: false` response of each lane.
struct Memory {
    app: Arc<App>,
    shelf: Owner,
    latest: HashMap<Lane, String>,
}

impl Memory {
    /// A lane's new response takes the place of its last one; `None` where the new one is kept elsewhere.
    fn now_latest(&mut self, lane: &Lane, id: Option<&String>) {
        let last = match id {
            Some(id) => self.latest.insert(lane.clone(), id.clone()),
            None => self.latest.remove(lane),
        };
        if let Some(last) = last {
            self.forget(&last);
        }
    }

    /// A continuation of `previous` failed: its own lane forgets it. Another lane's latest stays, or a fork that fails
    /// would end the conversation that it came from.
    fn failed(&mut self, lane: &Lane, previous: Option<&str>) {
        if previous.is_some() && self.latest.get(lane).map(String::as_str) == previous {
            self.now_latest(lane, None);
        }
    }

    fn forget(&self, id: &str) {
        self.app.responses.remove(&self.shelf, id, Limits::from(&*self.app.settings()), Instant::now());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.app.responses.remove_all(&self.shelf);
    }
}
