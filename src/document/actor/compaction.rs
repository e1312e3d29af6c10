//! Writes a snapshot of a document, beside the task that owns it.
//!
//! The snapshot is made of what the store has, in the sandbox, and compared there with where the document stands; so the
//! owning task encodes nothing, and typists wait for nothing.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{error, warn};

use crate::ids::DocumentId;
use crate::sandbox::Sandbox;
use crate::store::{Retention, Snapshot, Store, StoreError};

use super::super::handle::Shared;
use super::super::job::{self, JobError, Past};
use super::super::quarantine::Quarantine;
use super::super::subscription::{Closing, Told};
use super::Life;

pub(super) struct Compaction {
    pub(super) id: DocumentId,
    pub(super) store: Arc<dyn Store>,
    pub(super) sandbox: Sandbox,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) shared: Arc<Shared>,
    /// What the snapshot is of.
    pub(super) life: Life,
    /// What the document has there.
    pub(super) state_vector: Bytes,
    pub(super) retention: Retention,
    pub(super) collects_deleted: bool,
}

impl Compaction {
    /// How long the snapshot is. `None`: there is none, and everything is as it was.
    pub(super) async fn run(self) -> Option<u64> {
        let Self { id, store, life, .. } = &self;
        let _turn = self.shared.job.lock().await;
        if self.quarantine.holds(id) {
            return None;
        }
        let past = match self.past().await {
            Ok(past) => past?,
            Err(error) => {
                warn!(document.id = %id, %error, "could not read document `{id}` for a snapshot of it");
                return None;
            }
        };
        let compacted = job::compact(&self.sandbox, &past, &self.state_vector, self.collects_deleted).await;
        let compacted = match compacted {
            Ok(compacted) => compacted,
            Err(JobError::Refused { detail }) => {
                error!(document.id = %id, detail, "no snapshot of document `{id}` can be made; its log stays");
                return None;
            }
            Err(JobError::Failed(failure)) => {
                warn!(document.id = %id, %failure, "no snapshot of document `{id}` was made: {failure}");
                if self.quarantine.strike(id, &failure).await {
                    self.shared.tell(Told::Closed(Closing::Unavailable));
                }
                return None;
            }
        };
        if let Some(reason) = &compacted.kept_because {
            warn!(document.id = %id, reason, "what was deleted in document `{id}` stays; without it: {reason}");
        }
        let size = compacted.update.len() as u64;
        let snapshot = Snapshot { sequence: life.head, update: compacted.update };
        match store.compact(id, life.epoch, snapshot, self.retention).await {
            Ok(_oldest) => Some(size),
            Err(error) => {
                warn!(document.id = %id, %error, "could not write a snapshot of document `{id}`");
                None
            }
        }
    }

    /// How the document came to be what the snapshot is of; `None` if it is another one by now.
    async fn past(&self) -> Result<Option<Past>, StoreError> {
        let Some(stored) = self.store.load(&self.id).await? else { return Ok(None) };
        let head = self.life.head;
        let is_other = stored.summary.epoch != self.life.epoch
            || stored.snapshot.as_ref().is_some_and(|snapshot| snapshot.sequence > head);
        if is_other {
            return Ok(None);
        }
        let events = stored.tail.into_iter().take_while(|event| event.sequence <= head);
        let updates = events.map(|event| event.update).collect();
        Ok(Some(Past { snapshot: stored.snapshot.map(|snapshot| snapshot.update), updates }))
    }
}
