//! A strict reader of Yjs updates (encoding v1).
//!
//! The CRDT library trusts its input: a few bytes make it allocate gigabytes, loop, overflow its stack or
//! worse, and catching panics helps against few of these. So every byte from outside passes here first, and
//! only what a Yjs client can have written goes on:
//!
//! 1. Numbers are in their shortest form, clients at most 2^53−1, clocks and clock + length at most 2^31−2. A
//!    client occurs once, with at least one block. No count exceeds the bytes that remain; none remain at the end.
//! 2. No block is empty, none refers to itself or to a later clock of its own client.
//! 3. Blocks and content are of kinds that today's clients write. A skip stands between two other blocks.
//! 4. Embedded values are JSON, and `Any` nests 32 deep at most.
//! 5. Deleted ranges are sorted, not empty and don't overlap.
//!
//! The reader answers with an [`Outline`]: what the update builds on and where it puts things, without the
//! things. Whether a document may take it is for `admission` to say.
//!
//! Format: <https://github.com/yjs/yjs/blob/v13.6.27/src/utils/encoding.js> and the `structs` beside it.

mod content;
mod crowding;
mod delete_set;
mod state_vector;

use std::collections::HashSet;

pub use crowding::Crowding;
pub use delete_set::DeleteSet;
pub use state_vector::{StateVector, read_state_vector};

use super::lib0::{Malformed, Reader};

/// Identifies who wrote a block: the CRDT's own client id, drawn at random for every open document.
///
/// At most `SAFE_INTEGER_MAX`. It has nothing to do with `ClientId`, which names a tab on the wire.
pub type ClientNumber = u64;

/// Largest clock, and largest end of a block: the CRDT library computes clocks in signed 32-bit integers.
pub const CLOCK_MAX: u32 = i32::MAX as u32 - 1;

/// Why bytes are not taken for an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No Yjs client can have written this.
    #[error("not an update that a Yjs client writes: byte {offset}: {reason}")]
    Invalid { offset: usize, reason: &'static str },
    /// It may be genuine, but the CRDT library cannot keep it whole.
    #[error("updates with {content} are not supported")]
    Unsupported { content: &'static str },
}

impl From<Malformed> for FormatError {
    fn from(Malformed { offset, reason }: Malformed) -> Self {
        Self::Invalid { offset, reason }
    }
}

/// Names one unit of content: a UTF-16 code unit, a list element, a map entry, a formatting mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub client: ClientNumber,
    pub clock: u32,
}

/// What an update consists of, content left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    /// In the update's order, each client once.
    pub clients: Vec<ClientBlocks>,
    /// The blocks of all clients in the update's order; `blocks_of` picks those of one.
    pub blocks: Vec<Block<'a>>,
    pub deletions: DeleteSet,
    /// Where the delete set begins: the bytes before it are the structs.
    pub structs_end: usize,
}

/// One client's share of an update: blocks without a hole between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientBlocks {
    pub client: ClientNumber,
    /// Index of the first block in `Outline::blocks`.
    pub first: usize,
    /// How many follow, at least one.
    pub count: usize,
}

/// A run of units, written by one client one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    pub clock: u32,
    /// Never 0.
    pub length: u32,
    pub kind: Kind,
    pub place: Place<'a>,
    /// The block's own bytes; of `Collected` blocks that were read as one, the first's.
    pub bytes: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Deleted, and so is everything around it: place and content are forgotten.
    Collected,
    /// A hole that a merge of updates has left.
    Skip,
    /// Deleted: the place is kept, the content forgotten.
    Deleted,
    /// A nested text, list, map or XML node, of length 1.
    Type,
    /// Anything else.
    Value,
}

/// Where a block goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Nowhere: the block is a `Skip` or `Collected`.
    Nowhere,
    /// Next to others, in the container that they are in. At least one of them is given.
    Beside { origin: Option<Id>, right_origin: Option<Id> },
    /// Into a root type. `keyed`: as a map entry or XML attribute, not in the sequence.
    Root { name: &'a str, keyed: bool },
    /// Into a nested type.
    Type { id: Id, keyed: bool },
}

impl<'a> Block<'a> {
    /// The clock after the block's last.
    #[inline]
    pub fn end(&self) -> u32 {
        self.clock + self.length
    }

    /// The format that begins or ends here, if the block is a formatting mark.
    pub fn format_name(&self) -> Option<&'a str> {
        let mut reader = Reader::new(self.bytes);
        let info = reader.byte().ok()?;
        if info & KIND_BITS != content::FORMAT {
            return None;
        }
        // What was read once can be read again: the errors are none.
        read_place(&mut reader, info, ClientNumber::MAX, 0).ok()?;
        reader.var_string().ok()
    }
}

impl<'a> Outline<'a> {
    pub fn blocks_of(&self, share: &ClientBlocks) -> &[Block<'a>] {
        &self.blocks[share.first..share.first + share.count]
    }
}

/// Bits of a block's first byte; the lower five are the kind.
const HAS_ORIGIN: u8 = 0b1000_0000;
const HAS_RIGHT_ORIGIN: u8 = 0b0100_0000;
const HAS_KEY: u8 = 0b0010_0000;
const KIND_BITS: u8 = 0b0001_1111;

const COLLECTED: u8 = 0;
const SKIP: u8 = 10;

/// Reads an update to its last byte.
///
/// `bytes`: Yjs encoding v1, of any length (the caller has a limit). Takes linear time, and about 20 bytes of memory
/// for each byte of the densest genuine updates.
///
/// # Errors
/// - `Invalid`: it breaks one of the rules above.
/// - `Unsupported`: a sub-document, JSON content of Yjs before version 13, an XML hook or a weak link.
pub fn read_update(bytes: &[u8]) -> Result<Outline<'_>, FormatError> {
    let mut reader = Reader::new(bytes);
    let mut outline = Outline::default();
    read_structs(&mut reader, &mut outline)?;
    outline.structs_end = reader.offset();
    outline.deletions = DeleteSet::read(&mut reader)?;
    reader.finish()?;
    Ok(outline)
}

fn read_structs<'a>(reader: &mut Reader<'a>, outline: &mut Outline<'a>) -> Result<(), FormatError> {
    // A client takes at least a count, an id, a clock and one block: a first byte and a length.
    let client_count = reader.count(5)?;
    outline.clients.reserve_exact(client_count);
    let mut seen = SeenClients::default();
    for _ in 0..client_count {
        let start = reader.offset();
        let block_count = reader.count(2)?;
        if block_count == 0 {
            return Err(Reader::malformed(start, "a client without blocks").into());
        }
        let client = reader.varuint()?;
        if !seen.insert(client) {
            return Err(Reader::malformed(start, "a client occurs twice").into());
        }
        let first = outline.blocks.len();
        // No capacity for `block_count` yet: the count of a hostile update may be true, and the blocks tiny.
        let mut clock = reader.varuint_up_to(CLOCK_MAX, "a clock is out of range")?;
        let mut after_skip = true;
        for _ in 0..block_count {
            let start = reader.offset();
            let block = read_block(reader, client, clock)?;
            if block.kind == Kind::Skip && after_skip {
                return Err(Reader::malformed(start, "a skip stands between two other blocks").into());
            }
            after_skip = block.kind == Kind::Skip;
            clock = block.end();
            push(&mut outline.blocks, first, block);
        }
        if after_skip {
            return Err(Reader::malformed(start, "a skip stands between two other blocks").into());
        }
        outline.clients.push(ClientBlocks { client, first, count: outline.blocks.len() - first });
    }
    Ok(())
}

/// Adds a block, as part of its predecessor where nothing tells them apart.
///
/// Two bytes make a `Collected` block: without this, an update of a million bytes would fill 40 MB.
fn push<'a>(blocks: &mut Vec<Block<'a>>, first: usize, block: Block<'a>) {
    match blocks[first..].last_mut() {
        Some(last) if last.kind == Kind::Collected && block.kind == Kind::Collected => {
            last.length += block.length;
        }
        _ => blocks.push(block),
    }
}

fn read_block<'a>(
    reader: &mut Reader<'a>,
    client: ClientNumber,
    clock: u32,
) -> Result<Block<'a>, FormatError> {
    let start = reader.offset();
    let from = reader.rest();
    let info = reader.byte()?;
    let (kind, place, length) = match info & KIND_BITS {
        COLLECTED | SKIP if info & !KIND_BITS != 0 => {
            return Err(Reader::malformed(start, "a block without content has a place").into());
        }
        COLLECTED => (Kind::Collected, Place::Nowhere, reader.varuint()?),
        SKIP => (Kind::Skip, Place::Nowhere, reader.varuint()?),
        content => {
            let place = read_place(reader, info, client, clock)?;
            let (kind, length) = content::read(reader, content, start)?;
            (kind, place, length)
        }
    };
    if length == 0 {
        return Err(Reader::malformed(start, "an empty block").into());
    }
    if length > u64::from(CLOCK_MAX - clock) {
        return Err(Reader::malformed(start, "a clock is out of range").into());
    }
    let bytes = &from[..reader.offset() - start];
    Ok(Block { clock, length: length as u32, kind, place, bytes })
}

fn read_place<'a>(
    reader: &mut Reader<'a>,
    info: u8,
    client: ClientNumber,
    clock: u32,
) -> Result<Place<'a>, FormatError> {
    let read_id = |reader: &mut Reader<'a>| read_earlier_id(reader, client, clock);
    if info & (HAS_ORIGIN | HAS_RIGHT_ORIGIN) != 0 {
        let origin = if info & HAS_ORIGIN != 0 { Some(read_id(reader)?) } else { None };
        let right_origin = if info & HAS_RIGHT_ORIGIN != 0 { Some(read_id(reader)?) } else { None };
        // A key is not repeated: it is that of the neighbours, whether or not the bit for it is set.
        return Ok(Place::Beside { origin, right_origin });
    }
    let start = reader.offset();
    let keyed = info & HAS_KEY != 0;
    let place = match reader.varuint()? {
        1 => Place::Root { name: reader.var_string()?, keyed },
        0 => Place::Type { id: read_id(reader)?, keyed },
        _ => return Err(Reader::malformed(start, "a parent is neither a root nor a block").into()),
    };
    if keyed {
        reader.var_string()?;
    }
    Ok(place)
}

/// Reads the id of something that the block at `clock` of `client` can have known.
fn read_earlier_id(reader: &mut Reader<'_>, client: ClientNumber, clock: u32) -> Result<Id, Malformed> {
    let start = reader.offset();
    let id =
        Id { client: reader.varuint()?, clock: reader.varuint_up_to(CLOCK_MAX, "a clock is out of range")? };
    if id.client == client && id.clock >= clock {
        return Err(Reader::malformed(start, "a block refers to itself or to what comes after it"));
    }
    Ok(id)
}

/// Tells whether a client occurs for the first time.
///
/// Yjs writes clients in descending order: as long as that holds, nothing needs to be remembered.
#[derive(Default)]
struct SeenClients {
    descending: Vec<ClientNumber>,
    unordered: HashSet<ClientNumber>,
}

impl SeenClients {
    fn insert(&mut self, client: ClientNumber) -> bool {
        if self.unordered.is_empty() && self.descending.last().is_none_or(|&last| client < last) {
            self.descending.push(client);
            return true;
        }
        self.unordered.extend(self.descending.drain(..));
        self.unordered.insert(client)
    }
}

#[cfg(test)]
mod tests;
