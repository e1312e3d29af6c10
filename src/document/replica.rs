//! Our copy of a document: the only file that speaks yrs.
//!
//! Pure: no clock, no IO. A change is read strictly (`format`), admitted (`admission`), and applied in a
//! transaction that carries its origin. What its roots hold is read in `shape`, and patched in `patching`.
//!
//! Invariants:
//! - nothing is parked: every state is that of a Yjs document that has everything it builds on;
//! - garbage is not collected, so what clients hold on to stays where they point;
//! - a replica that answered `Broken`, or panicked, is thrown away by its owner.

mod patching;
mod shape;

use bytes::Bytes;
use yrs::updates::decoder::Decode;
use yrs::{
    Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, TextRef, Transact, TransactionMut,
    Update,
};

use crate::event::Origin;

use super::admission::{CLIENTS_MAX, Known, Refusal};
use super::format::{self, DeleteSet, FormatError};
use super::handle::{Change, DocumentError};

/// An update of more blocks is applied in portions of so many: keystrokes have one, and 64 take the library no
/// longer than a second even in the largest documents.
const PORTION_BLOCKS: usize = 64;

/// What a change did.
#[derive(Debug)]
pub(super) enum Changed {
    /// The update to log and to tell: the posted bytes, or those that an edit made.
    Update(Bytes),
    Nothing,
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum ChangeError {
    /// The replica is as it was before.
    Refused(DocumentError),
    /// The replica may be half changed: throw it away.
    Broken { reason: String },
    /// The owner's patience ended half way: throw the replica away.
    TooCostly,
}

impl From<DocumentError> for ChangeError {
    fn from(error: DocumentError) -> Self {
        Self::Refused(error)
    }
}

pub(super) struct Replica {
    doc: Doc,
    known: Known,
    /// At the least what the whole state takes encoded: exact after an encoding, then counted up.
    encoded_bytes: usize,
    formats: shape::Formats,
}

impl Replica {
    /// A document never written.
    pub(super) fn new() -> Self {
        let mut options = Options {
            offset_kind: OffsetKind::Utf16,
            skip_gc: true,
            // Deletions that no client made would be in no log.
            cleanup_formatting: false,
            ..Options::default()
        };
        options.should_load = false;
        Self {
            doc: Doc::with_options(options),
            known: Known::default(),
            encoded_bytes: 0,
            formats: Default::default(),
        }
    }

    /// Rebuilds a document from a snapshot and the updates after it.
    ///
    /// # Errors
    /// Says which update cannot be merged. It was accepted once, so the log was damaged.
    pub(super) fn open<'a>(
        snapshot: Option<&'a [u8]>,
        tail: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, String> {
        let mut replica = Self::new();
        for (number, update) in snapshot.into_iter().chain(tail).enumerate() {
            replica.merge(update, &Origin::Anonymous, usize::MAX, &|| true).map_err(|error| match error {
                ChangeError::Refused(error) => format!("update {number} of its log is refused: {error}"),
                ChangeError::Broken { reason } => format!("update {number} of its log fails: {reason}"),
                ChangeError::TooCostly => format!("update {number} of its log takes too long"),
            })?;
        }
        Ok(replica)
    }

    /// Whether a snapshot loads as what it was taken from.
    pub(super) fn verify(snapshot: &[u8], state_vector: &[u8]) -> bool {
        Self::open(Some(snapshot), std::iter::empty()).is_ok_and(|loaded| {
            loaded.state_vector() == state_vector && loaded.encode(&StateVector::default()) == snapshot
        })
    }

    /// Carries out one change, whole or not at all.
    ///
    /// `bytes_max`: how long the whole state may become, encoded. `is_patient`: asked now and then whether a merge
    /// that takes long may go on.
    pub(super) fn change(
        &mut self,
        change: &Change,
        origin: &Origin,
        bytes_max: usize,
        is_patient: &dyn Fn() -> bool,
    ) -> Result<Changed, ChangeError> {
        match change {
            Change::Update(update) => {
                let changed = self.merge(update, origin, bytes_max, is_patient)?;
                Ok(if changed { Changed::Update(update.clone()) } else { Changed::Nothing })
            }
            Change::SetText { root, text } => {
                self.check_size(text.len(), bytes_max)?;
                let old = self.text(root);
                let Some(splice) = Splice::between(&old, text) else { return Ok(Changed::Nothing) };
                self.splice(root, &splice, origin)
            }
            Change::InsertAt { root, position, text } => {
                self.check_size(text.len(), bytes_max)?;
                check_position(&self.text(root), *position)?;
                self.splice(root, &Splice { position: *position, deleted: 0, inserted: text }, origin)
            }
            Change::DeleteRange { root, position, length } => {
                let text = self.text(root);
                let end = position.saturating_add(*length);
                check_position(&text, *position)?;
                check_position(&text, end)?;
                self.splice(root, &Splice { position: *position, deleted: *length, inserted: "" }, origin)
            }
            Change::Patch(patch) => self.patch(patch, origin, bytes_max, is_patient),
        }
    }

    /// Merges an update. `false`: everything in it was known.
    ///
    /// `bytes_max`: how long the whole state may become; a repeat makes nothing longer.
    fn merge(
        &mut self,
        bytes: &[u8],
        origin: &Origin,
        bytes_max: usize,
        is_patient: &dyn Fn() -> bool,
    ) -> Result<bool, ChangeError> {
        let outline = format::read_update(bytes).map_err(|error| match error {
            FormatError::Unsupported { content } => DocumentError::Unsupported { content },
            invalid @ FormatError::Invalid { .. } => DocumentError::Invalid { reason: invalid.to_string() },
        })?;
        let admission = self.known.admit(&outline).map_err(|refusal| match refusal {
            Refusal::Gap => DocumentError::Gap { state_vector: self.state_vector() },
            Refusal::Full => DocumentError::TooLarge { limit: CLIENTS_MAX, unit: "clients" },
            invalid @ Refusal::Invalid { .. } => DocumentError::Invalid { reason: invalid.to_string() },
        })?;
        if admission.changes_nothing() {
            return Ok(false);
        }
        self.check_size(bytes.len(), bytes_max)?;
        self.formats.note(&outline);
        let derived = if admission.block_count() <= PORTION_BLOCKS {
            self.integrate(bytes, origin)?
        } else {
            let mut derived = DeleteSet::default();
            for portion in admission.portions(PORTION_BLOCKS) {
                if !is_patient() {
                    return Err(ChangeError::TooCostly);
                }
                derived.union(&self.integrate(&portion, origin)?);
            }
            // No structs, and the update's own delete set.
            let deletions = [&[0], &bytes[outline.structs_end..]].concat();
            derived.union(&self.integrate(&deletions, origin)?);
            derived
        };
        self.known.record(admission, &outline.deletions, &derived);
        self.encoded_bytes += bytes.len();
        Ok(true)
    }

    /// Applies an admitted update in one transaction. Returns everything that it deleted.
    fn integrate(&self, update: &[u8], origin: &Origin) -> Result<DeleteSet, ChangeError> {
        let broken = |reason: String| ChangeError::Broken { reason };
        let update = Update::decode_v1(update).map_err(|error| broken(error.to_string()))?;
        let mut transaction = begin(&self.doc, origin)?;
        transaction.apply_update(update).map_err(|error| broken(error.to_string()))?;
        if transaction.has_missing_updates() {
            return Err(broken("an admitted update was not integrated whole".into()));
        }
        Ok(deletions_of(&transaction))
    }

    /// Replaces part of a text, in one transaction and one update.
    fn splice(&mut self, root: &str, splice: &Splice<'_>, origin: &Origin) -> Result<Changed, ChangeError> {
        if splice.deleted == 0 && splice.inserted.is_empty() {
            return Ok(Changed::Nothing);
        }
        let text: TextRef = self.doc.get_or_insert_text(root);
        let mut transaction = begin(&self.doc, origin)?;
        if splice.deleted > 0 {
            text.remove_range(&mut transaction, splice.position, splice.deleted);
        }
        if !splice.inserted.is_empty() {
            text.insert(&mut transaction, splice.position, splice.inserted);
        }
        let update = Bytes::from(transaction.encode_update_v1());
        let derived = deletions_of(&transaction);
        drop(transaction);
        // From here on a failure means that the replica knows more than `known`.
        let broken = |reason: String| ChangeError::Broken { reason };
        let outline = format::read_update(&update).map_err(|error| broken(error.to_string()))?;
        let admission = self.known.admit(&outline).map_err(|refusal| broken(refusal.to_string()))?;
        self.known.record(admission, &outline.deletions, &derived);
        self.encoded_bytes += update.len();
        Ok(Changed::Update(update))
    }

    /// # Errors
    /// `TooLarge` if the document could grow over `bytes_max` by so much.
    fn check_size(&mut self, added_bytes: usize, bytes_max: usize) -> Result<(), DocumentError> {
        if self.encoded_bytes + added_bytes > bytes_max {
            self.encoded_bytes = self.encode(&StateVector::default()).len();
            if self.encoded_bytes + added_bytes > bytes_max {
                return Err(DocumentError::TooLarge { limit: bytes_max, unit: "bytes" });
            }
        }
        Ok(())
    }

    /// The whole document as one update.
    pub(super) fn whole(&self) -> Bytes {
        self.encode(&StateVector::default()).into()
    }

    /// What the holder of `state_vector` lacks; every deletion is in it, as Yjs always sends them all.
    ///
    /// # Errors
    /// `Invalid`: no state vector.
    pub(super) fn difference(&self, state_vector: &[u8]) -> Result<Bytes, DocumentError> {
        let known = format::read_state_vector(state_vector)
            .map_err(|error| DocumentError::Invalid { reason: error.to_string() })?;
        Ok(self.encode(&to_yrs(known.iter())).into())
    }

    /// One update that brings whoever has all but `missed` up to date: their structs, and their deletions only.
    ///
    /// Of each client that appears in `missed` it takes everything from the first clock there on, so what the
    /// reader has already may come again, as any overlap may.
    ///
    /// # Errors
    /// `Invalid`: something among `missed` is no update.
    pub(super) fn covering<'a>(
        &self,
        missed: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Bytes, DocumentError> {
        let invalid = |error: FormatError| DocumentError::Invalid { reason: error.to_string() };
        let mut first_clocks = std::collections::HashMap::new();
        let mut deletions = DeleteSet::default();
        for update in missed {
            let outline = format::read_update(update).map_err(invalid)?;
            for share in &outline.clients {
                let Some(block) = outline.blocks_of(share).first() else { continue };
                let first = first_clocks.entry(share.client).or_insert(block.clock);
                *first = block.clock.min(*first);
            }
            deletions.union(&outline.deletions);
        }
        let has = self.known.state_vector();
        let has = has.iter().map(|(client, next)| match first_clocks.get(&client) {
            Some(first) => (client, next.min(*first)),
            None => (client, next),
        });
        let difference = self.encode(&to_yrs(has));
        let structs_end = format::read_update(&difference).map_err(invalid)?.structs_end;
        let mut update = difference;
        update.truncate(structs_end);
        update.extend_from_slice(&deletions.encode());
        Ok(update.into())
    }

    /// What the document has, encoded as Yjs does.
    pub(super) fn state_vector(&self) -> Bytes {
        self.known.state_vector().encode().into()
    }

    /// The text of a root, without formats and embeds; empty if there is no such root.
    pub(super) fn text(&self, root: &str) -> String {
        let transaction = self.doc.transact();
        transaction.get_text(root).map_or_else(String::new, |text| text.get_string(&transaction))
    }

    /// What the whole state takes encoded, at the most.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    fn encode(&self, state_vector: &StateVector) -> Vec<u8> {
        self.doc.transact().encode_diff_v1(state_vector)
    }
}

fn begin<'a>(doc: &'a Doc, origin: &Origin) -> Result<TransactionMut<'a>, ChangeError> {
    let opened = match origin {
        Origin::Client(client) => doc.try_transact_mut_with(client.as_str()),
        Origin::Anonymous => doc.try_transact_mut(),
    };
    opened.map_err(|error| ChangeError::Broken { reason: error.to_string() })
}

fn deletions_of(transaction: &TransactionMut<'_>) -> DeleteSet {
    let mut deletions = DeleteSet::default();
    for (client, ranges) in transaction.delete_set().iter() {
        for range in ranges.iter() {
            deletions.insert(client.get(), range.clone());
        }
    }
    deletions
}

fn to_yrs(clocks: impl Iterator<Item = (format::ClientNumber, u32)>) -> StateVector {
    let mut state_vector = StateVector::default();
    for (client, clock) in clocks {
        state_vector.set_max(yrs::block::ClientID::new(client), clock);
    }
    state_vector
}

/// # Errors
/// `InvalidPosition` past the end or inside a surrogate pair. `position` in UTF-16 code units.
fn check_position(text: &str, position: u32) -> Result<(), DocumentError> {
    let mut units = 0;
    for character in text.chars() {
        if units >= position {
            break;
        }
        units += character.len_utf16() as u32;
    }
    if units == position {
        return Ok(());
    }
    Err(DocumentError::InvalidPosition { position, length: utf16_length(text) })
}

fn utf16_length(text: &str) -> u32 {
    text.chars().map(|character| character.len_utf16() as u32).sum()
}

/// One replacement in a text. `position` and `deleted` in UTF-16 code units.
#[derive(Debug, PartialEq, Eq)]
struct Splice<'a> {
    position: u32,
    deleted: u32,
    inserted: &'a str,
}

impl<'a> Splice<'a> {
    /// The smallest single replacement that leads from `old` to `new`; `None` if they are the same.
    fn between(old: &str, new: &'a str) -> Option<Self> {
        if old == new {
            return None;
        }
        let same = |pair: &(char, char)| pair.0 == pair.1;
        let prefix: usize =
            old.chars().zip(new.chars()).take_while(same).map(|(character, _)| character.len_utf8()).sum();
        let suffix: usize = old[prefix..]
            .chars()
            .rev()
            .zip(new[prefix..].chars().rev())
            .take_while(same)
            .map(|(character, _)| character.len_utf8())
            .sum();
        Some(Self {
            position: utf16_length(&old[..prefix]),
            deleted: utf16_length(&old[prefix..old.len() - suffix]),
            inserted: &new[prefix..new.len() - suffix],
        })
    }
}

#[cfg(test)]
mod tests;
