//! Receipts: what requests were answered that must be carried out only once.
//!
//! They are written in the transaction of the events that they tell of, so either both are there or neither.

use bytes::Bytes;
use rusqlite::{Connection, params};
use tracing::warn;

use super::rows::{Checksum, RowError};
use crate::event::Timestamp;
use crate::ids::DocumentId;
use crate::store::Receipt;

/// How a user is written; nobody is the empty text.
fn column(user: Option<&str>) -> String {
    user.map_or_else(String::new, |user| format!("u{user}"))
}

fn checksum(document: &DocumentId, receipt: &Receipt) -> u32 {
    Checksum::of(b'r')
        .text(document.as_str())
        .optional(receipt.user.as_deref())
        .text(&receipt.key)
        .number(receipt.time.milliseconds())
        .bytes(&receipt.digest)
        .bytes(&receipt.answer)
        .value()
}

/// Writes a receipt, in the place of an earlier one under the same key.
pub fn insert(connection: &Connection, document: &DocumentId, receipt: &Receipt) -> Result<(), RowError> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO receipts (document, user, key, time, digest, answer, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(params![
        document.as_str(),
        column(receipt.user.as_deref()),
        receipt.key,
        receipt.time.milliseconds(),
        receipt.digest,
        &receipt.answer[..],
        checksum(document, receipt),
    ])?;
    Ok(())
}

/// Reads a receipt. `Damaged` if it is not what was written.
pub fn find(
    connection: &Connection,
    document: &DocumentId,
    user: Option<&str>,
    key: &str,
) -> Result<Option<Receipt>, RowError> {
    let mut statement = connection.prepare_cached(
        "SELECT time, digest, answer, checksum FROM receipts
         WHERE document = ?1 AND user = ?2 AND key = ?3",
    )?;
    let mut rows = statement.query(params![document.as_str(), column(user), key])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let altered = || RowError::Damaged("the receipt of a request was altered".into());
    let blob = |column| row.get_ref(column).map_err(RowError::from)?.as_blob().map_err(|_| altered());
    let receipt = Receipt {
        user: user.map(str::to_owned),
        key: key.to_owned(),
        time: Timestamp::from_milliseconds(row.get(0)?),
        digest: blob(1)?.try_into().map_err(|_| altered())?,
        answer: Bytes::copy_from_slice(blob(2)?),
    };
    if row.get::<_, u32>(3)? == checksum(document, &receipt) { Ok(Some(receipt)) } else { Err(altered()) }
}

/// Removes the receipts that nobody can ask for any more.
pub fn forget_old(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let forgotten_at = Receipt::forgotten_at(now).milliseconds();
    let removed = connection
        .prepare_cached("DELETE FROM receipts WHERE time <= ?1")?
        .execute([forgotten_at])
        .map(drop)
        .map_err(RowError::from);
    tolerate(removed)
}

/// Removes all receipts of a document.
pub fn forget(connection: &Connection, document: &DocumentId) -> rusqlite::Result<()> {
    let removed = connection
        .prepare_cached("DELETE FROM receipts WHERE document = ?1")?
        .execute([document.as_str()])
        .map(drop)
        .map_err(RowError::from);
    tolerate(removed)
}

/// Where receipts cannot be removed since their pages are damaged they stay: that must not keep a document from
/// being written or deleted.
fn tolerate(removed: Result<(), RowError>) -> rusqlite::Result<()> {
    match removed {
        Ok(()) => Ok(()),
        Err(RowError::Damaged(detail)) => {
            warn!(detail, "receipts of requests were not removed: {detail}");
            Ok(())
        }
        Err(RowError::Sqlite(error)) => Err(error),
    }
}
