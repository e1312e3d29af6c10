//! The embedded store: one SQLite database in a directory of its own.
//!
//! One thread writes and commits for all documents together (`writer`); some connections read (`readers`). Every row
//! carries a checksum (`rows`). What a `kill -9` or a power failure leaves is a database whose committed
//! transactions are all there: the write-ahead log is synced at each commit.
//!
//! Invariants, besides those of every store:
//! - one store at a time has the directory (`directory`);
//! - damage to one document leaves the others in service, and is never answered with "no such document".

mod archives;
mod changes;
#[cfg(test)]
mod damage;
mod directory;
mod inspect;
mod journal;
#[cfg(test)]
mod measure;
mod readers;
mod receipts;
mod revocations;
mod rows;
mod schema;
mod strikes;
mod versions;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use rusqlite::{Connection, Transaction};
use tracing::warn;

use self::directory::Directory;
use self::inspect::Damaged;
use self::journal::Care;
use self::readers::Readers;
use self::rows::RowError;
use self::writer::{Change, Writer};
use super::{
    Archive, LogPage, Naming, PageLimit, Receipt, Retention, Snapshot, Store, StoreError, Stored, Strikes,
    Summary, Version,
};
use crate::auth::revocations::Revocation;
use crate::event::{Event, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence, VersionName};
use crate::metrics::{self, Size};

/// Why a directory cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store in `{path}` is in use by {}", holder(*.pid))]
    InUse { path: PathBuf, pid: Option<u32> },
    #[error("the store `{path}` is of version {found}, and this program knows versions up to {known}")]
    Newer { path: PathBuf, found: i32, known: i32 },
    /// Something is there that is not what this program writes; or that is damaged beyond telling what is in it.
    #[error("`{path}` cannot be used as a store: {reason}")]
    NotAStore { path: PathBuf, reason: String },
    #[error("the store's `{path}` cannot be opened: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".into(),
    }
}

impl OpenError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    fn unreadable(path: &Path, error: &impl ToString) -> Self {
        Self::NotAStore { path: path.to_owned(), reason: error.to_string() }
    }
}

/// Brings what an earlier process left in the journal to where it belongs.
fn settle(connection: &mut Connection) -> Result<(), RowError> {
    if journal::is_empty(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    journal::settle(&transaction, std::iter::empty(), Care::EachDocument)?;
    Ok(transaction.commit()?)
}

/// A store in a directory. Dropped without `close`, it finishes what waits in the background, and only then
/// lets go of the directory.
#[derive(Debug)]
pub struct SqliteStore {
    writer: writer::Handle,
    readers: Arc<Readers>,
    damaged: Arc<RwLock<Damaged>>,
}

impl SqliteStore {
    /// Opens the store in `directory`, creating both if need be. Blocks: for milliseconds, and a second for every
    /// few hundred thousand documents.
    ///
    /// # Errors
    /// Nothing was changed if the store is in use, newer than this program or not a store.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, Arc::default())
    }

    /// As `open`; what the store does is counted in `metrics`.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(directory: &Path, metrics: Arc<metrics::Store>) -> Result<Self, OpenError> {
        let directory = Arc::new(Directory::lock(directory)?);
        let path = directory.database();
        directory.check_database()?;
        let mut connection =
            schema::open_writer(&path).map_err(|error| OpenError::unreadable(&path, &error))?;
        schema::create_or_check(&mut connection, &path)?;
        directory.remember_database()?;
        if let Err(error) = schema::empty_wal(&connection) {
            // On a full disk. What is there can be read, and what comes is refused until there is room.
            warn!(%error, "the write-ahead log was not emptied when the store was opened: {error}");
        }
        if let Err(error) = settle(&mut connection) {
            match error {
                RowError::Damaged(detail) => return Err(OpenError::NotAStore { path, reason: detail }),
                RowError::Sqlite(error) => {
                    warn!(%error, "the journal was not settled when the store was opened: {error}")
                }
            }
        }
        let found = inspect::inspect(&connection).map_err(|error| OpenError::unreadable(&path, &error))?;
        let damaged = Arc::new(RwLock::new(found.damaged));
        let readers = Readers::open(path.clone(), Arc::clone(&damaged))
            .map_err(|error| OpenError::unreadable(&path, &error))?;
        let writer = Writer::spawn(connection, directory, found.next_id, Arc::clone(&damaged), metrics)
            .map_err(|source| OpenError::io(&path, source))?;
        Ok(Self { writer, readers, damaged })
    }

    /// Refuses a document that was found to be damaged when the store was opened.
    fn check_sound(&self, document: &DocumentId) -> Result<(), StoreError> {
        match self.damaged.read().unwrap_or_else(PoisonError::into_inner).get(document) {
            None => Ok(()),
            Some(detail) => Err(StoreError::Corrupt { document: document.clone(), detail: detail.clone() }),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, document: &DocumentId) -> Result<Option<Stored>, StoreError> {
        self.readers.load(document).await
    }

    async fn record(
        &self,
        document: &DocumentId,
        epoch: Option<Epoch>,
        events: Vec<Event>,
        receipts: Vec<Receipt>,
    ) -> Result<(), StoreError> {
        self.check_sound(document)?;
        let document = document.clone();
        self.writer.ask(|answer| Change::Append { document, epoch, events, receipts, answer }).await
    }

    async fn receipt(
        &self,
        document: &DocumentId,
        user: Option<&str>,
        key: &str,
    ) -> Result<Option<Receipt>, StoreError> {
        self.readers.receipt(document, user, key).await
    }

    async fn log(
        &self,
        document: &DocumentId,
        after: Sequence,
        limit: PageLimit,
    ) -> Result<Option<LogPage>, StoreError> {
        self.readers.log(document, after, limit).await
    }

    async fn snapshot_at(&self, document: &DocumentId, at: Sequence) -> Result<Option<Snapshot>, StoreError> {
        self.readers.snapshot_at(document, at).await
    }

    async fn compact(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        snapshot: Snapshot,
        retention: Retention,
    ) -> Result<Sequence, StoreError> {
        self.check_sound(document)?;
        let document = document.clone();
        let compacted = document.clone();
        let work = move |transaction: &Transaction<'_>, _: &mut i64| {
            changes::compact(transaction, &compacted, epoch, &snapshot, retention)
        };
        self.writer.act_in_time(&document, work).await
    }

    async fn add_version(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        version: Version,
        snapshot: Snapshot,
        versions_max: usize,
    ) -> Result<Naming, StoreError> {
        self.check_sound(document)?;
        let of = document.clone();
        let work = move |transaction: &Transaction<'_>, _: &mut i64| {
            versions::add_version(transaction, &of, epoch, &version, &snapshot, versions_max)
        };
        self.writer.act(document, work).await
    }

    async fn versions(&self, document: &DocumentId) -> Result<Option<Vec<Version>>, StoreError> {
        self.readers.versions(document).await
    }

    async fn remove_version(&self, document: &DocumentId, name: &VersionName) -> Result<bool, StoreError> {
        let (of, name) = (document.clone(), name.clone());
        let work = move |transaction: &Transaction<'_>, _: &mut i64| {
            versions::remove_version(transaction, &of, &name).map(Ok)
        };
        self.writer.act(document, work).await
    }

    async fn set_frozen(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        frozen_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.check_sound(document)?;
        let of = document.clone();
        let work = move |transaction: &Transaction<'_>, _: &mut i64| {
            versions::set_frozen(transaction, &of, epoch, frozen_at)
        };
        self.writer.act(document, work).await
    }

    async fn archive(&self, document: &DocumentId) -> Result<Option<Archive>, StoreError> {
        self.readers.archive(document).await
    }

    async fn unarchive(&self, archive: Archive) -> Result<bool, StoreError> {
        let document = archive.summary.document.clone();
        self.check_sound(&document)?;
        let work = move |transaction: &Transaction<'_>, next_id: &mut i64| {
            archives::write(transaction, next_id, &archive).map(Ok)
        };
        self.writer.act(&document, work).await
    }

    async fn add_strike(
        &self,
        document: &DocumentId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Strikes>, StoreError> {
        let (of, reason) = (document.clone(), reason.to_owned());
        let work = move |transaction: &Transaction<'_>, _: &mut i64| {
            strikes::add(transaction, &of, &reason, now).map(Ok)
        };
        self.writer.act(document, work).await
    }

    async fn clear_strikes(&self, document: &DocumentId) -> Result<bool, StoreError> {
        let of = document.clone();
        let work =
            move |transaction: &Transaction<'_>, _: &mut i64| Ok(Ok(strikes::clear(transaction, &of)?));
        self.writer.act(document, work).await
    }

    async fn quarantined(&self) -> Result<Vec<Strikes>, StoreError> {
        self.readers.quarantined().await
    }

    async fn damaged(&self) -> Result<Vec<(DocumentId, String)>, StoreError> {
        let damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut damaged: Vec<_> = damaged.into_iter().collect();
        damaged.sort_unstable();
        Ok(damaged)
    }

    async fn delete(&self, document: &DocumentId) -> Result<bool, StoreError> {
        let document = document.clone();
        self.writer.ask(|answer| Change::Delete { document, answer }).await
    }

    async fn summary(&self, document: &DocumentId) -> Result<Option<Summary>, StoreError> {
        self.readers.summary(document).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        self.readers.list(prefix, after, limit).await
    }

    async fn add_revocation(
        &self,
        revocation: Revocation,
        keep_since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.writer.note(move |transaction| revocations::add(transaction, &revocation, keep_since)).await
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        self.readers.revocations().await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.readers.size().await
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        self.writer.ask(|answer| Change::Probe { answer }).await
    }

    async fn close(&self) {
        // An error means that it is closed already.
        let _ = self.writer.ask(|answer| Change::Close { answer }).await;
        self.readers.close().await;
    }
}
