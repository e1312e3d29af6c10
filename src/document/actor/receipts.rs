//! Answers as they are kept for those who ask again.

use bytes::Bytes;

use crate::document::handle::{DocumentError, Written};
use crate::ids::Sequence;

/// What stands for a number or an epoch that is not there.
const NONE: &str = "-";

pub fn write(written: &Written) -> Bytes {
    let Written { epoch, sequence, changed, length } = written;
    let epoch = epoch.as_ref().map_or(NONE, |epoch| epoch.as_str());
    let length = length.map_or(NONE.to_owned(), |length| length.to_string());
    format!("{epoch} {sequence} {changed} {length}").into()
}

/// # Errors
/// `Damaged`: it was not kept by this program, though the store says that it is what was kept.
pub fn read(answer: &[u8]) -> Result<Written, DocumentError> {
    let damaged =
        || DocumentError::Damaged { detail: "the answer to a repeated request cannot be read".into() };
    parse(answer).ok_or_else(damaged)
}

fn parse(answer: &[u8]) -> Option<Written> {
    let mut words = std::str::from_utf8(answer).ok()?.split(' ');
    let (epoch, sequence) = (words.next()?, words.next()?);
    let (changed, length) = (words.next()?, words.next()?);
    Some(Written {
        epoch: if epoch == NONE { None } else { Some(epoch.parse().ok()?) },
        sequence: Sequence::new(sequence.parse().ok()?),
        changed: changed.parse().ok()?,
        length: if length == NONE { None } else { Some(length.parse().ok()?) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    #[test]
    fn an_answer_reads_back_as_written() {
        let written = Written {
            epoch: Some(Epoch::from_entropy(7)),
            sequence: Sequence::new(18),
            changed: true,
            length: Some(25),
        };
        assert_eq!(read(&write(&written)), Ok(written));
        let nothing = Written { epoch: None, sequence: Sequence::ZERO, changed: false, length: None };
        assert_eq!(read(&write(&nothing)), Ok(nothing));
        assert!(read(b"18").is_err());
    }
}
