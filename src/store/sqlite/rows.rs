//! Rows as they lie on disk, each with a checksum over all that it means.
//!
//! A checksum covers a row's own values and what the row belongs to (the document's *name*, its epoch,
//! the sequence), so that a row which turns up in another place is noticed like one that was altered.

use bytes::Bytes;
use crc32fast::Hasher;
use rusqlite::{Connection, Row, Statement, params};

use crate::event::{Event, Origin, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::store::{Snapshot, StoreError, Summary};

/// Why a row cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// It is there, or should be, and is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// SQLite could not read or write just now.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ErrorCode};
        match &error {
            // A value of the wrong type, or pages that make no sense: the bytes were altered.
            Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..) => Self::Damaged(error.to_string()),
            // A constraint can only fail if rows lie where the directory says that there are none.
            Error::SqliteFailure(failure, _)
                if matches!(
                    failure.code,
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation
                ) =>
            {
                Self::Damaged(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl RowError {
    pub fn of(self, document: &DocumentId) -> StoreError {
        match self {
            Self::Damaged(detail) => StoreError::Corrupt { document: document.clone(), detail },
            Self::Sqlite(error) => unavailable(&error),
        }
    }
}

pub fn unavailable(error: &rusqlite::Error) -> StoreError {
    StoreError::Unavailable { reason: error.to_string() }
}

fn damaged<T>(detail: impl Into<String>) -> Result<T, RowError> {
    Err(RowError::Damaged(detail.into()))
}

/// A checksum over fields of which none can run into the next.
pub struct Checksum(Hasher);

impl Checksum {
    /// `kind`: so that a row of one table is none of another's.
    pub fn of(kind: u8) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&[kind]);
        Self(hasher)
    }

    pub fn number(mut self, number: i64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1).text(text),
            None => self.number(0),
        }
    }

    pub fn value(self) -> u32 {
        self.0.finalize()
    }
}

/// A sequence as SQLite keeps numbers. Those of a real log fit: there is no time to count further.
pub fn number(sequence: Sequence) -> i64 {
    i64::try_from(sequence.get()).unwrap_or(i64::MAX)
}

fn sequence(row: &Row<'_>, column: usize) -> rusqlite::Result<Sequence> {
    row.get(column).map(Sequence::new)
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_milliseconds)
}

/// A text of a row, parsed. `Damaged` if it is not what it was when it was written.
pub fn parsed<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> Result<T, RowError> {
    let text = row.get_ref(column)?.as_str().map_err(|error| RowError::Damaged(error.to_string()))?;
    text.parse().map_err(|_| RowError::Damaged(format!("{text:?} was altered")))
}

/// A document's row in the directory: where its log ends, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key of its log and snapshots. New for every life of a document, and never given twice.
    pub id: i64,
    pub summary: Summary,
}

impl Entry {
    /// The columns that `read` takes, in its order.
    pub const COLUMNS: &str = "id, name, epoch, head, oldest, bytes, created_at, updated_at, checksum";

    fn checksum(&self) -> u32 {
        let summary = &self.summary;
        Checksum::of(b'd')
            .number(self.id)
            .text(summary.document.as_str())
            .text(summary.epoch.as_str())
            .number(number(summary.head))
            .number(number(summary.oldest))
            .number(summary.bytes.cast_signed())
            .number(summary.created_at.milliseconds())
            .number(summary.updated_at.milliseconds())
            .value()
    }

    pub fn read(row: &Row<'_>) -> Result<Self, RowError> {
        let id = row.get(0)?;
        let altered = || RowError::Damaged(format!("its row {id} of the directory was altered"));
        let read = || -> Result<(Self, u32), RowError> {
            let summary = Summary {
                document: parsed(row, 1)?,
                epoch: parsed(row, 2)?,
                head: sequence(row, 3)?,
                oldest: sequence(row, 4)?,
                bytes: row.get(5)?,
                created_at: time(row, 6)?,
                updated_at: time(row, 7)?,
                // Noted in a table of its own, which those who ask look up.
                frozen_at: None,
            };
            Ok((Self { id, summary }, row.get(8)?))
        };
        match read() {
            Ok((entry, checksum)) if checksum == entry.checksum() => Ok(entry),
            Ok(_) | Err(RowError::Damaged(_)) => Err(altered()),
            Err(error) => Err(error),
        }
    }

    /// Finds a document by its name. `None`: there is none, and no trace of one.
    pub fn find(connection: &Connection, document: &DocumentId) -> Result<Option<Self>, RowError> {
        // `Self::COLUMNS`, as one literal: this is asked for every append.
        let mut statement = connection.prepare_cached(
            "SELECT id, name, epoch, head, oldest, bytes, created_at, updated_at, checksum
             FROM documents WHERE name = ?1",
        )?;
        let mut rows = statement.query([document.as_str()])?;
        if let Some(row) = rows.next()? {
            let entry = Self::read(row)?;
            return if entry.summary.document == *document {
                Ok(Some(entry))
            } else {
                damaged("the index of names leads to another document")
            };
        }
        match Life::find(connection, document)? {
            None => Ok(None),
            Some(life) => damaged(format!("its row {} of the directory is missing", life.id)),
        }
    }

    /// The row of the directory with this id.
    pub fn by_id(connection: &Connection, id: i64) -> Result<Option<Self>, RowError> {
        let mut statement = connection.prepare_cached(
            "SELECT id, name, epoch, head, oldest, bytes, created_at, updated_at, checksum
             FROM documents WHERE id = ?1",
        )?;
        let mut rows = statement.query([id])?;
        rows.next()?.map(Self::read).transpose()
    }

    pub fn insert(&self, connection: &Connection) -> Result<(), RowError> {
        let summary = &self.summary;
        let mut statement = connection.prepare_cached(
            "INSERT INTO documents (id, name, epoch, head, oldest, bytes, created_at, updated_at, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        statement.execute(params![
            self.id,
            summary.document.as_str(),
            summary.epoch.as_str(),
            number(summary.head),
            number(summary.oldest),
            summary.bytes.cast_signed(),
            summary.created_at.milliseconds(),
            summary.updated_at.milliseconds(),
            self.checksum(),
        ])?;
        Ok(Life { id: self.id, epoch: summary.epoch }.insert(connection, &summary.document)?)
    }

    /// Writes what changes in the life of a document.
    pub fn update(&self, connection: &Connection) -> Result<(), RowError> {
        let summary = &self.summary;
        let mut statement = connection.prepare_cached(
            "UPDATE documents SET head = ?2, oldest = ?3, bytes = ?4, updated_at = ?5, checksum = ?6
             WHERE id = ?1",
        )?;
        let updated = statement.execute(params![
            self.id,
            number(summary.head),
            number(summary.oldest),
            summary.bytes.cast_signed(),
            summary.updated_at.milliseconds(),
            self.checksum(),
        ])?;
        if updated == 1 { Ok(()) } else { damaged(format!("its row {} of the directory is gone", self.id)) }
    }
}

/// What is written of a document once, when its life begins, in a table of its own: should its row of
/// the directory be lost, the document is known to be damaged, and is not taken for one never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub id: i64,
    pub epoch: Epoch,
}

impl Life {
    fn checksum(&self, document: &DocumentId) -> u32 {
        Checksum::of(b'l').number(self.id).text(document.as_str()).text(self.epoch.as_str()).value()
    }

    fn insert(&self, connection: &Connection, document: &DocumentId) -> rusqlite::Result<()> {
        let mut statement = connection
            .prepare_cached("INSERT INTO lives (name, document, epoch, checksum) VALUES (?1, ?2, ?3, ?4)")?;
        statement.execute(params![
            document.as_str(),
            self.id,
            self.epoch.as_str(),
            self.checksum(document)
        ])?;
        Ok(())
    }

    pub fn find(connection: &Connection, document: &DocumentId) -> Result<Option<Self>, RowError> {
        let mut statement =
            connection.prepare_cached("SELECT document, epoch, checksum FROM lives WHERE name = ?1")?;
        let mut rows = statement.query([document.as_str()])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let life = Self { id: row.get(0)?, epoch: parsed(row, 1)? };
        if row.get::<_, u32>(2)? == life.checksum(document) {
            Ok(Some(life))
        } else {
            damaged("the row of its birth was altered")
        }
    }
}

pub fn event_checksum(document: &DocumentId, epoch: Epoch, event: &Event) -> u32 {
    Checksum::of(b'e')
        .text(document.as_str())
        .text(epoch.as_str())
        .number(number(event.sequence))
        .number(event.time.milliseconds())
        .optional(event.origin.client().map(|client| client.as_str()))
        .optional(event.user.as_deref())
        .bytes(&event.update)
        .value()
}

/// One event of a document's log, as it is written; whether it is what it was is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow<'a> {
    /// The id of its document's entry.
    pub document: i64,
    pub sequence: i64,
    pub time: i64,
    pub origin: Option<&'a str>,
    pub user: Option<&'a str>,
    pub checksum: u32,
    pub content: &'a [u8],
    /// `false`: it stands for one of which only this is known, that it was there.
    pub is_readable: bool,
}

impl<'a> LogRow<'a> {
    pub fn of(entry: &Entry, event: &'a Event) -> Self {
        Self {
            document: entry.id,
            sequence: number(event.sequence),
            time: event.time.milliseconds(),
            origin: event.origin.client().map(|client| client.as_str()),
            user: event.user.as_deref(),
            checksum: event_checksum(&entry.summary.document, entry.summary.epoch, event),
            content: &event.update,
            is_readable: true,
        }
    }

    /// Stands for an event that cannot be read. `content`: what is left of it.
    pub fn unreadable(document: i64, sequence: i64, content: &'a [u8]) -> Self {
        let (time, origin, user, checksum) = (-1, None, None, 0);
        Self { document, sequence, time, origin, user, checksum, content, is_readable: false }
    }

    /// Writes a row where none is.
    pub fn insert(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT INTO log (document, sequence, time, origin, user, checksum, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        self.execute(&mut statement)
    }

    /// Writes a row, over another one if there is one.
    pub fn put(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO log (document, sequence, time, origin, user, checksum, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        self.execute(&mut statement)
    }

    fn execute(&self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        let Self { document, sequence, time, origin, user, checksum, content, .. } = self;
        statement.execute(params![document, sequence, time, origin, user, checksum, content])?;
        Ok(())
    }

    /// Adds the event to what is known of its document. Events are added in order.
    pub fn count_in(&self, summary: &mut Summary) {
        summary.head = Sequence::new(self.sequence.cast_unsigned());
        summary.bytes += self.content.len() as u64;
        summary.updated_at = Timestamp::from_milliseconds(self.time);
    }

    /// The event, if it is what was written.
    pub fn event(&self, entry: &Entry) -> Result<Event, RowError> {
        let altered = || RowError::Damaged(format!("sequence {} of its log was altered", self.sequence));
        let origin = match self.origin {
            None => Origin::Anonymous,
            Some(client) => Origin::Client(client.parse().map_err(|_| altered())?),
        };
        let event = Event {
            sequence: Sequence::new(self.sequence.cast_unsigned()),
            origin,
            user: self.user.map(str::to_owned),
            time: Timestamp::from_milliseconds(self.time),
            update: Bytes::copy_from_slice(self.content),
        };
        let checksum = event_checksum(&entry.summary.document, entry.summary.epoch, &event);
        if self.is_readable && checksum == self.checksum { Ok(event) } else { Err(altered()) }
    }
}

fn read_event(row: &Row<'_>, entry: &Entry) -> Result<Event, RowError> {
    let damaged = |error: rusqlite::types::FromSqlError| RowError::Damaged(error.to_string());
    let content = row.get_ref(5)?.as_blob().map_err(damaged)?;
    let row = LogRow {
        document: entry.id,
        sequence: row.get(0)?,
        time: row.get(1)?,
        origin: row.get_ref(2)?.as_str_or_null().map_err(damaged)?,
        user: row.get_ref(3)?.as_str_or_null().map_err(damaged)?,
        checksum: row.get(4)?,
        content,
        is_readable: true,
    };
    row.event(entry)
}

/// Whether the log goes on after the head that the directory says.
pub fn log_goes_on(connection: &Connection, entry: &Entry) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM log WHERE document = ?1 AND sequence > ?2 LIMIT 1")?;
    statement.exists(params![entry.id, number(entry.summary.head)])
}

/// Reads the log after `after` for as long as `take` wants the next event's bytes.
///
/// `after`: in the log or right before it.
///
/// # Errors
/// `Damaged` if an event is missing or altered, or if there is one after the head.
pub fn read_log(
    connection: &Connection,
    entry: &Entry,
    after: Sequence,
    mut take: impl FnMut(usize) -> bool,
) -> Result<Vec<Event>, RowError> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, time, origin, user, checksum, content FROM log
         WHERE document = ?1 AND sequence > ?2 ORDER BY sequence",
    )?;
    let mut rows = statement.query(params![entry.id, number(after)])?;
    let head = entry.summary.head;
    let mut last = after;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let found = sequence(row, 0)?;
        if found > head {
            return damaged(format!("its log goes on to sequence {found}, and should end at {head}"));
        }
        if found != last.next() {
            return damaged(format!("sequence {} of its log is missing", last.next()));
        }
        let event = read_event(row, entry)?;
        if !take(event.update.len()) {
            return Ok(events);
        }
        events.push(event);
        last = found;
    }
    if last < head {
        return damaged(format!("sequence {} of its log is missing", last.next()));
    }
    Ok(events)
}

fn snapshot_checksum(entry: &Entry, snapshot: &Snapshot) -> u32 {
    Checksum::of(b's')
        .text(entry.summary.document.as_str())
        .text(entry.summary.epoch.as_str())
        .number(number(snapshot.sequence))
        .bytes(&snapshot.update)
        .value()
}

pub fn insert_snapshot(connection: &Connection, entry: &Entry, snapshot: &Snapshot) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO snapshots (document, sequence, checksum, content) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![
        entry.id,
        number(snapshot.sequence),
        snapshot_checksum(entry, snapshot),
        &snapshot.update[..],
    ])?;
    Ok(())
}

/// The sequences of a document's snapshots, ascending; whether they read back is not known.
pub fn snapshot_sequences(connection: &Connection, entry: &Entry) -> Result<Vec<Sequence>, RowError> {
    let mut statement =
        connection.prepare_cached("SELECT sequence FROM snapshots WHERE document = ?1 ORDER BY sequence")?;
    let mut rows = statement.query([entry.id])?;
    let mut sequences = Vec::new();
    while let Some(row) = rows.next()? {
        sequences.push(sequence(row, 0)?);
    }
    Ok(sequences)
}

/// Reads one snapshot. `Damaged` if it is not there, or not as it was written.
pub fn read_snapshot(connection: &Connection, entry: &Entry, at: Sequence) -> Result<Snapshot, RowError> {
    let mut statement = connection
        .prepare_cached("SELECT checksum, content FROM snapshots WHERE document = ?1 AND sequence = ?2")?;
    let mut rows = statement.query(params![entry.id, number(at)])?;
    let Some(row) = rows.next()? else { return damaged(format!("its snapshot at {at} is missing")) };
    let content = row.get_ref(1)?.as_blob().map_err(|error| RowError::Damaged(error.to_string()))?;
    let snapshot = Snapshot { sequence: at, update: Bytes::copy_from_slice(content) };
    if row.get::<_, u32>(0)? == snapshot_checksum(entry, &snapshot) {
        Ok(snapshot)
    } else {
        damaged(format!("its snapshot at {at} was altered"))
    }
}
