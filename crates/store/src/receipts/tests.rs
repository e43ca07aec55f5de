use proptest::prelude::*;
use protocol::{
    RequestId,
    receipt::{Ending, Receipt, VERSION},
};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{NewJobRow, ReservationId, ReserveOutcome, Settlement};

const NOW: u64 = 1_000_000;

fn job(index: usize) -> JobId {
    JobId::new(format!("j{index}")).unwrap()
}

fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

async fn store_with_jobs(jobs: usize) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
    for index in 0..jobs {
        let new = NewJobRow {
            id: job(index),
            owner: subject("alice"),
            model: None,
            max_tokens: 1_000_000,
            created_at: NOW,
            expires_at: None,
            signature_required: false,
        };
        store.create_job(new).await.unwrap();
    }
    (dir, store)
}

async fn reserve(store: &Store, index: usize) -> ReservationId {
    let request = RequestId::new("r").unwrap();
    match store.reserve(job(index), subject("alice"), request, 10, NOW).await.unwrap() {
        ReserveOutcome::Granted { id, .. } => id,
        other => panic!("granted, not {other:?}"),
    }
}

/// A receipt that is not really signed: the store looks at none of it.
fn receipt(job: &JobId, id: String, link: ChainLink) -> Arc<SignedReceipt> {
    let hash = Digest::new([0; 32]);
    let receipt = Receipt {
        version: VERSION,
        receipt_id: ReceiptId::new(id).unwrap(),
        request_id: RequestId::new("r").unwrap(),
        node_id: "n".into(),
        session_id: None,
        job_id: job.clone(),
        subject: subject("alice"),
        model: "m".into(),
        model_digest: None,
        endpoint: "native_ws".into(),
        request_hash: hash,
        output_hash: hash,
        input_tokens: 3,
        output_tokens: link.charged_tokens,
        finish_reason: Ending::Stop,
        started_at: NOW,
        finished_at: NOW + link.sequence,
        sequence: link.sequence,
        previous: link.previous,
        key_id: "k".into(),
        signature: "0".repeat(128),
    };
    let json = serde_json::to_string(&receipt).unwrap();
    let hash = Digest::new(Sha256::digest(&json).into());
    Arc::new(SignedReceipt::new(receipt, json, hash))
}

fn maker(index: usize, id: String) -> MakeReceipt {
    MakeReceipt::new(move |link| Some(receipt(&job(index), id.clone(), link)))
}

fn settlement(id: ReservationId, completion_tokens: u32) -> Settlement {
    Settlement { id, prompt_tokens: 3, completion_tokens, outcome: "stop", settled_at: NOW }
}

async fn issue(store: &Store, index: usize, id: &str) -> Arc<SignedReceipt> {
    let reservation = reserve(store, index).await;
    let outcome = store.settle(settlement(reservation, 4), Some(maker(index, id.into()))).await.unwrap();
    outcome.receipt.expect("a receipt")
}

async fn find(store: &Store, id: &str, subject: &str, job: Option<JobId>) -> Option<String> {
    store.receipt(ReceiptId::new(id).unwrap(), Subject::new(subject).unwrap(), job).await.unwrap()
}

#[tokio::test]
async fn a_receipt_is_found_by_its_owner_alone() {
    let (_dir, store) = store_with_jobs(2).await;
    let issued = issue(&store, 0, "a").await;
    assert_eq!(find(&store, "b", "alice", None).await, None);
    assert_eq!(find(&store, "a", "mallory", None).await, None);
    assert_eq!(find(&store, "a", "alice", Some(job(1))).await, None, "a token of another job");
    assert_eq!(find(&store, "a", "alice", Some(job(0))).await.as_deref(), Some(issued.json()));
    assert_eq!(find(&store, "a", "alice", None).await.as_deref(), Some(issued.json()));
}

#[tokio::test]
async fn what_is_settled_already_gets_no_receipt() {
    let (_dir, store) = store_with_jobs(1).await;
    let reservation = reserve(&store, 0).await;
    let first = store.settle(settlement(reservation, 4), Some(maker(0, "a".into()))).await.unwrap();
    let second = store.settle(settlement(reservation, 9), Some(maker(0, "b".into()))).await.unwrap();
    assert!(first.settled && !second.settled && second.receipt.is_none());
    assert_eq!(find(&store, "b", "alice", None).await, None);
    assert_eq!(issue(&store, 0, "c").await.receipt().sequence, 2);
}

#[tokio::test]
async fn an_answer_that_cannot_be_signed_is_charged_and_leaves_no_gap() {
    let (_dir, store) = store_with_jobs(1).await;
    let first = issue(&store, 0, "a").await;
    let reservation = reserve(&store, 0).await;
    let outcome = store.settle(settlement(reservation, 4), Some(MakeReceipt::new(|_| None))).await.unwrap();
    assert!(outcome.settled && outcome.receipt.is_none());
    assert_eq!(store.job(job(0)).await.unwrap().unwrap().used_tokens, 8);
    let next = issue(&store, 0, "b").await;
    assert_eq!((next.receipt().sequence, next.receipt().previous), (2, Some(first.hash())));
}

#[tokio::test]
async fn a_receipt_that_cannot_be_stored_undoes_its_settlement() {
    let (_dir, store) = store_with_jobs(1).await;
    issue(&store, 0, "a").await;
    let reservation = reserve(&store, 0).await;
    // The id is taken: neither the charge nor the place in the chain may stay.
    store.settle(settlement(reservation, 4), Some(maker(0, "a".into()))).await.expect_err("it exists");
    let row = store.job(job(0)).await.unwrap().unwrap();
    assert_eq!((row.used_tokens, row.reserved_tokens), (4, 10));
    let outcome = store.settle(settlement(reservation, 4), Some(maker(0, "b".into()))).await.unwrap();
    assert_eq!(outcome.receipt.expect("a receipt").receipt().sequence, 2);
}

#[tokio::test]
async fn a_chain_goes_on_over_a_restart_and_over_what_was_forgotten() {
    let (dir, store) = store_with_jobs(1).await;
    issue(&store, 0, "a").await;
    let second = issue(&store, 0, "b").await;
    assert_eq!(store.forget_receipts(NOW + 1).await.unwrap(), 0, "finished at that moment is not before it");
    assert_eq!(store.forget_receipts(NOW + 3).await.unwrap(), 2);
    assert_eq!(find(&store, "b", "alice", None).await, None);
    drop(store);
    let store = Store::open(&dir.path().join("node.sqlite")).unwrap();
    let third = issue(&store, 0, "c").await;
    assert_eq!((third.receipt().sequence, third.receipt().previous), (3, Some(second.hash())));
    assert_eq!(find(&store, "c", "alice", None).await.as_deref(), Some(third.json()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever answers of whatever jobs end in whatever order, at once or in turn, signed or not: each job's receipts
    /// are 1, 2, 3 …, each names the one before, and they say what was charged.
    #[test]
    fn every_chain_is_gapless(
        answers in prop::collection::vec((0..3_usize, 0..12_u32, prop::bool::weighted(0.9)), 1..40),
        wave in 1..9_usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (_dir, store) = store_with_jobs(3).await;
            let mut issued: Vec<Arc<SignedReceipt>> = Vec::new();
            let mut unsigned = [0_u64; 3];
            for (first, wave) in answers.chunks(wave).enumerate() {
                let mut settling = Vec::new();
                for (index, (job, tokens, signs)) in wave.iter().copied().enumerate() {
                    let reservation = reserve(&store, job).await;
                    let make = if signs { maker(job, format!("{first}-{index}")) } else { MakeReceipt::new(|_| None) };
                    if !signs {
                        unsigned[job] += u64::from(tokens.min(10));
                    }
                    let store = store.clone();
                    settling.push(tokio::spawn(async move {
                        store.settle(settlement(reservation, tokens), Some(make)).await.unwrap().receipt
                    }));
                }
                for settled in settling {
                    issued.extend(settled.await.unwrap());
                }
            }
            for (index, unsigned) in unsigned.into_iter().enumerate() {
                let mut chain: Vec<_> = issued.iter().filter(|signed| signed.receipt().job_id == job(index)).collect();
                chain.sort_by_key(|signed| signed.receipt().sequence);
                let mut previous = None;
                let mut charged = unsigned;
                for (place, signed) in chain.iter().enumerate() {
                    assert_eq!(signed.receipt().sequence, place as u64 + 1);
                    assert_eq!(signed.receipt().previous, previous);
                    previous = Some(signed.hash());
                    charged += u64::from(signed.receipt().output_tokens);
                }
                assert_eq!(store.job(job(index)).await.unwrap().unwrap().used_tokens, charged);
            }
        });
    }
}
