use super::*;

const NOW: u64 = 1_000_000;

fn id(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

fn alice() -> Subject {
    Subject::new("alice").unwrap()
}

async fn store_with(max_tokens: u64) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
    let job = NewJobRow {
        id: id("j"),
        owner: alice(),
        model: None,
        max_tokens,
        created_at: NOW,
        expires_at: Some(NOW + 10),
        signature_required: false,
    };
    store.create_job(job.clone()).await.unwrap();
    assert!(matches!(store.create_job(job).await, Err(StoreError::Exists)));
    (dir, store)
}

async fn reserve(store: &Store, tokens: u32) -> ReserveOutcome {
    store.reserve(id("j"), alice(), RequestId::new("r").unwrap(), tokens, NOW).await.unwrap()
}

async fn granted(store: &Store, tokens: u32) -> (ReservationId, u32) {
    match reserve(store, tokens).await {
        ReserveOutcome::Granted { id, tokens } => (id, tokens),
        other => panic!("granted, not {other:?}"),
    }
}

fn settlement(id: ReservationId, completion_tokens: u32) -> Settlement {
    Settlement { id, prompt_tokens: 3, completion_tokens, outcome: "stop", settled_at: NOW }
}

async fn state(store: &Store) -> (u64, u64) {
    let row = store.job(id("j")).await.unwrap().unwrap();
    (row.used_tokens, row.reserved_tokens)
}

#[tokio::test]
async fn what_is_reserved_is_settled_once_and_the_rest_given_back() {
    let (_dir, store) = store_with(100).await;
    let (first, tokens) = granted(&store, 60).await;
    assert_eq!((tokens, state(&store).await), (60, (0, 60)));
    let (_second, clamped) = granted(&store, 60).await;
    assert_eq!(clamped, 40, "what remains");
    assert!(matches!(reserve(&store, 1).await, ReserveOutcome::Refused(_)), "nothing remains");

    assert!(store.settle(settlement(first, 25), None).await.unwrap().settled);
    assert!(!store.settle(settlement(first, 25), None).await.unwrap().settled, "a second settlement changes nothing");
    assert_eq!(state(&store).await, (25, 40));
}

#[tokio::test]
async fn a_settlement_never_charges_more_than_was_reserved() {
    let (_dir, store) = store_with(100).await;
    let (first, _) = granted(&store, 10).await;
    assert!(store.settle(settlement(first, 1000), None).await.unwrap().settled);
    assert_eq!(state(&store).await, (10, 0));
}

#[tokio::test]
async fn concurrent_reservations_never_exceed_the_budget() {
    let (_dir, store) = store_with(100).await;
    let wishes = (0..64).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { reserve(&store, 10).await })
    });
    let mut total = 0;
    for wish in wishes.collect::<Vec<_>>() {
        if let ReserveOutcome::Granted { tokens, .. } = wish.await.unwrap() {
            total += tokens;
        }
    }
    assert_eq!(total, 100);
    assert_eq!(state(&store).await, (0, 100));
}

#[tokio::test]
async fn others_and_ended_jobs_are_refused() {
    let (_dir, store) = store_with(100).await;
    let request = || RequestId::new("r").unwrap();
    let mallory = Subject::new("mallory").unwrap();
    let refused = |outcome| matches!(outcome, ReserveOutcome::Refused(_));
    assert!(refused(store.reserve(id("j"), mallory, request(), 1, NOW).await.unwrap()));
    assert!(refused(store.reserve(id("j"), alice(), request(), 1, NOW + 10).await.unwrap()), "expired");
    let unknown = store.reserve(id("other"), alice(), request(), 1, NOW).await.unwrap();
    assert!(matches!(unknown, ReserveOutcome::Unknown));
    let closed = store.close_job(id("j"), NOW).await.unwrap().unwrap();
    assert_eq!(closed.status(NOW), JobStatus::Closed);
    assert!(refused(store.reserve(id("j"), alice(), request(), 1, NOW).await.unwrap()));
    assert_eq!(state(&store).await, (0, 0), "a refusal reserves nothing");
}

#[tokio::test]
async fn a_restart_charges_what_the_journal_says_was_delivered() {
    let (dir, store) = store_with(100).await;
    let (first, _) = granted(&store, 50).await;
    let (_second, _) = granted(&store, 20).await;
    store.journal(vec![(first, 30)]).await.unwrap();
    store.journal(vec![(first, 7)]).await.unwrap();
    drop(store);

    let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
    assert_eq!(store.recover(NOW).await.unwrap(), Recovered { reservations: 2, tokens: 30 });
    assert_eq!(state(&store).await, (30, 0), "the journal never goes back");
    assert_eq!(store.recover(NOW).await.unwrap(), Recovered::default());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sqlite");
    std::fs::write(&path, "this is not a database, and long enough to be sure of it.".repeat(20)).unwrap();
    let error = Store::open(&path).expect_err("refused").to_string();
    assert!(error.contains("node.sqlite"), "{error}");
}

#[test]
fn the_database_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sqlite");
    let mode = |suffix: &str| {
        let file = dir.path().join(format!("node.sqlite{suffix}"));
        std::fs::metadata(file).unwrap().permissions().mode() & 0o777
    };
    let _store = Store::open(&path).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(suffix), 0o600, "{suffix}");
        // As an earlier version left it.
        let file = dir.path().join(format!("node.sqlite{suffix}"));
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _again = Store::open(&path).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(suffix), 0o600, "{suffix}, opened again");
    }
}

#[tokio::test]
async fn a_probe_writes_and_changes_nothing() {
    let (dir, store) = store_with(100).await;
    let wal = || std::fs::metadata(dir.path().join("node.sqlite-wal")).unwrap().len();
    let before = (wal(), state(&store).await);
    store.probe().await.unwrap();
    assert!(wal() > before.0, "it wrote");
    assert_eq!(state(&store).await, before.1);
    assert!(store.failure().is_none());
    drop(store);
    Store::open(&dir.path().join("node.sqlite")).unwrap();
}
