//! Our copy of a document: this module is the only one that speaks yrs.
//!
//! Pure: no clock, no IO. A change is read strictly (`format`), admitted (`admission`), and applied in a
//! transaction that carries its origin. Edits of its texts are made in `editing`; what its roots hold is read in
//! `shape`, and patched in `patching`.
//!
//! Invariants:
//! - nothing is parked: every state is that of a Yjs document that has everything it builds on;
//! - garbage is not collected here, so what clients hold on to stays where they point; a snapshot may come without
//!   (`compacting`), and is then like the state of a client that collects;
//! - a replica that answered `Broken`, or panicked, is thrown away by its owner.

pub(super) mod compacting;
mod editing;
mod patching;
pub(super) mod restoring;
mod shape;

use std::time::Instant;

use bytes::Bytes;
use yrs::updates::decoder::Decode;
use yrs::{Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, TransactionMut, Update};

use crate::event::Origin;
use crate::ids::Sequence;

use super::admission::{CLIENTS_MAX, Known, Refusal};
use super::format::{self, ClientNumber, DeleteSet, FormatError};
use super::handle::{Change, DocumentError};
use super::job::Bundle;
use super::text::Content;

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

/// What a change may cost.
pub(super) struct Allowance<'a> {
    /// How long the whole state may become, encoded.
    pub(super) bytes_max: usize,
    /// Asked now and then whether a change that takes long may go on.
    pub(super) is_patient: &'a dyn Fn() -> bool,
    /// How long the smallest way to a new text may be looked for.
    pub(super) difference_until: Option<Instant>,
}

pub(super) struct Replica {
    doc: Doc,
    known: Known,
    /// The text that was edited last, with its root, if nothing has changed since.
    content: Option<(String, Content)>,
    /// At the least what the whole state takes encoded: exact after an encoding, then counted up.
    encoded_bytes: usize,
    formats: shape::Formats,
}

impl Replica {
    /// A document never written.
    ///
    /// `number`: the Yjs client number that its own edits are made under.
    pub(super) fn new(number: ClientNumber) -> Self {
        let mut options = Options {
            offset_kind: OffsetKind::Utf16,
            skip_gc: true,
            // Deletions that no client made would be in no log.
            cleanup_formatting: false,
            ..Options::with_client_id(yrs::block::ClientID::new(number))
        };
        options.should_load = false;
        Self {
            doc: Doc::with_options(options),
            known: Known::default(),
            content: None,
            encoded_bytes: 0,
            formats: Default::default(),
        }
    }

    /// Rebuilds a document from a snapshot and the updates after it.
    ///
    /// # Errors
    /// Says which update cannot be merged. It was accepted once, so the log was damaged.
    pub(super) fn open<'a>(
        number: ClientNumber,
        snapshot: Option<&'a [u8]>,
        tail: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, String> {
        let mut replica = Self::new(number);
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
        Self::open(0, Some(snapshot), std::iter::empty()).is_ok_and(|loaded| {
            loaded.state_vector() == state_vector && loaded.encode(&StateVector::default()) == snapshot
        })
    }

    /// Whether every snapshot of an archive loads, and leads with the log after it to one and the same state.
    ///
    /// # Errors
    /// Says what does not.
    pub(super) fn check_archive(archive: &Bundle<'_>) -> Result<(), String> {
        let oldest = archive.oldest;
        let after = |start: Sequence| {
            let known = usize::try_from(start.next().since(oldest)).unwrap_or(usize::MAX);
            archive.log.iter().copied().skip(known)
        };
        let mut state_vectors = Vec::new();
        if oldest == Sequence::ZERO.next() {
            state_vectors.push(Self::open(0, None, after(Sequence::ZERO))?.state_vector());
        }
        for &(sequence, update) in &archive.snapshots {
            let update = Some(update);
            // One that a version keeps may lie before what is left of the log.
            let leads_to_head = sequence.next() >= oldest;
            let replica = if leads_to_head {
                Self::open(0, update, after(sequence))
            } else {
                Self::open(0, update, std::iter::empty())
            };
            let replica = replica.map_err(|error| format!("from its snapshot at {sequence}: {error}"))?;
            if leads_to_head {
                state_vectors.push(replica.state_vector());
            }
        }
        if state_vectors.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err("its snapshots do not lead to the same state".into());
        }
        Ok(())
    }

    /// The Yjs client number that its own edits are made under.
    pub(super) fn number(&self) -> ClientNumber {
        self.doc.client_id().get()
    }

    /// Whether a Yjs client of that number has written to the document.
    pub(super) fn has_written(&self, number: ClientNumber) -> bool {
        self.known.next_clock(number) > 0
    }

    /// Carries out one change, whole or not at all.
    pub(super) fn change(
        &mut self,
        change: &Change,
        origin: &Origin,
        allowance: &Allowance<'_>,
    ) -> Result<Changed, ChangeError> {
        match change {
            Change::Update(update) => {
                let changed = self.merge(update, origin, allowance.bytes_max, allowance.is_patient)?;
                Ok(if changed { Changed::Update(update.clone()) } else { Changed::Nothing })
            }
            Change::Text(change) => self.edit(change, origin, allowance),
            Change::Rebased { update, number, text } => {
                let text = text.as_ref().map(|(root, _)| root.as_str());
                self.merge_edit(update, *number, text, origin, allowance)
            }
            Change::Patch(patch) => self.patch(patch, origin, allowance),
            Change::Restore(content) => self.restore(content, origin, allowance),
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
        self.content = None;
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

    /// What the whole state takes encoded, at the most.
    pub(super) fn encoded_bytes(&self) -> usize {
        self.encoded_bytes
    }

    /// What is kept of its text beside the state.
    pub(super) fn copied_bytes(&self) -> usize {
        self.content.as_ref().map_or(0, |(_, content)| content.bytes())
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

fn to_yrs(clocks: impl Iterator<Item = (ClientNumber, u32)>) -> StateVector {
    let mut state_vector = StateVector::default();
    for (client, clock) in clocks {
        state_vector.set_max(yrs::block::ClientID::new(client), clock);
    }
    state_vector
}

#[cfg(test)]
mod tests;
