//! Every open session of the node: how many a user may have, how long one lives, who may resume one, which there are.
//!
//! A session is what a user holds open: a conversation on the native protocol (`session_init`, `session_resume`, or a
//! prompt that opens one), or a Responses WebSocket. Plain HTTP requests are none: they hold nothing between two of
//! them, and `limits` counts them otherwise.
//!
//! A session belongs to the connection that holds its `Ticket` and to the identity (subject, and bound key) that
//! opened it. Nothing here leads from a name to another connection's session: a name is only compared, on resume, with
//! those that somebody else holds. The node's own ids (`SessionKey`) are 128 random bits and only the operator sees
//! them.
//!
//! Whoever ends a session from outside (the operator, a policy, [`Sessions::keep_lifetimes`]) frees its place at once, marks the
//! ticket and rings the connection's `Line`; the connection then ends what runs on it and tells its client.

mod state;
#[cfg(test)]
mod tests;
mod ticket;

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use protocol::{ApiError, ErrorCode, JobId, SessionId, Subject};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::state::{Entry, Limits, Refused, State};
pub(crate) use self::ticket::{Activity, Ticket};
use crate::{Metrics, Settings, metrics::SessionEvent, pipeline::Authenticated};

/// How often lifetimes are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// The node's own id of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey(u128);

impl SessionKey {
    fn fresh() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Where a session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    /// `/v1/ws`.
    NativeWs,
    /// `/v1/responses`, upgraded.
    ResponsesWs,
}

/// Why a session ended that its client did not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The operator ended it.
    Operator,
    /// A newer one took its place (`auth.session_policy`).
    Replaced,
    /// Its user resumed it on another connection.
    Resumed,
    /// Nothing was asked for `auth.session_idle_timeout`.
    Idle,
    /// `auth.session_lifetime` passed.
    Lifetime,
}

impl EndReason {
    /// The reason on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Replaced => "replaced",
            Self::Resumed => "resumed",
            Self::Idle => "idle_timeout",
            Self::Lifetime => "lifetime",
        }
    }

    /// What a client is told.
    pub(crate) const fn message(self) -> &'static str {
        match self {
            Self::Operator => "The node's operator ended the session.",
            Self::Replaced => "A newer session of the same user took the place of this one.",
            Self::Resumed => "The session was resumed on another connection.",
            Self::Idle => "The session was idle for too long. Open it anew with session_init or session_resume.",
            Self::Lifetime => "The session reached its longest life. Open it anew with session_init or session_resume.",
        }
    }

    /// The refusal of what is asked on it afterwards.
    pub(crate) fn error(self) -> ApiError {
        ApiError::new(ErrorCode::SessionExpired, self.message()).with("reason", self.as_str())
    }

    const fn event(self) -> SessionEvent {
        match self {
            Self::Operator => SessionEvent::Ended,
            Self::Replaced => SessionEvent::Replaced,
            Self::Resumed => SessionEvent::Resumed,
            Self::Idle => SessionEvent::ExpiredIdle,
            Self::Lifetime => SessionEvent::ExpiredLifetime,
        }
    }
}

/// What all sessions of a connection share.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    transport: Transport,
    address: Option<IpAddr>,
    bell: Arc<Notify>,
}

impl Line {
    /// A connection's line; `address` is for the operator's list.
    pub(crate) fn new(transport: Transport, address: Option<IpAddr>) -> Self {
        Self { transport, address, bell: Arc::default() }
    }

    /// Waits until one of the connection's sessions was ended from outside. Cancel-safe.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }
}

/// Who wants a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Who.
    pub(crate) who: &'a Authenticated,
    /// The client's name for it, where it has one.
    pub(crate) name: Option<&'a SessionId>,
    /// What it is charged to, where that is known.
    pub(crate) job: Option<&'a JobId>,
    /// It continues one that another connection had.
    pub(crate) resume: bool,
}

/// An open session, as the operator sees it: no content, no token.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SessionInfo {
    /// The node's own id.
    pub(crate) id: String,
    /// The client's name for it.
    pub(crate) session_id: Option<SessionId>,
    /// Who.
    pub(crate) subject: Subject,
    /// What it is charged to.
    pub(crate) job_id: Option<JobId>,
    /// RFC 7638 thumbprint of the key that its token is bound to.
    pub(crate) bound_key: Option<String>,
    /// Where.
    pub(crate) transport: Transport,
    /// The client's address.
    pub(crate) address: Option<IpAddr>,
    /// When it was opened, Unix seconds.
    pub(crate) connected_since: u64,
    /// When something was asked or answered last, Unix seconds.
    pub(crate) last_activity: u64,
    /// Answers that run on it.
    pub(crate) active_requests: u32,
}

/// What [`Sessions::end`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// One session; it is ended.
    Ended,
    /// None.
    Nothing,
    /// Several have this name: only the node's own id tells them apart.
    Several,
}

/// See the [module](self). Clones share everything.
#[derive(Debug, Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    metrics: Metrics,
    /// Times are kept as the time since this.
    epoch: Instant,
    epoch_at: SystemTime,
}

impl Shared {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn unix_secs(&self, at: Duration) -> u64 {
        (self.epoch_at + at).duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn count(&self, ended: &[EndReason]) {
        for reason in ended {
            self.metrics.sessions.closed(reason.event());
            match reason {
                EndReason::Replaced => self.metrics.limit_hit("max_sessions_per_user"),
                EndReason::Idle => self.metrics.limit_hit("session_idle_timeout"),
                EndReason::Lifetime => self.metrics.limit_hit("session_lifetime"),
                EndReason::Operator | EndReason::Resumed => {}
            }
        }
    }
}

impl Sessions {
    /// No session yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let shared = Shared { state: Mutex::default(), metrics, epoch: Instant::now(), epoch_at: SystemTime::now() };
        Self { shared: Arc::new(shared) }
    }

    /// Opens a session on a connection; it is open until the ticket is dropped, or ended from outside.
    ///
    /// # Errors
    /// `SESSION_LIMIT` at `auth.max_sessions_per_user`, `SESSION_AUTH_DENIED` for a resume of a name that only others
    /// hold, or that needs another key.
    pub(crate) fn open(&self, line: &Line, wish: Wish<'_>, settings: &Settings) -> Result<Ticket, ApiError> {
        let shared = &self.shared;
        let entry = Entry::new(line, wish, shared.now());
        let key = SessionKey::fresh();
        let (live, limits) = (Arc::clone(&entry.live), Limits::from(settings));
        let mut ended = Vec::new();
        let opened = shared.state.lock().open(key, entry, wish.resume, limits, &mut ended);
        shared.count(&ended);
        match opened {
            Ok(()) => {
                shared.metrics.sessions.opened();
                Ok(Ticket::new(Arc::clone(shared), key, live))
            }
            Err(Refused::Full { max }) => {
                shared.metrics.limit_hit("max_sessions_per_user");
                shared.metrics.sessions.refused(SessionEvent::Refused);
                Err(ApiError::new(
                    ErrorCode::SessionLimit,
                    format!(
                        "This user has {max} sessions open, which is the limit. End one (session_end, or close its \
                         connection), or retry later."
                    ),
                )
                .with("max_sessions_per_user", max))
            }
            Err(Refused::NotTheirs) => {
                shared.metrics.sessions.refused(SessionEvent::Denied);
                Err(ApiError::new(
                    ErrorCode::SessionAuthDenied,
                    "This session can be resumed only by the identity, and with the key, that opened it. Open one of \
                     your own with session_init.",
                ))
            }
        }
    }

    /// Open sessions, the oldest first: of one subject, or of all; at most `max`. The count is of all that fit.
    pub(crate) fn list(&self, subject: Option<&str>, max: usize) -> (Vec<SessionInfo>, usize) {
        let shared = &self.shared;
        let state = shared.state.lock();
        let mut fitting: Vec<(SessionKey, &Entry)> =
            state.entries().filter(|(_, entry)| subject.is_none_or(|subject| entry.is_of(subject))).collect();
        fitting.sort_by_key(|(_, entry)| entry.opened());
        let count = fitting.len();
        fitting.truncate(max);
        (fitting.into_iter().map(|(key, entry)| entry.info(key, shared)).collect(), count)
    }

    /// Ends the session with the node's own id `id`, or the only one that its client named so.
    pub(crate) fn end(&self, id: &str) -> Found {
        let mut ended = Vec::new();
        let found = self.shared.state.lock().end_named(id, self.shared.now(), &mut ended);
        self.shared.count(&ended);
        found
    }

    /// Ends what is idle or too old, and forgets names that nobody resumed in time, until `stop` fires.
    pub async fn keep_lifetimes(self, settings: Arc<ArcSwap<Settings>>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let mut ended = Vec::new();
            self.shared.state.lock().sweep(Limits::from(&**settings.load()), self.shared.now(), &mut ended);
            self.shared.count(&ended);
        }
    }
}
