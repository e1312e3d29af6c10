//! Which updates a document may take.
//!
//! An update of the right form can still ruin a document: by building on something that isn't there (the CRDT
//! library then parks it, or integrates it where Yjs would wait), by going round in circles, by nesting so deep
//! that recursion runs out of stack, or by tying together what belongs to different containers. [`Known`] holds the
//! little that has to be remembered to tell, and decides before the library sees the bytes.
//!
//! Invariants:
//! - what a document knows has no holes: of every client, all units below some clock, and of these everything that
//!   they build on;
//! - a refused update leaves no trace; an admitted one can be integrated whole, with nothing left over.
//!
//! This mirrors how the library places a block (yrs 0.28.1, `Update::missing_dependency` and
//! `TransactionMut::integrate_item`), for documents that never collect garbage (`skip_gc`). What was
//! collected elsewhere, by a client or in a snapshot, comes in without content, or without a place too: `emptied`, `GONE`.

mod placement;
mod portions;

use std::collections::HashMap;

use super::format::{ClientNumber, Crowding, DeleteSet, Id, Kind, Outline, StateVector};
use placement::Placement;

/// How many types may be nested in each other, roots not counted.
///
/// Deleting a type, and turning one into JSON, recurses into what is in it: this deep takes a small part of a stack
/// of 2 MiB even without optimisation. Editors nest blocks, lists and tables some 20 deep.
pub const NESTING_MAX: u8 = 200;

/// How many clients may ever write to one document.
///
/// The CRDT library takes time that grows with the square of a chain of clients who each wrote after the one before:
/// 20,000 take a quarter of a second, so many as this 6 seconds, whenever the document is loaded.
pub const CLIENTS_MAX: usize = 100_000;

/// What a document has, as far as it decides about updates.
///
/// A text document takes some 100 bytes for each client that ever wrote and 8 for each run of deleted units; a
/// structured one 40 more for each type, and 8 wherever a client went from one container to another.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// For each client, where its units are. A client that is listed has at least one run.
    clients: HashMap<ClientNumber, Vec<Run>>,
    crowding: Crowding,
    roots: HashMap<Box<str>, ContainerNumber>,
    types: HashMap<Id, ContainerNumber>,
    /// How deep each container is nested; a root's is 0. The index is the `ContainerNumber`.
    nesting: Vec<u8>,
    /// Units that came without their content, though with a place: one of these can have been a type.
    emptied: DeleteSet,
    deleted: DeleteSet,
}

/// Why an update is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It builds on units, or deletes units, that are not here. The sender's difference to
    /// `Known::state_vector` has them.
    #[error("the update builds on others that are missing")]
    Gap,
    /// No Yjs client can have written this.
    #[error("not an update that a Yjs client writes: {reason}")]
    Invalid { reason: &'static str },
    /// More than `CLIENTS_MAX` clients would have written to the document.
    #[error("a document takes updates of at most {CLIENTS_MAX} Yjs clients")]
    Full,
}

/// What an update adds to the `Known` that admitted it.
///
/// Holds for the document as it was then: record it before the next update is looked at, or drop it.
#[derive(Debug)]
#[must_use = "an admitted update that is applied must be recorded"]
pub struct Admission<'a> {
    placement: Placement<'a>,
    deletes: bool,
}

impl Admission<'_> {
    /// Whether the document already has all of it: every block, and every deletion.
    pub fn changes_nothing(&self) -> bool {
        self.placement.is_empty() && !self.deletes
    }

    /// How many blocks are new.
    pub fn block_count(&self) -> usize {
        self.placement.shares.iter().map(|share| share.blocks.len()).sum()
    }

    /// Updates of `blocks_max` blocks at the most that together bring all new blocks, each after those that it builds
    /// on. Deletions are in none of them.
    pub fn portions(&self, blocks_max: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        portions::cut(&self.placement, blocks_max)
    }
}

impl Known {
    /// Decides about one update. Near-linear in the number of blocks, whatever they refer to.
    ///
    /// # Errors
    /// - `Gap`: something that it needs is missing.
    /// - `Invalid`: it can never be integrated, or not without harm.
    /// - `Full`: it brings too many new clients.
    pub fn admit<'a>(&self, outline: &'a Outline<'a>) -> Result<Admission<'a>, Refusal> {
        let placement = placement::place(self, outline)?;
        let mut deletes = false;
        for (client, range) in outline.deletions.iter() {
            let next_clock = placement.next_clock(client).unwrap_or_else(|| self.next_clock(client));
            if range.end > next_clock {
                return Err(Refusal::Gap);
            }
            deletes |= !self.deleted.covers_range(client, &range);
        }
        self.check_entries(&placement, &outline.deletions)?;
        Ok(Admission { placement, deletes })
    }

    /// Checks that a map entry is one value.
    ///
    /// A client merges entries into one block only when all of them are overwritten, and then says so. If such a block
    /// were alive, what is deleted would depend on how it comes to be split.
    fn check_entries(&self, placement: &Placement<'_>, deletions: &DeleteSet) -> Result<(), Refusal> {
        for share in &placement.shares {
            for (block, home) in share.blocks.iter().zip(&share.homes) {
                let units = block.clock..block.end();
                if home.is_keyed()
                    && block.length > 1
                    && block.kind == Kind::Value
                    && !deletions.covers_range(share.client, &units)
                    && !self.deleted.covers_range(share.client, &units)
                {
                    return Err(Refusal::Invalid { reason: "a map entry has several values" });
                }
            }
        }
        Ok(())
    }

    /// Adds what an admitted update has brought, once it is applied.
    ///
    /// `deletions`: the outline's.
    /// `derived`: everything that the transaction has deleted: integrating a block deletes what it overwrites, what
    /// it was put into if that is deleted, and what is inside of the deleted.
    pub fn record(&mut self, admission: Admission<'_>, deletions: &DeleteSet, derived: &DeleteSet) {
        let Placement { shares, newcomers, roots, types, nesting, emptied, order: _ } = admission.placement;
        self.crowding.add_all(&newcomers);
        for share in shares {
            let runs = self.clients.entry(share.client).or_insert_with(|| Vec::with_capacity(1));
            for (block, home) in share.blocks.iter().zip(share.homes) {
                let clock = runs.last().map_or(0, |run| run.end);
                if home == Home::GONE {
                    self.deleted.insert(share.client, clock..block.end());
                }
                match runs.last_mut() {
                    Some(last) if last.home == home => last.end = block.end(),
                    _ => runs.push(Run { end: block.end(), home }),
                }
            }
        }
        self.roots.extend(roots.into_iter().map(|(name, container)| (name.into(), container)));
        self.types.extend(types);
        self.nesting.extend(nesting);
        self.deleted.union(&emptied);
        self.emptied.union(&emptied);
        self.deleted.union(deletions);
        self.deleted.union(derived);
    }

    /// The clock that a client's next unit has.
    pub fn next_clock(&self, client: ClientNumber) -> u32 {
        self.clients.get(&client).and_then(|runs| runs.last()).map_or(0, |run| run.end)
    }

    pub fn state_vector(&self) -> StateVector {
        self.clients.keys().map(|&client| (client, self.next_clock(client))).collect()
    }

    /// Everything that is deleted.
    pub fn deleted(&self) -> &DeleteSet {
        &self.deleted
    }

    /// Where a known unit is.
    fn home(&self, id: Id) -> Option<Home> {
        let runs = self.clients.get(&id.client)?;
        runs.get(runs.partition_point(|run| run.end <= id.clock)).map(|run| run.home)
    }
}

/// Units of one client in one home, up to (not including) clock `end`; they begin where the run before ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    end: u32,
    home: Home,
}

/// Numbers a root or nested type within one document.
type ContainerNumber = u32;

/// Where in a document a unit is: in a container's sequence, among its map entries, or nowhere any more.
///
/// Which map entry it is makes no difference here: the library keeps to the neighbour's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Home(u32);

impl Home {
    /// The unit was collected, or put into something that was.
    const GONE: Self = Self(u32::MAX);

    /// A container takes at least two bytes of a document: numbers stay far below 2^31.
    fn new(container: ContainerNumber, keyed: bool) -> Self {
        Self(container << 1 | u32::from(keyed))
    }

    /// Clients put a new entry of a map after the one that it replaces, and never before one.
    fn is_keyed(self) -> bool {
        self != Self::GONE && self.0 & 1 == 1
    }

    fn container(self) -> ContainerNumber {
        self.0 >> 1
    }
}

#[cfg(test)]
mod tests;
