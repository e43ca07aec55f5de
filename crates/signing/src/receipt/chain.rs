//! Several receipts of one job: none may be missing, and each names the one before.

use std::collections::BTreeMap;

use protocol::{JobId, ReceiptId, receipt::Receipt};

use super::hash;

/// Receipts of one job that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The node.
    pub node_id: String,
    /// The job.
    pub job_id: JobId,
    /// The first number. Above 1, earlier receipts were not given: the first's `previous` binds them all the same.
    pub first: u64,
    /// The last number. Whether later ones exist, a chain cannot tell.
    pub last: u64,
    /// Tokens that these receipts charge.
    pub output_tokens: u64,
}

/// Why receipts are not one chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Some in the middle are missing.
    #[error("job {job_id}: between the receipts {after} and {next} there are {} missing", next - after - 1)]
    Missing {
        /// The job.
        job_id: JobId,
        /// The number before the gap.
        after: u64,
        /// The number behind it.
        next: u64,
    },
    /// `previous` is not the hash of the one before.
    #[error("job {job_id}: receipt {sequence} ({receipt_id}) does not name the receipt {} before it as `previous`: one of them is not of this chain", sequence - 1)]
    Broken {
        /// The job.
        job_id: JobId,
        /// Which.
        sequence: u64,
        /// Its name.
        receipt_id: ReceiptId,
    },
    /// Two different receipts have the same number.
    #[error(
        "job {job_id}: the receipts {one} and {other} both have the number {sequence}: the node signed two histories"
    )]
    Forked {
        /// The job.
        job_id: JobId,
        /// The number.
        sequence: u64,
        /// One.
        one: ReceiptId,
        /// The other.
        other: ReceiptId,
    },
    /// The first has a `previous`, or a later one has none, or the number is 0.
    #[error(
        "job {job_id}: receipt {sequence} ({receipt_id}): the first receipt is number 1 and alone has no `previous`"
    )]
    Start {
        /// The job.
        job_id: JobId,
        /// Its number.
        sequence: u64,
        /// Its name.
        receipt_id: ReceiptId,
    },
}

impl ChainError {
    /// A stable name, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing_receipts",
            Self::Broken { .. } => "broken_chain",
            Self::Forked { .. } => "forked_chain",
            Self::Start { .. } => "broken_start",
        }
    }
}

/// Checks the chains of these receipts, in whatever order they come; the same receipt may come twice. Each must have
/// been verified before: a chain of receipts that nobody signed is worth nothing.
#[must_use]
pub fn check_chains(receipts: &[Receipt]) -> (Vec<Chain>, Vec<ChainError>) {
    let mut jobs: BTreeMap<(&str, &JobId), BTreeMap<u64, &Receipt>> = BTreeMap::new();
    let mut errors = Vec::new();
    for receipt in receipts {
        let job = jobs.entry((&receipt.node_id, &receipt.job_id)).or_default();
        let known = *job.entry(receipt.sequence).or_insert(receipt);
        if known != receipt {
            errors.push(ChainError::Forked {
                job_id: receipt.job_id.clone(),
                sequence: receipt.sequence,
                one: known.receipt_id.clone(),
                other: receipt.receipt_id.clone(),
            });
        }
    }
    let chains = jobs.into_values().map(|job| follow(&job, &mut errors)).collect();
    (chains, errors)
}

/// Walks one job's receipts, of which there is at least one, by their number.
fn follow(receipts: &BTreeMap<u64, &Receipt>, errors: &mut Vec<ChainError>) -> Chain {
    let mut before: Option<&Receipt> = None;
    let mut output_tokens = 0;
    for &receipt in receipts.values() {
        let (job_id, sequence, receipt_id) = (receipt.job_id.clone(), receipt.sequence, receipt.receipt_id.clone());
        if sequence == 0 || (sequence == 1) != receipt.previous.is_none() {
            errors.push(ChainError::Start { job_id, sequence, receipt_id });
        } else if let Some(before) = before {
            if before.sequence + 1 != sequence {
                errors.push(ChainError::Missing { job_id, after: before.sequence, next: sequence });
            } else if receipt.previous != Some(hash(before)) {
                errors.push(ChainError::Broken { job_id, sequence, receipt_id });
            }
        }
        output_tokens += u64::from(receipt.output_tokens);
        before = Some(receipt);
    }
    let last = before.expect("a job is noted with its first receipt");
    let first = receipts.keys().next().copied().unwrap_or(last.sequence);
    Chain { node_id: last.node_id.clone(), job_id: last.job_id.clone(), first, last: last.sequence, output_tokens }
}
