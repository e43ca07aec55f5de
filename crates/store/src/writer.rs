//! The thread that owns the connection, and its handle.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::{StoreError, schema};

/// Operations waiting for the thread; callers beyond it wait their turn.
const QUEUE_MAX: usize = 1024;
/// Operations committed together.
const BATCH_MAX: usize = 256;
/// How long another process may hold the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a finished operation must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The death of the process (`kill -9`): the write reached the kernel.
    Process,
    /// The loss of power: the write reached the disk (`fsync`).
    Power,
}

/// Runs inside the batch's transaction, or hears why there is none; returns what is to be done once it is known whether
/// the batch was committed.
type Operation = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Completion + Send>;
type Completion = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    operation: Operation,
    durability: Durability,
}

/// A handle to the store; clones share the thread. The thread ends when the last is dropped.
#[derive(Clone)]
pub struct Store {
    queue: mpsc::Sender<Job>,
    path: PathBuf,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database file, migrates it and starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Open`] with the reason, [`StoreError::TooNew`], [`StoreError::Full`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path).map_err(|error| StoreError::open(path, &error))?;
        let prepare = |connection: &Connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "foreign_keys", true)
        };
        prepare(&connection).map_err(|error| StoreError::open(path, &error))?;
        schema::migrate(&mut connection, path)?;
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        thread::Builder::new()
            .name("store".into())
            .spawn(move || serve(connection, jobs))
            .map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { queue, path: path.to_owned() })
    }

    /// Runs `operation` in a savepoint and returns its result after the commit. An error of the operation undoes it
    /// alone; an error of the commit undoes the whole batch, and each caller hears it.
    pub(crate) async fn run<T, F>(&self, durability: Durability, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let operation: Operation = Box::new(move |connection| {
            let result = connection.and_then(|connection| in_savepoint(connection, operation));
            Box::new(move |committed| {
                // The caller may have been cancelled; the write stands all the same.
                let _ = reply.send(committed.and(result));
            })
        });
        self.queue.send(Job { operation, durability }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    operation: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("SAVEPOINT operation")?;
    let result = operation(connection);
    let end = if result.is_ok() { "RELEASE operation" } else { "ROLLBACK TO operation; RELEASE operation" };
    connection.execute_batch(end)?;
    result
}

fn serve(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let durability = batch.iter().map(|job| job.durability).max().unwrap_or(Durability::Process);
        commit(&mut connection, &mut batch, durability);
    }
}

fn commit(connection: &mut Connection, batch: &mut Vec<Job>, durability: Durability) {
    let mut completions: Vec<Completion> = Vec::with_capacity(batch.len());
    let committed = (|| {
        // FULL adds the fsync of the WAL at commit; NORMAL leaves it to the checkpoint.
        let synchronous = if durability == Durability::Power { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        completions.extend(batch.drain(..).map(|job| (job.operation)(Ok(&transaction))));
        transaction.commit()
    })()
    .map_err(StoreError::from);
    if let Err(error) = &committed {
        tracing::error!(%error, operations = completions.len() + batch.len(), "the store could not commit");
        completions.extend(batch.drain(..).map(|job| (job.operation)(Err(error.clone()))));
    }
    for completion in completions {
        completion(committed.clone());
    }
}
