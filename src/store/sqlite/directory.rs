//! The directory that a store lives in, and the lock that keeps a second one out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::OpenError;

const DATABASE: &str = "store.sqlite";
const LOCK: &str = "lock";
/// An empty file that is there once the database has been created: without it, a database that got lost
/// would look like one that never was, and every document like one never written.
const CREATED: &str = "created";

/// Holds the directory for one store. The system releases the lock when the process dies, however it dies.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    is_new: bool,
    _lock: File,
}

impl Directory {
    /// Creates the directory if need be, and locks it.
    ///
    /// # Errors
    /// `InUse` if another process, or another store in this one, holds it; `Io`.
    pub fn lock(path: &Path) -> Result<Self, OpenError> {
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(|source| OpenError::io(path, source))?;
        let lock_path = path.join(LOCK);
        let io = |source| OpenError::io(&lock_path, source);
        let mut options = OpenOptions::new();
        let mut lock =
            options.read(true).write(true).create(true).truncate(false).open(&lock_path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Without a number in it the message is poorer, and no less true.
                let _ = lock.read_to_string(&mut holder);
                return Err(OpenError::InUse { path: path.to_owned(), pid: holder.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // Who holds it, for the message above. On a full disk it stays unwritten, and the store still opens.
        let _ = lock.set_len(0);
        let _ = lock.rewind();
        let _ = write!(lock, "{}", std::process::id());
        Ok(Self { path: path.to_owned(), is_new, _lock: lock })
    }

    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Refuses to go on if a database was here and is not any more.
    pub fn check_database(&self) -> Result<(), OpenError> {
        let path = self.database();
        let is_empty = fs::metadata(&path).map_or(true, |database| database.len() == 0);
        if is_empty && self.path.join(CREATED).exists() {
            let reason = format!("it is lost (to begin anew, remove `{CREATED}` beside it)");
            return Err(OpenError::NotAStore { path, reason });
        }
        Ok(())
    }

    /// Notes that the database was created, and makes the names of all files durable: SQLite syncs only
    /// what is in them.
    pub fn remember_database(&self) -> Result<(), OpenError> {
        let created = self.path.join(CREATED);
        if created.exists() {
            return Ok(());
        }
        let parent = self.path.parent().filter(|parent| self.is_new && !parent.as_os_str().is_empty());
        File::create(&created).map_err(|source| OpenError::io(&created, source))?;
        for directory in [Some(self.path.as_path()), parent].into_iter().flatten() {
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|source| OpenError::io(directory, source))?;
        }
        Ok(())
    }
}
