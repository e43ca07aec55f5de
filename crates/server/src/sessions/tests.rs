use std::time::Duration;

use super::{
    state::{Entry, Limits, Refused, State},
    *,
};
use crate::{pipeline::Authenticated, settings::SessionPolicy};

/// The bookkeeping, with a line on which all sessions are, and a clock in seconds.
struct Table {
    state: State,
    line: Line,
    settings: Settings,
    now: u64,
    ended: Vec<EndReason>,
}

impl Table {
    fn new(per_user_max: usize, policy: SessionPolicy) -> Self {
        let settings = Settings {
            max_sessions_per_user: per_user_max,
            session_policy: policy,
            session_idle_timeout: Duration::from_secs(100),
            session_lifetime: Duration::from_secs(1000),
            ..Settings::default()
        };
        Self {
            state: State::default(),
            line: Line::new(Transport::NativeWs, None),
            settings,
            now: 0,
            ended: Vec::new(),
        }
    }

    fn now(&self) -> Duration {
        Duration::from_secs(self.now)
    }

    fn open_as(&mut self, who: &Authenticated, name: &str, resume: bool) -> Result<SessionKey, Refused> {
        let name = SessionId::new(name).expect("an id");
        let wish = Wish { who, name: Some(&name), job: None, resume };
        let (key, entry) = (SessionKey::fresh(), Entry::new(&self.line, wish, self.now()));
        self.state.open(key, entry, resume, Limits::from(&self.settings), &mut self.ended).map(|()| key)
    }

    fn open(&mut self, subject: &str, name: &str) -> Result<SessionKey, Refused> {
        self.open_as(&Authenticated::of(subject, None), name, false)
    }

    fn resume(&mut self, subject: &str, key: Option<&str>, name: &str) -> Result<SessionKey, Refused> {
        self.open_as(&Authenticated::of(subject, key), name, true)
    }

    fn sweep(&mut self) {
        self.state.sweep(Limits::from(&self.settings), Duration::from_secs(self.now), &mut self.ended);
    }

    fn open_count(&self) -> usize {
        self.state.entries().count()
    }
}

const FULL: Refused = Refused::Full { max: 2 };

#[test]
fn a_user_has_so_many_sessions_and_another_user_their_own() {
    let mut table = Table::new(2, SessionPolicy::Refuse);
    let first = table.open("alice", "a").expect("a place");
    table.open("alice", "b").expect("a place");
    assert_eq!(table.open("alice", "c"), Err(FULL));
    assert_eq!(table.open("alice", "a"), Err(FULL), "the same name on another connection is another session");
    table.open("bob", "a").expect("his own place");
    assert!(table.state.close(first, table.now()));
    assert!(!table.state.close(first, table.now()), "closed once");
    table.open("alice", "c").expect("a place that was given back");
    assert_eq!(table.ended, []);
}

#[test]
fn the_oldest_gives_way_where_the_policy_says_so() {
    let mut table = Table::new(2, SessionPolicy::ReplaceOldest);
    let first = table.open("alice", "a").expect("a place");
    let second = table.open("alice", "b").expect("a place");
    table.open("alice", "c").expect("the oldest gives way");
    let open: Vec<SessionKey> = table.state.entries().map(|(key, _)| key).collect();
    assert!(!open.contains(&first) && open.contains(&second));
    // A limit that was lowered meanwhile: all that are over it give way.
    table.settings.max_sessions_per_user = 1;
    table.open("alice", "d").expect("the others give way");
    assert_eq!((table.open_count(), table.ended.as_slice()), (1, &[EndReason::Replaced; 3][..]));
}

#[test]
fn without_authentication_there_is_no_user_to_limit() {
    let mut table = Table::new(2, SessionPolicy::Refuse);
    for _ in 0..5 {
        table.open_as(&Authenticated::local(), "s", false).expect("a place");
        table.open_as(&Authenticated::local(), "s", true).expect("a place");
    }
    assert_eq!((table.open_count(), table.ended.len()), (10, 0));
}

#[test]
fn a_resume_needs_the_identity_and_the_key() {
    const DENIED: Result<(), Refused> = Err(Refused::NotTheirs);
    // Who opened it, whether it was closed since, who resumes.
    let check =
        |opener: (&str, Option<&str>), closed: bool, resumer: (&str, Option<&str>), expected: Result<(), Refused>| {
            let mut table = Table::new(9, SessionPolicy::Refuse);
            let key = table.open_as(&Authenticated::of(opener.0, opener.1), "s", false).expect("a place");
            if closed {
                table.state.close(key, table.now());
            }
            let resumed = table.resume(resumer.0, resumer.1, "s").map(drop);
            assert_eq!(resumed, expected, "{opener:?} {closed} {resumer:?}");
            assert_eq!(table.ended, [], "nothing of the first is touched");
        };
    for closed in [false, true] {
        check(("alice", None), closed, ("mallory", None), DENIED);
        check(("alice", Some("k1")), closed, ("mallory", Some("k1")), DENIED);
        check(("alice", Some("k1")), closed, ("alice", None), DENIED);
        check(("alice", Some("k1")), closed, ("alice", Some("k2")), DENIED);
        check(("alice", Some("k1")), closed, ("alice", Some("k1")), Ok(()));
        check(("alice", None), closed, ("alice", None), Ok(()));
        check(("alice", None), closed, ("alice", Some("k1")), Ok(()));
    }
}

#[test]
fn who_squats_a_name_does_not_keep_its_owner_out() {
    let mut table = Table::new(2, SessionPolicy::Refuse);
    let mine = table.open("alice", "954").expect("a place");
    table.open("mallory", "954").expect("names are not reserved");
    table.state.close(mine, table.now());
    table.resume("alice", None, "954").expect("hers");
    table.resume("bob", None, "955").expect("a name that nobody has");
}

#[test]
fn a_resume_takes_the_place_of_the_session_that_it_resumes() {
    let mut table = Table::new(1, SessionPolicy::Refuse);
    table.open("alice", "s").expect("a place");
    table.resume("alice", None, "s").expect("her connection died without a word");
    assert_eq!(table.ended, [EndReason::Resumed]);
    assert_eq!(table.resume("alice", None, "another"), Err(Refused::Full { max: 1 }));
    // Where there is room, nothing has to give way: several windows may show the same session.
    table.settings.max_sessions_per_user = 2;
    table.resume("alice", None, "s").expect("a place");
    assert_eq!((table.open_count(), table.ended.len()), (2, 1));
}

#[test]
fn idle_and_old_sessions_end() {
    let mut table = Table::new(9, SessionPolicy::Refuse);
    let busy = table.open("alice", "busy").expect("a place");
    let live = table.state.entries().find(|(key, _)| *key == busy).map(|(_, entry)| Arc::clone(&entry.live));
    let live = live.expect("open");
    live.begin();
    table.open("alice", "idle").expect("a place");
    table.now = 99;
    table.sweep();
    assert_eq!(table.open_count(), 2);
    table.now = 100;
    table.sweep();
    assert_eq!((table.open_count(), table.ended.as_slice()), (1, &[EndReason::Idle][..]));
    table.now = 1000;
    table.sweep();
    assert_eq!(table.open_count(), 1, "a running answer is finished first");
    live.finish(Duration::from_secs(1000));
    table.sweep();
    assert_eq!((table.open_count(), table.ended.as_slice()), (0, &[EndReason::Idle, EndReason::Lifetime][..]));
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let mut table = Table::new(9, SessionPolicy::Refuse);
    for index in 0..200 {
        let key = table.open("alice", &format!("s{index}")).expect("a place");
        table.state.close(key, table.now());
    }
    assert_eq!(table.state.remembered(), 64);
    assert_eq!(table.resume("bob", None, "s199").map(drop), Err(Refused::NotTheirs));
    table.resume("bob", None, "s0").expect("forgotten");
    table.now = 500;
    table.sweep();
    assert_eq!((table.state.remembered(), table.open_count()), (1, 0), "bob's, which has just ended");
    table.now = 1000;
    table.sweep();
    assert!(table.state.is_empty(), "nothing is left behind");
}

#[test]
fn an_operator_names_a_session_by_the_nodes_id_or_an_unambiguous_name() {
    let mut table = Table::new(9, SessionPolicy::Refuse);
    let first = table.open("alice", "s").expect("a place");
    table.open("bob", "s").expect("a place");
    table.open("bob", "t").expect("a place");
    let mut end = |id: &str| table.state.end_named(id, Duration::ZERO, &mut table.ended);
    assert_eq!(end("nothing"), Found::Nothing);
    assert_eq!(end("s"), Found::Several);
    assert_eq!(end(&first.to_string()), Found::Ended);
    assert_eq!(end(&first.to_string()), Found::Nothing);
    assert_eq!(end("s"), Found::Ended);
    assert_eq!(end("t"), Found::Ended);
    assert_eq!(table.open_count(), 0);
}

#[test]
fn ids_are_128_random_bits() {
    let (one, two) = (SessionKey::fresh().to_string(), SessionKey::fresh().to_string());
    assert!(one != two && one.len() == 32 && one.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one}");
}
