//! Connections that read, off the runtime's threads; and what they are asked.
//!
//! Each answer is read in one transaction, so it shows one moment; and it is short, so that it keeps no
//! checkpoint waiting.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tracing::warn;

use super::archives;
use super::inspect::Damaged;
use super::journal;
use super::rows::{self, Entry, RowError, unavailable};
use super::{receipts, revocations, schema, strikes, versions};
use crate::auth::revocations::Revocation;
use crate::event::Event;
use crate::ids::{DocumentId, Sequence};
use crate::metrics::Size;
use crate::store::{
    Archive, LogPage, PageLimit, Receipt, Snapshot, StoreError, Stored, Strikes, Summary, Version, closed,
};

/// Reads at once; more wait. The disk or the page cache is the limit, not the processors.
const READERS: u32 = 4;

/// The connections that read.
#[derive(Debug)]
pub struct Readers {
    path: PathBuf,
    /// Kept open throughout, so that reading needs nothing new from a full disk.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    damaged: Arc<RwLock<Damaged>>,
}

impl Readers {
    pub fn open(path: PathBuf, damaged: Arc<RwLock<Damaged>>) -> rusqlite::Result<Arc<Self>> {
        let idle = (0..READERS).map(|_| schema::open_reader(&path)).collect::<Result<_, _>>()?;
        let permits = Arc::new(Semaphore::new(READERS as usize));
        Ok(Arc::new(Self { path, idle: Mutex::new(idle), permits, damaged }))
    }

    /// Runs `read` with a connection, in a read transaction, on a thread that may block.
    async fn run<R: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| closed())?;
        let readers = Arc::clone(self);
        let reading = tokio::task::spawn_blocking(move || {
            // Moved in here, so that a caller who no longer waits does not let one more in.
            let _permit = permit;
            let connection = readers.take()?;
            let result = in_transaction(&connection, read);
            readers.give_back(connection, matches!(result, Err(StoreError::Unavailable { .. })));
            result
        });
        let lost = |error| StoreError::Unavailable { reason: format!("a read was lost: {error}") };
        reading.await.unwrap_or_else(|error| Err(lost(error)))
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        // There are as many as permits, but for one that was lost in a panic.
        idle.map_or_else(|| schema::open_reader(&self.path).map_err(|error| unavailable(&error)), Ok)
    }

    /// Keeps a connection for the next read; after a failure, a fresh one in its place if that can be had.
    fn give_back(&self, mut connection: Connection, failed: bool) {
        if failed {
            match schema::open_reader(&self.path) {
                Ok(fresh) => connection = fresh,
                Err(error) => warn!(%error, "a connection that failed is kept: {error}"),
            }
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    pub async fn revocations(self: &Arc<Self>) -> Result<Vec<Revocation>, StoreError> {
        self.run(|connection| {
            revocations::all(connection).map_err(|error| match error {
                RowError::Sqlite(error) => unavailable(&error),
                RowError::Damaged(reason) => StoreError::Unavailable { reason },
            })
        })
        .await
    }

    pub async fn size(self: &Arc<Self>) -> Result<Size, StoreError> {
        self.run(|connection| {
            let number = |sql| connection.query_row(sql, [], |row| row.get::<_, u64>(0));
            let documents = number("SELECT count(*) FROM documents").map_err(|error| unavailable(&error))?;
            let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
            Ok(Size { documents, bytes: number(size).map_err(|error| unavailable(&error))? })
        })
        .await
    }

    /// Waits for the reads that run, and closes.
    pub async fn close(&self) {
        // An error means that it is closed already.
        let _all = self.permits.acquire_many(READERS).await;
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Finds a document, unless it was found to be damaged when the store was opened.
    fn find(&self, connection: &Connection, document: &DocumentId) -> Result<Option<Found>, RowError> {
        if let Some(detail) = self.damaged.read().unwrap_or_else(PoisonError::into_inner).get(document) {
            return Err(RowError::Damaged(detail.clone()));
        }
        let Some(settled) = Entry::find(connection, document)? else { return Ok(None) };
        let journaled = journal::events_of(connection, &settled)?;
        let mut summary = settled.summary.clone();
        for event in &journaled {
            summary.head = event.sequence;
            summary.bytes += event.update.len() as u64;
            summary.updated_at = event.time;
        }
        summary.frozen_at = versions::frozen_at(connection, &settled)?;
        Ok(Some(Found { settled, journaled, summary }))
    }

    /// Runs `read` on what is found of one document, if there is one.
    async fn of_document<R: Send + 'static>(
        self: &Arc<Self>,
        document: &DocumentId,
        read: impl FnOnce(&Connection, Found) -> Result<R, ReadError> + Send + 'static,
    ) -> Result<Option<R>, StoreError> {
        let readers = Arc::clone(self);
        let document = document.clone();
        self.run(move |connection| {
            let found = readers.find(connection, &document).map_err(|error| error.of(&document))?;
            let result = found.map(|found| read(connection, found)).transpose();
            result.map_err(|error| match error {
                ReadError::Row(error) => error.of(&document),
                ReadError::Compacted { oldest } => StoreError::Compacted { oldest },
            })
        })
        .await
    }

    pub async fn summary(self: &Arc<Self>, document: &DocumentId) -> Result<Option<Summary>, StoreError> {
        self.of_document(document, |_, found| Ok(found.summary)).await
    }

    pub async fn receipt(
        self: &Arc<Self>,
        document: &DocumentId,
        user: Option<&str>,
        key: &str,
    ) -> Result<Option<Receipt>, StoreError> {
        let (document, user, key) = (document.clone(), user.map(str::to_owned), key.to_owned());
        self.run(move |connection| {
            receipts::find(connection, &document, user.as_deref(), &key).map_err(|error| error.of(&document))
        })
        .await
    }

    pub async fn load(self: &Arc<Self>, document: &DocumentId) -> Result<Option<Stored>, StoreError> {
        self.of_document(document, |connection, found| {
            let Found { settled, journaled, summary } = found;
            let snapshot = newest_snapshot(connection, &settled, settled.summary.head)?;
            let after = snapshot.as_ref().map_or(Sequence::ZERO, |snapshot| snapshot.sequence);
            let mut tail = rows::read_log(connection, &settled, after, |_| true)?;
            tail.extend(journaled);
            Ok(Stored { summary, snapshot, tail })
        })
        .await
    }

    pub async fn log(
        self: &Arc<Self>,
        document: &DocumentId,
        after: Sequence,
        limit: PageLimit,
    ) -> Result<Option<LogPage>, StoreError> {
        self.of_document(document, move |connection, found| {
            let Summary { epoch, head, oldest, .. } = found.summary;
            if after >= head {
                return Ok(LogPage { epoch, events: Vec::new(), head });
            }
            if after.next() < oldest {
                return Err(ReadError::Compacted { oldest });
            }
            let mut room = limit.room();
            let settled_head = found.settled.summary.head;
            let mut events = Vec::new();
            if after < settled_head {
                events = rows::read_log(connection, &found.settled, after, |bytes| room.take(bytes))?;
            }
            if events.last().map_or(after, |event| event.sequence) >= settled_head {
                let journaled = found.journaled.into_iter().filter(|event| event.sequence > after);
                events.extend(journaled.take_while(|event| room.take(event.update.len())));
            }
            Ok(LogPage { epoch, events, head })
        })
        .await
    }

    pub async fn snapshot_at(
        self: &Arc<Self>,
        document: &DocumentId,
        at: Sequence,
    ) -> Result<Option<Snapshot>, StoreError> {
        let snapshot = self.of_document(document, move |connection, found| {
            let oldest = found.summary.oldest;
            if at.next() < oldest {
                // A version may have kept one.
                let kept = rows::snapshot_sequences(connection, &found.settled)?.contains(&at);
                if !kept {
                    return Err(ReadError::Compacted { oldest });
                }
                return Ok(Some(rows::read_snapshot(connection, &found.settled, at)?));
            }
            Ok(newest_snapshot(connection, &found.settled, at)?)
        });
        Ok(snapshot.await?.flatten())
    }

    pub async fn versions(
        self: &Arc<Self>,
        document: &DocumentId,
    ) -> Result<Option<Vec<Version>>, StoreError> {
        self.of_document(document, |connection, found| Ok(versions::versions(connection, &found.settled)?))
            .await
    }

    pub async fn archive(self: &Arc<Self>, document: &DocumentId) -> Result<Option<Archive>, StoreError> {
        self.of_document(document, |connection, found| {
            Ok(archives::read(connection, &found.settled, found.journaled, found.summary)?)
        })
        .await
    }

    pub async fn quarantined(self: &Arc<Self>) -> Result<Vec<Strikes>, StoreError> {
        self.run(|connection| {
            strikes::quarantined(connection).map_err(|error| match error {
                RowError::Damaged(detail) => StoreError::Unavailable {
                    reason: format!("the notes of quarantined documents are damaged: {detail}"),
                },
                RowError::Sqlite(error) => unavailable(&error),
            })
        })
        .await
    }

    pub async fn list(
        self: &Arc<Self>,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        let prefix = prefix.to_owned();
        let after = after.map(str::to_owned);
        self.run(move |connection| {
            list(connection, &prefix, after.as_deref(), limit).map_err(|error| match error {
                RowError::Damaged(detail) => StoreError::Unavailable {
                    reason: format!("the directory of documents is damaged: {detail}"),
                },
                RowError::Sqlite(error) => unavailable(&error),
            })
        })
        .await
    }
}

/// A document as it lies in the store.
struct Found {
    /// Its row of the directory, which counts what is in its log.
    settled: Entry,
    /// What follows in the journal.
    journaled: Vec<Event>,
    /// All together.
    summary: Summary,
}

/// Why a document that exists cannot be read.
enum ReadError {
    Row(RowError),
    Compacted { oldest: Sequence },
}

impl From<RowError> for ReadError {
    fn from(error: RowError) -> Self {
        Self::Row(error)
    }
}

fn in_transaction<R>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> Result<R, StoreError>,
) -> Result<R, StoreError> {
    // `unchecked` means: nested ones would be noticed by SQLite only. There are none.
    let transaction = connection.unchecked_transaction().map_err(|error| unavailable(&error))?;
    let result = read(connection);
    // Nothing was written, so there is nothing to fail.
    drop(transaction);
    result
}

/// The newest snapshot at or before `at` that reads back, and from which the log reaches on.
/// `None`: there is none, and the log begins at 1.
fn newest_snapshot(
    connection: &Connection,
    entry: &Entry,
    at: Sequence,
) -> Result<Option<Snapshot>, RowError> {
    let document = &entry.summary.document;
    let mut damage = None;
    for sequence in rows::snapshot_sequences(connection, entry)?.into_iter().rev() {
        if sequence > at || sequence.next() < entry.summary.oldest {
            continue;
        }
        match rows::read_snapshot(connection, entry, sequence) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(RowError::Damaged(detail)) => {
                warn!(document.id = %document, detail, "passed over a damaged snapshot of document `{document}`: {detail}");
                damage = Some(detail);
            }
            Err(error) => return Err(error),
        }
    }
    if entry.summary.oldest == Sequence::ZERO.next() {
        return Ok(None);
    }
    Err(RowError::Damaged(damage.unwrap_or_else(|| "the snapshot that its log builds on is missing".into())))
}

fn list(
    connection: &Connection,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Summary>, RowError> {
    let after = after.filter(|after| *after >= prefix);
    let comparison = if after.is_some() { ">" } else { ">=" };
    let sql = format!(
        "SELECT {} FROM documents INDEXED BY documents_name WHERE name {comparison} ?1 ORDER BY name",
        Entry::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([after.unwrap_or(prefix)])?;
    let mut entries = Vec::new();
    while entries.len() < limit {
        let Some(row) = rows.next()? else { break };
        match Entry::read(row) {
            Ok(entry) if entry.summary.document.as_str().starts_with(prefix) => entries.push(entry),
            Ok(_) => break,
            Err(RowError::Damaged(detail)) => warn!(detail, "left a document out of a list: {detail}"),
            Err(error) => return Err(error),
        }
    }
    journal::count_in(connection, entries.iter_mut())?;
    for entry in &mut entries {
        entry.summary.frozen_at = versions::frozen_at(connection, entry)?;
    }
    Ok(entries.into_iter().map(|entry| entry.summary).collect())
}
