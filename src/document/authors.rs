//! Under which Yjs client numbers the server itself writes.
//!
//! Every number that ever wrote stays in a document's state vector for good, so the server keeps to one for each
//! document as long as the process lives, also when the document leaves memory in between. It continues from where the
//! log has that number, so no clock is given twice.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::ids::{DocumentId, Epoch};

use super::format::ClientNumber;

/// Of how many documents the number is remembered. Of one that was forgotten another is drawn, which costs its
/// readers six bytes.
const REMEMBERED_MAX: usize = 100_000;

/// The numbers that are in use. Shared by all documents of a process.
#[derive(Debug, Default)]
pub struct Authors(Mutex<HashMap<DocumentId, (Epoch, ClientNumber)>>);

impl Authors {
    /// The number that this process has written to this life of the document with.
    pub(super) fn of(&self, document: &DocumentId, epoch: Epoch) -> Option<ClientNumber> {
        let numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.get(document).filter(|(life, _)| *life == epoch).map(|(_, number)| *number)
    }

    pub(super) fn remember(&self, document: &DocumentId, epoch: Epoch, number: ClientNumber) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.len() >= REMEMBERED_MAX && !numbers.contains_key(document) {
            let forgotten = numbers.keys().next().cloned();
            forgotten.and_then(|forgotten| numbers.remove(&forgotten));
        }
        numbers.insert(document.clone(), (epoch, number));
    }
}

impl Authors {
    /// Forgets a document: what it is from now on may be what it was before this process wrote to it.
    pub fn forget(&self, document: &DocumentId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(document);
    }
}

/// A number as Yjs draws one: of 32 bits, which its older versions cannot exceed.
pub(super) fn draw() -> ClientNumber {
    rand::random::<u32>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_one_life_of_one_document() {
        let authors = Authors::default();
        let id: DocumentId = "a".parse().expect("a document id");
        let (first, second) = (Epoch::from_entropy(1), Epoch::from_entropy(2));
        assert_eq!(authors.of(&id, first), None);
        authors.remember(&id, first, 7);
        assert_eq!(authors.of(&id, first), Some(7));
        assert_eq!(authors.of(&id, second), None);
        authors.remember(&id, second, 8);
        assert_eq!(authors.of(&id, first), None);
    }
}
