//! The database file: its tables, and how connections to it are opened.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::OpenError;

/// Marks the file as ours, "PGSy", so that no other program's database is taken for a store.
const APPLICATION_ID: i32 = 0x5047_5379;
/// Raised with every change of the tables. A newer one than this is not opened.
const VERSION: i32 = 3;

/// The index of names; dropped and made anew to delete a damaged document.
pub const DOCUMENTS_NAME: &str = "CREATE UNIQUE INDEX documents_name ON documents (name)";

/// The tables, by name. The texts are compared with those in the file at every open.
///
/// `log` and `snapshots` have no row ids: the rows of one document lie together, in order, and are found
/// in one step. In `log` the content comes last, so that scanning by time need not follow long ones.
const TABLES: [(&str, &str); 14] = [
    (
        "documents",
        "CREATE TABLE documents (id INTEGER PRIMARY KEY, name TEXT NOT NULL, epoch TEXT NOT NULL, \
         head INTEGER NOT NULL, oldest INTEGER NOT NULL, bytes INTEGER NOT NULL, \
         created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, checksum INTEGER NOT NULL) STRICT",
    ),
    ("documents_name", DOCUMENTS_NAME),
    (
        "lives",
        "CREATE TABLE lives (name TEXT PRIMARY KEY, document INTEGER NOT NULL, epoch TEXT NOT NULL, \
         checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ),
    (
        "log",
        "CREATE TABLE log (document INTEGER NOT NULL, sequence INTEGER NOT NULL, time INTEGER NOT NULL, \
         origin TEXT, user TEXT, checksum INTEGER NOT NULL, content BLOB NOT NULL, \
         PRIMARY KEY (document, sequence)) STRICT, WITHOUT ROWID",
    ),
    (
        "snapshots",
        "CREATE TABLE snapshots (document INTEGER NOT NULL, sequence INTEGER NOT NULL, \
         checksum INTEGER NOT NULL, content BLOB NOT NULL, \
         PRIMARY KEY (document, sequence)) STRICT, WITHOUT ROWID",
    ),
    ("journal", "CREATE TABLE journal (id INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT"),
    ("journal_index", "CREATE TABLE journal_index (id INTEGER PRIMARY KEY, content BLOB NOT NULL) STRICT"),
    (
        "receipts",
        "CREATE TABLE receipts (document TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, \
         time INTEGER NOT NULL, digest BLOB NOT NULL, answer BLOB NOT NULL, checksum INTEGER NOT NULL, \
         PRIMARY KEY (document, user, key)) STRICT, WITHOUT ROWID",
    ),
    ("receipts_time", "CREATE INDEX receipts_time ON receipts (time)"),
    (
        "versions",
        "CREATE TABLE versions (document INTEGER NOT NULL, name TEXT NOT NULL, sequence INTEGER NOT NULL, \
         created_at INTEGER NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (document, name)) STRICT, WITHOUT ROWID",
    ),
    (
        "freezes",
        "CREATE TABLE freezes (document INTEGER PRIMARY KEY, since INTEGER NOT NULL, \
         checksum INTEGER NOT NULL) STRICT",
    ),
    (
        "revocations",
        "CREATE TABLE revocations (kind TEXT NOT NULL, name TEXT NOT NULL, time INTEGER NOT NULL, \
         checksum INTEGER NOT NULL, PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID",
    ),
    (
        "strikes",
        "CREATE TABLE strikes (document TEXT PRIMARY KEY, count INTEGER NOT NULL, reason TEXT NOT NULL, \
         last_at INTEGER NOT NULL, quarantined_at INTEGER, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ),
    ("probe", "CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT"),
];

/// The tables that came after version 1, and with which version.
const LATER: [(i32, &[&str]); 2] = [
    (2, &["journal", "journal_index", "receipts", "receipts_time", "versions", "freezes"]),
    (3, &["revocations", "strikes"]),
];

/// How long a connection waits for another one's lock: only foreign programs (a backup, a shell) hold any.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Statements that a connection keeps prepared; there are fewer than that.
const STATEMENTS_KEPT: usize = 40;
/// The write-ahead log is cut to this length when it has grown longer (a long reader, a huge snapshot).
const WAL_BYTES_KEPT: u32 = 16 * 1024 * 1024;
/// Page cache of the writer, in KiB: the leaves that live documents' logs end in.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
/// Page cache of each reader, in KiB.
const READER_CACHE_KIB: u32 = 4 * 1024;

/// Opens the connection that writes, creating the database if there is none.
pub fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, WRITER_CACHE_KIB)?;
    // FULL syncs the write-ahead log at every commit: what is answered is on disk.
    // Checkpoints are the writer's own affair: after it has answered, and with their errors looked at.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = {WAL_BYTES_KEPT};"
    ))?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    // READ_WRITE, since a reader of a database in WAL mode writes to its shared index; `query_only` forbids the rest.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, READER_CACHE_KIB)?;
    connection.execute_batch("PRAGMA query_only = ON;")?;
    Ok(connection)
}

fn prepare(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // No memory map: there a failing disk is a SIGBUS, not an error.
    // `cell_size_check` looks at a page before its contents are believed.
    connection.execute_batch(&format!(
        "PRAGMA mmap_size = 0; PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -{cache_kib};"
    ))
}

/// Creates the tables in a new database, or checks that they are what this version of the program wrote.
pub fn create_or_check(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let broken = |error| OpenError::unreadable(path, &error);
    let version: i32 = pragma(connection, "user_version").map_err(broken)?;
    let application: i32 = pragma(connection, "application_id").map_err(broken)?;
    let found: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(broken)?;
    if (version, application, found) == (0, 0, 0) {
        return create(connection).map_err(broken);
    }
    if application != APPLICATION_ID || version < 1 {
        return Err(OpenError::NotAStore {
            path: path.to_owned(),
            reason: "another program's database".into(),
        });
    }
    if version > VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known: VERSION });
    }
    if version < VERSION {
        upgrade(connection, version).map_err(broken)?;
    }
    for (name, expected) in TABLES {
        let sql: Option<String> = connection
            .query_row("SELECT sql FROM sqlite_schema WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(broken)?;
        if sql.as_deref() != Some(expected) {
            let reason = format!("its table `{name}` is missing or altered");
            return Err(OpenError::NotAStore { path: path.to_owned(), reason });
        }
    }
    check_length(connection, path)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (_, sql) in TABLES {
        transaction.execute_batch(sql)?;
    }
    transaction.execute_batch(&format!(
        "INSERT INTO probe (id, count) VALUES (1, 0);
         PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
    ))?;
    transaction.commit()
}

/// Adds the tables that came after version `from`.
fn upgrade(connection: &mut Connection, from: i32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let is_new = |name: &str| LATER.iter().any(|(since, names)| *since > from && names.contains(&name));
    for (_, sql) in TABLES.iter().filter(|(name, _)| is_new(name)) {
        transaction.execute_batch(sql)?;
    }
    transaction.execute_batch(&format!("PRAGMA user_version = {VERSION};"))?;
    transaction.commit()
}

/// Refuses a file that is longer than its own header says: new rows would be written over old ones.
fn check_length(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let broken = |error| OpenError::unreadable(path, &error);
    let pages: u64 = pragma(connection, "page_count").map_err(broken)?;
    let page_bytes: u64 = pragma(connection, "page_size").map_err(broken)?;
    let length = std::fs::metadata(path).map_err(|source| OpenError::io(path, source))?.len();
    if length > pages * page_bytes {
        let reason = format!("it has {length} bytes, and {pages} pages of {page_bytes}");
        return Err(OpenError::NotAStore { path: path.to_owned(), reason });
    }
    Ok(())
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// How eagerly the write-ahead log is copied into the database.
#[derive(Debug, Clone, Copy)]
pub enum Checkpoint {
    /// As much as readers allow, without waiting.
    Passive,
    /// All of it, waiting for readers, so that the log begins anew.
    Restart { patience: Duration },
}

/// Copies the write-ahead log into the database. That readers were in the way is no error.
pub fn checkpoint(connection: &Connection, mode: Checkpoint) -> rusqlite::Result<()> {
    match mode {
        Checkpoint::Passive => run_checkpoint(connection, "PASSIVE"),
        Checkpoint::Restart { patience } => {
            connection.busy_timeout(patience)?;
            let result = run_checkpoint(connection, "RESTART");
            connection.busy_timeout(BUSY_TIMEOUT)?;
            result
        }
    }
}

/// Copies the write-ahead log into the database and empties it.
///
/// Done whenever a connection that writes is opened: an earlier one may have failed to sync some of the log, and
/// then what is appended behind that part would be lost with it when the power fails.
pub fn empty_wal(connection: &Connection) -> rusqlite::Result<()> {
    run_checkpoint(connection, "TRUNCATE")
}

fn run_checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}
