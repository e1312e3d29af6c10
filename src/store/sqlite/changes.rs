//! What the writer does within one transaction.
//!
//! Each change is checked before it writes. So one that is refused leaves nothing to undo, and the others of
//! its transaction stand.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::rows::{self, Entry, Life, LogRow, RowError, number};
use super::{journal, receipts, strikes, versions};
use crate::event::Event;
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::store::{Retention, Snapshot, StoreError, Summary, check_dense, retention};

/// Why an append of a batch did not happen.
#[derive(Debug)]
pub enum AppendError {
    /// It cannot be done. It wrote nothing, and the batch goes on.
    Refused(StoreError),
    /// It failed in its middle: all of the batch must be rolled back.
    Failed(RowError),
}

impl From<rusqlite::Error> for AppendError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Documents with events in the journal: their entries, which count those in.
pub type Heads = HashMap<DocumentId, Entry>;

/// Appends to any number of documents: to the journal, or where a document is created, to its log.
pub struct Batch<'c> {
    connection: &'c Connection,
    next_id: &'c mut i64,
    /// After an error it is not what it was before, and is to be thrown away.
    heads: &'c mut Heads,
    created: HashMap<DocumentId, Entry>,
    journaled: journal::Batch,
}

impl<'c> Batch<'c> {
    /// `next_id`: the id for the next document that is created.
    pub fn new(connection: &'c Connection, next_id: &'c mut i64, heads: &'c mut Heads) -> Self {
        Self { connection, next_id, heads, created: HashMap::new(), journaled: journal::Batch::default() }
    }

    /// Takes events; they are written by `finish` at the latest.
    pub fn append(
        &mut self,
        document: &DocumentId,
        epoch: Epoch,
        events: &[Event],
    ) -> Result<(), AppendError> {
        let (first, last) = check_dense(events).map_err(AppendError::Refused)?;
        let moved = || AppendError::Refused(StoreError::Moved { document: document.clone() });
        let (entry, created) = if let Some(entry) = self.heads.get_mut(document) {
            (entry, false)
        } else if let Some(entry) = self.created.get_mut(document) {
            (entry, true)
        } else if let Some(entry) = find_sound(self.connection, document)? {
            (self.heads.entry(document.clone()).or_insert(entry), false)
        } else if first.sequence == Sequence::ZERO.next() {
            let entry = new_entry(self.next_id, document, epoch, first);
            (self.created.entry(document.clone()).or_insert(entry), true)
        } else {
            return Err(moved());
        };
        if entry.summary.epoch != epoch || entry.summary.head.next() != first.sequence {
            return Err(moved());
        }
        for event in events {
            if created {
                LogRow::of(entry, event).insert(self.connection)?;
            } else {
                self.journaled.push(entry, event);
            }
            entry.summary.bytes += event.update.len() as u64;
        }
        entry.summary.head = last.sequence;
        entry.summary.updated_at = last.time;
        Ok(())
    }

    /// Writes the journal, and new documents into the directory. Adds to `fill` what the journal got.
    ///
    /// # Errors
    /// Names the document whose row could not be written, if it is one's: all of the batch must be rolled back.
    pub fn finish(self, fill: &mut journal::Fill) -> Result<(), (Option<DocumentId>, RowError)> {
        for (document, entry) in self.created {
            entry.insert(self.connection).map_err(|error| (Some(document), error))?;
        }
        self.journaled.write(self.connection, fill).map_err(|error| (None, error.into()))
    }
}

/// A document's entry; it has nothing in the journal.
fn find_sound(connection: &Connection, document: &DocumentId) -> Result<Option<Entry>, AppendError> {
    match Entry::find(connection, document) {
        Ok(Some(entry)) if rows::log_goes_on(connection, &entry)? => {
            let detail =
                format!("its log goes on after sequence {}, and should end there", entry.summary.head);
            Err(AppendError::Refused(RowError::Damaged(detail).of(document)))
        }
        Ok(found) => Ok(found),
        Err(RowError::Sqlite(error)) => Err(error.into()),
        Err(damaged) => Err(AppendError::Refused(damaged.of(document))),
    }
}

fn new_entry(next_id: &mut i64, document: &DocumentId, epoch: Epoch, first: &Event) -> Entry {
    let id = *next_id;
    *next_id += 1;
    let summary = Summary {
        document: document.clone(),
        epoch,
        head: Sequence::ZERO,
        oldest: Sequence::ZERO.next(),
        bytes: 0,
        created_at: first.time,
        updated_at: first.time,
        frozen_at: None,
    };
    Entry { id, summary }
}

/// Writes a snapshot and trims the log, as `Store::compact` says. The document has nothing in the journal.
///
/// # Errors
/// Inside: refused, nothing was written. Outside: roll back.
pub fn compact(
    connection: &Connection,
    document: &DocumentId,
    epoch: Epoch,
    snapshot: &Snapshot,
    retention: Retention,
) -> Result<Result<Sequence, StoreError>, RowError> {
    let moved = || Ok(Err(StoreError::Moved { document: document.clone() }));
    let Some(mut entry) = Entry::find(connection, document)? else { return moved() };
    if entry.summary.epoch != epoch || snapshot.sequence > entry.summary.head {
        return moved();
    }
    let mut kept = rows::snapshot_sequences(connection, &entry)?;
    while let Some(newest) = kept.last().copied().filter(|newest| *newest >= snapshot.sequence) {
        match rows::read_snapshot(connection, &entry, newest) {
            Ok(_) => return Ok(Ok(entry.summary.oldest)),
            // This is the time to replace it: the caller has opened the document without it.
            Err(RowError::Damaged(_)) => remove_snapshot(connection, &mut entry, newest)?,
            Err(error) => return Err(error),
        }
        kept.pop();
    }
    if snapshot.sequence == Sequence::ZERO {
        return Ok(Ok(entry.summary.oldest));
    }
    rows::insert_snapshot(connection, &entry, snapshot)?;
    if rows::read_snapshot(connection, &entry, snapshot.sequence)? != *snapshot {
        return Err(RowError::Damaged("a snapshot did not read back as it was written".into()));
    }
    entry.summary.bytes += snapshot.update.len() as u64;
    kept.push(snapshot.sequence);

    let first_kept = first_kept(connection, &entry, retention)?;
    let pinned = versions::pinned(connection, &entry)?;
    let mut plan = retention::plan(&kept, &pinned, first_kept);
    while let Some(base) = plan.base.filter(|base| *base >= entry.summary.oldest) {
        match rows::read_snapshot(connection, &entry, base) {
            Ok(_) => {
                trim(connection, &mut entry, base)?;
                break;
            }
            // The log before a snapshot that does not read back is all that is left of that time.
            Err(RowError::Damaged(_)) => remove_snapshot(connection, &mut entry, base)?,
            Err(error) => return Err(error),
        }
        kept.retain(|sequence| *sequence != base);
        plan = retention::plan(&kept, &pinned, first_kept);
    }
    for dropped in plan.dropped {
        remove_snapshot(connection, &mut entry, dropped)?;
    }
    entry.update(connection)?;
    Ok(Ok(entry.summary.oldest))
}

/// The first sequence that `retention` wants to keep.
fn first_kept(connection: &Connection, entry: &Entry, retention: Retention) -> Result<Sequence, RowError> {
    let head = entry.summary.head;
    let mut statement = connection.prepare_cached(
        "SELECT sequence FROM log WHERE document = ?1 AND sequence > ?2 AND time >= ?3
         ORDER BY sequence LIMIT 1",
    )?;
    let count_bound = number(head.minus(retention.keep_updates));
    let mut rows = statement.query(params![entry.id, count_bound, retention.keep_since.milliseconds()])?;
    Ok(match rows.next()? {
        Some(row) => Sequence::new(row.get(0)?),
        None => head.next(),
    })
}

/// Removes the log up to and including `last`.
fn trim(connection: &Connection, entry: &mut Entry, last: Sequence) -> Result<(), RowError> {
    let trimmed = params![entry.id, number(last)];
    let bytes: u64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(length(content)), 0) FROM log WHERE document = ?1 AND sequence <= ?2",
        )?
        .query_row(trimmed, |row| row.get(0))?;
    connection.prepare_cached("DELETE FROM log WHERE document = ?1 AND sequence <= ?2")?.execute(trimmed)?;
    entry.summary.bytes = entry.summary.bytes.saturating_sub(bytes);
    entry.summary.oldest = last.next();
    Ok(())
}

/// Removes a snapshot, whether it reads back or not.
fn remove_snapshot(connection: &Connection, entry: &mut Entry, at: Sequence) -> Result<(), RowError> {
    let removed = params![entry.id, number(at)];
    let bytes: u64 = connection
        .prepare_cached(
            "SELECT coalesce(sum(length(content)), 0) FROM snapshots WHERE document = ?1 AND sequence = ?2",
        )?
        .query_row(removed, |row| row.get(0))?;
    connection
        .prepare_cached("DELETE FROM snapshots WHERE document = ?1 AND sequence = ?2")?
        .execute(removed)?;
    entry.summary.bytes = entry.summary.bytes.saturating_sub(bytes);
    Ok(())
}

/// Deletes all that is known to belong to a document, damaged or not.
///
/// `keep_contents`: leave its log and snapshots, which nothing leads to any more: for when those cannot be
/// deleted, since their pages are damaged. Their id is not given again.
pub fn delete(connection: &Connection, document: &DocumentId, keep_contents: bool) -> Result<bool, RowError> {
    receipts::forget(connection, document)?;
    strikes::clear(connection, document)?;
    match Entry::find(connection, document) {
        Ok(None) => return Ok(false),
        Ok(Some(entry)) => {
            if !keep_contents {
                delete_contents(connection, entry.id)?;
            }
            connection.prepare_cached("DELETE FROM documents WHERE id = ?1")?.execute([entry.id])?;
        }
        Err(RowError::Damaged(_)) => delete_damaged(connection, document, keep_contents)?,
        Err(error) => return Err(error),
    }
    connection.prepare_cached("DELETE FROM lives WHERE name = ?1")?.execute([document.as_str()])?;
    Ok(true)
}

fn delete_contents(connection: &Connection, id: i64) -> Result<(), RowError> {
    connection.prepare_cached("DELETE FROM log WHERE document = ?1")?.execute([id])?;
    for table in ["snapshots", "versions", "freezes"] {
        connection.prepare_cached(&format!("DELETE FROM {table} WHERE document = ?1"))?.execute([id])?;
    }
    Ok(())
}

/// Deletes a document whose row of the directory is not what was written.
///
/// An id is believed only if a checksum binds it to this name: the contents of another document are not
/// put at risk to clear up after this one.
pub fn delete_damaged(
    connection: &Connection,
    document: &DocumentId,
    keep_contents: bool,
) -> Result<(), RowError> {
    // The index may hold what its table does not, and then no row can be deleted through it.
    connection.execute_batch("DROP INDEX documents_name")?;
    let mut ids: Vec<i64> = connection
        .prepare("SELECT id FROM documents WHERE name = ?1")?
        .query_map([document.as_str()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if let Ok(Some(life)) = Life::find(connection, document) {
        if !keep_contents {
            delete_contents(connection, life.id)?;
        }
        ids.push(life.id);
    }
    for id in ids {
        if !belongs_to_another(connection, id, document)? {
            connection.execute("DELETE FROM documents WHERE id = ?1", [id])?;
        }
    }
    connection.execute("DELETE FROM lives WHERE name = ?1", [document.as_str()])?;
    connection.execute_batch(super::schema::DOCUMENTS_NAME)?;
    Ok(())
}

/// Whether the row `id` of the directory is a sound one of another document.
fn belongs_to_another(connection: &Connection, id: i64, document: &DocumentId) -> Result<bool, RowError> {
    let sql = format!("SELECT {} FROM documents WHERE id = ?1", Entry::COLUMNS);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    Ok(Entry::read(row).is_ok_and(|entry| entry.summary.document != *document))
}
