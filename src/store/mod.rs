//! Where documents are kept: a log of updates, with snapshots so that opening stays quick.
//!
//! Everything here is bytes, sequences and names; what the bytes mean is `document`'s affair.
//!
//! Invariants that every store keeps:
//! - `append` answers after its events are durable, or fails; events of one append are all there or none;
//! - a document's log is dense: from `oldest` to `head` no sequence is missing;
//! - what is read is what was written: a row that is not, by its checksum, is `Corrupt`, never served;
//! - a log entry is trimmed only in the transaction that leaves a verified snapshot at or after it.

#[cfg(test)]
mod contract;
pub mod memory;
mod retention;
pub mod sqlite;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::auth::revocations::Revocation;
use crate::event::{Event, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence, VersionName};
use crate::metrics::Size;

/// What a caller can do about a failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Nothing was answered for sure: open the document again, then retry.
    #[error("the store cannot serve now: {reason}")]
    Unavailable { reason: String },
    /// The document's log is not where the writer thought: load it again.
    #[error("the log of document `{document}` has moved")]
    Moved { document: DocumentId },
    /// Rows of this document do not read back as they were written. Retrying does not help.
    #[error("document `{document}` is damaged on disk: {detail}")]
    Corrupt { document: DocumentId, detail: String },
    /// That part of the log has been compacted away; the log begins with `oldest`.
    #[error("the log begins with sequence {oldest}")]
    Compacted { oldest: Sequence },
}

/// The whole of a document as one update, at one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub sequence: Sequence,
    /// Yjs encoding v1.
    pub update: Bytes,
}

/// A document as it is opened: the newest snapshot that reads back, and the log after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub summary: Summary,
    pub snapshot: Option<Snapshot>,
    /// Every event after the snapshot (or from the first), in order, up to the head.
    pub tail: Vec<Event>,
}

/// What is known of a document without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub document: DocumentId,
    pub epoch: Epoch,
    /// The last accepted update's sequence.
    pub head: Sequence,
    /// The first sequence that the log still holds; `head + 1` if it holds none.
    pub oldest: Sequence,
    /// Bytes of its snapshots' and log's updates.
    pub bytes: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Since when it takes no changes, if it takes none.
    pub frozen_at: Option<Timestamp>,
}

/// A point of a document's history that has a name. It can be rebuilt for as long as it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub name: VersionName,
    pub sequence: Sequence,
    pub created_at: Timestamp,
}

/// What became of a version that was to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    Added,
    /// There is one of that name: this one. Nothing was changed.
    Taken(Version),
    /// The document has as many as it may have.
    Full,
}

/// All that a store has of one document: it can be written into another store, and is then the same document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    pub summary: Summary,
    /// Ascending.
    pub snapshots: Vec<Snapshot>,
    /// Every event that is kept, up to the head.
    pub log: Vec<Event>,
    pub versions: Vec<Version>,
}

/// Sequences are counted so far at the most: JSON's readers take no larger numbers, and nobody gets there.
const SEQUENCE_MAX: u64 = 1 << 53;
/// Versions that an archived document may have.
const ARCHIVED_VERSIONS_MAX: usize = 100;

impl Archive {
    /// Whether it hangs together: the log is dense and ends at the head, begins at 1 or after a snapshot, and each
    /// version has its snapshot.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        let Summary { head, oldest, .. } = self.summary;
        if head.get() > SEQUENCE_MAX || oldest > head.next() {
            return Err(format!("{head} and {oldest} are no sequences of a log"));
        }
        let names: std::collections::HashSet<_> = self.versions.iter().map(|version| &version.name).collect();
        if names.len() != self.versions.len() || names.len() > ARCHIVED_VERSIONS_MAX {
            return Err(format!("it has two versions of one name, or more than {ARCHIVED_VERSIONS_MAX}"));
        }
        if self.snapshots.len() > ARCHIVED_VERSIONS_MAX + retention::SNAPSHOTS_MAX + 1 {
            return Err("it has more snapshots than there can be".into());
        }
        if self.snapshots.iter().any(|snapshot| snapshot.sequence > head) {
            return Err(format!("it has a snapshot after its head, {head}"));
        }
        let mut expected = oldest;
        for event in &self.log {
            if event.sequence != expected {
                return Err(format!("its log lacks sequence {expected}"));
            }
            expected = expected.next();
        }
        if expected != head.next() || head == Sequence::ZERO {
            return Err(format!("its log does not end at its head, {head}"));
        }
        if !self.snapshots.is_sorted_by(|one, other| one.sequence < other.sequence) {
            return Err("its snapshots are not in order".into());
        }
        let reaches = |snapshot: &Snapshot| snapshot.sequence <= head && snapshot.sequence.next() >= oldest;
        if oldest != Sequence::ZERO.next() && !self.snapshots.iter().any(reaches) {
            return Err(format!("its log begins with {oldest}, and no snapshot leads there"));
        }
        match self
            .versions
            .iter()
            .find(|version| !self.snapshots.iter().any(|known| known.sequence == version.sequence))
        {
            Some(version) => Err(format!("the version at {} has no snapshot", version.sequence)),
            None => Ok(()),
        }
    }
}

/// Part of a log, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    pub epoch: Epoch,
    pub events: Vec<Event>,
    /// The document's head when the page was read: the page is the last if it ends there.
    pub head: Sequence,
}

/// How much one page of a log may hold. A page holds one event at the least, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    pub events_max: usize,
    pub bytes_max: usize,
}

impl PageLimit {
    fn room(self) -> PageRoom {
        PageRoom { events: self.events_max.max(1), bytes: self.bytes_max, is_empty: true }
    }
}

/// What a page of a log still has room for.
struct PageRoom {
    events: usize,
    bytes: usize,
    is_empty: bool,
}

impl PageRoom {
    /// Takes the room for one more event. `false`: the page is full without it.
    fn take(&mut self, update_bytes: usize) -> bool {
        if !self.is_empty && (self.events == 0 || self.bytes < update_bytes) {
            return false;
        }
        self.is_empty = false;
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(update_bytes);
        true
    }
}

/// What a request that must be carried out only once was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Who asked; what is none of theirs is no repeat.
    pub user: Option<String>,
    /// The request's name, chosen by who asked.
    pub key: String,
    /// Of all that was asked.
    pub digest: [u8; 32],
    pub answer: Bytes,
    pub time: Timestamp,
}

impl Receipt {
    /// How long a repeat may come.
    pub const LIFETIME: Duration = Duration::from_secs(10 * 60);

    /// What is not younger than this may be forgotten.
    pub fn forgotten_at(now: Timestamp) -> Timestamp {
        let lifetime = i64::try_from(Self::LIFETIME.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_milliseconds(now.milliseconds().saturating_sub(lifetime))
    }
}

/// What a document has done to those who work on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strikes {
    pub document: DocumentId,
    pub count: u32,
    /// Of the last one.
    pub reason: String,
    pub last_at: Timestamp,
    /// Since when nobody works on it any more, if so.
    pub quarantined_at: Option<Timestamp>,
}

impl Strikes {
    /// With so many a document is quarantined.
    pub const COUNT_MAX: u32 = 2;
    /// A strike that is older counts no more.
    pub const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

    fn with_one_more(previous: Option<Self>, document: &DocumentId, reason: &str, now: Timestamp) -> Self {
        let lifetime = i64::try_from(Self::LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let counts = |previous: &Self| {
            let age = now.milliseconds().saturating_sub(previous.last_at.milliseconds());
            previous.quarantined_at.is_some() || age < lifetime
        };
        let previous = previous.filter(counts);
        let count = previous.as_ref().map_or(0, |previous| previous.count).saturating_add(1);
        let quarantined_at = previous.and_then(|previous| previous.quarantined_at);
        let quarantined_at = quarantined_at.or((count >= Self::COUNT_MAX).then_some(now));
        Self { document: document.clone(), count, reason: reason.to_owned(), last_at: now, quarantined_at }
    }
}

/// How much of the log stays when a snapshot is written: what is within both bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The last so many updates may stay.
    pub keep_updates: u64,
    /// What is not older than this may stay.
    pub keep_since: Timestamp,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a document. `None`: never written, or deleted.
    ///
    /// A newest snapshot that does not read back is passed over for the one before it and a longer tail.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn load(&self, document: &DocumentId) -> Result<Option<Stored>, StoreError>;

    /// Appends events, in order and all or none; answers when they are durable.
    ///
    /// `events`: not empty, their sequences dense. The first one's sequence 1 creates the document
    /// under `epoch`; its time is then `created_at`. The last one's time becomes `updated_at`.
    ///
    /// # Errors
    /// - `Moved`: the head is not right before the first event, or the epoch is another; nothing was written.
    /// - `Unavailable`: whether the events are in the log is not known; load again to find out.
    /// - `Corrupt`: the document is out of service; nothing was written.
    async fn append(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        events: Vec<Event>,
    ) -> Result<(), StoreError> {
        self.record(document, Some(epoch), events, Vec::new()).await
    }

    /// Appends events and keeps receipts: all of it or none, as `append`.
    ///
    /// Without events only the receipts are kept, also of a document that was never written, and `epoch` says nothing.
    /// Receipts are forgotten some time after their `LIFETIME`, and with their document.
    ///
    /// # Errors
    /// As `append`.
    async fn record(
        &self,
        document: &DocumentId,
        epoch: Option<Epoch>,
        events: Vec<Event>,
        receipts: Vec<Receipt>,
    ) -> Result<(), StoreError>;

    /// The receipt that was kept last under a key. One past its `LIFETIME` may be there, or not.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn receipt(
        &self,
        document: &DocumentId,
        user: Option<&str>,
        key: &str,
    ) -> Result<Option<Receipt>, StoreError>;

    /// Reads the log after `after`, one page. `None`: no such document. `after` at or past the head: no events.
    ///
    /// # Errors
    /// `Compacted` if `after + 1` lies before the oldest event kept, `Unavailable`, `Corrupt`.
    async fn log(
        &self,
        document: &DocumentId,
        after: Sequence,
        limit: PageLimit,
    ) -> Result<Option<LogPage>, StoreError>;

    /// The newest snapshot at or before `at` that reads back and from which the log reaches on without a gap.
    /// `None`: the log itself begins at 1 and no snapshot lies that early; or there is no such document.
    ///
    /// # Errors
    /// `Compacted` if neither reaches `at`, `Unavailable`, `Corrupt`.
    async fn snapshot_at(&self, document: &DocumentId, at: Sequence) -> Result<Option<Snapshot>, StoreError>;

    /// Writes a snapshot, reads it back, compares, and only then trims what `retention` lets go,
    /// all in one transaction.
    ///
    /// The log is trimmed up to a kept snapshot's sequence, so that every kept sequence can be
    /// rebuilt; never up to the newest one's, so that a damaged newest snapshot can be replaced from the
    /// one before. So a document's first snapshot trims nothing, whatever `retention` says.
    /// An old snapshot (its sequence not after the newest one's) changes nothing.
    /// Returns the first sequence that the log now holds.
    ///
    /// # Errors
    /// `Moved` if `epoch` is not this document's or the snapshot lies after the head, `Unavailable`, `Corrupt`.
    async fn compact(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        snapshot: Snapshot,
        retention: Retention,
    ) -> Result<Sequence, StoreError>;

    /// Gives a name to a point of the history, and keeps `snapshot`, which is at that point, for as long as it has it.
    ///
    /// `versions_max`: how many a document may have.
    ///
    /// # Errors
    /// `Moved` if `epoch` is not this document's or the version lies after the head, `Unavailable`, `Corrupt`.
    async fn add_version(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        version: Version,
        snapshot: Snapshot,
        versions_max: usize,
    ) -> Result<Naming, StoreError>;

    /// A document's versions, by sequence and name. `None`: no such document.
    async fn versions(&self, document: &DocumentId) -> Result<Option<Vec<Version>>, StoreError>;

    /// Takes the name away; what only it kept goes with the next compaction. `false`: there is none of that name.
    async fn remove_version(&self, document: &DocumentId, name: &VersionName) -> Result<bool, StoreError>;

    /// Notes since when the document takes no changes; `None`: it takes them. The store itself refuses none.
    ///
    /// # Errors
    /// `Moved` if `epoch` is not this document's, `Unavailable`, `Corrupt`.
    async fn set_frozen(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        frozen_at: Option<Timestamp>,
    ) -> Result<(), StoreError>;

    /// All that there is of a document. `None`: no such document.
    async fn archive(&self, document: &DocumentId) -> Result<Option<Archive>, StoreError>;

    /// Writes a document that was archived, in one transaction. `false`: there is one of that name, and nothing was
    /// written. `archive`: checked by the caller.
    async fn unarchive(&self, archive: Archive) -> Result<bool, StoreError>;

    /// Notes one more strike against a document, and quarantines it with the last that it may have. `None`: there is
    /// no such document.
    ///
    /// The store itself refuses nothing for it.
    async fn add_strike(
        &self,
        document: &DocumentId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Strikes>, StoreError>;

    /// Forgets a document's strikes, and that it was quarantined. `false`: there were none.
    async fn clear_strikes(&self, document: &DocumentId) -> Result<bool, StoreError>;

    /// The quarantined documents, by id.
    async fn quarantined(&self) -> Result<Vec<Strikes>, StoreError>;

    /// Documents that were found to be damaged when the store was opened, and in what way, by id.
    async fn damaged(&self) -> Result<Vec<(DocumentId, String)>, StoreError>;

    /// Deletes log, snapshots, versions and all. `false`: there was none. A damaged document can be deleted.
    async fn delete(&self, document: &DocumentId) -> Result<bool, StoreError>;

    async fn summary(&self, document: &DocumentId) -> Result<Option<Summary>, StoreError>;

    /// Documents whose id begins with `prefix` and sorts after `after` (bytewise), in that order.
    /// Damaged ones are left out (and logged): nothing that is known of them can be trusted.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize)
    -> Result<Vec<Summary>, StoreError>;

    /// Keeps a revocation, in the place of an earlier one of the same, and forgets what was revoked before `keep_since`.
    async fn add_revocation(
        &self,
        revocation: Revocation,
        keep_since: Option<Timestamp>,
    ) -> Result<(), StoreError>;

    /// All that was revoked and not forgotten. What cannot be read whole is `Unavailable`: it would let somebody in.
    async fn revocations(&self) -> Result<Vec<Revocation>, StoreError>;

    /// How much there is.
    async fn size(&self) -> Result<Size, StoreError>;

    /// Whether writes would be taken now; writes something durable to know.
    async fn check_writable(&self) -> Result<(), StoreError>;

    /// Finishes what waits and closes. Later calls are `Unavailable`.
    async fn close(&self);
}

/// The first and the last of events that are to be appended, if their sequences are dense.
///
/// # Errors
/// `Unavailable`: the caller is wrong about what it appends; nothing was written.
fn check_dense(events: &[Event]) -> Result<(&Event, &Event), StoreError> {
    let dense = events.windows(2).all(|pair| pair[0].sequence.next() == pair[1].sequence);
    match (events.first(), events.last()) {
        (Some(first), Some(last)) if dense => Ok((first, last)),
        _ => {
            Err(StoreError::Unavailable { reason: "events to append must be some, and without a gap".into() })
        }
    }
}

/// The answer to whoever appends events to no life of a document.
fn without_epoch() -> StoreError {
    StoreError::Unavailable { reason: "events to append must be of a life of the document".into() }
}

/// The answer to whoever calls a store after `close`.
fn closed() -> StoreError {
    StoreError::Unavailable { reason: "the store is closed".into() }
}
