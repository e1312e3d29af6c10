//! A whole document out of the store, and into it.

use rusqlite::Connection;

use super::rows::{self, Entry, LogRow, RowError};
use super::versions;
use crate::event::Event;
use crate::store::{Archive, Summary};

/// Reads all that there is of a document.
///
/// `entry`: what its log has; `journaled` follows; `summary`: all together.
pub fn read(
    connection: &Connection,
    entry: &Entry,
    journaled: Vec<Event>,
    summary: Summary,
) -> Result<Archive, RowError> {
    let mut snapshots = Vec::new();
    for sequence in rows::snapshot_sequences(connection, entry)? {
        match rows::read_snapshot(connection, entry, sequence) {
            Ok(snapshot) => snapshots.push(snapshot),
            // Where the log makes up for it, it is not missed; `Archive::check` tells.
            Err(RowError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let mut log = rows::read_log(connection, entry, summary.oldest.minus(1), |_| true)?;
    log.extend(journaled);
    let archive = Archive { versions: versions::versions(connection, entry)?, summary, snapshots, log };
    archive.check().map_err(RowError::Damaged)?;
    Ok(archive)
}

/// Writes a document that was archived. `false`: there is one of that name.
pub fn write(connection: &Connection, next_id: &mut i64, archive: &Archive) -> Result<bool, RowError> {
    if Entry::find(connection, &archive.summary.document)?.is_some() {
        return Ok(false);
    }
    let mut entry = Entry { id: *next_id, summary: archive.summary.clone() };
    *next_id += 1;
    let log_bytes: usize = archive.log.iter().map(|event| event.update.len()).sum();
    let snapshot_bytes: usize = archive.snapshots.iter().map(|snapshot| snapshot.update.len()).sum();
    entry.summary.bytes = (log_bytes + snapshot_bytes) as u64;
    entry.insert(connection)?;
    for snapshot in &archive.snapshots {
        rows::insert_snapshot(connection, &entry, snapshot)?;
    }
    for event in &archive.log {
        LogRow::of(&entry, event).insert(connection)?;
    }
    for version in &archive.versions {
        versions::insert_version(connection, &entry, version)?;
    }
    versions::freeze(connection, &entry, archive.summary.frozen_at)?;
    Ok(true)
}
