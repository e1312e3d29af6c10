//! A document's past: points of it that have names, and who wrote how much.

use std::collections::HashMap;
use std::time::SystemTime;

use crate::auth::access::MayWrite;
use crate::event::{Event, Origin, Timestamp};
use crate::ids::{Epoch, Sequence, VersionName};
use crate::store::{Naming, PageLimit, Snapshot, Version};

use super::format::{self, ClientNumber, DeleteSet, Kind};
use super::handle::{Document, DocumentError};

/// How much of the log is read at a time.
const PAGE: PageLimit = PageLimit { events_max: 4096, bytes_max: 8 << 20 };

impl<L: MayWrite> Document<L> {
    /// Gives a name to a point of the history, which stays reachable for as long as it has one.
    ///
    /// `at`: the head if left out. `versions_max`: how many the document may have.
    ///
    /// # Errors
    /// `NotFound` after the head too, `Gone`, `Unavailable`, `Damaged`.
    pub async fn add_version(
        &self,
        name: VersionName,
        at: Option<Sequence>,
        versions_max: usize,
    ) -> Result<(Version, Naming), DocumentError> {
        let state = match at {
            Some(at) => self.state_at(at, None).await?,
            None => self.state(None).await?,
        };
        let epoch = state.epoch.ok_or(DocumentError::NotFound)?;
        let created_at = Timestamp::from(SystemTime::now());
        let version = Version { name, sequence: state.sequence, created_at };
        let snapshot = Snapshot { sequence: state.sequence, update: state.update };
        let store = &self.0.store;
        let named = store.add_version(&self.0.id, epoch, version.clone(), snapshot, versions_max).await?;
        Ok((version, named))
    }
}

impl Document {
    /// Takes a name away. `false`: there is none of that name.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`.
    pub async fn remove_version(&self, name: &VersionName) -> Result<bool, DocumentError> {
        self.check_in_service()?;
        Ok(self.0.store.remove_version(&self.0.id, name).await?)
    }
}

impl<L> Document<L> {
    /// The points that have names, by sequence and name.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn versions(&self) -> Result<Vec<Version>, DocumentError> {
        self.check_in_service()?;
        self.0.store.versions(&self.0.id).await?.ok_or(DocumentError::NotFound)
    }

    /// Who wrote how much, as far as the log tells: after `since`, or all of it.
    ///
    /// # Errors
    /// `NotFound`, `Gone` if `since` is given and the log no longer reaches it, `Unavailable`, `Damaged`.
    pub async fn history(&self, since: Option<Sequence>) -> Result<History, DocumentError> {
        self.check_in_service()?;
        let store = &self.0.store;
        let summary = store.summary(&self.0.id).await?.ok_or(DocumentError::NotFound)?;
        let since = since.unwrap_or_else(|| summary.oldest.minus(1));
        let mut tally = Tally::default();
        let mut after = since;
        loop {
            let page = store.log(&self.0.id, after, PAGE).await?.ok_or(DocumentError::NotFound)?;
            let last = page.events.last().map(|event| event.sequence);
            // A long log is counted in pieces, and on a thread that holds nobody up.
            let events = page.events;
            let counting = tokio::task::spawn_blocking(move || {
                events.iter().for_each(|event| tally.count(event));
                tally
            });
            let interrupted = |_| DocumentError::Unavailable { reason: "counting was interrupted".into() };
            tally = counting.await.map_err(interrupted)?;
            match last {
                Some(last) if last < page.head => after = last,
                last => {
                    let head = last.unwrap_or(page.head);
                    return Ok(History { epoch: page.epoch, since, head, contributions: tally.finish() });
                }
            }
        }
    }
}

/// Who wrote how much of a stretch of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub epoch: Epoch,
    /// The stretch begins right after this, and ends with `head`.
    pub since: Sequence,
    pub head: Sequence,
    /// In the order of their first updates.
    pub contributions: Vec<Contribution>,
}

/// What one origin wrote under one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contribution {
    pub origin: Origin,
    pub user: Option<String>,
    pub updates: u64,
    /// Of updates, as they were posted.
    pub bytes: u64,
    /// Units of content that were new with these updates: UTF-16 code units of text, elements of lists, entries of
    /// maps, formatting marks.
    pub inserted: u64,
    /// Units of content that these updates deleted.
    pub deleted: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// Counts contributions. What an update brings again counts for whoever brought it first.
#[derive(Debug, Default)]
struct Tally {
    contributions: Vec<Contribution>,
    places: HashMap<(Origin, Option<String>), usize>,
    known: HashMap<ClientNumber, u32>,
    deleted: DeleteSet,
}

impl Tally {
    fn count(&mut self, event: &Event) {
        let (inserted, deleted) = self.effect(&event.update);
        let key = (event.origin.clone(), event.user.clone());
        let place = *self.places.entry(key).or_insert_with(|| {
            self.contributions.push(Contribution {
                origin: event.origin.clone(),
                user: event.user.clone(),
                updates: 0,
                bytes: 0,
                inserted: 0,
                deleted: 0,
                first_at: event.time,
                last_at: event.time,
            });
            self.contributions.len() - 1
        });
        let contribution = &mut self.contributions[place];
        contribution.updates += 1;
        contribution.bytes += event.update.len() as u64;
        contribution.inserted += inserted;
        contribution.deleted += deleted;
        contribution.last_at = event.time;
    }

    /// How many units an update inserts and how many it deletes, of what was not so before.
    fn effect(&mut self, update: &[u8]) -> (u64, u64) {
        // What is in the log was read before; should it not read any more, opening the document says so.
        let Ok(outline) = format::read_update(update) else { return (0, 0) };
        let mut inserted = 0;
        for share in &outline.clients {
            let known = self.known.entry(share.client).or_insert(0);
            for block in outline.blocks_of(share) {
                if matches!(block.kind, Kind::Type | Kind::Value) {
                    inserted += u64::from(block.end().saturating_sub(block.clock.max(*known)));
                }
                *known = block.end().max(*known);
            }
        }
        let mut deleted = 0;
        for (client, range) in outline.deletions.iter() {
            deleted += u64::from(range.end - range.start) - self.deleted.overlap(client, &range);
            self.deleted.insert(client, range);
        }
        (inserted, deleted)
    }

    fn finish(self) -> Vec<Contribution> {
        self.contributions
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use yrs::{Doc, Text, Transact};

    use super::*;

    fn event(number: u64, origin: &str, update: Vec<u8>) -> Event {
        Event {
            sequence: Sequence::new(number),
            origin: Origin::Client(origin.parse().expect("a client id")),
            user: None,
            time: Timestamp::from_milliseconds(number.cast_signed()),
            update: Bytes::from(update),
        }
    }

    #[test]
    fn a_repeat_counts_for_whoever_was_first() {
        let doc = Doc::with_client_id(7);
        let text = doc.get_or_insert_text("text");
        let mut transaction = doc.transact_mut();
        text.insert(&mut transaction, 0, "hello");
        let hello = transaction.encode_update_v1();
        drop(transaction);
        let mut transaction = doc.transact_mut();
        text.remove_range(&mut transaction, 0, 2);
        let deletion = transaction.encode_update_v1();
        drop(transaction);

        let mut tally = Tally::default();
        for (number, (origin, update)) in
            [("ada", &hello), ("eve", &hello), ("eve", &deletion), ("ada", &deletion)].into_iter().enumerate()
        {
            tally.count(&event(number as u64 + 1, origin, update.clone()));
        }
        let counted: Vec<_> =
            tally.finish().into_iter().map(|one| (one.updates, one.inserted, one.deleted)).collect();
        assert_eq!(counted, [(2, 5, 0), (2, 0, 2)]);
    }
}
