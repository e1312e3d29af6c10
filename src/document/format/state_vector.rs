//! How much of every client's work somebody has.

use std::collections::BTreeMap;

use super::{CLOCK_MAX, ClientNumber, Crowding, FormatError};
use crate::document::lib0::{Reader, write_varuint};

/// The next clock of every client; one that is not listed is at 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateVector {
    clocks: BTreeMap<ClientNumber, u32>,
}

impl StateVector {
    #[cfg(test)]
    pub fn get(&self, client: ClientNumber) -> u32 {
        self.clocks.get(&client).copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ClientNumber, u32)> + '_ {
        self.clocks.iter().map(|(&client, &clock)| (client, clock))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.clocks.len()
    }

    /// Yjs encoding v1, clients in descending order as Yjs has them: equal vectors are equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2 + 8 * self.clocks.len());
        write_varuint(&mut bytes, self.clocks.len() as u64);
        for (&client, &clock) in self.clocks.iter().rev() {
            write_varuint(&mut bytes, client);
            write_varuint(&mut bytes, clock.into());
        }
        bytes
    }
}

impl FromIterator<(ClientNumber, u32)> for StateVector {
    /// Clocks of 0 are left out: they say what their absence says.
    fn from_iter<I: IntoIterator<Item = (ClientNumber, u32)>>(clocks: I) -> Self {
        Self { clocks: clocks.into_iter().filter(|&(_, clock)| clock > 0).collect() }
    }
}

/// Reads a state vector to its last byte, by the rules for updates: canonical numbers within the same limits, each
/// client once.
///
/// Format: <https://github.com/yjs/yjs/blob/v13.6.27/src/utils/encoding.js> (`readStateVector`)
///
/// # Errors
/// `Invalid`, never `Unsupported`.
pub fn read_state_vector(bytes: &[u8]) -> Result<StateVector, FormatError> {
    let mut reader = Reader::new(bytes);
    let mut clocks = BTreeMap::new();
    let mut crowding = Crowding::default();
    for _ in 0..reader.count(2)? {
        let start = reader.offset();
        let client = reader.varuint()?;
        let clock = reader.varuint_up_to(CLOCK_MAX, "a clock is out of range")?;
        if clocks.insert(client, clock).is_some() {
            return Err(Reader::malformed(start, "a client occurs twice").into());
        }
        if !crowding.add(client) {
            return Err(Reader::malformed(start, "client numbers are not random").into());
        }
    }
    reader.finish()?;
    Ok(clocks.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_vector_survives_a_round_trip_and_yrs_agrees() {
        let vector: StateVector = [(1, 5), (7, 0), (1 << 52, CLOCK_MAX), (300, 1)].into_iter().collect();
        let bytes = vector.encode();
        assert_eq!(read_state_vector(&bytes), Ok(vector.clone()));
        assert_eq!((vector.len(), vector.get(1), vector.get(7)), (3, 5, 0));

        use yrs::updates::decoder::Decode;
        let theirs = yrs::StateVector::decode_v1(&bytes).expect("yrs reads what we write");
        for (client, clock) in vector.iter() {
            assert_eq!(theirs.get(&yrs::block::ClientID::new(client)), clock);
        }
    }

    #[test]
    fn what_is_no_state_vector_is_refused() {
        let refused: [&[u8]; 7] = [
            &[],
            &[1],
            &[1, 2],
            &[1, 2, 3, 4],
            &[2, 1, 1, 1, 2],
            &[1, 1, 0xff, 0xff, 0xff, 0xff, 0x07],
            // 5 bytes that would make yrs allocate 527 MB.
            &[0x80, 0xc6, 0x86, 0x8f, 0x01],
        ];
        for bytes in refused {
            assert!(matches!(read_state_vector(bytes), Err(FormatError::Invalid { .. })), "{bytes:?}");
        }
        assert_eq!(read_state_vector(&[0]), Ok(StateVector::default()));
    }
}
