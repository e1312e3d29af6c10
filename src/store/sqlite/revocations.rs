//! What was taken back before its time, as `auth` has it.

use rusqlite::{Connection, params};

use super::rows::{Checksum, RowError};
use crate::auth::revocations::{Revocation, Revoked};
use crate::event::Timestamp;

/// How a kind is written, and the name that goes with it.
fn columns(revoked: &Revoked) -> (&'static str, &str) {
    match revoked {
        Revoked::User(user) => ("sub", user),
        Revoked::Token(token) => ("jti", token),
        Revoked::Document(document) => ("doc", document.as_str()),
    }
}

fn checksum(revocation: &Revocation) -> u32 {
    let (kind, name) = columns(&revocation.revoked);
    Checksum::of(b'x').text(kind).text(name).number(revocation.at.milliseconds()).value()
}

/// Writes a revocation, in the place of an earlier one of the same, and forgets what was revoked before `keep_since`.
pub fn add(
    connection: &Connection,
    revocation: &Revocation,
    keep_since: Option<Timestamp>,
) -> rusqlite::Result<()> {
    let (kind, name) = columns(&revocation.revoked);
    let at = revocation.at.milliseconds();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO revocations (kind, name, time, checksum) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![kind, name, at, checksum(revocation)])?;
    if let Some(since) = keep_since {
        connection
            .prepare_cached("DELETE FROM revocations WHERE time < ?1")?
            .execute([since.milliseconds()])?;
    }
    Ok(())
}

/// # Errors
/// `Damaged`: one of them was altered. Which one it was, and so who must stay out, is not known then.
pub fn all(connection: &Connection) -> Result<Vec<Revocation>, RowError> {
    let mut statement = connection.prepare("SELECT kind, name, time, checksum FROM revocations")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    let altered = || RowError::Damaged("a revocation was altered".into());
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let revoked = match kind.as_str() {
            "sub" => Revoked::User(name),
            "jti" => Revoked::Token(name),
            "doc" => Revoked::Document(name.parse().map_err(|_| altered())?),
            _ => return Err(altered()),
        };
        let revocation = Revocation { revoked, at: Timestamp::from_milliseconds(row.get(2)?) };
        if row.get::<_, u32>(3)? != checksum(&revocation) {
            return Err(altered());
        }
        all.push(revocation);
    }
    Ok(all)
}
