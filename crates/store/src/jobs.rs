//! Jobs, reservations and settlements.
//!
//! The invariant `used + reserved <= max` is a CHECK of the schema: no code path can overspend a job.

use std::sync::Arc;

use protocol::{JobId, RequestId, Subject, receipt::SignedReceipt};
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::{Durability, MakeReceipt, Store, StoreError, receipts};

/// A job as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// Who may use it.
    pub owner: Subject,
    /// The only model that it allows; `None` allows every model.
    pub model: Option<String>,
    /// Token budget.
    pub max_tokens: u64,
    /// Tokens charged.
    pub used_tokens: u64,
    /// Tokens reserved by running requests.
    pub reserved_tokens: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; `None` never expires.
    pub expires_at: Option<u64>,
    /// Unix seconds; set once it was closed.
    pub closed_at: Option<u64>,
    /// Whether every request that it pays for must be signed.
    pub signature_required: bool,
}

/// What can be done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStatus {
    /// It can be used.
    Active,
    /// Its budget is used up.
    Exhausted,
    /// Its time is over.
    Expired,
    /// Its owner or the operator closed it.
    Closed,
}

impl JobStatus {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Exhausted => "exhausted",
            Self::Expired => "expired",
            Self::Closed => "closed",
        }
    }
}

impl JobRow {
    /// Tokens that can still be reserved.
    #[must_use]
    pub const fn remaining_tokens(&self) -> u64 {
        self.max_tokens.saturating_sub(self.used_tokens).saturating_sub(self.reserved_tokens)
    }

    /// Its status at `now` (Unix seconds).
    #[must_use]
    pub fn status(&self, now: u64) -> JobStatus {
        if self.closed_at.is_some() {
            JobStatus::Closed
        } else if self.expires_at.is_some_and(|at| at <= now) {
            JobStatus::Expired
        } else if self.used_tokens >= self.max_tokens {
            JobStatus::Exhausted
        } else {
            JobStatus::Active
        }
    }
}

/// A job to create.
#[derive(Debug, Clone)]
pub struct NewJobRow {
    /// Its id.
    pub id: JobId,
    /// Who may use it.
    pub owner: Subject,
    /// The only model that it allows.
    pub model: Option<String>,
    /// Token budget, at least 1.
    pub max_tokens: u64,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub expires_at: Option<u64>,
    /// Whether every request that it pays for must be signed.
    pub signature_required: bool,
}

/// Names a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReservationId(i64);

/// What became of a wish for tokens.
#[derive(Debug, Clone)]
pub enum ReserveOutcome {
    /// Reserved: as much as was asked, or what remained.
    Granted {
        /// Its name.
        id: ReservationId,
        /// How many.
        tokens: u32,
    },
    /// No such job.
    Unknown,
    /// The job exists and does not allow it; nothing was reserved.
    Refused(JobRow),
}

/// How a reservation ends.
#[derive(Debug, Clone, Copy)]
pub struct Settlement {
    /// Which.
    pub id: ReservationId,
    /// For the record.
    pub prompt_tokens: u32,
    /// What is charged; never more than was reserved.
    pub completion_tokens: u32,
    /// `stop`, `length`, `cancelled`, `error` or `recovered`.
    pub outcome: &'static str,
    /// Unix seconds.
    pub settled_at: u64,
}

/// What became of a settlement.
#[derive(Debug, Clone)]
pub struct SettleOutcome {
    /// False where the reservation had been settled before: nothing changed.
    pub settled: bool,
    /// The receipt that was issued with it.
    pub receipt: Option<Arc<SignedReceipt>>,
}

/// Reservations that an earlier process left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// How many.
    pub reservations: u64,
    /// Tokens charged for them: what the journal says was delivered.
    pub tokens: u64,
}

const COLUMNS: &str = "id, owner, model, max_tokens, used_tokens, reserved_tokens, created_at, expires_at, closed_at, \
                       signature_required";

impl Store {
    /// Creates a job, durably.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id is taken.
    pub async fn create_job(&self, job: NewJobRow) -> Result<(), StoreError> {
        self.run(Durability::Power, move |connection| {
            let inserted = connection.execute(
                "INSERT INTO jobs (id, owner, model, max_tokens, created_at, expires_at, signature_required)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING",
                params![
                    job.id.as_str(),
                    job.owner.as_str(),
                    job.model,
                    signed(job.max_tokens),
                    signed(job.created_at),
                    job.expires_at.map(signed),
                    job.signature_required
                ],
            )?;
            if inserted == 0 { Err(StoreError::Exists) } else { Ok(()) }
        })
        .await
    }

    /// Finds a job.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn job(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        self.run(Durability::Process, move |connection| find(connection, &id)).await
    }

    /// Every job, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn jobs(&self) -> Result<Vec<JobRow>, StoreError> {
        self.run(Durability::Process, |connection| {
            let mut statement =
                connection.prepare(&format!("SELECT {COLUMNS} FROM jobs ORDER BY created_at DESC, id"))?;
            let rows = statement.query_map([], read)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// A subject's jobs, newest first; at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn jobs_of(&self, owner: Subject, limit: u32) -> Result<Vec<JobRow>, StoreError> {
        self.run(Durability::Process, move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE owner = ?1 ORDER BY created_at DESC, id LIMIT ?2"
            ))?;
            let rows = statement.query_map(params![owner.as_str(), limit], read)?.collect::<Result<_, _>>()?;
            Ok(rows)
        })
        .await
    }

    /// Closes a job, durably; running requests settle. Closing twice changes nothing.
    ///
    /// # Errors
    /// When the database fails. `Ok(None)`: no such job.
    pub async fn close_job(&self, id: JobId, now: u64) -> Result<Option<JobRow>, StoreError> {
        self.run(Durability::Power, move |connection| {
            connection.execute(
                "UPDATE jobs SET closed_at = COALESCE(closed_at, ?2) WHERE id = ?1",
                params![id.as_str(), signed(now)],
            )?;
            find(connection, &id)
        })
        .await
    }

    /// Reserves up to `tokens` of a job for `owner`, all checks and the reservation in one transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reserve(
        &self,
        job: JobId,
        owner: Subject,
        request: RequestId,
        tokens: u32,
        now: u64,
    ) -> Result<ReserveOutcome, StoreError> {
        self.run(Durability::Process, move |connection| {
            let Some(row) = find(connection, &job)? else { return Ok(ReserveOutcome::Unknown) };
            let granted = u64::from(tokens).min(row.remaining_tokens());
            if row.owner != owner || row.status(now) != JobStatus::Active || granted == 0 {
                return Ok(ReserveOutcome::Refused(row));
            }
            connection
                .prepare_cached("UPDATE jobs SET reserved_tokens = reserved_tokens + ?2 WHERE id = ?1")?
                .execute(params![job.as_str(), signed(granted)])?;
            connection
                .prepare_cached(
                    "INSERT INTO reservations (job_id, request_id, tokens, created_at) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![job.as_str(), request.as_str(), signed(granted), signed(now)])?;
            let id = ReservationId(connection.last_insert_rowid());
            Ok(ReserveOutcome::Granted { id, tokens: u32::try_from(granted).expect("at most `tokens`") })
        })
        .await
    }

    /// Notes how many tokens running requests have delivered, so that a crash charges them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn journal(&self, delivered: Vec<(ReservationId, u32)>) -> Result<(), StoreError> {
        self.run(Durability::Process, move |connection| {
            let mut update = connection
                .prepare_cached("UPDATE reservations SET delivered = MIN(tokens, MAX(delivered, ?2)) WHERE id = ?1")?;
            for (id, tokens) in delivered {
                update.execute(params![id.0, tokens])?;
            }
            Ok(())
        })
        .await
    }

    /// Ends a reservation: charges what was delivered, gives back the rest, and issues the receipt, all in one
    /// transaction. A reservation is settled once; a second settlement changes nothing and says so.
    ///
    /// # Errors
    /// When the database fails; the reservation stays open and is settled at the next start.
    pub async fn settle(
        &self,
        settlement: Settlement,
        receipt: Option<MakeReceipt>,
    ) -> Result<SettleOutcome, StoreError> {
        self.run(Durability::Power, move |connection| settle(connection, &settlement, receipt.as_ref())).await
    }

    /// Settles every open reservation at what the journal says was delivered. Called once at start, before any work.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recover(&self, now: u64) -> Result<Recovered, StoreError> {
        self.run(Durability::Power, move |connection| {
            let mut statement = connection.prepare("SELECT id, delivered FROM reservations ORDER BY id")?;
            let open: Vec<(i64, u32)> =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut recovered = Recovered::default();
            for (id, delivered) in open {
                let settlement = Settlement {
                    id: ReservationId(id),
                    prompt_tokens: 0,
                    completion_tokens: delivered,
                    outcome: "recovered",
                    settled_at: now,
                };
                // Without a receipt: what was delivered is known by its count, not by its text.
                if settle(connection, &settlement, None)?.settled {
                    recovered.reservations += 1;
                    recovered.tokens += u64::from(delivered);
                }
            }
            Ok(recovered)
        })
        .await
    }
}

fn settle(
    connection: &Connection,
    settlement: &Settlement,
    receipt: Option<&MakeReceipt>,
) -> Result<SettleOutcome, StoreError> {
    let id = settlement.id.0;
    let open: Option<(String, String, i64)> = connection
        .prepare_cached("DELETE FROM reservations WHERE id = ?1 RETURNING job_id, request_id, tokens")?
        .query_row(params![id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((job, request, reserved)) = open else { return Ok(SettleOutcome { settled: false, receipt: None }) };
    let charged = settlement.completion_tokens.min(u32::try_from(reserved).unwrap_or(u32::MAX));
    connection
        .prepare_cached(
            "UPDATE jobs SET used_tokens = used_tokens + ?2, reserved_tokens = reserved_tokens - ?3 WHERE id = ?1",
        )?
        .execute(params![job, charged, reserved])?;
    connection
        .prepare_cached(
            "INSERT INTO settlements
                (reservation_id, job_id, request_id, prompt_tokens, completion_tokens, outcome, settled_at)
             VALUES (:id, :job, :request, :prompt, :charged, :outcome, :at)",
        )?
        .execute(named_params! {
            ":id": id, ":job": job, ":request": request, ":prompt": settlement.prompt_tokens,
            ":charged": charged, ":outcome": settlement.outcome, ":at": signed(settlement.settled_at),
        })?;
    let receipt = match receipt {
        Some(make) => receipts::issue(connection, id, &job, charged, make)?,
        None => None,
    };
    Ok(SettleOutcome { settled: true, receipt })
}

fn find(connection: &Connection, id: &JobId) -> Result<Option<JobRow>, StoreError> {
    Ok(connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"))?
        .query_row([id.as_str()], read)
        .optional()?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<JobRow> {
    let text = |column: usize| row.get::<_, String>(column);
    let number = |column: usize| row.get::<_, i64>(column).map(unsigned);
    let optional = |column: usize| row.get::<_, Option<i64>>(column).map(|value| value.map(unsigned));
    let invalid = |column: usize| {
        move |error: protocol::InvalidId| {
            rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
        }
    };
    Ok(JobRow {
        id: JobId::new(text(0)?).map_err(invalid(0))?,
        owner: Subject::new(text(1)?).map_err(invalid(1))?,
        model: row.get(2)?,
        max_tokens: number(3)?,
        used_tokens: number(4)?,
        reserved_tokens: number(5)?,
        created_at: number(6)?,
        expires_at: optional(7)?,
        closed_at: optional(8)?,
        signature_required: row.get(9)?,
    })
}

/// SQLite's integers are signed; a budget beyond them is as good as endless.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
