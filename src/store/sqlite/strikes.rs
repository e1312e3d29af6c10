//! Strikes: documents that have failed in the sandbox, and which of them are quarantined for it.

use rusqlite::{Connection, Row, params};
use tracing::warn;

use super::rows::{Checksum, Entry, RowError};
use crate::event::Timestamp;
use crate::ids::DocumentId;
use crate::store::Strikes;

fn checksum(strikes: &Strikes) -> u32 {
    let quarantined_at = strikes.quarantined_at.map(|time| time.milliseconds().to_string());
    Checksum::of(b'k')
        .text(strikes.document.as_str())
        .number(i64::from(strikes.count))
        .text(&strikes.reason)
        .number(strikes.last_at.milliseconds())
        .optional(quarantined_at.as_deref())
        .value()
}

const COLUMNS: &str = "document, count, reason, last_at, quarantined_at, checksum";

fn read(row: &Row<'_>) -> Result<Strikes, RowError> {
    let altered = || RowError::Damaged("a note of strikes was altered".into());
    let strikes = Strikes {
        document: row.get_ref(0)?.as_str().ok().and_then(|name| name.parse().ok()).ok_or_else(altered)?,
        count: row.get(1)?,
        reason: row.get(2)?,
        last_at: Timestamp::from_milliseconds(row.get(3)?),
        quarantined_at: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_milliseconds),
    };
    if row.get::<_, u32>(5)? == checksum(&strikes) { Ok(strikes) } else { Err(altered()) }
}

/// Notes one more strike. `None`: there is no such document.
pub fn add(
    connection: &Connection,
    document: &DocumentId,
    reason: &str,
    now: Timestamp,
) -> Result<Option<Strikes>, RowError> {
    if Entry::find(connection, document)?.is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT {COLUMNS} FROM strikes WHERE document = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([document.as_str()])?;
    let previous = match rows.next()?.map(read).transpose() {
        Ok(previous) => previous,
        // It is written anew.
        Err(RowError::Damaged(_)) => None,
        Err(error) => return Err(error),
    };
    drop(rows);
    let strikes = Strikes::with_one_more(previous, document, reason, now);
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO strikes (document, count, reason, last_at, quarantined_at, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    statement.execute(params![
        document.as_str(),
        strikes.count,
        strikes.reason,
        strikes.last_at.milliseconds(),
        strikes.quarantined_at.map(Timestamp::milliseconds),
        checksum(&strikes),
    ])?;
    Ok(Some(strikes))
}

/// The quarantined documents, by id. Notes that were altered are left out.
pub fn quarantined(connection: &Connection) -> Result<Vec<Strikes>, RowError> {
    let sql = format!("SELECT {COLUMNS} FROM strikes WHERE quarantined_at IS NOT NULL ORDER BY document");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut quarantined = Vec::new();
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(strikes) => quarantined.push(strikes),
            Err(RowError::Damaged(detail)) => warn!(detail, "passed over a quarantine: {detail}"),
            Err(error) => return Err(error),
        }
    }
    Ok(quarantined)
}

/// Forgets all strikes of a document. `false`: there were none.
pub fn clear(connection: &Connection, document: &DocumentId) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("DELETE FROM strikes WHERE document = ?1")?;
    Ok(statement.execute([document.as_str()])? > 0)
}
