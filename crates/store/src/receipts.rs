//! Receipts: made inside the transaction that settles an answer, so that neither exists without the other.
//!
//! A job's receipts form a chain: each has the next number and the hash of the one before. The chain's head is in the
//! job's row, so it goes on when old receipts are forgotten.

use std::{fmt, sync::Arc};

use protocol::{
    JobId, ReceiptId, Subject,
    receipt::{Digest, SignedReceipt},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{Durability, Store, StoreError};

/// Receipts that are forgotten in one transaction: answers wait while it runs.
const FORGET_MAX: u32 = 1000;

/// Where the next receipt of a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    /// Its number, from 1.
    pub sequence: u64,
    /// The hash of the one before; none for the first.
    pub previous: Option<Digest>,
    /// What the job is charged in the same transaction.
    pub charged_tokens: u32,
}

/// Makes the receipt of one answer. It may be asked again where the transaction failed; what it made before is gone
/// then. `None` where it cannot sign: the answer is settled all the same, and the chain has no gap.
#[derive(Clone)]
pub struct MakeReceipt(Arc<dyn Fn(ChainLink) -> Option<Arc<SignedReceipt>> + Send + Sync>);

impl MakeReceipt {
    /// Wraps the closure that makes it. It runs on the store's thread, where it holds up every other write.
    pub fn new(make: impl Fn(ChainLink) -> Option<Arc<SignedReceipt>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// Makes it.
    #[must_use]
    pub fn make(&self, link: ChainLink) -> Option<Arc<SignedReceipt>> {
        (self.0)(link)
    }
}

impl fmt::Debug for MakeReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MakeReceipt")
    }
}

impl Store {
    /// The canonical text of a receipt that belongs to `subject`, and to `job` where one is given. Someone else's and
    /// one that never was are found in the same way: not at all.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn receipt(
        &self,
        id: ReceiptId,
        subject: Subject,
        job: Option<JobId>,
    ) -> Result<Option<String>, StoreError> {
        self.run(Durability::Process, move |connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT document FROM receipts WHERE id = ?1 AND subject = ?2 AND job_id = COALESCE(?3, job_id)",
                )?
                .query_row(params![id.as_str(), subject.as_str(), job.as_ref().map(JobId::as_str)], |row| row.get(0))
                .optional()?)
        })
        .await
    }

    /// Forgets receipts that were issued before `before` (Unix milliseconds), some at a time. Returns how many; call it
    /// again until it is none. The chains go on as if nothing had happened.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_receipts(&self, before: u64) -> Result<u64, StoreError> {
        self.run(Durability::Process, move |connection| {
            let forgotten = connection
                .prepare_cached(
                    "DELETE FROM receipts WHERE id IN (SELECT id FROM receipts WHERE finished_at < ?1 LIMIT ?2)",
                )?
                .execute(params![i64::try_from(before).unwrap_or(i64::MAX), FORGET_MAX])?;
            Ok(forgotten as u64)
        })
        .await
    }
}

/// Makes and stores the receipt of a reservation that is settled in the same transaction.
pub(crate) fn issue(
    connection: &Connection,
    reservation: i64,
    job: &str,
    charged_tokens: u32,
    make: &MakeReceipt,
) -> Result<Option<Arc<SignedReceipt>>, StoreError> {
    let (issued, head): (i64, Option<String>) = connection
        .prepare_cached("SELECT receipts_issued, receipt_hash FROM jobs WHERE id = ?1")?
        .query_row([job], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let previous = head
        .map(|text| text.parse())
        .transpose()
        .map_err(|error| StoreError::Sqlite(format!("jobs.receipt_hash of job {job}: {error}")))?;
    let sequence = issued + 1;
    let link = ChainLink { sequence: sequence.unsigned_abs(), previous, charged_tokens };
    let Some(signed) = make.make(link) else { return Ok(None) };
    let receipt = signed.receipt();
    debug_assert_eq!((receipt.sequence, receipt.previous), (link.sequence, link.previous), "it takes its place");
    debug_assert_eq!(
        (receipt.job_id.as_str(), receipt.output_tokens),
        (job, charged_tokens),
        "it says what is charged"
    );
    connection
        .prepare_cached("UPDATE jobs SET receipts_issued = ?2, receipt_hash = ?3 WHERE id = ?1")?
        .execute(params![job, sequence, signed.hash().to_string()])?;
    connection
        .prepare_cached(
            "INSERT INTO receipts (id, reservation_id, job_id, sequence, subject, document, finished_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            receipt.receipt_id.as_str(),
            reservation,
            job,
            sequence,
            receipt.subject.as_str(),
            signed.json(),
            i64::try_from(receipt.finished_at).unwrap_or(i64::MAX),
        ])?;
    Ok(Some(signed))
}

#[cfg(test)]
mod tests;
