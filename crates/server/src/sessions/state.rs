//! The registry's bookkeeping, without clocks or locks: times are given, as the time since some epoch.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use protocol::{JobId, SessionId, Subject};

use super::{EndReason, Found, Line, SessionInfo, SessionKey, Shared, Wish, ticket::Live};
use crate::{Settings, pipeline::Authenticated, settings::SessionPolicy};

/// Closed sessions that are remembered for a resume, of one user. What is over is forgotten, the oldest first.
const REMEMBERED_PER_USER_MAX: usize = 64;
/// Closed sessions that are remembered, of all users.
const REMEMBERED_MAX: usize = 16_384;

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    subject: Subject,
    bound_key: Option<String>,
    /// There is no authentication, so this is nobody in particular: no limit, and nothing to resume.
    anonymous: bool,
}

impl Owner {
    fn of(who: &Authenticated) -> Self {
        Self {
            subject: who.subject().clone(),
            bound_key: who.bound_key().map(str::to_owned),
            anonymous: who.is_anonymous(),
        }
    }
}

/// The limits in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    per_user_max: usize,
    policy: SessionPolicy,
    idle: Duration,
    lifetime: Duration,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            per_user_max: settings.max_sessions_per_user,
            policy: settings.session_policy,
            idle: settings.session_idle_timeout,
            lifetime: settings.session_lifetime,
        }
    }
}

/// Why a session is not opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The user has as many as allowed.
    Full { max: usize },
    /// A resume of what only others have.
    NotTheirs,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Entry {
    owner: Owner,
    name: Option<SessionId>,
    job: Option<JobId>,
    line: Line,
    opened: Duration,
    pub(super) live: Arc<Live>,
}

impl Entry {
    pub(super) fn new(line: &Line, wish: Wish<'_>, now: Duration) -> Self {
        Self {
            owner: Owner::of(wish.who),
            name: wish.name.cloned(),
            job: wish.job.cloned(),
            line: line.clone(),
            opened: now,
            live: Arc::new(Live::new(Arc::clone(&line.bell), now)),
        }
    }

    pub(super) fn opened(&self) -> Duration {
        self.opened
    }

    pub(super) fn is_of(&self, subject: &str) -> bool {
        self.owner.subject.as_str() == subject
    }

    pub(super) fn info(&self, key: SessionKey, shared: &Shared) -> SessionInfo {
        SessionInfo {
            id: key.to_string(),
            session_id: self.name.clone(),
            subject: self.owner.subject.clone(),
            job_id: self.job.clone(),
            bound_key: self.owner.bound_key.clone(),
            transport: self.line.transport,
            address: self.line.address,
            connected_since: shared.unix_secs(self.opened),
            last_activity: shared.unix_secs(self.live.last_active()),
            active_requests: self.live.busy(),
        }
    }

    /// Why it must end now, if it must. A running answer is no idleness, and is finished before the life ends.
    fn over(&self, limits: Limits, now: Duration) -> Option<EndReason> {
        if self.live.busy() > 0 {
            return None;
        }
        if now.saturating_sub(self.opened) >= limits.lifetime {
            return Some(EndReason::Lifetime);
        }
        (now.saturating_sub(self.live.last_active()) >= limits.idle).then_some(EndReason::Idle)
    }
}

/// Who holds a name.
#[derive(Debug)]
struct Holder {
    key: SessionKey,
    owner: Owner,
}

#[derive(Debug, Default)]
struct User {
    /// In the order of opening.
    open: VecDeque<SessionKey>,
    /// Closed ones by name, with the time, in the order of closing.
    closed: VecDeque<(SessionId, SessionKey, Duration)>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct State {
    open: HashMap<SessionKey, Entry>,
    users: HashMap<Subject, User>,
    /// Open and remembered sessions by the names that clients gave them.
    names: HashMap<SessionId, Vec<Holder>>,
    remembered: usize,
}

impl State {
    pub(super) fn entries(&self) -> impl Iterator<Item = (SessionKey, &Entry)> {
        self.open.iter().map(|(key, entry)| (*key, entry))
    }

    /// Opens a session; `ended` are others that had to give way.
    pub(super) fn open(
        &mut self,
        key: SessionKey,
        entry: Entry,
        resume: bool,
        limits: Limits,
        ended: &mut Vec<EndReason>,
    ) -> Result<(), Refused> {
        let now = entry.opened;
        if !entry.owner.anonymous {
            let earlier = if resume { self.earlier(&entry)? } else { None };
            self.make_room(&entry.owner.subject, earlier, limits, now, ended)?;
            self.users.entry(entry.owner.subject.clone()).or_default().open.push_back(key);
            if let Some(name) = &entry.name {
                let holder = Holder { key, owner: entry.owner.clone() };
                self.names.entry(name.clone()).or_default().push(holder);
            }
        }
        self.open.insert(key, entry);
        Ok(())
    }

    /// Whether a name may be resumed; gives the open session of the same name and owner, the least recently used.
    fn earlier(&self, entry: &Entry) -> Result<Option<SessionKey>, Refused> {
        let holders = entry.name.as_ref().and_then(|name| self.names.get(name)).map_or(&[][..], Vec::as_slice);
        let theirs = |holder: &&Holder| {
            let key = &holder.owner.bound_key;
            holder.owner.subject == entry.owner.subject && (key.is_none() || *key == entry.owner.bound_key)
        };
        if !holders.is_empty() && !holders.iter().any(|holder| theirs(&holder)) {
            return Err(Refused::NotTheirs);
        }
        let open = holders.iter().filter(theirs).filter_map(|holder| Some((holder.key, self.open.get(&holder.key)?)));
        Ok(open.min_by_key(|(_, entry)| entry.live.last_active()).map(|(key, _)| key))
    }

    /// Ends sessions until there is room for one more, or refuses. A session that is resumed gives its own place first:
    /// the connection that had it is probably dead.
    fn make_room(
        &mut self,
        subject: &Subject,
        earlier: Option<SessionKey>,
        limits: Limits,
        now: Duration,
        ended: &mut Vec<EndReason>,
    ) -> Result<(), Refused> {
        let max = limits.per_user_max;
        let full = |state: &Self| state.users.get(subject).is_some_and(|user| user.open.len() >= max);
        if full(self)
            && let Some(earlier) = earlier
        {
            self.end(earlier, EndReason::Resumed, now, ended);
        }
        while full(self) {
            let oldest = self.users.get(subject).and_then(|user| user.open.front().copied());
            match (limits.policy, oldest) {
                (SessionPolicy::ReplaceOldest, Some(oldest)) => self.end(oldest, EndReason::Replaced, now, ended),
                _ => return Err(Refused::Full { max }),
            }
        }
        Ok(())
    }

    /// Ends an open session from outside.
    fn end(&mut self, key: SessionKey, reason: EndReason, now: Duration, ended: &mut Vec<EndReason>) {
        if let Some(entry) = self.open.get(&key) {
            entry.live.end(reason);
            self.close(key, now);
            ended.push(reason);
        }
    }

    /// Ends the session that an operator means.
    pub(super) fn end_named(&mut self, id: &str, now: Duration, ended: &mut Vec<EndReason>) -> Found {
        let exact = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32).map(SessionKey);
        let exact = exact.filter(|key| self.open.contains_key(key));
        let found = exact.map_or_else(
            || {
                let named = |entry: &Entry| entry.name.as_ref().is_some_and(|name| name.as_str() == id);
                self.open.iter().filter(|(_, entry)| named(entry)).map(|(key, _)| *key).take(2).collect()
            },
            |key| vec![key],
        );
        match found[..] {
            [] => Found::Nothing,
            [key] => {
                self.end(key, EndReason::Operator, now, ended);
                Found::Ended
            }
            _ => Found::Several,
        }
    }

    /// Closes a session and remembers its name. False when it is closed already.
    pub(super) fn close(&mut self, key: SessionKey, now: Duration) -> bool {
        let Some(entry) = self.open.remove(&key) else { return false };
        if entry.owner.anonymous {
            return true;
        }
        let subject = entry.owner.subject;
        if let Some(user) = self.users.get_mut(&subject) {
            user.open.retain(|open| *open != key);
            if let Some(name) = entry.name {
                user.closed.push_back((name, key, now));
                self.remembered += 1;
                let too_many = user.closed.len() > REMEMBERED_PER_USER_MAX || self.remembered > REMEMBERED_MAX;
                if too_many {
                    self.forget_oldest(&subject);
                }
            }
        }
        self.drop_if_empty(&subject);
        true
    }

    pub(super) fn renew(&mut self, key: SessionKey, now: Duration) {
        if let Some(entry) = self.open.get_mut(&key) {
            entry.opened = now;
        }
    }

    pub(super) fn sweep(&mut self, limits: Limits, now: Duration, ended: &mut Vec<EndReason>) {
        let over: Vec<(SessionKey, EndReason)> =
            self.open.iter().filter_map(|(key, entry)| Some((*key, entry.over(limits, now)?))).collect();
        for (key, reason) in over {
            self.end(key, reason, now, ended);
        }
        let stale = |user: &User| user.closed.front().is_some_and(|(_, _, at)| now.saturating_sub(*at) >= limits.idle);
        let users: Vec<Subject> =
            self.users.iter().filter(|(_, user)| stale(user)).map(|(subject, _)| subject.clone()).collect();
        for subject in users {
            while self.users.get(&subject).is_some_and(stale) {
                self.forget_oldest(&subject);
            }
            self.drop_if_empty(&subject);
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        assert_eq!(self.remembered, self.users.values().map(|user| user.closed.len()).sum::<usize>());
        self.remembered
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.users.is_empty() && self.names.is_empty() && self.remembered == 0
    }

    fn forget_oldest(&mut self, subject: &Subject) {
        let Some((name, key, _)) = self.users.get_mut(subject).and_then(|user| user.closed.pop_front()) else { return };
        self.remembered -= 1;
        if let Some(holders) = self.names.get_mut(&name) {
            holders.retain(|holder| holder.key != key);
            if holders.is_empty() {
                self.names.remove(&name);
            }
        }
    }

    fn drop_if_empty(&mut self, subject: &Subject) {
        if self.users.get(subject).is_some_and(|user| user.open.is_empty() && user.closed.is_empty()) {
            self.users.remove(subject);
        }
    }
}
