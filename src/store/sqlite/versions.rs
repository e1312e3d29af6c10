//! What is noted of a document beside its log: names for points of its history, and whether it is frozen.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, Checksum, Entry, RowError, number};
use crate::event::Timestamp;
use crate::ids::{DocumentId, Epoch, Sequence, VersionName};
use crate::store::{Naming, Snapshot, StoreError, Version};

fn version_checksum(entry: &Entry, version: &Version) -> u32 {
    Checksum::of(b'v')
        .text(entry.summary.document.as_str())
        .text(entry.summary.epoch.as_str())
        .text(version.name.as_str())
        .number(number(version.sequence))
        .number(version.created_at.milliseconds())
        .value()
}

fn freeze_checksum(entry: &Entry, since: Timestamp) -> u32 {
    Checksum::of(b'f')
        .text(entry.summary.document.as_str())
        .text(entry.summary.epoch.as_str())
        .number(since.milliseconds())
        .value()
}

/// A document's versions, by sequence and name.
pub fn versions(connection: &Connection, entry: &Entry) -> Result<Vec<Version>, RowError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, sequence, created_at, checksum FROM versions WHERE document = ?1 ORDER BY sequence, name",
    )?;
    let mut rows = statement.query([entry.id])?;
    let mut versions = Vec::new();
    while let Some(row) = rows.next()? {
        let version = Version {
            name: rows::parsed(row, 0)?,
            sequence: Sequence::new(row.get(1)?),
            created_at: Timestamp::from_milliseconds(row.get(2)?),
        };
        if row.get::<_, u32>(3)? != version_checksum(entry, &version) {
            return Err(RowError::Damaged("one of its versions was altered".into()));
        }
        versions.push(version);
    }
    Ok(versions)
}

/// The sequences of a document's versions. Those of altered rows too: nothing is let go on their account.
pub fn pinned(connection: &Connection, entry: &Entry) -> rusqlite::Result<Vec<Sequence>> {
    let mut statement = connection.prepare_cached("SELECT sequence FROM versions WHERE document = ?1")?;
    let sequences = statement.query_map([entry.id], |row| row.get(0).map(Sequence::new))?;
    sequences.collect()
}

pub fn insert_version(connection: &Connection, entry: &Entry, version: &Version) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO versions (document, name, sequence, created_at, checksum) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    statement.execute(params![
        entry.id,
        version.name.as_str(),
        number(version.sequence),
        version.created_at.milliseconds(),
        version_checksum(entry, version),
    ])?;
    Ok(())
}

/// Gives a name to a point of the history, as `Store::add_version` says. The document has nothing in the journal.
///
/// # Errors
/// Inside: refused, nothing was written. Outside: roll back.
pub fn add_version(
    connection: &Connection,
    document: &DocumentId,
    epoch: Epoch,
    version: &Version,
    snapshot: &Snapshot,
    versions_max: usize,
) -> Result<Result<Naming, StoreError>, RowError> {
    let moved = || Ok(Err(StoreError::Moved { document: document.clone() }));
    let Some(mut entry) = Entry::find(connection, document)? else { return moved() };
    let fits = entry.summary.epoch == epoch && version.sequence <= entry.summary.head;
    if !fits || version.sequence != snapshot.sequence {
        return moved();
    }
    let known = versions(connection, &entry)?;
    if let Some(taken) = known.iter().find(|known| known.name == version.name) {
        return Ok(Ok(Naming::Taken(taken.clone())));
    }
    if known.len() >= versions_max {
        return Ok(Ok(Naming::Full));
    }
    if !rows::snapshot_sequences(connection, &entry)?.contains(&snapshot.sequence) {
        rows::insert_snapshot(connection, &entry, snapshot)?;
        entry.summary.bytes += snapshot.update.len() as u64;
        entry.update(connection)?;
    }
    // One that was there may be damaged, and is then of no use to a version.
    rows::read_snapshot(connection, &entry, snapshot.sequence)?;
    insert_version(connection, &entry, version)?;
    Ok(Ok(Naming::Added))
}

pub fn remove_version(
    connection: &Connection,
    document: &DocumentId,
    name: &VersionName,
) -> Result<bool, RowError> {
    let Some(entry) = Entry::find(connection, document)? else { return Ok(false) };
    let sql = "DELETE FROM versions WHERE document = ?1 AND name = ?2";
    Ok(connection.prepare_cached(sql)?.execute(params![entry.id, name.as_str()])? > 0)
}

/// Since when a document is frozen.
pub fn frozen_at(connection: &Connection, entry: &Entry) -> Result<Option<Timestamp>, RowError> {
    let sql = "SELECT since, checksum FROM freezes WHERE document = ?1";
    let row = connection
        .prepare_cached(sql)?
        .query_row([entry.id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))
        .optional()?;
    let Some((since, checksum)) = row else { return Ok(None) };
    let since = Timestamp::from_milliseconds(since);
    if checksum == freeze_checksum(entry, since) {
        Ok(Some(since))
    } else {
        Err(RowError::Damaged("the note that it is frozen was altered".into()))
    }
}

pub fn set_frozen(
    connection: &Connection,
    document: &DocumentId,
    epoch: Epoch,
    since: Option<Timestamp>,
) -> Result<Result<(), StoreError>, RowError> {
    let entry = Entry::find(connection, document)?.filter(|entry| entry.summary.epoch == epoch);
    let Some(entry) = entry else {
        return Ok(Err(StoreError::Moved { document: document.clone() }));
    };
    freeze(connection, &entry, since)?;
    Ok(Ok(()))
}

pub fn freeze(connection: &Connection, entry: &Entry, since: Option<Timestamp>) -> rusqlite::Result<()> {
    match since {
        Some(since) => {
            let sql = "INSERT OR REPLACE INTO freezes (document, since, checksum) VALUES (?1, ?2, ?3)";
            let checksum = freeze_checksum(entry, since);
            connection.prepare_cached(sql)?.execute(params![entry.id, since.milliseconds(), checksum])?;
        }
        None => {
            connection.prepare_cached("DELETE FROM freezes WHERE document = ?1")?.execute([entry.id])?;
        }
    }
    Ok(())
}
