//! Finds a place for every new block of an update, in an order in which each comes after all that it builds on.
//!
//! Blocks of one client come in the order of their clocks. A client whose next block builds on another client's
//! waits there, and is woken when that clock is reached: no block is looked at more often than it has references, so
//! that two clients that refer to each other block by block cost no more than two that don't.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::{CLIENTS_MAX, ContainerNumber, Home, Known, NESTING_MAX, Refusal};
use crate::document::format::{Block, ClientNumber, Crowding, DeleteSet, Id, Kind, Outline, Place};

/// What the new blocks of an update amount to.
#[derive(Debug, Default)]
pub(super) struct Placement<'a> {
    /// One for each client that has new blocks, sorted by client.
    pub shares: Vec<Share<'a>>,
    /// Those of them that never wrote before.
    pub newcomers: Crowding,
    pub roots: HashMap<&'a str, ContainerNumber>,
    pub types: HashMap<Id, ContainerNumber>,
    /// Nesting of the new containers. Their numbers go on where those of `Known` end.
    pub nesting: Vec<u8>,
    pub emptied: DeleteSet,
    /// In which order the blocks found their places: shares, by their index, and how many blocks at a time.
    pub order: Vec<(usize, usize)>,
}

/// The new blocks of one client.
#[derive(Debug)]
pub(super) struct Share<'a> {
    pub client: ClientNumber,
    /// The first clock that is new. The first block may begin before it.
    known: u32,
    pub blocks: &'a [Block<'a>],
    /// Where the blocks are, as far as that is decided.
    pub homes: Vec<Home>,
    /// Clients, by their index, that wait for a clock of this one.
    waiting: BinaryHeap<Reverse<(u32, usize)>>,
}

impl Share<'_> {
    /// The clock before which everything has its place.
    fn placed(&self) -> u32 {
        self.homes.len().checked_sub(1).map_or(self.known, |last| self.blocks[last].end())
    }

    fn end(&self) -> u32 {
        self.blocks.last().map_or(self.known, Block::end)
    }

    /// The block that holds this clock, among those that have their place.
    fn position(&self, clock: u32) -> usize {
        self.blocks.partition_point(|block| block.end() <= clock)
    }
}

impl Placement<'_> {
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// A client's next clock when this update is in, if it brings blocks of this client.
    pub fn next_clock(&self, client: ClientNumber) -> Option<u32> {
        self.share(client).map(|index| self.shares[index].end())
    }

    fn share(&self, client: ClientNumber) -> Option<usize> {
        self.shares.binary_search_by_key(&client, |share| share.client).ok()
    }
}

/// Where something that a block refers to is found.
enum Reference {
    /// In the document.
    Known,
    /// In this update: the client's index, and the block's among the client's.
    New(usize, usize),
}

/// Why a block has no place yet.
enum Obstacle {
    Refused(Refusal),
    /// It builds on this clock of the client with this index.
    Waits(usize, u32),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn invalid(reason: &'static str) -> Refusal {
    Refusal::Invalid { reason }
}

/// Places all blocks of `outline` that are new to `known`.
///
/// # Errors
/// As `Known::admit`, deletions aside.
pub(super) fn place<'a>(known: &Known, outline: &'a Outline<'a>) -> Result<Placement<'a>, Refusal> {
    let (shares, newcomers) = new_shares(known, outline)?;
    let mut placement = Placement { shares, newcomers, ..Placement::default() };
    let mut runnable: Vec<usize> = (0..placement.shares.len()).collect();
    while let Some(index) = runnable.pop() {
        while placement.shares[index].homes.len() < placement.shares[index].blocks.len() {
            match place_next(known, &mut placement, index) {
                Ok(home) => {
                    placement.shares[index].homes.push(home);
                    match placement.order.last_mut() {
                        Some((last, count)) if *last == index => *count += 1,
                        _ => placement.order.push((index, 1)),
                    }
                }
                Err(Obstacle::Refused(refusal)) => return Err(refusal),
                Err(Obstacle::Waits(on, clock)) => {
                    placement.shares[on].waiting.push(Reverse((clock, index)));
                    break;
                }
            }
        }
        let share = &mut placement.shares[index];
        let placed = share.placed();
        while let Some(&Reverse((clock, waiting))) = share.waiting.peek()
            && clock < placed
        {
            share.waiting.pop();
            runnable.push(waiting);
        }
    }
    if placement.shares.iter().any(|share| share.homes.len() < share.blocks.len()) {
        return Err(invalid("blocks refer to each other in a circle"));
    }
    Ok(placement)
}

/// Picks the blocks that `known` has not, or not whole.
fn new_shares<'a>(known: &Known, outline: &'a Outline<'a>) -> Result<(Vec<Share<'a>>, Crowding), Refusal> {
    let mut shares = Vec::new();
    let mut newcomers = Crowding::default();
    let mut newcomer_count = 0;
    for share in &outline.clients {
        let client = share.client;
        let next_clock = known.next_clock(client);
        let blocks = outline.blocks_of(share);
        let new = &blocks[blocks.partition_point(|block| block.end() <= next_clock)..];
        let Some(first) = new.first() else { continue };
        // A skip that is left here reaches beyond what is known: it is a hole, just as a late beginning is.
        if first.clock > next_clock || new.iter().any(|block| block.kind == Kind::Skip) {
            return Err(Refusal::Gap);
        }
        if next_clock == 0 {
            newcomer_count += 1;
            if !newcomers.add(client) {
                return Err(invalid("client numbers are not random"));
            }
        }
        shares.push(Share {
            client,
            known: next_clock,
            blocks: new,
            homes: Vec::with_capacity(new.len()),
            waiting: BinaryHeap::new(),
        });
    }
    if newcomer_count > 0 && known.clients.len() + newcomer_count > CLIENTS_MAX {
        return Err(Refusal::Full);
    }
    if !known.crowding.has_room_for(&newcomers) {
        return Err(invalid("client numbers are not random"));
    }
    shares.sort_unstable_by_key(|share| share.client);
    Ok((shares, newcomers))
}

/// Finds the home of the next block of one client, and takes note of what it opens or empties.
fn place_next<'a>(known: &Known, placement: &mut Placement<'a>, index: usize) -> Result<Home, Obstacle> {
    let Share { client, known: next_clock, blocks, ref homes, .. } = placement.shares[index];
    let block = blocks[homes.len()];
    // The library cuts off what is known; the rest then follows the last known unit, whatever it said before.
    let cut = (block.clock < next_clock).then(|| Id { client, clock: next_clock - 1 });

    let home = match block.place {
        Place::Nowhere => Home::GONE,
        Place::Beside { origin, right_origin } => {
            let left = neighbour(known, placement, cut.or(origin))?;
            let right = neighbour(known, placement, right_origin)?;
            if right.is_keyed() {
                return Err(invalid("a map entry has a neighbour to its right").into());
            }
            if left != Home::GONE && right != Home::GONE && left != right {
                return Err(invalid("a block lies between neighbours in different places").into());
            }
            if left != Home::GONE { left } else { right }
        }
        Place::Root { name, keyed } => Home::new(root(known, placement, name), keyed),
        Place::Type { id, keyed } => {
            container(known, placement, id)?.map_or(Home::GONE, |container| Home::new(container, keyed))
        }
    };
    if let (Some(cut), Place::Root { .. } | Place::Type { .. }) = (cut, block.place)
        && !continues(known, cut, home, block.place)
    {
        return Err(invalid("two writers share a client number").into());
    }

    match block.kind {
        Kind::Type if home != Home::GONE => {
            open_type(known, placement, Id { client, clock: block.clock }, home)?
        }
        Kind::Deleted if home != Home::GONE => {
            let first = block.clock.max(next_clock);
            placement.emptied.insert(client, first..block.end());
        }
        _ => {}
    }
    Ok(home)
}

/// Whether a block whose beginning is known, up to `last`, can go on in `home`.
///
/// Where the beginning was collected, the rest is lost too: it would be placed now and dropped by the next reader of
/// the whole document. That happens to a client that didn't know of the deletion of what it wrote into.
fn continues(known: &Known, last: Id, home: Home, place: Place<'_>) -> bool {
    match (known.home(last), place) {
        (Some(Home::GONE), Place::Type { id, .. }) => {
            home == Home::GONE || known.deleted.contains(id.client, id.clock)
        }
        (Some(Home::GONE), _) => false,
        (before, _) => before == Some(home),
    }
}

/// Where the neighbour of a block is; `GONE` too if there is none.
fn neighbour(known: &Known, placement: &Placement<'_>, id: Option<Id>) -> Result<Home, Obstacle> {
    let Some(id) = id else { return Ok(Home::GONE) };
    match find(known, placement, id)? {
        Reference::Known => Ok(known.home(id).unwrap_or(Home::GONE)),
        Reference::New(share, position) => Ok(placement.shares[share].homes[position]),
    }
}

/// The container that the type with this id is; none if it is deleted and forgotten.
fn container(known: &Known, placement: &Placement<'_>, id: Id) -> Result<Option<ContainerNumber>, Obstacle> {
    let (container, forgotten) = match find(known, placement, id)? {
        Reference::Known => {
            let container = known.types.get(&id).copied();
            (container, known.home(id) == Some(Home::GONE) || known.emptied.contains(id.client, id.clock))
        }
        Reference::New(share, position) => {
            let share = &placement.shares[share];
            let emptied = share.blocks[position].kind == Kind::Deleted;
            (placement.types.get(&id).copied(), emptied || share.homes[position] == Home::GONE)
        }
    };
    if container.is_none() && !forgotten {
        return Err(invalid("a block is put into something that is no type").into());
    }
    Ok(container)
}

fn find(known: &Known, placement: &Placement<'_>, id: Id) -> Result<Reference, Obstacle> {
    let Some(index) = placement.share(id.client) else {
        return if id.clock < known.next_clock(id.client) {
            Ok(Reference::Known)
        } else {
            Err(Refusal::Gap.into())
        };
    };
    let share = &placement.shares[index];
    match id.clock {
        clock if clock < share.known => Ok(Reference::Known),
        clock if clock < share.placed() => Ok(Reference::New(index, share.position(clock))),
        clock if clock < share.end() => Err(Obstacle::Waits(index, clock)),
        _ => Err(Refusal::Gap.into()),
    }
}

fn root<'a>(known: &Known, placement: &mut Placement<'a>, name: &'a str) -> ContainerNumber {
    if let Some(&container) = known.roots.get(name) {
        return container;
    }
    let next = (known.nesting.len() + placement.nesting.len()) as ContainerNumber;
    let container = *placement.roots.entry(name).or_insert(next);
    if container == next {
        placement.nesting.push(0);
    }
    container
}

fn open_type(known: &Known, placement: &mut Placement<'_>, id: Id, home: Home) -> Result<(), Refusal> {
    let around = home.container() as usize;
    let around = match known.nesting.get(around) {
        Some(&nesting) => nesting,
        None => placement.nesting[around - known.nesting.len()],
    };
    if around >= NESTING_MAX {
        return Err(invalid("types nest too deep"));
    }
    let container = (known.nesting.len() + placement.nesting.len()) as ContainerNumber;
    placement.nesting.push(around + 1);
    placement.types.insert(id, container);
    Ok(())
}
