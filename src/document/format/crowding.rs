//! Keeps client numbers from being chosen to meet in one place of a hash table.

use std::collections::HashMap;

use super::ClientNumber;

/// How many client numbers may agree in their lower 16 bits.
///
/// Numbers are drawn at random: of a million, some 15 agree.
const CROWD_MAX: u32 = 512;

/// Counts client numbers by their lower bits.
///
/// The CRDT library hashes a client number to itself, so that numbers with the same lower bits meet, and a table of n
/// of them takes n² steps to fill: 80,000 take 8 seconds, again and again.
#[derive(Debug, Clone, Default)]
pub struct Crowding {
    counts: HashMap<u16, u32>,
}

impl Crowding {
    /// Adds a client that wasn't counted before. Answers false when there are too many like it.
    #[must_use]
    pub fn add(&mut self, client: ClientNumber) -> bool {
        let count = self.counts.entry(client as u16).or_default();
        *count += 1;
        *count <= CROWD_MAX
    }

    /// Whether all clients of `newcomers`, none of which was counted here, can be added.
    pub fn has_room_for(&self, newcomers: &Self) -> bool {
        let together = |(class, count)| self.counts.get(class).map_or(0, |present| *present) + count;
        newcomers.counts.iter().all(|entry| together(entry) <= CROWD_MAX)
    }

    /// Adds all clients of `newcomers`.
    pub fn add_all(&mut self, newcomers: &Self) {
        for (&class, &count) in &newcomers.counts {
            *self.counts.entry(class).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn numbers_drawn_at_random_or_counted_up_are_no_crowd() {
        let mut random = StdRng::seed_from_u64(1);
        let mut crowding = Crowding::default();
        assert!((0..200_000).all(|_| crowding.add(random.random::<u64>() >> 11)));
        assert!((0..200_000).all(|client| crowding.add(client)));
    }

    #[test]
    fn numbers_chosen_to_collide_are_a_crowd() {
        let mut crowding = Crowding::default();
        let mut newcomers = Crowding::default();
        assert!((0..u64::from(CROWD_MAX)).all(|client| crowding.add(client << 30)));
        assert!(newcomers.add(1 << 52));
        assert!(!crowding.has_room_for(&newcomers));
        assert!(!crowding.add(1 << 52));
    }
}
