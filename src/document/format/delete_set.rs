//! Which units are deleted.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{CLOCK_MAX, ClientNumber, FormatError};
use crate::document::lib0::{Reader, write_varuint};

/// Up to so many ranges are put in one by one; more are merged in one pass over both lists.
const SINGLE_INSERTS_MAX: usize = 4;

/// Ranges of clocks per client.
///
/// Always in its one canonical form: ranges sorted, apart from each other by at least one clock, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteSet {
    clients: BTreeMap<ClientNumber, Vec<Range<u32>>>,
}

impl DeleteSet {
    /// Reads a delete set (Yjs encoding v1).
    ///
    /// Ranges that touch are allowed, and joined. Every limit of `read_update` holds.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let mut clients = BTreeMap::new();
        // A client takes at least an id, a count and one range: a clock and a length.
        for _ in 0..reader.count(4)? {
            let start = reader.offset();
            let client = reader.varuint()?;
            let ranges = read_ranges(reader)?;
            if clients.insert(client, ranges).is_some() {
                return Err(Reader::malformed(start, "a client occurs twice").into());
            }
        }
        Ok(Self { clients })
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Every range, clients in ascending order, clocks too.
    pub fn iter(&self) -> impl Iterator<Item = (ClientNumber, Range<u32>)> + '_ {
        self.clients
            .iter()
            .flat_map(|(&client, ranges)| ranges.iter().map(move |range| (client, range.clone())))
    }

    pub fn contains(&self, client: ClientNumber, clock: u32) -> bool {
        self.covers_range(client, &(clock..clock + 1))
    }

    /// Whether everything that `other` deletes is deleted here too.
    #[cfg(test)]
    pub fn covers(&self, other: &DeleteSet) -> bool {
        other.iter().all(|(client, range)| self.covers_range(client, &range))
    }

    pub fn covers_range(&self, client: ClientNumber, range: &Range<u32>) -> bool {
        let Some(ranges) = self.clients.get(&client) else { return false };
        // The only candidate is the last range that begins at or before the wanted one.
        let after = ranges.partition_point(|candidate| candidate.start <= range.start);
        after > 0 && range.end <= ranges[after - 1].end
    }

    /// How many clocks of a range are deleted here. Costs as much as there are ranges within it.
    pub fn overlap(&self, client: ClientNumber, range: &Range<u32>) -> u64 {
        let Some(ranges) = self.clients.get(&client) else { return 0 };
        let from = ranges.partition_point(|present| present.end <= range.start);
        let within = ranges[from..].iter().take_while(|present| present.start < range.end);
        within.map(|present| u64::from(present.end.min(range.end) - present.start.max(range.start))).sum()
    }

    /// Adds one range, which may overlap what is there. An empty one adds nothing.
    pub fn insert(&mut self, client: ClientNumber, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        let ranges = self.clients.entry(client).or_default();
        // All ranges that overlap or touch the new one become one with it.
        let from = ranges.partition_point(|present| present.end < range.start);
        let touching = ranges[from..].partition_point(|present| present.start <= range.end);
        let to = from + touching;
        if from == to {
            ranges.insert(from, range);
        } else {
            ranges[from] = ranges[from].start.min(range.start)..ranges[to - 1].end.max(range.end);
            ranges.drain(from + 1..to);
        }
    }

    /// Makes this the union of both.
    pub fn union(&mut self, other: &DeleteSet) {
        for (&client, theirs) in &other.clients {
            if theirs.len() <= SINGLE_INSERTS_MAX {
                for range in theirs {
                    self.insert(client, range.clone());
                }
            } else {
                let ours = self.clients.entry(client).or_default();
                *ours = merge(ours, theirs);
            }
        }
    }

    /// Yjs encoding v1, clients in descending order as Yjs has them: equal sets are equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_varuint(&mut bytes, self.clients.len() as u64);
        for (&client, ranges) in self.clients.iter().rev() {
            write_varuint(&mut bytes, client);
            write_varuint(&mut bytes, ranges.len() as u64);
            for range in ranges {
                write_varuint(&mut bytes, range.start.into());
                write_varuint(&mut bytes, (range.end - range.start).into());
            }
        }
        bytes
    }
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<Range<u32>>, FormatError> {
    let start = reader.offset();
    let count = reader.count(2)?;
    if count == 0 {
        return Err(Reader::malformed(start, "a client without deleted ranges").into());
    }
    let mut ranges: Vec<Range<u32>> = Vec::with_capacity(count);
    for _ in 0..count {
        let start = reader.offset();
        let clock = reader.varuint_up_to(CLOCK_MAX, "a clock is out of range")?;
        let length = reader.varuint_up_to(CLOCK_MAX - clock, "a clock is out of range")?;
        if length == 0 {
            return Err(Reader::malformed(start, "an empty deleted range").into());
        }
        match ranges.last_mut() {
            Some(last) if clock < last.end => {
                return Err(Reader::malformed(start, "deleted ranges are unsorted or overlap").into());
            }
            Some(last) if clock == last.end => last.end += length,
            _ => ranges.push(clock..clock + length),
        }
    }
    Ok(ranges)
}

/// Merges two canonical lists into one.
fn merge(ours: &[Range<u32>], theirs: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut merged: Vec<Range<u32>> = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
    while let Some(next) = match (ours.peek(), theirs.peek()) {
        (Some(our), Some(their)) if their.start < our.start => theirs.next(),
        (Some(_), _) => ours.next(),
        (None, _) => theirs.next(),
    } {
        match merged.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            _ => merged.push(next.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn set(ranges: &[(ClientNumber, Range<u32>)]) -> DeleteSet {
        let mut set = DeleteSet::default();
        for (client, range) in ranges {
            set.insert(*client, range.clone());
        }
        set
    }

    fn read(bytes: &[u8]) -> Result<DeleteSet, FormatError> {
        let mut reader = Reader::new(bytes);
        let set = DeleteSet::read(&mut reader)?;
        reader.finish()?;
        Ok(set)
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let joined = set(&[(1, 5..8), (1, 0..2), (1, 2..5), (2, 1..1)]);
        assert_eq!(joined, set(&[(1, 0..8)]));
        assert_eq!(read(&[1, 1, 2, 0, 2, 2, 6]), Ok(joined));
    }

    #[test]
    fn covering_is_exact() {
        let deleted = set(&[(1, 0..5), (1, 7..9)]);
        assert!(deleted.covers(&set(&[(1, 1..5), (1, 8..9)])));
        assert!(deleted.covers(&DeleteSet::default()));
        assert!(!deleted.covers(&set(&[(1, 4..6)])));
        assert!(!deleted.covers(&set(&[(1, 4..8)])));
        assert!(!deleted.covers(&set(&[(2, 0..1)])));
        assert!(deleted.contains(1, 8) && !deleted.contains(1, 9) && !deleted.contains(1, 6));
    }

    #[test]
    fn malformed_sets_are_refused() {
        let refused: [&[u8]; 8] = [
            &[],
            &[1, 1, 0],
            &[1, 1, 1, 0, 0],
            &[1, 1, 2, 5, 1, 0, 1],
            &[1, 1, 2, 0, 3, 2, 1],
            &[2, 1, 1, 0, 1, 1, 1, 4, 1],
            &[1, 1, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x07],
            &[1, 1, 1, 0, 1, 9],
        ];
        for bytes in refused {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn random_unions_agree_with_a_set_of_clocks_and_survive_a_round_trip() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut model = std::collections::BTreeSet::new();
            let mut total = DeleteSet::default();
            for _ in 0..6 {
                let mut part = DeleteSet::default();
                for _ in 0..random.random_range(0..12) {
                    let client = random.random_range(1..4);
                    let start = random.random_range(0..60);
                    let range = start..start + random.random_range(0..5);
                    model.extend(range.clone().map(|clock| (client, clock)));
                    part.insert(client, range);
                }
                total.union(&part);
                assert!(total.covers(&part), "seed {seed}");
            }
            let clocks: Vec<_> =
                total.iter().flat_map(|(client, range)| range.map(move |clock| (client, clock))).collect();
            assert_eq!(clocks, model.into_iter().collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(read(&total.encode()), Ok(total.clone()), "seed {seed}");
            let ends: Vec<_> = total.clients.values().flat_map(|ranges| ranges.windows(2)).collect();
            assert!(ends.iter().all(|pair| pair[0].end < pair[1].start), "seed {seed}");
        }
    }
}
