//! Documents in memory only: for tests, and for servers whose documents may die with them.
//!
//! "Durable" here means: for as long as the process lives. Everything else is as the trait says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Archive, LogPage, Naming, PageLimit, Receipt, Retention, Snapshot, Store, StoreError, Stored, Strikes,
    Summary, Version, check_dense, closed, retention, without_epoch,
};
use crate::auth::revocations::{Revocation, Revoked};
use crate::event::{Event, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence, VersionName};
use crate::metrics::Size;

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// `None`: closed.
    contents: Mutex<Option<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    documents: BTreeMap<DocumentId, Document>,
    /// By document, user and key.
    receipts: BTreeMap<(DocumentId, Option<String>, String), Receipt>,
    /// The receipts that may be forgotten are looked for when there are more.
    receipts_due: usize,
    revocations: HashMap<Revoked, Timestamp>,
    strikes: BTreeMap<DocumentId, Strikes>,
}

#[derive(Debug)]
struct Document {
    epoch: Epoch,
    log: VecDeque<Event>,
    snapshots: BTreeMap<Sequence, Bytes>,
    head: Sequence,
    created_at: Timestamp,
    updated_at: Timestamp,
    frozen_at: Option<Timestamp>,
    versions: BTreeMap<VersionName, Version>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self { contents: Mutex::new(Some(Contents::default())) }
    }

    /// Runs `work` on the documents, or answers `Unavailable` once the store is closed.
    fn with<R>(
        &self,
        work: impl FnOnce(&mut BTreeMap<DocumentId, Document>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.with_all(|contents| work(&mut contents.documents))
    }

    fn with_all<R>(
        &self,
        work: impl FnOnce(&mut Contents) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        work(self.lock().as_mut().ok_or_else(closed)?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Contents>> {
        // Every change below is checked first and then cannot fail, so a panic leaves nothing half done.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Document {
    fn oldest(&self) -> Sequence {
        self.log.front().map_or(self.head.next(), |event| event.sequence)
    }

    fn summary(&self, document: &DocumentId) -> Summary {
        let log_bytes: usize = self.log.iter().map(|event| event.update.len()).sum();
        let snapshot_bytes: usize = self.snapshots.values().map(Bytes::len).sum();
        Summary {
            document: document.clone(),
            epoch: self.epoch,
            head: self.head,
            oldest: self.oldest(),
            bytes: (log_bytes + snapshot_bytes) as u64,
            created_at: self.created_at,
            updated_at: self.updated_at,
            frozen_at: self.frozen_at,
        }
    }

    fn sorted_versions(&self) -> Vec<Version> {
        let mut versions: Vec<_> = self.versions.values().cloned().collect();
        versions.sort_by_key(|version| version.sequence);
        versions
    }

    /// The events after `after`, which lies in the log or right before it.
    fn events_after(&self, after: Sequence) -> impl Iterator<Item = &Event> {
        let skipped = after.next().since(self.oldest());
        self.log.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    /// The first sequence that `retention` wants to keep.
    fn first_kept(&self, retention: Retention) -> Sequence {
        let count_bound = self.head.minus(retention.keep_updates);
        self.events_after(count_bound.max(self.oldest().minus(1)))
            .find(|event| event.time >= retention.keep_since)
            .map_or(self.head.next(), |event| event.sequence)
    }
}

fn snapshot((sequence, update): (&Sequence, &Bytes)) -> Snapshot {
    Snapshot { sequence: *sequence, update: update.clone() }
}

impl Contents {
    fn keep(&mut self, document: &DocumentId, receipt: Receipt) {
        const RECEIPTS_MIN: usize = 1024;
        if self.receipts.len() >= self.receipts_due.max(RECEIPTS_MIN) {
            let forgotten_at = Receipt::forgotten_at(receipt.time);
            self.receipts.retain(|_, kept| kept.time > forgotten_at);
            self.receipts_due = 2 * self.receipts.len();
        }
        let name = (document.clone(), receipt.user.clone(), receipt.key.clone());
        self.receipts.insert(name, receipt);
    }
}

fn append(
    documents: &mut BTreeMap<DocumentId, Document>,
    document: &DocumentId,
    epoch: Epoch,
    events: Vec<Event>,
) -> Result<(), StoreError> {
    let (first, last) = check_dense(&events)?;
    let ((first, created_at), (head, updated_at)) =
        ((first.sequence, first.time), (last.sequence, last.time));
    let moved = || StoreError::Moved { document: document.clone() };
    if let Some(found) = documents.get_mut(document) {
        if found.epoch != epoch || found.head.next() != first {
            return Err(moved());
        }
        found.head = head;
        found.updated_at = updated_at;
        found.log.extend(events);
    } else if first == Sequence::ZERO.next() {
        let created = Document {
            epoch,
            snapshots: BTreeMap::new(),
            head,
            created_at,
            updated_at,
            frozen_at: None,
            versions: BTreeMap::new(),
            log: events.into(),
        };
        documents.insert(document.clone(), created);
    } else {
        return Err(moved());
    }
    Ok(())
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, document: &DocumentId) -> Result<Option<Stored>, StoreError> {
        self.with(|documents| {
            Ok(documents.get(document).map(|found| {
                let snapshot = found.snapshots.last_key_value().map(snapshot);
                let after = snapshot.as_ref().map_or(Sequence::ZERO, |snapshot| snapshot.sequence);
                let tail = found.events_after(after).cloned().collect();
                Stored { summary: found.summary(document), snapshot, tail }
            }))
        })
    }

    async fn record(
        &self,
        document: &DocumentId,
        epoch: Option<Epoch>,
        events: Vec<Event>,
        receipts: Vec<Receipt>,
    ) -> Result<(), StoreError> {
        self.with_all(|contents| {
            if !events.is_empty() || receipts.is_empty() {
                append(&mut contents.documents, document, epoch.ok_or_else(without_epoch)?, events)?;
            }
            for receipt in receipts {
                contents.keep(document, receipt);
            }
            Ok(())
        })
    }

    async fn receipt(
        &self,
        document: &DocumentId,
        user: Option<&str>,
        key: &str,
    ) -> Result<Option<Receipt>, StoreError> {
        let name = (document.clone(), user.map(str::to_owned), key.to_owned());
        self.with_all(|contents| Ok(contents.receipts.get(&name).cloned()))
    }

    async fn log(
        &self,
        document: &DocumentId,
        after: Sequence,
        limit: PageLimit,
    ) -> Result<Option<LogPage>, StoreError> {
        self.with(|documents| {
            let Some(found) = documents.get(document) else { return Ok(None) };
            if after >= found.head {
                return Ok(Some(LogPage { epoch: found.epoch, events: Vec::new(), head: found.head }));
            }
            if after.next() < found.oldest() {
                return Err(StoreError::Compacted { oldest: found.oldest() });
            }
            let mut room = limit.room();
            let events = found
                .events_after(after)
                .take_while(|event| room.take(event.update.len()))
                .cloned()
                .collect();
            Ok(Some(LogPage { epoch: found.epoch, events, head: found.head }))
        })
    }

    async fn snapshot_at(&self, document: &DocumentId, at: Sequence) -> Result<Option<Snapshot>, StoreError> {
        self.with(|documents| {
            let Some(found) = documents.get(document) else { return Ok(None) };
            let oldest = found.oldest();
            let leads_there =
                |sequence: Sequence| sequence == at || (sequence < at && sequence.next() >= oldest);
            let newest = found.snapshots.iter().rfind(|(sequence, _)| leads_there(**sequence));
            match newest.map(snapshot) {
                Some(snapshot) => Ok(Some(snapshot)),
                None if oldest == Sequence::ZERO.next() => Ok(None),
                None => Err(StoreError::Compacted { oldest }),
            }
        })
    }

    async fn compact(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        snapshot: Snapshot,
        retention: Retention,
    ) -> Result<Sequence, StoreError> {
        self.with(|documents| {
            let moved = || StoreError::Moved { document: document.clone() };
            let found = documents.get_mut(document).ok_or_else(moved)?;
            if found.epoch != epoch || snapshot.sequence > found.head {
                return Err(moved());
            }
            let newest = found.snapshots.last_key_value().map_or(Sequence::ZERO, |(newest, _)| *newest);
            if snapshot.sequence <= newest {
                return Ok(found.oldest());
            }
            found.snapshots.insert(snapshot.sequence, snapshot.update);
            let sequences: Vec<_> = found.snapshots.keys().copied().collect();
            let pinned: Vec<_> = found.versions.values().map(|version| version.sequence).collect();
            let plan = retention::plan(&sequences, &pinned, found.first_kept(retention));
            found.snapshots.retain(|sequence, _| !plan.dropped.contains(sequence));
            if let Some(base) = plan.base {
                let trimmed = base.next().since(found.oldest());
                found.log.drain(..usize::try_from(trimmed).unwrap_or(usize::MAX).min(found.log.len()));
            }
            Ok(found.oldest())
        })
    }

    async fn add_version(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        version: Version,
        snapshot: Snapshot,
        versions_max: usize,
    ) -> Result<Naming, StoreError> {
        self.with(|documents| {
            let moved = || StoreError::Moved { document: document.clone() };
            let found = documents.get_mut(document).ok_or_else(moved)?;
            if found.epoch != epoch || version.sequence > found.head || version.sequence != snapshot.sequence
            {
                return Err(moved());
            }
            if let Some(known) = found.versions.get(&version.name) {
                return Ok(Naming::Taken(known.clone()));
            }
            if found.versions.len() >= versions_max {
                return Ok(Naming::Full);
            }
            found.snapshots.entry(snapshot.sequence).or_insert(snapshot.update);
            found.versions.insert(version.name.clone(), version);
            Ok(Naming::Added)
        })
    }

    async fn versions(&self, document: &DocumentId) -> Result<Option<Vec<Version>>, StoreError> {
        self.with(|documents| Ok(documents.get(document).map(Document::sorted_versions)))
    }

    async fn remove_version(&self, document: &DocumentId, name: &VersionName) -> Result<bool, StoreError> {
        self.with(|documents| {
            Ok(documents.get_mut(document).is_some_and(|found| found.versions.remove(name).is_some()))
        })
    }

    async fn set_frozen(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        frozen_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.with(|documents| {
            let found = documents.get_mut(document).filter(|found| found.epoch == epoch);
            let found = found.ok_or_else(|| StoreError::Moved { document: document.clone() })?;
            found.frozen_at = frozen_at;
            Ok(())
        })
    }

    async fn archive(&self, document: &DocumentId) -> Result<Option<Archive>, StoreError> {
        self.with(|documents| {
            Ok(documents.get(document).map(|found| Archive {
                summary: found.summary(document),
                snapshots: found.snapshots.iter().map(snapshot).collect(),
                log: found.log.iter().cloned().collect(),
                versions: found.sorted_versions(),
            }))
        })
    }

    async fn unarchive(&self, archive: Archive) -> Result<bool, StoreError> {
        self.with(|documents| {
            let Archive { summary, snapshots, log, versions } = archive;
            if documents.contains_key(&summary.document) {
                return Ok(false);
            }
            let by_sequence = |snapshot: Snapshot| (snapshot.sequence, snapshot.update);
            let by_name = |version: Version| (version.name.clone(), version);
            let document = Document {
                epoch: summary.epoch,
                log: log.into(),
                snapshots: snapshots.into_iter().map(by_sequence).collect(),
                head: summary.head,
                created_at: summary.created_at,
                updated_at: summary.updated_at,
                frozen_at: summary.frozen_at,
                versions: versions.into_iter().map(by_name).collect(),
            };
            documents.insert(summary.document, document);
            Ok(true)
        })
    }

    async fn add_strike(
        &self,
        document: &DocumentId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Strikes>, StoreError> {
        self.with_all(|contents| {
            if !contents.documents.contains_key(document) {
                return Ok(None);
            }
            let previous = contents.strikes.remove(document);
            let strikes = Strikes::with_one_more(previous, document, reason, now);
            contents.strikes.insert(document.clone(), strikes.clone());
            Ok(Some(strikes))
        })
    }

    async fn clear_strikes(&self, document: &DocumentId) -> Result<bool, StoreError> {
        self.with_all(|contents| Ok(contents.strikes.remove(document).is_some()))
    }

    async fn quarantined(&self) -> Result<Vec<Strikes>, StoreError> {
        self.with_all(|contents| {
            let quarantined = contents.strikes.values().filter(|strikes| strikes.quarantined_at.is_some());
            Ok(quarantined.cloned().collect())
        })
    }

    async fn damaged(&self) -> Result<Vec<(DocumentId, String)>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete(&self, document: &DocumentId) -> Result<bool, StoreError> {
        self.with_all(|contents| {
            contents.receipts.retain(|(of, ..), _| of != document);
            contents.strikes.remove(document);
            Ok(contents.documents.remove(document).is_some())
        })
    }

    async fn summary(&self, document: &DocumentId) -> Result<Option<Summary>, StoreError> {
        self.with(|documents| Ok(documents.get(document).map(|found| found.summary(document))))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        self.with(|documents| {
            let wanted =
                |document: &str| document.starts_with(prefix) && after.is_none_or(|after| document > after);
            Ok(documents
                .iter()
                .filter(|(document, _)| wanted(document.as_str()))
                .take(limit)
                .map(|(document, found)| found.summary(document))
                .collect())
        })
    }

    async fn add_revocation(
        &self,
        revocation: Revocation,
        keep_since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.with_all(|contents| {
            contents.revocations.insert(revocation.revoked, revocation.at);
            contents.revocations.retain(|_, at| keep_since.is_none_or(|since| *at >= since));
            Ok(())
        })
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        let revocation =
            |(revoked, at): (&Revoked, &Timestamp)| Revocation { revoked: revoked.clone(), at: *at };
        self.with_all(|contents| Ok(contents.revocations.iter().map(revocation).collect()))
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.with(|documents| {
            let bytes = documents.iter().map(|(id, document)| document.summary(id).bytes).sum();
            Ok(Size { documents: documents.len() as u64, bytes })
        })
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        self.with(|_| Ok(()))
    }

    async fn close(&self) {
        *self.lock() = None;
    }
}
