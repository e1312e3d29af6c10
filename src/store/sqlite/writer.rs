//! The thread that writes: it commits whatever waits, of all documents, in one transaction, then answers.
//!
//! A commit costs one sync of the disk however much is in it, so the busier the server, the more share one.
//!
//! Invariants:
//! - nothing is answered with success before its transaction is committed and synced;
//! - changes are made in the order in which they came;
//! - after an error of the disk the connection is thrown away, and what it believed of the disk with it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::changes::{self, AppendError, Batch, Heads};
use super::directory::Directory;
use super::inspect::Damaged;
use super::journal::{self, Care};
use super::rows::{RowError, unavailable};
use super::{receipts, schema};
use crate::event::Event;
use crate::ids::{DocumentId, Epoch};
use crate::metrics;
use crate::store::{Receipt, StoreError, closed, without_epoch};

/// Changes that may wait; whoever brings one more waits for room.
const INBOX_CHANGES_MAX: usize = 4096;
/// Changes that share a transaction.
const BATCH_CHANGES_MAX: usize = 1024;
/// Bytes of updates that share a transaction. One change may be larger, and is then alone.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// While several changes at a time arrive, commits begin so far apart. A commit has a fixed price, a few system calls and
/// a sync, of 0.1 ms of a processor; shared by all that comes in 2 ms it is small, and nobody notices the wait.
const COMMIT_INTERVAL: Duration = Duration::from_millis(2);
/// What is in no hurry waits so long at the most, so that much is settled at a time.
const ACT_WITHIN: Duration = Duration::from_millis(200);
const ACTS_WAITING_MAX: usize = 64;
/// From so many changes in a commit on, several are said to arrive at a time.
const BUSY_CHANGES: usize = 4;
/// Length of the write-ahead log at which it is copied into the database: 32 MiB in pages of 4 KiB.
const CHECKPOINT_PAGES: u64 = 8192;
/// From here on readers are waited for, so that the log can begin anew: 64 MiB.
const RESTART_PAGES: u64 = 2 * CHECKPOINT_PAGES;
/// If it cannot be copied, and has grown to this, nothing more is taken: 256 MiB.
const WAL_PAGES_MAX: u64 = 8 * CHECKPOINT_PAGES;
/// How long a checkpoint waits for readers; new ones do not hinder it.
const RESTART_PATIENCE: Duration = Duration::from_millis(100);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

type Act = Box<dyn FnOnce(&mut Writer) + Send>;

/// What the writer is asked for.
pub enum Change {
    Append {
        document: DocumentId,
        /// `None` without events.
        epoch: Option<Epoch>,
        events: Vec<Event>,
        receipts: Vec<Receipt>,
        answer: Answer<()>,
    },
    /// Anything else that is done in a transaction of its own.
    Act(Act),
    /// The same, for what is in no hurry.
    ActInTime(Act),
    Delete {
        document: DocumentId,
        answer: Answer<bool>,
    },
    /// Writes something small, to know whether writing works.
    Probe {
        answer: Answer<()>,
    },
    Close {
        answer: Answer<()>,
    },
}

/// Brings changes to the writer. When the last handle is gone the writer finishes what waits, and ends.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Change>,
}

impl Handle {
    /// Asks for a change and waits for its answer.
    pub async fn ask<T>(&self, change: impl FnOnce(Answer<T>) -> Change) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(change(answer)).await.map_err(|_| closed())?;
        // Without an answer the writer has died in the middle: whether it is written is not known.
        answered.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Handle {
    /// Asks for `work` to be done in a transaction of its own, and waits for its answer.
    ///
    /// `work`: inside its result, a refusal, after which nothing was written; outside, a failure: it is rolled back.
    pub async fn act<T: Send + 'static>(
        &self,
        document: &DocumentId,
        work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<Result<T, StoreError>, RowError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|answer| Change::Act(act(document, work, answer))).await
    }

    /// The same, in a moment in which it is cheap: soon, and at once if nothing else is to do.
    pub async fn act_in_time<T: Send + 'static>(
        &self,
        document: &DocumentId,
        work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<Result<T, StoreError>, RowError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.ask(|answer| Change::ActInTime(act(document, work, answer))).await
    }
}

impl Handle {
    /// Asks for something to be written that concerns no document's log.
    pub async fn note(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.ask(|answer| {
            Change::Act(Box::new(move |writer| {
                let result = writer.transact(|transaction, _| Ok(work(transaction)?));
                // Whoever asked may be gone.
                let _ = answer.send(result.map_err(StoreError::from));
            }))
        })
        .await
    }
}

fn act<T: Send + 'static>(
    document: &DocumentId,
    work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<Result<T, StoreError>, RowError> + Send + 'static,
    answer: Answer<T>,
) -> Act {
    let document = document.clone();
    Box::new(move |writer| {
        let result = writer.act(&document, work);
        // Whoever asked may be gone.
        let _ = answer.send(result);
    })
}

/// The writer's own state.
pub struct Writer {
    path: PathBuf,
    /// `None`: thrown away after an error, to be opened again for the next change.
    connection: Option<Connection>,
    inbox: mpsc::Receiver<Change>,
    next_id: i64,
    damaged: Arc<RwLock<Damaged>>,
    /// Pages in the write-ahead log, as of the last commit.
    wal_pages: Arc<AtomicU64>,
    /// `None`: after an error, or at the start. What is in the journal must then be settled before anything else.
    journal: Option<Journal>,
    /// Where those who wait for answers run, if that is known.
    runtime: Option<runtime::Handle>,
    /// What is in no hurry, and since when it waits.
    in_time: Vec<(Instant, Act)>,
    /// When the next commit may begin, if that matters.
    next_commit: Option<Instant>,
    closing: Vec<Answer<()>>,
    /// Held for as long as anything may be written.
    directory: Arc<Directory>,
    metrics: Arc<metrics::Store>,
}

/// What the writer knows of the journal.
#[derive(Default)]
struct Journal {
    heads: Heads,
    fill: journal::Fill,
}

/// Why a transaction did not happen.
enum Failure {
    /// This document is damaged: without it, the transaction may succeed.
    Damaged(DocumentId, RowError),
    /// What is in the journal cannot be read or moved. Nothing of it is written.
    JournalDamaged(String),
    /// Nothing of it is written, or that is not known.
    Unavailable(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(error)
    }
}

impl From<RowError> for Failure {
    /// What fails for no one document.
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sqlite(error) => Self::Unavailable(error),
            RowError::Damaged(detail) => Self::JournalDamaged(detail),
        }
    }
}

impl Failure {
    fn of(document: &DocumentId, error: RowError) -> Self {
        match error {
            RowError::Sqlite(error) => Self::Unavailable(error),
            damaged => Self::Damaged(document.clone(), damaged),
        }
    }
}

impl Writer {
    /// Starts the writer's thread.
    ///
    /// `connection`: from `schema::open_writer`.
    pub fn spawn(
        connection: Connection,
        directory: Arc<Directory>,
        next_id: i64,
        damaged: Arc<RwLock<Damaged>>,
        metrics: Arc<metrics::Store>,
    ) -> std::io::Result<Handle> {
        let (sender, inbox) = mpsc::channel(INBOX_CHANGES_MAX);
        let mut writer = Self {
            path: directory.database(),
            connection: None,
            inbox,
            next_id,
            damaged,
            wal_pages: Arc::default(),
            journal: None,
            runtime: runtime::Handle::try_current().ok(),
            in_time: Vec::new(),
            next_commit: None,
            closing: Vec::new(),
            directory,
            metrics,
        };
        writer.adopt(connection);
        thread::Builder::new().name("store-writer".into()).spawn(move || writer.run())?;
        Ok(Handle { inbox: sender })
    }

    fn run(mut self) {
        let mut next = None;
        while let Some(change) = next.take().or_else(|| self.receive()) {
            match change {
                Change::Close { answer } => {
                    // What was sent before is still received, then the end.
                    self.inbox.close();
                    self.closing.push(answer);
                }
                Change::Act(act) => act(&mut self),
                Change::ActInTime(act) => self.in_time.push((Instant::now(), act)),
                Change::Delete { document, answer } => {
                    let result = self.delete(&document);
                    let _ = answer.send(result);
                }
                Change::Append { .. } | Change::Probe { .. } => {
                    let batch;
                    self.pace();
                    (batch, next) = self.gather(change);
                    if batch.len() >= BUSY_CHANGES {
                        self.next_commit = Some(Instant::now() + COMMIT_INTERVAL);
                    }
                    self.commit(batch);
                }
            }
            self.settle_if_due();
            self.act_if_due();
            self.checkpoint_if_due();
        }
        self.act_now();
        self.finish();
    }

    /// The next change; before it is waited for, what is in no hurry is done.
    fn receive(&mut self) -> Option<Change> {
        if !self.in_time.is_empty() {
            if let Ok(change) = self.inbox.try_recv() {
                return Some(change);
            }
            self.pace();
            if let Ok(change) = self.inbox.try_recv() {
                return Some(change);
            }
            self.act_now();
        }
        self.inbox.blocking_recv()
    }

    /// Does what has waited long enough, or is cheap now: with an empty journal nothing is to be settled for it.
    fn act_if_due(&mut self) {
        let Some((since, _)) = self.in_time.first() else { return };
        let is_cheap = self.journal.as_ref().is_some_and(|journal| journal.fill.is_empty());
        if is_cheap || since.elapsed() >= ACT_WITHIN || self.in_time.len() >= ACTS_WAITING_MAX {
            self.act_now();
        }
    }

    fn act_now(&mut self) {
        for (_, act) in std::mem::take(&mut self.in_time) {
            act(self);
        }
    }

    /// Lets more changes arrive if the last commit was shared by several, and began just now.
    fn pace(&mut self) {
        if let Some(next) = self.next_commit.take() {
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Takes what waits and can share a transaction with `first`; and the change after that, if it cannot.
    fn gather(&mut self, first: Change) -> (Vec<Change>, Option<Change>) {
        let mut bytes = update_bytes(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH_CHANGES_MAX {
            let Ok(change) = self.inbox.try_recv() else { break };
            bytes = bytes.saturating_add(update_bytes(&change));
            if !matches!(change, Change::Append { .. } | Change::Probe { .. }) || bytes > BATCH_BYTES_MAX {
                return (batch, Some(change));
            }
            batch.push(change);
        }
        (batch, None)
    }

    /// Commits a batch and answers each of its changes.
    fn commit(&mut self, batch: Vec<Change>) {
        let started = Instant::now();
        // Documents whose rows turned out to be damaged while writing: left out of the next attempt.
        let mut left_out: HashMap<DocumentId, StoreError> = HashMap::new();
        let results = loop {
            match self.write(&batch, &left_out) {
                Ok(results) => break Ok(results),
                Err(Failure::Damaged(document, error)) => {
                    let refused = error.of(&document);
                    left_out.insert(document, refused);
                }
                Err(failure) => break Err(StoreError::from(failure)),
            }
        };
        if results.is_ok() {
            self.metrics.commit.observe_time(started.elapsed());
            self.metrics.commit_changes.observe(batch.len() as u64);
        }
        let results = results.unwrap_or_else(|error| vec![Err(error); batch.len()]);
        self.answer(batch, results);
    }

    /// Answers a whole batch from within the runtime: each answer wakes a task, which is dear from a foreign thread. What
    /// the runtime's threads have allocated is given back there too, where no lock is in the way.
    fn answer(&self, batch: Vec<Change>, results: Vec<Result<(), StoreError>>) {
        let answer_all = move || {
            for (change, result) in batch.into_iter().zip(results) {
                if let Change::Append { answer, .. } | Change::Probe { answer } = change {
                    // Whoever asked may be gone; the log is right without them.
                    let _ = answer.send(result);
                }
            }
        };
        match &self.runtime {
            Some(runtime) => _ = runtime.spawn(async move { answer_all() }),
            None => answer_all(),
        }
    }

    /// Writes a batch in a transaction, and says for each of its changes how it went.
    fn write(
        &mut self,
        batch: &[Change],
        left_out: &HashMap<DocumentId, StoreError>,
    ) -> Result<Vec<Result<(), StoreError>>, Failure> {
        if self.journal.is_none() {
            self.settle()?;
        }
        let mut journal = self.journal.take().unwrap_or_default();
        let results = self.transact(|transaction, next_id| {
            write_batch(transaction, next_id, &mut journal, batch, left_out)
        })?;
        self.journal = Some(journal);
        Ok(results)
    }

    /// Moves what is in the journal into the logs.
    fn settle(&mut self) -> Result<(), Failure> {
        let Journal { heads, fill } = self.journal.take().unwrap_or_default();
        if fill.is_empty() && journal::is_empty(self.connection()?)? {
            self.journal = Some(Journal::default());
            return Ok(());
        }
        let mut settled =
            self.transact(|transaction, _| Ok(journal::settle(transaction, heads.values(), Care::None)?));
        if matches!(settled, Err(Failure::JournalDamaged(_))) {
            settled = self.transact(|transaction, _| {
                Ok(journal::settle(transaction, heads.values(), Care::EachDocument)?)
            });
        }
        self.journal = Some(Journal { heads: Heads::new(), fill: settled? });
        Ok(())
    }

    /// A failure is told by the next change, which settles first.
    fn settle_if_due(&mut self) {
        if self.journal.as_ref().is_some_and(|journal| journal.fill.is_due())
            && let Err(Failure::JournalDamaged(detail)) = self.settle()
        {
            error!(detail, "the store's journal is damaged: {detail}");
        }
    }

    /// Does one thing to a document that has nothing in the journal.
    fn act<T>(
        &mut self,
        document: &DocumentId,
        work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<Result<T, StoreError>, RowError>,
    ) -> Result<T, StoreError> {
        self.settle()?;
        self.transact(|transaction, next_id| {
            work(transaction, next_id).map_err(|error| Failure::of(document, error))
        })
        .unwrap_or_else(|failure| Err(failure.into()))
    }

    fn delete(&mut self, document: &DocumentId) -> Result<bool, StoreError> {
        self.settle()?;
        let is_damaged = self.damaged.read().unwrap_or_else(PoisonError::into_inner).contains_key(document);
        let mut attempt = |keep_contents| {
            self.transact(|transaction, _| {
                let deleted = match changes::delete(transaction, document, keep_contents) {
                    // Nothing leads to it, and it was seen when the store was opened.
                    Ok(false) if is_damaged => {
                        changes::delete_damaged(transaction, document, keep_contents).map(|()| true)
                    }
                    deleted => deleted,
                };
                deleted.map_err(|error| Failure::of(document, error))
            })
        };
        let deleted = match attempt(false) {
            Err(Failure::Damaged(..)) => attempt(true),
            done => done,
        }?;
        if is_damaged {
            self.damaged.write().unwrap_or_else(PoisonError::into_inner).remove(document);
        }
        Ok(deleted)
    }

    /// Runs `work` in a transaction of its own and commits it.
    fn transact<R>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>, &mut i64) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut next_id = self.next_id;
        let connection = self.connection()?;
        let result = (|| {
            // The lock at once: only a foreign program could hold it, and then nothing is begun.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction, &mut next_id)?;
            transaction.commit()?;
            Ok(result)
        })();
        match &result {
            Ok(_) => self.next_id = next_id,
            Err(Failure::Damaged(..) | Failure::JournalDamaged(_)) => {}
            Err(Failure::Unavailable(error)) => self.distrust(error, "could not write"),
        }
        result
    }

    /// Throws the connection away after an error, unless it is one that leaves it as it was.
    ///
    /// After a failed sync the kernel counts the pages as clean although they never reached the disk; so what
    /// SQLite holds for written is not, and syncing again would succeed without writing anything.
    fn distrust(&mut self, error: &rusqlite::Error, what: &str) {
        error!(%error, "the store {what}: {error}");
        let harmless = [ErrorCode::DiskFull, ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
        if !error.sqlite_error_code().is_some_and(|code| harmless.contains(&code)) {
            self.connection = None;
            self.journal = None;
        }
    }

    /// The connection, opened again if it was thrown away.
    fn connection(&mut self) -> rusqlite::Result<&mut Connection> {
        if self.connection.is_none() {
            let connection = schema::open_writer(&self.path)?;
            schema::empty_wal(&connection)?;
            info!("the store's database is open again");
            self.adopt(connection);
        }
        if self.wal_pages.load(Ordering::Relaxed) > WAL_PAGES_MAX {
            // Earlier checkpoints have failed. With this one failing too, nothing is begun.
            let connection = self.connection.as_ref().expect("it was opened right above");
            schema::checkpoint(connection, schema::Checkpoint::Passive)?;
        }
        Ok(self.connection.as_mut().expect("it was opened right above"))
    }

    /// Makes `connection` the one that writes.
    fn adopt(&mut self, mut connection: Connection) {
        self.journal = None;
        let wal_pages = Arc::clone(&self.wal_pages);
        wal_pages.store(0, Ordering::Relaxed);
        let hook = move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            wal_pages.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        };
        if let Err(error) = connection.wal_hook(Some(hook)) {
            warn!(%error, "the write-ahead log's length cannot be watched: {error}");
        }
        self.connection = Some(connection);
    }

    /// Copies the write-ahead log into the database if it has grown long; the next commit then begins it anew.
    fn checkpoint_if_due(&mut self) {
        let pages = self.wal_pages.load(Ordering::Relaxed);
        let Some(connection) = self.connection.as_ref().filter(|_| pages >= CHECKPOINT_PAGES) else { return };
        let mode = if pages < RESTART_PAGES {
            schema::Checkpoint::Passive
        } else {
            schema::Checkpoint::Restart { patience: RESTART_PATIENCE }
        };
        if let Err(error) = schema::checkpoint(connection, mode) {
            self.distrust(&error, "could not copy its write-ahead log into the database");
        }
    }

    /// Leaves everything where it belongs, closes, and answers whoever waits for that.
    fn finish(mut self) {
        if let Err(failure) = self.settle() {
            let error = StoreError::from(failure);
            warn!(%error, "the journal was not settled at the end: {error}");
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = schema::empty_wal(&connection)
        {
            // Nothing is lost: the log is read when the store is opened again.
            warn!(%error, "the write-ahead log was not emptied at the end: {error}");
        }
        drop(self.directory);
        for answer in self.closing {
            let _ = answer.send(Ok(()));
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Damaged(document, error) => error.of(&document),
            Failure::JournalDamaged(detail) => {
                Self::Unavailable { reason: format!("the store's journal is damaged: {detail}") }
            }
            Failure::Unavailable(error) => unavailable(&error),
        }
    }
}

fn update_bytes(change: &Change) -> usize {
    match change {
        Change::Append { events, .. } => events.iter().map(|event| event.update.len()).sum(),
        _ => 0,
    }
}

/// Writes a batch, and says for each of its changes how it went.
fn write_batch(
    transaction: &Transaction<'_>,
    next_id: &mut i64,
    journal: &mut Journal,
    changes: &[Change],
    left_out: &HashMap<DocumentId, StoreError>,
) -> Result<Vec<Result<(), StoreError>>, Failure> {
    let mut batch = Batch::new(transaction, next_id, &mut journal.heads);
    let mut results = Vec::with_capacity(changes.len());
    let mut newest_receipt = None;
    for change in changes {
        results.push(match change {
            Change::Append { document, epoch, events, receipts, .. } => match left_out.get(document) {
                Some(error) => Err(error.clone()),
                None => match append(&mut batch, document, *epoch, events, receipts.is_empty()) {
                    Ok(()) => {
                        for receipt in receipts {
                            receipts::insert(transaction, document, receipt)
                                .map_err(|error| Failure::of(document, error))?;
                            newest_receipt = newest_receipt.max(Some(receipt.time));
                        }
                        Ok(())
                    }
                    Err(AppendError::Refused(error)) => Err(error),
                    Err(AppendError::Failed(error)) => return Err(Failure::of(document, error)),
                },
            },
            _ => {
                transaction.prepare_cached("UPDATE probe SET count = count + 1 WHERE id = 1")?.execute([])?;
                Ok(())
            }
        });
    }
    if let Some(now) = newest_receipt {
        receipts::forget_old(transaction, now)?;
    }
    batch.finish(&mut journal.fill).map_err(|(document, error)| match document {
        Some(document) => Failure::of(&document, error),
        None => error.into(),
    })?;
    Ok(results)
}

/// Adds events to a batch. Where there is a receipt there need be none.
fn append(
    batch: &mut Batch<'_>,
    document: &DocumentId,
    epoch: Option<Epoch>,
    events: &[Event],
    must_be_some: bool,
) -> Result<(), AppendError> {
    if events.is_empty() && !must_be_some {
        return Ok(());
    }
    let epoch = epoch.ok_or_else(|| AppendError::Refused(without_epoch()))?;
    batch.append(document, epoch, events)
}
