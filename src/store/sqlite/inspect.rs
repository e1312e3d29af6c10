//! A look at the directory of documents when a store is opened, so that damage is known before it is asked for.
//!
//! The contents of documents are not read here, which would take as long as there are many: they are
//! checked when a document is opened.

use std::collections::HashMap;

use rusqlite::Connection;
use tracing::warn;

use super::rows::{Entry, RowError};
use crate::ids::DocumentId;

/// Documents that are out of service, and why.
pub type Damaged = HashMap<DocumentId, String>;

/// Ids from here on are not from counting up, but from damage.
const IDS_MAX: i64 = 1 << 62;

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub damaged: Damaged,
    /// Greater than every id that is in use, by damaged documents too.
    pub next_id: i64,
}

/// Looks up every document that either table of the directory knows, as `load` would.
///
/// # Errors
/// SQLite could not read, or both tables of the directory are damaged, so that which documents there are
/// is not known.
pub fn inspect(connection: &Connection) -> Result<Found, RowError> {
    let mut damaged = Damaged::new();
    let mut sound = 0_u64;
    let by_lives = for_each_name(connection, "SELECT name FROM lives ORDER BY name", |document| {
        match Entry::find(connection, &document) {
            Ok(_) => sound += 1,
            Err(RowError::Damaged(detail)) => _ = damaged.insert(document, detail),
            Err(error) => return Err(error),
        }
        Ok(())
    });
    let counted = count(connection);
    let agree = matches!((&by_lives, &counted), (Ok(()), Ok(counted)) if *counted == sound);
    if !agree {
        // One of the two tables has lost something. Between them they know every name.
        let sql = "SELECT name FROM documents NOT INDEXED ORDER BY id";
        let by_documents = for_each_name(connection, sql, |document| {
            let detail = match Entry::find(connection, &document) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => "the index of names does not lead to it".into(),
                Err(RowError::Damaged(detail)) => detail,
                Err(error) => return Err(error),
            };
            damaged.insert(document, detail);
            Ok(())
        });
        match (by_lives, by_documents) {
            (Err(RowError::Sqlite(error)), _) | (_, Err(RowError::Sqlite(error))) => {
                return Err(RowError::Sqlite(error));
            }
            (Err(lives), Err(documents)) => {
                return Err(RowError::Damaged(format!("both tables of the directory: {lives}; {documents}")));
            }
            (Err(error), Ok(())) | (Ok(()), Err(error)) => {
                warn!(%error, "a table of the directory of documents is damaged: {error}");
            }
            (Ok(()), Ok(())) => {}
        }
    }
    for (document, detail) in &damaged {
        warn!(document.id = %document, detail, "document `{document}` is out of service: {detail}");
    }
    Ok(Found { damaged, next_id: next_id(connection)? })
}

/// Calls `visit` with every name that `sql` selects. What is no name (any more) is passed over.
fn for_each_name(
    connection: &Connection,
    sql: &str,
    mut visit: impl FnMut(DocumentId) -> Result<(), RowError>,
) -> Result<(), RowError> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(document) = row.get_ref(0)?.as_str().ok().and_then(|name| name.parse().ok()) {
            visit(document)?;
        }
    }
    Ok(())
}

/// Rows of the directory, counted in the table itself.
fn count(connection: &Connection) -> Result<u64, RowError> {
    Ok(connection.query_row("SELECT count(*) FROM documents NOT INDEXED", [], |row| row.get(0))?)
}

/// An id that no document has, and none had whose rows may be left.
fn next_id(connection: &Connection) -> Result<i64, RowError> {
    let mut highest = 0;
    for (table, column) in
        [("documents", "id"), ("lives", "document"), ("log", "document"), ("snapshots", "document")]
    {
        let sql = format!("SELECT max({column}) FROM {table} WHERE {column} < ?1");
        let max = connection.query_row(&sql, [IDS_MAX], |row| row.get::<_, Option<i64>>(0));
        match max.map_err(RowError::from) {
            Ok(id) => highest = highest.max(id.unwrap_or(0)),
            // Were the id given after all, the insert would meet the old row and fail.
            Err(RowError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(highest + 1)
}
