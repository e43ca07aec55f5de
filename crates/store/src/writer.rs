//! The thread that owns the connection, and its handle.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

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
    failure: Failure,
}

/// What the last write failed with; `None` while writes succeed.
type Failure = Arc<watch::Sender<Option<StoreError>>>;

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database file (for its owner alone), migrates it and starts the thread.
    ///
    /// # Errors
    /// [`StoreError::Open`] with the reason, [`StoreError::TooNew`], [`StoreError::Full`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
        let mut connection = Connection::open(path).map_err(|error| StoreError::open(path, &error))?;
        let prepare = |connection: &Connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "foreign_keys", true)
        };
        prepare(&connection).map_err(|error| StoreError::open(path, &error))?;
        schema::migrate(&mut connection, path)?;
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let failure = Failure::new(watch::Sender::new(None));
        thread::Builder::new()
            .name("store".into())
            .spawn({
                let failure = Arc::clone(&failure);
                move || serve(connection, jobs, &failure)
            })
            .map_err(|error| StoreError::Open { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { queue, path: path.to_owned(), failure })
    }

    /// Why the last write failed; `None` while writes succeed. It stays until [`Store::probe`] succeeds.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    /// Writes one page that changes nothing, to learn whether the store can write again.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.run(Durability::Process, |connection| {
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            Ok(connection.pragma_update(None, "user_version", version)?)
        })
        .await?;
        if self.failure.send_replace(None).is_some() {
            tracing::info!("the database can be written again");
        }
        Ok(())
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

/// Creates the file for its owner alone, and takes from others what an earlier version or a copy gave them. SQLite gives
/// the files beside it (`-wal`, `-shm`) the same permissions.
fn make_private(path: &Path) -> io::Result<()> {
    File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::metadata(&file) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn serve(mut connection: Connection, mut jobs: mpsc::Receiver<Job>, failure: &Failure) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while jobs.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let durability = batch.iter().map(|job| job.durability).max().unwrap_or(Durability::Process);
        commit(&mut connection, &mut batch, durability, failure);
    }
}

fn commit(connection: &mut Connection, batch: &mut Vec<Job>, durability: Durability, failure: &Failure) {
    let mut completions: Vec<Completion> = Vec::with_capacity(batch.len());
    let committed = (|| {
        // FULL adds the fsync of the WAL at commit; NORMAL leaves it to the checkpoint.
        let synchronous = if durability == Durability::Power { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        completions.extend(batch.drain(..).map(|job| {
            // On some errors, a full disk among them, SQLite ends the transaction by itself. What comes after it would
            // be committed alone, and its caller would hear that it was not.
            let open = if transaction.is_autocommit() { Err(StoreError::RolledBack) } else { Ok(&*transaction) };
            (job.operation)(open)
        }));
        transaction.commit()
    })()
    .map_err(StoreError::from);
    if let Err(error) = &committed {
        let operations = completions.len() + batch.len();
        // Said once, not for each request that a full disk refuses.
        if failure.send_replace(Some(error.clone())).is_none() {
            tracing::error!(%error, operations, "nothing can be recorded, so requests are refused; {}", error.advice());
        } else {
            tracing::debug!(%error, operations, "the store could not commit");
        }
        completions.extend(batch.drain(..).map(|job| (job.operation)(Err(error.clone()))));
    }
    for completion in completions {
        completion(committed.clone());
    }
}
