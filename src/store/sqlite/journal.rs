//! Events that are durable and not yet in their documents' logs.
//!
//! A log is ordered by document, so that it can be read in one go; but an update is some thirty bytes, and writing it
//! there rewrites a page of 4 KiB. So what the writer commits together goes into one row of the journal, and from
//! there, when some thousand events have come together, to the logs, many to a page: it is *settled*.
//! Log-structured storage does the same: <https://doi.org/10.1007/s002360050048> (O'Neil et al., 1996).
//!
//! A batch of events has its row in two tables, so that damage to one page hides no event: `journal` has the events,
//! `journal_index` says whose they are and where they lie. What is known to be there and cannot be read puts
//! its document out of service.
//!
//! Invariants:
//! - a document's events here follow its `head` in the directory, without a gap, up to its true head;
//! - an event is here or in the log: settling moves all of them in one transaction.

use std::collections::{BTreeMap, HashMap};

use crc32fast::hash;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{Entry, LogRow, RowError};
use crate::event::Event;

/// From these on the journal is settled: opening a document reads what the journal has of it.
const BATCHES_MAX: usize = 256;
const EVENTS_MAX: usize = 8192;
const BYTES_MAX: usize = 1 << 20;

/// Bytes of an event before its texts: document, sequence, time, checksum, and three lengths.
const FRAME_HEAD_BYTES: usize = 8 + 8 + 8 + 4 + 1 + 4 + 4;
/// Bytes of an event in the index: document, sequence, offset.
const PLACE_BYTES: usize = 8 + 8 + 4;
/// The length of a text that is not there.
const NO_USER: u32 = u32::MAX;

/// How much there is to settle.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fill {
    batches: usize,
    events: usize,
    bytes: usize,
}

impl Fill {
    pub fn is_due(self) -> bool {
        self.batches >= BATCHES_MAX || self.events >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }

    pub fn is_empty(self) -> bool {
        self.batches == 0
    }
}

/// Events that are committed together.
#[derive(Debug, Default)]
pub struct Batch {
    index: Vec<u8>,
    content: Vec<u8>,
}

impl Batch {
    /// Adds an event; `entry`: its document.
    pub fn push(&mut self, entry: &Entry, event: &Event) {
        self.push_row(&LogRow::of(entry, event));
    }

    fn push_row(&mut self, row: &LogRow<'_>) {
        let offset = u32::try_from(self.content.len()).expect("a batch is a few megabytes at the most");
        self.index.extend_from_slice(&row.document.to_le_bytes());
        self.index.extend_from_slice(&row.sequence.to_le_bytes());
        self.index.extend_from_slice(&offset.to_le_bytes());
        let origin = row.origin.unwrap_or_default();
        let user = row.user.unwrap_or_default();
        let length =
            |text: &[u8]| u32::try_from(text.len()).expect("an event is a few megabytes at the most");
        let content = &mut self.content;
        content.reserve(FRAME_HEAD_BYTES + origin.len() + user.len() + row.content.len());
        content.extend_from_slice(&row.document.to_le_bytes());
        content.extend_from_slice(&row.sequence.to_le_bytes());
        content.extend_from_slice(&row.time.to_le_bytes());
        content.extend_from_slice(&row.checksum.to_le_bytes());
        content.push(u8::try_from(origin.len()).expect("a client id has 64 bytes at the most"));
        content.extend_from_slice(&row.user.map_or(NO_USER, |user| length(user.as_bytes())).to_le_bytes());
        content.extend_from_slice(&length(row.content).to_le_bytes());
        content.extend_from_slice(origin.as_bytes());
        content.extend_from_slice(user.as_bytes());
        content.extend_from_slice(row.content);
    }

    /// Writes the batch, if there is anything in it.
    pub fn write(mut self, connection: &Connection, fill: &mut Fill) -> rusqlite::Result<()> {
        if self.index.is_empty() {
            return Ok(());
        }
        fill.batches += 1;
        fill.events += self.index.len() / PLACE_BYTES;
        fill.bytes += self.content.len();
        self.index.extend_from_slice(&hash(&self.index).to_le_bytes());
        connection
            .prepare_cached("INSERT INTO journal (content) VALUES (?1)")?
            .execute(params![self.content])?;
        let id = connection.last_insert_rowid();
        connection
            .prepare_cached("INSERT INTO journal_index (id, content) VALUES (?1, ?2)")?
            .execute(params![id, self.index])?;
        Ok(())
    }
}

/// Where an event lies in its batch.
#[derive(Debug, Clone, Copy)]
struct Place {
    document: i64,
    sequence: i64,
    start: usize,
    /// `None`: it is the last one.
    end: Option<usize>,
}

/// The places of a batch's events; `None` if the row is not what was written.
fn parse_index(row: &[u8]) -> Option<Vec<Place>> {
    let (places, checksum) = row.split_last_chunk::<4>()?;
    if hash(places).to_le_bytes() != *checksum || places.len() % PLACE_BYTES != 0 {
        return None;
    }
    let mut parsed: Vec<Place> = places
        .chunks_exact(PLACE_BYTES)
        .map(|place| {
            let mut reader = Reader(place);
            let (document, sequence) = (reader.i64()?, reader.i64()?);
            Some(Place { document, sequence, start: reader.u32()? as usize, end: None })
        })
        .collect::<Option<_>>()?;
    for index in 1..parsed.len() {
        parsed[index - 1].end = Some(parsed[index].start);
    }
    Some(parsed)
}

/// Reads numbers and texts off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn i64(&mut self) -> Option<i64> {
        self.number().map(i64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.number().map(u32::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// An event as `Batch::push_row` wrote it.
    fn row(&mut self) -> Option<LogRow<'a>> {
        let (document, sequence, time) = (self.i64()?, self.i64()?, self.i64()?);
        let checksum = self.u32()?;
        let [origin] = self.number()?;
        let (user, content) = (self.u32()?, self.u32()?);
        let origin = (origin > 0).then_some(usize::from(origin)).map(|length| self.text(length));
        let origin = origin.map_or(Some(None), |origin| origin.map(Some))?;
        let user = if user == NO_USER { None } else { Some(self.text(user as usize)?) };
        let content = self.take(content as usize)?;
        Some(LogRow { document, sequence, time, origin, user, checksum, content, is_readable: true })
    }
}

/// A batch as it is found.
#[derive(Debug)]
struct Found {
    id: i64,
    /// `None`: the index has not got it, or not as it was written.
    places: Option<Vec<Place>>,
}

/// The batches of either table, in the order in which they were committed.
fn batches(connection: &Connection) -> Result<Vec<Found>, RowError> {
    let mut found = BTreeMap::new();
    let by_content = for_each_row(connection, "SELECT id, NULL FROM journal", |id, _| {
        found.insert(id, None);
    });
    let by_index = for_each_row(connection, "SELECT id, content FROM journal_index", |id, content| {
        found.insert(id, content.and_then(parse_index));
    });
    match (by_content, by_index) {
        (Err(RowError::Sqlite(error)), _) | (_, Err(RowError::Sqlite(error))) => {
            return Err(RowError::Sqlite(error));
        }
        (Err(content), Err(index)) => {
            return Err(RowError::Damaged(format!("both tables of the journal: {content}; {index}")));
        }
        // Between them they know every batch.
        _ => {}
    }
    Ok(found.into_iter().map(|(id, places)| Found { id, places }).collect())
}

fn for_each_row(
    connection: &Connection,
    sql: &'static str,
    mut visit: impl FnMut(i64, Option<&[u8]>),
) -> Result<(), RowError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(row.get(0)?, row.get_ref(1)?.as_blob().ok());
    }
    Ok(())
}

/// The events of a batch, unless they were altered.
fn content_of(connection: &Connection, batch: &Found) -> Result<Option<Vec<u8>>, RowError> {
    let content = connection
        .prepare_cached("SELECT content FROM journal WHERE id = ?1")?
        .query_row([batch.id], |row| row.get(0))
        .optional();
    match content.map_err(RowError::from) {
        Err(RowError::Damaged(_)) => Ok(None),
        content => content,
    }
}

/// The events of a batch that are `wanted`. One that cannot be read is a row that no checksum fits.
///
/// # Errors
/// `Damaged` if neither table says whose events they are.
fn rows_of<'c>(
    batch: &Found,
    content: Option<&'c [u8]>,
    wanted: impl Fn(i64) -> bool,
) -> Result<Vec<LogRow<'c>>, RowError> {
    let mut rows = Vec::new();
    match (&batch.places, content) {
        (Some(places), content) => {
            let content = content.unwrap_or_default();
            for place in places.iter().filter(|place| wanted(place.document)) {
                let bytes = content.get(place.start..place.end.unwrap_or(content.len())).unwrap_or_default();
                let mut reader = Reader(bytes);
                let is_its =
                    |row: &LogRow<'_>| (row.document, row.sequence) == (place.document, place.sequence);
                let row = reader.row().filter(is_its).filter(|_| reader.0.is_empty());
                rows.push(row.unwrap_or_else(|| LogRow::unreadable(place.document, place.sequence, bytes)));
            }
        }
        (None, Some(content)) => {
            let mut reader = Reader(content);
            while !reader.0.is_empty() {
                let altered = || RowError::Damaged(format!("batch {} of the journal was altered", batch.id));
                rows.push(reader.row().ok_or_else(altered)?);
            }
            rows.retain(|row| wanted(row.document));
        }
        (None, None) => return Err(RowError::Damaged(format!("batch {} of the journal is lost", batch.id))),
    }
    Ok(rows)
}

/// Sorts rows by document and sequence. Where an altered table shows an event twice, the readable one stays.
fn sort(rows: &mut Vec<LogRow<'_>>) {
    rows.sort_by_key(|row| (row.document, row.sequence, !row.is_readable));
    rows.dedup_by_key(|row| (row.document, row.sequence));
}

/// What the journal has of one document, in order.
///
/// # Errors
/// `Damaged` if any of it is missing or altered.
pub fn events_of(connection: &Connection, entry: &Entry) -> Result<Vec<Event>, RowError> {
    let is_its = |document| document == entry.id;
    let mut events = Vec::new();
    for batch in batches(connection)? {
        if batch.places.as_ref().is_some_and(|places| !places.iter().any(|place| is_its(place.document))) {
            continue;
        }
        let content = content_of(connection, &batch)?;
        let mut rows = rows_of(&batch, content.as_deref(), is_its)?;
        sort(&mut rows);
        for row in rows {
            events.push((row.sequence, row.event(entry)));
        }
    }
    events.sort_by_key(|(sequence, event)| (*sequence, event.is_err()));
    events.dedup_by_key(|(sequence, _)| *sequence);
    let mut expected = entry.summary.head;
    let mut readable = Vec::with_capacity(events.len());
    for (_, event) in events {
        let event = event?;
        expected = expected.next();
        if event.sequence != expected {
            return Err(RowError::Damaged(format!("sequence {expected} of its log is missing")));
        }
        readable.push(event);
    }
    Ok(readable)
}

/// Brings entries of the directory up to date with what the journal has of their documents.
///
/// # Errors
/// `Damaged` if whose events are in the journal is not known.
pub fn count_in<'e>(
    connection: &Connection,
    entries: impl Iterator<Item = &'e mut Entry>,
) -> Result<(), RowError> {
    let found = batches(connection)?;
    if found.is_empty() {
        return Ok(());
    }
    let mut entries: HashMap<i64, &mut Entry> = entries.map(|entry| (entry.id, entry)).collect();
    for batch in found {
        let content = content_of(connection, &batch)?;
        let mut rows = rows_of(&batch, content.as_deref(), |document| entries.contains_key(&document))?;
        sort(&mut rows);
        for row in rows {
            if let Some(entry) = entries.get_mut(&row.document) {
                row.count_in(&mut entry.summary);
            }
        }
    }
    Ok(())
}

/// Whether there is anything in the journal.
pub fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM journal UNION ALL SELECT 1 FROM journal_index LIMIT 1";
    Ok(connection.prepare_cached(sql)?.query_row([], |_| Ok(())).optional()?.is_none())
}

/// How settling deals with a document whose rows cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Fails.
    None,
    /// Leaves its events in the journal.
    EachDocument,
}

/// Moves everything into the logs. To be done in a transaction. Returns what is in the journal afterwards.
///
/// `heads`: entries that count in their documents' journaled events, where those are known; it spares reading them.
///
/// # Errors
/// `Damaged`: with `Care::None`, perhaps on account of one document; else the journal itself is.
pub fn settle<'e>(
    connection: &Connection,
    heads: impl Iterator<Item = &'e Entry>,
    care: Care,
) -> Result<Fill, RowError> {
    let heads: HashMap<i64, &Entry> = heads.map(|entry| (entry.id, entry)).collect();
    let mut contents = Vec::new();
    for batch in batches(connection)? {
        let content = content_of(connection, &batch)?;
        contents.push((batch, content));
    }
    let mut rows = Vec::new();
    for (batch, content) in &contents {
        rows.append(&mut rows_of(batch, content.as_deref(), |_| true)?);
    }
    // Many events of a document to a page of its log.
    sort(&mut rows);
    connection.prepare_cached("DELETE FROM journal")?.execute([])?;
    connection.prepare_cached("DELETE FROM journal_index")?.execute([])?;

    let mut left = Batch::default();
    for rows in rows.chunk_by(|one, other| one.document == other.document) {
        let head = heads.get(&rows[0].document).copied();
        match care {
            Care::None => settle_document(connection, rows, head)?,
            Care::EachDocument => {
                if !settle_document_or_nothing(connection, rows, head)? {
                    rows.iter().for_each(|row| left.push_row(row));
                }
            }
        }
    }
    let mut fill = Fill::default();
    left.write(connection, &mut fill)?;
    Ok(fill)
}

/// `false`: its rows are damaged, and nothing was written.
fn settle_document_or_nothing(
    connection: &Connection,
    rows: &[LogRow<'_>],
    head: Option<&Entry>,
) -> Result<bool, RowError> {
    connection.execute_batch("SAVEPOINT document")?;
    let settled = match settle_document(connection, rows, head) {
        Ok(()) => true,
        Err(RowError::Damaged(_)) => false,
        Err(error) => return Err(error),
    };
    if !settled {
        connection.execute_batch("ROLLBACK TO document")?;
    }
    connection.execute_batch("RELEASE document")?;
    Ok(settled)
}

/// Moves the events of one document; `rows` are not empty.
fn settle_document(
    connection: &Connection,
    rows: &[LogRow<'_>],
    head: Option<&Entry>,
) -> Result<(), RowError> {
    let entry = match head {
        Some(entry) => entry.clone(),
        None => {
            // Without a row it was deleted while its events could not be settled; or the row is lost, and with it
            // the name without which nothing of the document can be read.
            let Some(mut entry) = Entry::by_id(connection, rows[0].document)? else { return Ok(()) };
            rows.iter().for_each(|row| row.count_in(&mut entry.summary));
            entry
        }
    };
    for row in rows {
        row.put(connection)?;
    }
    entry.update(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(document: i64, sequence: i64, content: &'a [u8]) -> LogRow<'a> {
        let (origin, user) = (Some("tab-1"), (sequence % 2 == 0).then_some(""));
        LogRow { document, sequence, time: 7, origin, user, checksum: 9, content, is_readable: true }
    }

    fn found(batch: &Batch) -> Found {
        let index = [&batch.index[..], &hash(&batch.index).to_le_bytes()].concat();
        Found { id: 1, places: parse_index(&index) }
    }

    #[test]
    fn a_batch_reads_back_with_its_index_and_without() {
        let mut batch = Batch::default();
        let rows = [row(3, 1, b"abc"), row(2, 8, b""), row(3, 2, b"d")];
        rows.iter().for_each(|row| batch.push_row(row));
        let content = Some(&batch.content[..]);
        assert_eq!(rows_of(&found(&batch), content, |_| true).expect("it is whole"), rows);
        let without_index = Found { id: 1, places: None };
        assert_eq!(rows_of(&without_index, content, |_| true).expect("it is whole"), rows);
        assert_eq!(rows_of(&found(&batch), content, |id| id == 2).expect("it is whole"), rows[1..2]);
    }

    #[test]
    fn an_event_that_was_altered_is_known_to_be_there() {
        let mut batch = Batch::default();
        [row(3, 1, b"abc"), row(2, 8, b"xyz")].iter().for_each(|row| batch.push_row(row));
        let index = found(&batch);
        for position in 0..batch.content.len() {
            let mut content = batch.content.clone();
            content[position] ^= 0xff;
            let rows = rows_of(&index, Some(&content), |_| true).expect("the index is whole");
            let known: Vec<_> = rows.iter().map(|row| (row.document, row.sequence)).collect();
            assert_eq!(known, [(3, 1), (2, 8)], "byte {position}");
        }
        let rows = rows_of(&index, None, |_| true).expect("the index is whole");
        assert!(rows.iter().all(|row| !row.is_readable));
        assert!(rows_of(&Found { id: 1, places: None }, None, |_| true).is_err());
    }
}
