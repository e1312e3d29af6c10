//! What becomes of changes when the store fails under the document.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use tokio_util::task::TaskTracker;
use yrs::{Doc, Text, Transact};

use super::*;
use crate::auth::revocations::Revocation;
use crate::document::handle::{Document, Expected, Surroundings};
use crate::document::job;
use crate::document::text::{Edit, Op, Place, Unit};
use crate::event::Origin;
use crate::ids::{ClientId, VersionName};
use crate::metrics::Size;
use crate::sandbox;
use crate::store::memory::MemoryStore;
use crate::store::{Archive, LogPage, Naming, Retention, Snapshot, Stored, Strikes, Summary, Version};

/// How the next calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing is written, and the writer is told so.
    Refused,
    /// The events are in the log, but the writer is told that they may not be.
    InDoubt,
    /// Nothing can be read.
    Unreadable,
}

/// A store in memory that fails when told to.
struct FailingStore {
    inner: MemoryStore,
    fault: Mutex<Fault>,
    loads: AtomicUsize,
}

impl FailingStore {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            fault: Mutex::new(Fault::None),
            loads: AtomicUsize::new(0),
        })
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().expect("no test panics while it holds this") = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().expect("no test panics while it holds this")
    }
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { reason: "the disk is full".into() })
}

#[async_trait]
impl Store for FailingStore {
    async fn load(&self, document: &DocumentId) -> Result<Option<Stored>, StoreError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        match self.fault() {
            Fault::Unreadable => unavailable(),
            _ => self.inner.load(document).await,
        }
    }

    async fn record(
        &self,
        document: &DocumentId,
        epoch: Option<Epoch>,
        events: Vec<Event>,
        receipts: Vec<Receipt>,
    ) -> Result<(), StoreError> {
        match self.fault() {
            Fault::None => self.inner.record(document, epoch, events, receipts).await,
            Fault::InDoubt => {
                self.inner.record(document, epoch, events, receipts).await?;
                unavailable()
            }
            Fault::Refused | Fault::Unreadable => unavailable(),
        }
    }

    async fn receipt(
        &self,
        document: &DocumentId,
        user: Option<&str>,
        key: &str,
    ) -> Result<Option<Receipt>, StoreError> {
        self.inner.receipt(document, user, key).await
    }

    async fn log(
        &self,
        document: &DocumentId,
        after: Sequence,
        limit: PageLimit,
    ) -> Result<Option<LogPage>, StoreError> {
        self.inner.log(document, after, limit).await
    }

    async fn snapshot_at(&self, document: &DocumentId, at: Sequence) -> Result<Option<Snapshot>, StoreError> {
        self.inner.snapshot_at(document, at).await
    }

    async fn compact(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        snapshot: Snapshot,
        retention: Retention,
    ) -> Result<Sequence, StoreError> {
        self.inner.compact(document, epoch, snapshot, retention).await
    }

    async fn add_version(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        version: Version,
        snapshot: Snapshot,
        versions_max: usize,
    ) -> Result<Naming, StoreError> {
        self.inner.add_version(document, epoch, version, snapshot, versions_max).await
    }

    async fn versions(&self, document: &DocumentId) -> Result<Option<Vec<Version>>, StoreError> {
        self.inner.versions(document).await
    }

    async fn remove_version(&self, document: &DocumentId, name: &VersionName) -> Result<bool, StoreError> {
        self.inner.remove_version(document, name).await
    }

    async fn set_frozen(
        &self,
        document: &DocumentId,
        epoch: Epoch,
        frozen_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        match self.fault() {
            Fault::None => self.inner.set_frozen(document, epoch, frozen_at).await,
            _ => unavailable(),
        }
    }

    async fn add_revocation(
        &self,
        revocation: Revocation,
        keep_since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        self.inner.add_revocation(revocation, keep_since).await
    }

    async fn size(&self) -> Result<Size, StoreError> {
        self.inner.size().await
    }

    async fn revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        self.inner.revocations().await
    }

    async fn archive(&self, document: &DocumentId) -> Result<Option<Archive>, StoreError> {
        self.inner.archive(document).await
    }

    async fn unarchive(&self, archive: Archive) -> Result<bool, StoreError> {
        self.inner.unarchive(archive).await
    }

    async fn add_strike(
        &self,
        document: &DocumentId,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Strikes>, StoreError> {
        self.inner.add_strike(document, reason, now).await
    }

    async fn clear_strikes(&self, document: &DocumentId) -> Result<bool, StoreError> {
        self.inner.clear_strikes(document).await
    }

    async fn quarantined(&self) -> Result<Vec<Strikes>, StoreError> {
        self.inner.quarantined().await
    }

    async fn damaged(&self) -> Result<Vec<(DocumentId, String)>, StoreError> {
        self.inner.damaged().await
    }

    async fn delete(&self, document: &DocumentId) -> Result<bool, StoreError> {
        self.inner.delete(document).await
    }

    async fn summary(&self, document: &DocumentId) -> Result<Option<Summary>, StoreError> {
        self.inner.summary(document).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Summary>, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn check_writable(&self) -> Result<(), StoreError> {
        self.inner.check_writable().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

fn settings() -> Settings {
    Settings {
        document_bytes_max: 1 << 20,
        broadcast_messages: 16,
        awareness_states_max: 16,
        keep_updates: 32,
        keep_days: 30,
        collect_deleted: false,
    }
}

/// Jobs are done in this process, by `work`.
fn surroundings(store: Arc<dyn Store>, work: sandbox::Work) -> Surroundings {
    let sandbox_settings =
        sandbox::Settings { program: None, memory_bytes_max: u64::MAX, time_max: Duration::from_secs(60) };
    Surroundings {
        store: store.clone(),
        settings: settings(),
        metrics: Arc::default(),
        authors: Arc::default(),
        sandbox: Sandbox::new(sandbox_settings, work, Arc::default()),
        quarantine: Arc::new(Quarantine::empty(store, Arc::default())),
        tasks: TaskTracker::new(),
    }
}

fn open(store: &Arc<FailingStore>) -> Document {
    let id = "doc".parse().expect("a document id");
    Document::start(id, &surroundings(store.clone(), job::work))
}

fn tab(name: &str) -> Origin {
    let client: ClientId = name.parse().expect("a client id");
    Origin::from(Some(client))
}

/// Updates of one Yjs client that types a text, one character each.
fn keystrokes(text: &str) -> Vec<Bytes> {
    let doc = Doc::with_client_id(7);
    let root = doc.get_or_insert_text("text");
    let mut typed = 0;
    let type_one = |character: char| {
        let mut transaction = doc.transact_mut();
        root.insert(&mut transaction, typed, &character.to_string());
        typed += 1;
        Bytes::from(transaction.encode_update_v1())
    };
    text.chars().map(type_one).collect()
}

async fn post(document: &Document, update: &Bytes) -> Result<Written, DocumentError> {
    document.apply_update(update.clone(), tab("tab-1"), None, Expected::Any).await
}

async fn text(document: &Document) -> String {
    document.text("text").await.expect("the document was written").2
}

#[tokio::test]
async fn a_failed_append_discards_the_change_and_its_retry_is_logged() {
    let store = FailingStore::new();
    let document = open(&store);
    let updates = keystrokes("ab");
    post(&document, &updates[0]).await.expect("the store works");

    store.set(Fault::Refused);
    let refused = post(&document, &updates[1]).await;
    assert!(matches!(refused, Err(DocumentError::Unavailable { .. })), "{refused:?}");
    assert_eq!(text(&document).await, "a", "what was not logged is not shown");

    store.set(Fault::None);
    let retried = post(&document, &updates[1]).await.expect("the store works again");
    assert!(retried.changed, "a retry after a failed append is no repeat");
    assert_eq!(retried.sequence, Sequence::new(2));
    assert_eq!(text(&document).await, "ab");
}

#[tokio::test(start_paused = true)]
async fn an_append_that_failed_but_reached_the_log_is_told_to_subscribers() {
    let store = FailingStore::new();
    let document = open(&store);
    let updates = keystrokes("ab");
    post(&document, &updates[0]).await.expect("the store works");
    let mut subscription = document.subscribe(Known::default()).await.expect("the store works");

    store.set(Fault::InDoubt);
    let failed = post(&document, &updates[1]).await;
    assert!(matches!(failed, Err(DocumentError::Unavailable { .. })), "{failed:?}");

    let told = subscription.live.recv().await.expect("the document lives");
    let Told::Event { event, .. } = told.told() else { panic!("an event is told: {told:?}") };
    assert_eq!((event.sequence, &event.update), (Sequence::new(2), &updates[1]));
    store.set(Fault::None);
    let retried = post(&document, &updates[1]).await.expect("the store works again");
    assert_eq!((retried.sequence, retried.changed), (Sequence::new(2), false));
}

#[tokio::test(start_paused = true)]
async fn a_first_write_in_doubt_is_told_to_those_who_waited_for_it() {
    let store = FailingStore::new();
    let document = open(&store);
    let mut subscription = document.subscribe(Known::default()).await.expect("the store works");
    assert_eq!(subscription.position.state.epoch, None);

    store.set(Fault::InDoubt);
    let updates = keystrokes("a");
    assert!(post(&document, &updates[0]).await.is_err());
    let told = subscription.live.recv().await.expect("the document lives");
    assert!(matches!(told.told(), Told::Event { event, .. } if event.sequence == Sequence::new(1)));
}

#[tokio::test]
async fn a_failed_load_is_an_error_and_caches_nothing() {
    let store = FailingStore::new();
    let updates = keystrokes("ab");
    post(&open(&store), &updates[0]).await.expect("the store works");

    store.set(Fault::Unreadable);
    let document = open(&store);
    assert!(matches!(document.state(None).await, Err(DocumentError::Unavailable { .. })));
    assert!(matches!(post(&document, &updates[1]).await, Err(DocumentError::Unavailable { .. })));
    let subscribed = document.subscribe(Known::default()).await;
    assert!(matches!(subscribed, Err(DocumentError::Unavailable { .. })), "an empty document is no answer");

    store.set(Fault::None);
    assert_eq!(text(&document).await, "a");
    assert!(post(&document, &updates[1]).await.expect("the store works again").changed);
}

#[tokio::test]
async fn many_first_questions_load_a_document_once() {
    let store = FailingStore::new();
    post(&open(&store), &keystrokes("a")[0]).await.expect("the store works");
    let before = store.loads.load(Ordering::Relaxed);

    let document = open(&store);
    let questions = (0..32).map(|_| {
        let document = document.clone();
        tokio::spawn(async move { document.text("text").await })
    });
    for question in questions.collect::<Vec<_>>() {
        assert_eq!(question.await.expect("no panic").expect("it was written").2, "a");
    }
    assert_eq!(store.loads.load(Ordering::Relaxed) - before, 1);
}

#[tokio::test]
async fn an_unloaded_document_keeps_its_streams() {
    let store = FailingStore::new();
    let document = open(&store);
    let updates = keystrokes("ab");
    post(&document, &updates[0]).await.expect("the store works");
    let mut subscription = document.subscribe(Known::default()).await.expect("the store works");
    document.unload();
    post(&document, &updates[1]).await.expect("the store works");
    let told = subscription.live.recv().await.expect("the document lives");
    assert!(matches!(told.told(), Told::Event { event, .. } if event.sequence == Sequence::new(2)));
    assert_eq!(text(&document).await, "ab");
}

#[tokio::test]
async fn a_resumed_subscriber_gets_just_what_it_missed() {
    let store = FailingStore::new();
    let document = open(&store);
    let updates = keystrokes(&"x".repeat(200));
    for update in &updates[..100] {
        post(&document, update).await.expect("the store works");
    }
    let (epoch, seen) = document.head().await.expect("it was written");
    let half = document.state(None).await.expect("it was written");
    for update in &updates[100..103] {
        post(&document, update).await.expect("the store works");
    }
    let known = Known { since: Some((epoch, seen)), state_vector: None };
    let position = document.subscribe(known).await.expect("the store works").position;
    assert!(position.resumed);
    assert!(position.state.update.len() < 40, "three keystrokes, not the document: {position:?}");
    let rebuilt = Replica::open(0, Some(&half.update), std::iter::once(&position.state.update[..]));
    assert_eq!(rebuilt.expect("both are updates").text("text"), "x".repeat(103));
}

#[tokio::test]
async fn edits_by_position_are_counted_in_utf_16_and_checked_first() {
    let document = open(&FailingStore::new());
    document.set_text("text", "世界🌍é", tab("tab-1")).await.expect("an edit");
    let inside = document.delete_range("text", 3, 1, tab("tab-1")).await;
    assert_eq!(inside, Err(DocumentError::InvalidPosition { position: 3, length: 5 }));
    let past = document.insert_at("text", 6, "x", tab("tab-1")).await;
    assert_eq!(past, Err(DocumentError::InvalidPosition { position: 6, length: 5 }));
    assert_eq!(text(&document).await, "世界🌍é", "a refused edit leaves no trace");

    document.delete_range("text", 1, 3, tab("tab-1")).await.expect("an edit");
    document.insert_at("text", 2, "!", tab("tab-2")).await.expect("an edit");
    assert_eq!(text(&document).await, "世é!");
    let same = document.set_text("text", "世é!", tab("tab-1")).await.expect("no edit");
    assert!(!same.changed);
}

fn once(key: &str) -> Terms {
    Terms { once: Some(Once { key: key.into(), digest: [7; 32] }), ..Terms::plain(Origin::Anonymous) }
}

fn appended(text: &str) -> TextChange {
    let op = Op::Insert { at: Place::End, text: text.into() };
    TextChange { root: "text".into(), unit: Unit::Utf16, edit: Edit::Ops(vec![op]) }
}

#[tokio::test]
async fn an_edit_in_doubt_is_not_made_again_under_its_key() {
    let store = FailingStore::new();
    let document = open(&store);
    store.set(Fault::InDoubt);
    assert!(document.edit_text(appended("a"), once("one")).await.is_err());
    store.set(Fault::None);
    let again = document.edit_text(appended("a"), once("one")).await.expect("the store works again");
    assert_eq!((again.sequence, again.changed, again.length), (Sequence::new(1), true, Some(1)));
    assert_eq!(text(&document).await, "a");
}

#[tokio::test]
async fn an_edit_that_was_refused_by_the_store_is_made_when_it_comes_again() {
    let store = FailingStore::new();
    let document = open(&store);
    store.set(Fault::Refused);
    assert!(document.edit_text(appended("a"), once("one")).await.is_err());
    store.set(Fault::None);
    let again = document.edit_text(appended("a"), once("one")).await.expect("the store works again");
    assert!(again.changed);
    assert_eq!(text(&document).await, "a");
}

#[tokio::test]
async fn repeats_that_come_together_are_one_edit() {
    let store = FailingStore::new();
    let document = open(&store);
    let asked = (0..16).map(|_| {
        let document = document.clone();
        tokio::spawn(async move { document.edit_text(appended("a"), once("one")).await })
    });
    for asked in asked.collect::<Vec<_>>() {
        let answer = asked.await.expect("no panic").expect("the store works");
        assert_eq!((answer.sequence, answer.changed), (Sequence::new(1), true));
    }
    assert_eq!(text(&document).await, "a");
}

#[tokio::test]
async fn a_document_that_comes_back_is_written_to_under_the_same_number() {
    let store = FailingStore::new();
    let document = open(&store);
    for token in ["a", "b", "c"] {
        document.edit_text(appended(token), Terms::plain(Origin::Anonymous)).await.expect("the store works");
        document.unload();
    }
    let state = document.state(None).await.expect("it was written");
    let state_vector = super::super::format::read_state_vector(&state.state_vector).expect("it is one");
    assert_eq!(state_vector.iter().map(|(_, clock)| clock).collect::<Vec<_>>(), [3], "one client wrote all");
    assert_eq!(text(&document).await, "abc");
}

fn work_that_panics(_job: &[u8]) -> Vec<u8> {
    panic!("the library's trap")
}

#[tokio::test]
async fn a_document_that_fails_twice_is_quarantined_and_a_release_brings_it_back_whole() {
    let store = FailingStore::new();
    let surroundings = surroundings(store.clone(), work_that_panics);
    let quarantine = surroundings.quarantine.clone();
    let document = Document::start("doc".parse().expect("an id"), &surroundings);
    for update in keystrokes("abc") {
        post(&document, &update).await.expect("merging is no job");
    }
    let mut subscription = document.subscribe(Known::default()).await.expect("nor is a stream");
    let failed = document.text_at(Sequence::new(2), "text").await;
    assert!(matches!(failed, Err(DocumentError::Unavailable { .. })), "{failed:?}");
    assert_eq!(text(&document).await, "abc", "one failure is forgiven");
    let failed = document.state_at(Sequence::new(2), None).await;
    assert_eq!(failed, Err(DocumentError::Quarantined));

    let told = subscription.live.recv().await.expect("the document lives");
    assert!(matches!(told.told(), Told::Closed(Closing::Unavailable)), "{told:?}");
    let id = document.id().clone();
    assert_eq!(document.text("text").await, Err(DocumentError::Quarantined));
    assert_eq!(post(&document, &keystrokes("abcd")[3]).await, Err(DocumentError::Quarantined));
    assert!(matches!(document.history(None).await, Err(DocumentError::Quarantined)));
    assert_eq!(document.versions().await, Err(DocumentError::Quarantined));
    let again = Quarantine::open(store, Arc::default()).await.expect("the store works");
    assert!(again.holds(&id), "it is noted for the next start");

    quarantine.release(&id).await.expect("it is quarantined");
    assert_eq!(quarantine.release(&id).await, Err(DocumentError::NotFound));
    assert_eq!(text(&document).await, "abc");
    assert!(post(&document, &keystrokes("abcd")[3]).await.expect("it is in service").changed);
}

#[tokio::test]
async fn a_quarantined_document_can_be_deleted_and_begin_anew() {
    let store = FailingStore::new();
    let document = Document::start("doc".parse().expect("an id"), &surroundings(store, work_that_panics));
    post(&document, &keystrokes("a")[0]).await.expect("merging is no job");
    for _ in 0..2 {
        assert!(document.state_at(Sequence::new(1), None).await.is_err());
    }
    assert_eq!(document.state(None).await, Err(DocumentError::Quarantined));
    assert_eq!(document.delete().await, Ok(true));
    assert!(post(&document, &keystrokes("a")[0]).await.expect("it begins anew").changed);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_made_costs_nothing_but_strikes() {
    let store = FailingStore::new();
    let surroundings = surroundings(store.clone(), work_that_panics);
    let document = Document::start("doc".parse().expect("an id"), &surroundings);
    let id = document.id().clone();
    let updates = keystrokes(&"x".repeat(16));
    // A snapshot is due every eight updates.
    for (failed, updates) in (1..).zip(updates.chunks(8)) {
        for update in updates {
            post(&document, update).await.expect("it is in service");
        }
        while surroundings.metrics.compactions_failed.get() < failed {
            tokio::task::yield_now().await;
        }
    }
    assert!(surroundings.quarantine.holds(&id), "after two of them");
    let archive = store.archive(&id).await.expect("the store works").expect("it was written");
    assert_eq!((archive.snapshots.len(), archive.log.len()), (0, 16), "everything is as it was");
}

/// Without helpers nothing is begun, and nothing is anybody's fault.
#[tokio::test]
async fn a_snapshot_that_nobody_could_make_is_no_strike() {
    let store = FailingStore::new();
    let mut surroundings = surroundings(store.clone(), job::work);
    let without_program = sandbox::Settings {
        program: Some("/nowhere".into()),
        memory_bytes_max: u64::MAX,
        time_max: Duration::from_secs(60),
    };
    surroundings.sandbox = Sandbox::new(without_program, job::work, Arc::default());
    let document = Document::start("doc".parse().expect("an id"), &surroundings);
    for update in keystrokes(&"x".repeat(40)) {
        post(&document, &update).await.expect("it is in service");
        let failed = document.text_at(Sequence::new(1), "text").await;
        assert!(matches!(failed, Err(DocumentError::Unavailable { .. })), "{failed:?}");
    }
    assert_eq!(store.quarantined().await.expect("the store works"), []);
    assert!(store.clear_strikes(document.id()).await.is_ok_and(|had_some| !had_some));
    let archive = store.archive(document.id()).await.expect("the store works").expect("it was written");
    assert_eq!(archive.log.len(), 40);
}

/// Jobs that are being done.
static JOBS: AtomicUsize = AtomicUsize::new(0);

fn work_that_must_be_alone(job: &[u8]) -> Vec<u8> {
    assert_eq!(JOBS.fetch_add(1, Ordering::SeqCst), 0, "one document has one job at a time");
    (0..1000).for_each(|_| std::thread::yield_now());
    let answer = job::work(job);
    JOBS.fetch_sub(1, Ordering::SeqCst);
    answer
}

/// The failure: whoever asks twice at once gets two strikes for one, and all helpers.
#[tokio::test]
async fn a_document_has_one_job_done_at_a_time() {
    let store = FailingStore::new();
    let document =
        Document::start("doc".parse().expect("an id"), &surroundings(store, work_that_must_be_alone));
    post(&document, &keystrokes("a")[0]).await.expect("the store works");
    let asked = (0..16).map(|_| {
        let document = document.clone();
        tokio::spawn(async move { document.text_at(Sequence::new(1), "text").await })
    });
    for asked in asked.collect::<Vec<_>>() {
        assert_eq!(asked.await.expect("no panic").expect("it is not struck").2, "a");
    }
}
