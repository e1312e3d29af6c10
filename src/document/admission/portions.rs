//! Cuts an admitted update into small ones, so that whoever applies them can stop in between.
//!
//! Where many blocks claim the same place, the CRDT library compares each with all others there: an update of a
//! hundred kilobytes can keep it busy for minutes, and nothing short of integrating it tells which one will.

use std::collections::BTreeMap;
use std::ops::Range;

use super::placement::Placement;
use crate::document::format::Kind;
use crate::document::lib0::write_varuint;

/// Updates of `blocks_max` blocks at the most that together bring all blocks of the placement, each after those that
/// it builds on. Deletions are in none of them.
pub(super) fn cut<'a>(placement: &'a Placement<'_>, blocks_max: usize) -> impl Iterator<Item = Vec<u8>> + 'a {
    let mut runs = placement.order.iter().copied();
    let mut run = runs.next();
    let mut taken = vec![0; placement.shares.len()];
    std::iter::from_fn(move || {
        let mut portion: BTreeMap<usize, Range<usize>> = BTreeMap::new();
        let mut room = blocks_max;
        while let Some((share, count)) = run
            && room > 0
        {
            let fits = count.min(room);
            let from = taken[share];
            portion.entry(share).or_insert(from..from).end += fits;
            taken[share] += fits;
            room -= fits;
            run = if fits < count { Some((share, count - fits)) } else { runs.next() };
        }
        (!portion.is_empty()).then(|| encode(placement, &portion))
    })
}

/// Yjs encoding v1.
fn encode(placement: &Placement<'_>, portion: &BTreeMap<usize, Range<usize>>) -> Vec<u8> {
    let mut update = Vec::new();
    write_varuint(&mut update, portion.len() as u64);
    for (&share, range) in portion {
        let share = &placement.shares[share];
        let blocks = &share.blocks[range.clone()];
        write_varuint(&mut update, blocks.len() as u64);
        write_varuint(&mut update, share.client);
        write_varuint(&mut update, u64::from(blocks.first().map_or(0, |block| block.clock)));
        for block in blocks {
            if block.kind == Kind::Collected {
                update.push(0);
                write_varuint(&mut update, u64::from(block.length));
            } else {
                update.extend_from_slice(block.bytes);
            }
        }
    }
    write_varuint(&mut update, 0);
    update
}
