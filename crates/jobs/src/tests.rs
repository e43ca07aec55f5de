use super::*;

async fn jobs(max_tokens: u64) -> (tempfile::TempDir, Jobs) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
    let config = JobsConfig { journal_tokens: 4, journal_interval: Duration::from_millis(20) };
    let jobs = Jobs::new(store, config, Metrics::default());
    let job = NewJob {
        id: id("7"),
        owner: alice(),
        model: Some("small".into()),
        max_tokens,
        created_at: now(),
        expires_at: None,
        signature_required: false,
    };
    jobs.create(job).await.unwrap();
    (dir, jobs)
}

fn id(text: &str) -> JobId {
    JobId::new(text).unwrap()
}

fn alice() -> Subject {
    Subject::new("alice").unwrap()
}

async fn reserve(jobs: &Jobs, tokens: u32) -> Result<Reservation, JobError> {
    jobs.reserve(&id("7"), &alice(), &RequestId::new("r").unwrap(), tokens).await
}

/// Polls until the job's (used, reserved) is `expected`.
async fn eventually(jobs: &Jobs, expected: (u64, u64)) {
    for _ in 0..500 {
        let job = jobs.find(&id("7")).await.unwrap().unwrap();
        if (job.used_tokens, job.reserved_tokens) == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let job = jobs.find(&id("7")).await.unwrap().unwrap();
    panic!("expected {expected:?}, is {:?}", (job.used_tokens, job.reserved_tokens));
}

#[tokio::test]
async fn each_check_has_its_own_error() {
    let (_dir, jobs) = jobs(10).await;
    let mallory = Subject::new("mallory").unwrap();
    let check = async |job: &str, subject: &Subject, model| jobs.check(&id(job), subject, model).await;
    assert!(check("7", &alice(), Some("small")).await.is_ok());
    assert!(matches!(check("8", &alice(), None).await, Err(JobError::Unknown)));
    assert!(matches!(check("7", &mallory, None).await, Err(JobError::NotOwner)));
    assert!(matches!(check("7", &alice(), Some("large")).await, Err(JobError::ModelNotAllowed)));
    let all = reserve(&jobs, 10).await.unwrap();
    assert!(matches!(check("7", &alice(), None).await, Err(JobError::Exhausted)), "all of it is reserved");
    assert!(matches!(reserve(&jobs, 1).await, Err(JobError::Exhausted)));
    drop(all);
    eventually(&jobs, (0, 0)).await;
    assert!(check("7", &alice(), None).await.is_ok());
}

#[tokio::test]
async fn settle_charges_what_was_delivered() {
    let (_dir, jobs) = jobs(100).await;
    let reservation = reserve(&jobs, 50).await.unwrap();
    assert_eq!(reservation.tokens(), 50);
    reservation.delivered(3);
    reservation.delivered(4);
    let charge = reservation.settle(Outcome { prompt_tokens: 9, reason: "stop" }, None).await.unwrap();
    assert_eq!((charge.tokens, charge.receipt), (7, None));
    eventually(&jobs, (7, 0)).await;
}

#[tokio::test]
async fn a_dropped_reservation_charges_what_was_delivered_and_gives_back_the_rest() {
    let (_dir, jobs) = jobs(100).await;
    let reservation = reserve(&jobs, 50).await.unwrap();
    reservation.delivered(3);
    drop(reservation);
    eventually(&jobs, (3, 0)).await;
}

#[tokio::test]
async fn the_journal_lets_a_restart_charge_what_was_delivered() {
    let (dir, jobs) = jobs(100).await;
    let reservation = reserve(&jobs, 50).await.unwrap();
    reservation.delivered(6);
    let other = Store::open(&dir.path().join("node.sqlite")).unwrap();
    let mut recovered = Recovered::default();
    for _ in 0..500 {
        // What a restart would do; once the journal has written, it finds the six tokens.
        tokio::time::sleep(Duration::from_millis(5)).await;
        recovered = other.recover(now()).await.unwrap();
        if recovered.reservations > 0 {
            break;
        }
    }
    assert_eq!(recovered.reservations, 1);
    assert!(recovered.tokens <= 6);
    // The reservation is settled; the old process's own settlement must not charge again.
    let charged_before = jobs.find(&id("7")).await.unwrap().unwrap().used_tokens;
    drop(reservation);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(jobs.find(&id("7")).await.unwrap().unwrap().used_tokens, charged_before);
}
