//! The documents that are open: each opened once, shared, and let go when idle.
//!
//! What is asked for comes with a grant: no document without permission.
//!
//! Opening only starts the owning task, which loads when it is first asked: so two first joins
//! meet at one task, and a failed load caches nothing.
//!
//! Invariants:
//! - there is one task at the most for a document that anybody can reach;
//! - a document is evicted only under the lock, and only if the registry's handle is the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use crate::auth::access::Admin;
use crate::auth::grant::{Grant, GrantOfAll};
use crate::auth::revocations::{Revocation, Revocations, Revoked};
use crate::document::authors::Authors;
use crate::document::handle::{self, Document, DocumentError, Surroundings};
use crate::document::quarantine::{OutOfService, Quarantine};
use crate::ids::DocumentId;
use crate::metrics::{Documents, Size};
use crate::sandbox::Sandbox;
use crate::store::{Archive, Store, StoreError, Summary};

/// How often presence ages and idle documents are looked for.
const SWEEP: Duration = Duration::from_millis(500);
/// A document in use keeps its replica at least so long after it was last used.
const UNLOAD_AFTER: Duration = Duration::from_secs(1);

/// What the registry keeps in memory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A document that nobody uses is evicted after this.
    pub evict_after: Duration,
    /// Over this, in bytes, replicas leave memory, the longest unused first.
    pub resident_bytes_max: usize,
    /// How long what was revoked matters: as long as a token may last. `None`: for good.
    pub keep_revocations: Option<Duration>,
    pub document: handle::Settings,
}

struct Inner {
    settings: Settings,
    store: Arc<dyn Store>,
    metrics: Arc<Documents>,
    revocations: Arc<Revocations>,
    open: Mutex<HashMap<DocumentId, Document>>,
    authors: Arc<Authors>,
    sandbox: Sandbox,
    quarantine: Arc<Quarantine>,
    tasks: TaskTracker,
}

/// The open documents. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

impl Registry {
    /// Sweeps until `closing` is cancelled.
    pub fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        metrics: Arc<Documents>,
        revocations: Arc<Revocations>,
        sandbox: Sandbox,
        quarantine: Arc<Quarantine>,
        closing: CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        let (open, authors) = (Mutex::default(), Arc::default());
        let inner =
            Inner { settings, store, metrics, revocations, open, authors, sandbox, quarantine, tasks };
        let registry = Self(Arc::new(inner));
        let sweeping = registry.clone();
        registry.0.tasks.spawn(async move {
            let mut ticks = tokio::time::interval(SWEEP);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while closing.run_until_cancelled(ticks.tick()).await.is_some() {
                sweeping.sweep(Instant::now());
            }
        });
        registry
    }

    fn open_documents(&self) -> MutexGuard<'_, HashMap<DocumentId, Document>> {
        // The map is whole between any two of its methods.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The document that the grant is for, opened if it is not. A document never written is an empty one.
    ///
    /// A name is no grant:
    ///
    /// ```compile_fail,E0308
    /// use promptgrimoire::{ids::DocumentId, registry::Registry};
    ///
    /// fn handler(registry: &Registry, id: &DocumentId) {
    ///     registry.open::<()>(id);
    /// }
    /// ```
    ///
    /// And whoever may read has nothing to write with:
    ///
    /// ```compile_fail,E0599
    /// use promptgrimoire::{auth::access::Read, auth::grant::Grant, event::Origin, registry::Registry};
    ///
    /// async fn handler(registry: &Registry, grant: &Grant<Read>) {
    ///     let _ = registry.open(grant).set_text("text", "mine", Origin::Anonymous).await;
    /// }
    /// ```
    pub fn open<L>(&self, grant: &Grant<L>) -> Document<L> {
        self.open_granted(grant.document()).granted(grant)
    }

    fn open_granted(&self, id: &DocumentId) -> Document {
        let mut open = self.open_documents();
        if let Some(document) = open.get(id) {
            return document.clone();
        }
        let document = Document::start(id.clone(), &self.surroundings());
        open.insert(id.clone(), document.clone());
        document
    }

    fn surroundings(&self) -> Surroundings {
        let inner = &self.0;
        Surroundings {
            store: inner.store.clone(),
            settings: inner.settings.document.clone(),
            metrics: inner.metrics.clone(),
            authors: inner.authors.clone(),
            sandbox: inner.sandbox.clone(),
            quarantine: inner.quarantine.clone(),
            tasks: inner.tasks.clone(),
        }
    }

    /// The document that the grant is for, if it is open or was ever written: asking for others opens nothing.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn find<L>(&self, grant: &Grant<L>) -> Result<Document<L>, DocumentError> {
        if let Some(document) = self.find_open(grant) {
            return Ok(document);
        }
        self.0.store.summary(grant.document()).await?.ok_or(DocumentError::NotFound)?;
        Ok(self.open(grant))
    }

    /// The document that the grant is for, if it is open.
    pub fn find_open<L>(&self, grant: &Grant<L>) -> Option<Document<L>> {
        self.open_documents().get(grant.document()).map(|document| document.granted(grant))
    }

    /// What is known of a document without opening it.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`, `Quarantined`.
    pub async fn summary<L>(&self, grant: &Grant<L>) -> Result<Summary, DocumentError> {
        self.check_in_service(grant.document())?;
        self.0.store.summary(grant.document()).await?.ok_or(DocumentError::NotFound)
    }

    /// Documents whose id begins with the grant's prefix and sorts after `after`, in the order of their ids.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`.
    pub async fn list(
        &self,
        grant: &GrantOfAll,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Summary>, DocumentError> {
        Ok(self.0.store.list(grant.prefix(), after, limit).await?)
    }

    /// All that there is of a document: state, log, versions.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn archive<L>(&self, grant: &Grant<L>) -> Result<Archive, DocumentError> {
        self.0.store.archive(grant.document()).await?.ok_or(DocumentError::NotFound)
    }

    /// Writes a document that was archived. `false`: there is one of that name, and nothing was written.
    ///
    /// # Errors
    /// `Invalid` if its updates do not make up a document, `Unavailable`.
    pub async fn unarchive(&self, grant: &Grant<Admin>, archive: Archive) -> Result<bool, DocumentError> {
        debug_assert_eq!(grant.document(), &archive.summary.document, "a grant is for one document");
        crate::document::check_archive(&self.0.sandbox, &archive).await?;
        let id = archive.summary.document.clone();
        let written = self.0.store.unarchive(archive).await?;
        if written {
            self.0.authors.forget(&id);
        }
        if let Some(document) = self.find_open(grant).filter(|_| written) {
            document.reload().await;
        }
        Ok(written)
    }

    /// Takes back what somebody may do. It is kept before it takes effect: what was once revoked stays so.
    ///
    /// # Errors
    /// `Unavailable`; nothing changed.
    pub async fn revoke(&self, _grant: &GrantOfAll, revocation: Revocation) -> Result<(), DocumentError> {
        let keep_since = self.0.settings.keep_revocations.map(|kept| revocation.at.earlier_by(kept));
        self.0.store.add_revocation(revocation.clone(), keep_since).await?;
        match &revocation.revoked {
            Revoked::Document(id) => info!(document.id = %id, "access to document `{id}` was revoked"),
            // Names of people are not for the log.
            Revoked::User(_) => info!("a user's tokens were revoked"),
            Revoked::Token(_) => info!("a token was revoked"),
        }
        self.0.revocations.add(revocation);
        Ok(())
    }

    /// Whether anything may be asked of a document.
    ///
    /// # Errors
    /// `Quarantined`.
    pub fn check_in_service(&self, id: &DocumentId) -> Result<(), DocumentError> {
        self.0.quarantine.check(id)
    }

    /// Documents that are out of service, in the order of their ids.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn out_of_service(&self, _grant: &GrantOfAll) -> Result<Vec<OutOfService>, DocumentError> {
        self.0.quarantine.list().await
    }

    /// Puts a quarantined document back into service.
    ///
    /// # Errors
    /// `NotFound` if it is not quarantined, `Unavailable`.
    pub async fn release(&self, grant: &Grant<Admin>) -> Result<(), DocumentError> {
        self.0.quarantine.release(grant.document()).await
    }

    /// What the store holds.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn size(&self) -> Result<Size, StoreError> {
        self.0.store.size().await
    }

    /// Whether the store takes writes now.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.0.store.check_writable().await
    }

    /// Lets presence age, evicts what is idle, and keeps within the memory budget.
    fn sweep(&self, now: Instant) {
        let documents: Vec<Document> = self.open_documents().values().cloned().collect();
        for document in &documents {
            document.expire_presence(now);
        }
        drop(documents);
        let mut resident =
            self.evict(|document| now.duration_since(document.idle_since()) >= self.0.settings.evict_after);
        if resident <= self.0.settings.resident_bytes_max {
            return;
        }
        let mut longest_unused: Vec<Document> = self.open_documents().values().cloned().collect();
        longest_unused.sort_by_key(Document::idle_since);
        for document in longest_unused {
            let bytes = document.resident_bytes();
            if resident <= self.0.settings.resident_bytes_max
                || now.duration_since(document.idle_since()) < UNLOAD_AFTER
            {
                break;
            }
            document.unload();
            resident = resident.saturating_sub(bytes);
        }
    }

    /// Evicts the unused documents that are `due`, decided under the lock. Returns what the others take, in bytes.
    fn evict(&self, due: impl Fn(&Document) -> bool) -> usize {
        let mut resident = 0;
        self.open_documents().retain(|id, document| {
            let evicted = document.is_unused() && due(document);
            if evicted {
                self.0.metrics.evicted.inc();
                debug!(document.id = %id, "evicted document `{id}`");
            } else {
                resident += document.resident_bytes();
            }
            !evicted
        });
        resident
    }

    /// What the open documents take in memory, in bytes, roughly.
    pub fn resident_bytes(&self) -> usize {
        self.open_documents().values().map(Document::resident_bytes).sum()
    }

    /// How many documents are open.
    pub fn open_count(&self) -> usize {
        self.open_documents().len()
    }

    /// Tells every open stream that the server is stopping.
    pub fn end_streams(&self) {
        for document in self.open_documents().values() {
            document.end_streams();
        }
    }

    /// Lets go of every document and waits until their tasks are done.
    pub async fn close(&self) {
        self.open_documents().clear();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
