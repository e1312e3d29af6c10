//! Documents that are out of service since they have killed helpers, or run out their time.
//!
//! Each such failure is a strike, which the store keeps; with one too many the document is quarantined: nothing is asked
//! of its content any more, until the operator releases or deletes it. Its rows are not touched, and can be exported.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use tracing::{error, warn};

use crate::event::Timestamp;
use crate::ids::DocumentId;
use crate::metrics;
use crate::sandbox::Failure;
use crate::store::{Store, StoreError, Strikes};

use super::handle::DocumentError;

/// What is quarantined, for quick answers; the store has it too, for the next start.
pub struct Quarantine {
    store: Arc<dyn Store>,
    metrics: Arc<metrics::Sandbox>,
    documents: RwLock<HashMap<DocumentId, Strikes>>,
}

/// A document that is out of service, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutOfService {
    Quarantined(Strikes),
    /// Its rows were damaged when the store was opened.
    Damaged {
        document: DocumentId,
        detail: String,
    },
}

impl Quarantine {
    /// Reads what is quarantined.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn open(store: Arc<dyn Store>, metrics: Arc<metrics::Sandbox>) -> Result<Self, StoreError> {
        let documents = store.quarantined().await?;
        for Strikes { document, reason, .. } in &documents {
            warn!(document.id = %document, reason, "document `{document}` is quarantined: {reason}");
        }
        let documents = documents.into_iter().map(|strikes| (strikes.document.clone(), strikes)).collect();
        let quarantine = Self { store, metrics, documents: RwLock::new(documents) };
        quarantine.measure();
        Ok(quarantine)
    }

    /// For a store that has just been made.
    pub fn empty(store: Arc<dyn Store>, metrics: Arc<metrics::Sandbox>) -> Self {
        Self { store, metrics, documents: RwLock::default() }
    }

    fn documents(&self) -> RwLockReadGuard<'_, HashMap<DocumentId, Strikes>> {
        // The map is whole between any two of its methods.
        self.documents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn documents_mut(&self) -> RwLockWriteGuard<'_, HashMap<DocumentId, Strikes>> {
        self.documents.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self) {
        self.metrics.quarantined.set(i64::try_from(self.documents().len()).unwrap_or(i64::MAX));
    }

    pub fn holds(&self, document: &DocumentId) -> bool {
        self.documents().contains_key(document)
    }

    /// # Errors
    /// `Quarantined`.
    pub fn check(&self, document: &DocumentId) -> Result<(), DocumentError> {
        if self.holds(document) { Err(DocumentError::Quarantined) } else { Ok(()) }
    }

    /// Counts a failure against a document, unless it is none of its own. Returns whether that quarantines it.
    pub(super) async fn strike(&self, document: &DocumentId, failure: &Failure) -> bool {
        if !failure.is_the_jobs() {
            return false;
        }
        warn!(document.id = %document, %failure, "work on document `{document}` failed: {failure}");
        self.metrics.strikes.inc();
        let now = Timestamp::from(SystemTime::now());
        match self.store.add_strike(document, &failure.to_string(), now).await {
            Ok(Some(strikes)) if strikes.quarantined_at.is_some() => {
                error!(document.id = %document, "document `{document}` is quarantined: it takes a release to get it back");
                self.documents_mut().insert(document.clone(), strikes);
                self.measure();
                true
            }
            Ok(_) => false,
            Err(error) => {
                // It will strike again.
                warn!(document.id = %document, %error, "a strike of document `{document}` was not noted: {error}");
                false
            }
        }
    }

    /// Everything that is out of service, in the order of the ids.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list(&self) -> Result<Vec<OutOfService>, DocumentError> {
        let damaged = self.store.damaged().await?.into_iter();
        let damaged =
            damaged.map(|(document, detail)| (document.clone(), OutOfService::Damaged { document, detail }));
        let mut all: Vec<_> = damaged.collect();
        all.extend(
            self.documents()
                .iter()
                .map(|(id, strikes)| (id.clone(), OutOfService::Quarantined(strikes.clone()))),
        );
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all.into_iter().map(|(_, document)| document).collect())
    }

    /// Puts a document back into service, its strikes forgotten.
    ///
    /// # Errors
    /// `NotFound` if it is not quarantined, `Unavailable`.
    pub async fn release(&self, document: &DocumentId) -> Result<(), DocumentError> {
        self.check(document).err().ok_or(DocumentError::NotFound)?;
        self.store.clear_strikes(document).await?;
        self.forget(document);
        warn!(document.id = %document, "document `{document}` was released from quarantine");
        Ok(())
    }

    /// The document is no more.
    pub(super) fn forget(&self, document: &DocumentId) {
        self.documents_mut().remove(document);
        self.measure();
    }
}
