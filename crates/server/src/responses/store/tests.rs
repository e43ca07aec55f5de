use protocol::inference::Role;

use super::*;

const LIMITS: Limits = Limits { responses_max: 4, bytes_max: 1 << 20, kept_for: Duration::from_secs(60) };

fn owner(subject: &str, job: Option<&str>) -> Owner {
    Owner::Identity {
        subject: Subject::new(subject).expect("a subject"),
        job: job.map(|job| JobId::new(job).expect("a job")),
    }
}

fn stored(text: &str) -> Stored {
    let messages = vec![Message { role: Role::User, content: text.to_owned() }];
    Stored { messages, json: Some("{}".to_owned()) }
}

struct Bench {
    store: ResponseStore,
    now: Instant,
    limits: Limits,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { store: ResponseStore::default(), now: Instant::now(), limits }
    }

    fn put(&self, owner: &Owner, id: &str) -> Option<&'static str> {
        let hit = self.store.insert(owner, id, stored(id), self.limits, self.now);
        self.store.shelves.lock().held();
        hit
    }

    fn has(&self, owner: &Owner, id: &str) -> bool {
        let found = self.store.get(owner, id, self.limits, self.now);
        self.store.shelves.lock().held();
        found.is_some_and(|found| found.messages[0].content == id)
    }

    fn held(&self) -> (usize, usize) {
        self.store.shelves.lock().held()
    }
}

#[test]
fn an_id_of_someone_else_is_unknown() {
    let bench = Bench::new(LIMITS);
    let (ann, bob) = (owner("ann", None), owner("bob", None));
    bench.put(&ann, "a");
    for stranger in [&bob, &owner("ann", Some("7")), &Owner::Connection(1)] {
        assert!(!bench.has(stranger, "a"));
        assert!(!bench.store.remove(stranger, "a", LIMITS, bench.now));
        bench.store.remove_all(stranger);
    }
    assert!(bench.has(&ann, "a"), "nobody else removed it either");
}

#[test]
fn what_is_removed_is_gone_and_free() {
    let bench = Bench::new(LIMITS);
    let (ann, connection) = (owner("ann", None), Owner::Connection(7));
    assert!(!bench.store.remove(&ann, "a", LIMITS, bench.now));
    bench.put(&ann, "a");
    bench.put(&ann, "a");
    assert_eq!(bench.held().0, 1, "the same id twice is one response");
    assert!(bench.store.remove(&ann, "a", LIMITS, bench.now));
    assert!(!bench.has(&ann, "a"));
    bench.put(&connection, "b");
    bench.put(&connection, "c");
    bench.put(&ann, "d");
    bench.store.remove_all(&connection);
    assert!(!bench.has(&connection, "b") && bench.has(&ann, "d"));
    assert!(bench.store.remove(&ann, "d", LIMITS, bench.now));
    assert_eq!(bench.held(), (0, 0));
}

#[test]
fn the_least_recently_used_goes_first() {
    let bench = Bench::new(LIMITS);
    let ann = owner("ann", None);
    for id in ["a", "b", "c", "d"] {
        assert_eq!(bench.put(&ann, id), None);
    }
    assert!(bench.has(&ann, "a"), "a is used, so b is the oldest now");
    assert_eq!(bench.put(&ann, "e"), Some("responses_stored_max"));
    assert!(!bench.has(&ann, "b"));
    assert!(["a", "c", "d", "e"].iter().all(|id| bench.has(&ann, id)));
}

#[test]
fn bytes_are_bounded_too() {
    let bytes = stored("a").bytes();
    let bench = Bench::new(Limits { bytes_max: 2 * bytes, ..LIMITS });
    let ann = owner("ann", None);
    assert_eq!(bench.put(&ann, "a"), None);
    assert_eq!(bench.put(&ann, "b"), None);
    assert_eq!(bench.put(&ann, "c"), Some("responses_stored_bytes_max"));
    assert!(!bench.has(&ann, "a") && bench.has(&ann, "b") && bench.has(&ann, "c"));
    let huge = "x".repeat(2 * bytes);
    assert_eq!(bench.put(&ann, &huge), Some("responses_stored_bytes_max"));
    assert!(!bench.has(&ann, &huge) && bench.has(&ann, "b"), "one that cannot fit displaces nothing");
}

#[test]
fn a_busy_owner_displaces_only_itself() {
    let bench = Bench::new(LIMITS);
    let (ann, bob) = (owner("ann", None), owner("bob", None));
    bench.put(&ann, "quiet");
    for turn in 0..20 {
        bench.put(&bob, &format!("busy {turn}"));
    }
    assert!(bench.has(&ann, "quiet"));
    assert!(bench.has(&bob, "busy 19") && !bench.has(&bob, "busy 16"));
    assert_eq!(bench.put(&ann, "another"), Some("responses_stored_max"));
    assert!(bench.has(&ann, "quiet") && bench.has(&ann, "another"), "who has less than a share displaces who has more");
    assert_eq!(bench.held().0, 4);
}

#[test]
fn what_is_not_used_expires() {
    let mut bench = Bench::new(LIMITS);
    let ann = owner("ann", None);
    bench.put(&ann, "a");
    bench.put(&ann, "b");
    bench.now += Duration::from_secs(59);
    assert!(bench.has(&ann, "b"));
    bench.now += Duration::from_secs(1);
    assert!(!bench.has(&ann, "a"), "60 s without use");
    assert_eq!(bench.held().0, 1, "expired means freed");
    assert!(bench.has(&ann, "b"), "used 1 s ago");
    bench.limits.kept_for = Duration::ZERO;
    assert!(!bench.has(&ann, "b"), "a shorter limit holds at once");
}

#[test]
fn nothing_is_kept_where_nothing_may_be() {
    let bench = Bench::new(Limits { responses_max: 0, ..LIMITS });
    let ann = owner("ann", None);
    assert_eq!(bench.put(&ann, "a"), Some("responses_stored_max"));
    assert_eq!(bench.held(), (0, 0));
}
