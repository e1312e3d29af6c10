//! A document's past made into one update, and the deleted left out of it if so wished.
//!
//! Run where it can be stopped (`document::job`): encoding and collecting walk everything that is there, and what is
//! collected is freed while other parts of the library may still point there.

use bytes::Bytes;
use yrs::Transact;

use super::Replica;

/// A document as one update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Compacted {
    pub(in super::super) update: Bytes,
    /// Why the deleted is in it though it was to go.
    pub(in super::super) kept_because: Option<String>,
}

impl Replica {
    /// The whole document as one update that loads as what this is.
    ///
    /// `state_vector`: where the document must stand. `collects_deleted`: with nothing in it of what was deleted; where
    /// that would lead to something else, the deleted stays.
    ///
    /// # Errors
    /// Says what is not as it should be: then no snapshot may be made of it.
    pub(in super::super) fn compacted(
        self,
        state_vector: &[u8],
        collects_deleted: bool,
    ) -> Result<Compacted, String> {
        if self.state_vector() != state_vector {
            return Err("the log does not lead to where the document stands".into());
        }
        let update = self.whole();
        let mut kept_because = None;
        if collects_deleted {
            let collected = collect(&update).and_then(|(update, replica)| {
                self.check_shown_by(&replica)?;
                Ok(update)
            });
            match collected {
                Ok(update) => return Ok(Compacted { update, kept_because }),
                Err(reason) => kept_because = Some(reason),
            }
        }
        // Two copies of a large document would need twice the memory.
        drop(self);
        if !Self::verify(&update, state_vector) {
            return Err("it does not load as it was".into());
        }
        Ok(Compacted { update, kept_because })
    }

    /// Whether another replica has and shows the same.
    ///
    /// # Errors
    /// Says what differs.
    fn check_shown_by(&self, other: &Self) -> Result<(), String> {
        if other.state_vector() != self.state_vector() || other.known.deleted() != self.known.deleted() {
            return Err("it would have other units".into());
        }
        for (mine, theirs) in self.roots(None).iter().zip(&other.roots(None)) {
            if mine != theirs {
                return Err(format!("its root `{}` would be another", mine.name));
            }
        }
        if self.roots(None).len() != other.roots(None).len() {
            return Err("it would have other roots".into());
        }
        let patient = || true;
        match (self.content(&patient), other.content(&patient)) {
            (Ok(mine), Ok(theirs)) if mine != theirs => Err("its formats would be others".into()),
            (Ok(_), Ok(_)) => Ok(()),
            // What cannot be brought back has been compared as it is shown.
            (Err(_), Err(_)) => Ok(()),
            _ => Err("it could be restored in one form only".into()),
        }
    }
}

/// A document without the content of what was deleted: as an update, and as it is when that is read again, strictly.
/// Its units stay, so that others find their places by them.
///
/// Not compared byte by byte, as other snapshots are: where runs of what was collected touch, the library joins them
/// now here, now there.
///
/// # Errors
/// Says what it is not.
fn collect(update: &[u8]) -> Result<(Bytes, Replica), String> {
    let replica = Replica::open(0, Some(update), std::iter::empty())?;
    replica.doc.transact_mut().gc(None);
    let update = replica.whole();
    drop(replica);
    let replica = Replica::open(0, Some(&update), std::iter::empty())?;
    Ok((update, replica))
}
