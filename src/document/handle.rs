//! The handle to an open document: what the rest of the server can ask of it.
//!
//! Every change and every look at the content goes to the owning task (`actor`), one at a time.
//! Presence is not content: it lives under a lock of its own, held for one method at a time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::event::{Event, Origin};
use crate::ids::{ClientId, DocumentId, Epoch, Sequence};
use crate::store::{PageLimit, Retention, Store, StoreError};

use super::actor::{Actor, ChangeRequest, Command};
use super::json::Shown;
use super::json_patch::{Fault, JsonPatch};
use super::presence::{Client, Connected, Presence, Refused};
use super::replica::Replica;
use super::subscription::{Broadcast, Closing, Known, State, Subscription, Told};

/// How many commands wait for the owning task before callers wait to hand theirs over.
const INBOX_COMMANDS: usize = 256;

/// How open documents behave. Sizes in bytes of Yjs encoding v1.
#[derive(Debug, Clone)]
pub struct Settings {
    pub document_bytes_max: usize,
    /// How many messages a subscriber may be behind before it is caught up from the log.
    pub broadcast_messages: usize,
    pub awareness_states_max: usize,
    /// How much of the log stays.
    pub keep_updates: u64,
    pub keep_days: u32,
}

impl Settings {
    pub(super) fn retention(&self, now: crate::event::Timestamp) -> Retention {
        const DAY_MILLISECONDS: i64 = 24 * 60 * 60 * 1000;
        let keep_since = now.milliseconds() - i64::from(self.keep_days) * DAY_MILLISECONDS;
        Retention {
            keep_updates: self.keep_updates,
            keep_since: crate::event::Timestamp::from_milliseconds(keep_since),
        }
    }
}

/// What a caller can do about a refusal. After any of them the document is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the document was never written")]
    NotFound,
    #[error("the update builds on updates that are not here")]
    Gap { state_vector: Bytes },
    #[error("the given epoch is not this document's")]
    EpochChanged { epoch: Option<Epoch> },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("{content} is not supported")]
    Unsupported { content: &'static str },
    #[error("the document may have {limit} {unit} at the most")]
    TooLarge { limit: usize, unit: &'static str },
    #[error("position {position} lies outside the text of {length} UTF-16 code units, or inside a character")]
    InvalidPosition { position: u32, length: u32 },
    /// The root is of another type than the change is for.
    #[error("{detail}")]
    WrongRoot { detail: &'static str },
    #[error("operation {index} of the patch does not fit: {fault}")]
    Patch { index: usize, fault: Fault },
    #[error("that part of the log has been compacted away; it begins with {oldest}")]
    Gone { oldest: Sequence },
    /// Retry on a fresh open.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// The document is out of service: retrying does not help.
    #[error("{detail}")]
    Damaged { detail: String },
}

impl From<StoreError> for DocumentError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { oldest } => Self::Gone { oldest },
            StoreError::Corrupt { .. } => Self::Damaged { detail: error.to_string() },
            StoreError::Unavailable { .. } | StoreError::Moved { .. } => {
                Self::Unavailable { reason: error.to_string() }
            }
        }
    }
}

/// A change that somebody asks for. Positions and lengths are UTF-16 code units.
#[derive(Debug, Clone)]
pub enum Change {
    /// Yjs encoding v1.
    Update(Bytes),
    SetText {
        root: String,
        text: String,
    },
    InsertAt {
        root: String,
        position: u32,
        text: String,
    },
    DeleteRange {
        root: String,
        position: u32,
        length: u32,
    },
    /// Shared: it is handed from thread to thread.
    Patch(Arc<JsonPatch>),
}

/// Which life of the document a change is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Any,
    This(Epoch),
    /// The caller named a life that no document ever had.
    Unknown,
}

impl Expected {
    pub(super) fn is_met(self, epoch: Option<Epoch>) -> bool {
        match self {
            Self::Any => true,
            Self::This(expected) => epoch == Some(expected),
            Self::Unknown => false,
        }
    }
}

/// What became of a change: durable when this is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// `None`: the change changed nothing and the document was never written.
    pub epoch: Option<Epoch>,
    /// The change's own sequence, or the head if nothing changed.
    pub sequence: Sequence,
    pub changed: bool,
}

/// Part of a document's log.
#[derive(Debug, Clone)]
pub struct Log {
    pub epoch: Epoch,
    pub events: Vec<Event>,
    /// `after` of the next page; `None` on the last.
    pub next: Option<Sequence>,
}

/// What the owning task and the handles share.
pub(super) struct Shared {
    pub(super) live: broadcast::Sender<Arc<Broadcast>>,
    presence: Mutex<Presence>,
    /// What the replica takes in memory, in bytes, roughly.
    pub(super) resident_bytes: AtomicUsize,
}

impl Shared {
    pub(super) fn presence(&self) -> MutexGuard<'_, Presence> {
        // Each method of Presence leaves it whole, also where it panics half way: it is a cache of who is here.
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, told: Told) {
        if self.live.receiver_count() > 0 {
            // An error means that the last receiver has just gone.
            let _ = self.live.send(Broadcast::new(told));
        }
    }
}

struct Inner {
    id: DocumentId,
    inbox: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    started: Instant,
    /// When it was last used, in milliseconds after `started`.
    used: AtomicU64,
}

/// A document that is open. Cheap to clone; while a clone exists the document is not evicted.
#[derive(Clone)]
pub struct Document(Arc<Inner>);

impl Document {
    /// Starts the task that owns the document. Nothing is read before the first question.
    ///
    /// The task ends when the last handle is gone.
    pub fn start(id: DocumentId, store: Arc<dyn Store>, settings: Settings, tasks: &TaskTracker) -> Self {
        let (inbox, commands) = mpsc::channel(INBOX_COMMANDS);
        let shared = Arc::new(Shared {
            live: broadcast::Sender::new(settings.broadcast_messages),
            presence: Mutex::new(Presence::new(settings.awareness_states_max)),
            resident_bytes: AtomicUsize::new(0),
        });
        let actor = Actor::new(id.clone(), store.clone(), settings, shared.clone(), commands, tasks.clone());
        tasks.spawn(actor.run());
        Self(Arc::new(Inner { id, inbox, shared, store, started: Instant::now(), used: AtomicU64::new(0) }))
    }

    pub fn id(&self) -> &DocumentId {
        &self.0.id
    }

    /// Merges an update of somebody's, and logs its bytes under its origin.
    ///
    /// # Errors
    /// Any of `DocumentError`; nothing changed.
    pub async fn apply_update(
        &self,
        update: Bytes,
        origin: Origin,
        user: Option<String>,
        expected: Expected,
    ) -> Result<Written, DocumentError> {
        self.change(Change::Update(update), origin, user, expected).await
    }

    /// Makes the root text `root` read `text`, by the smallest edit that leads there.
    ///
    /// # Errors
    /// Any of `DocumentError`; nothing changed.
    pub async fn set_text(&self, root: &str, text: &str, origin: Origin) -> Result<Written, DocumentError> {
        let change = Change::SetText { root: root.to_owned(), text: text.to_owned() };
        self.change(change, origin, None, Expected::Any).await
    }

    /// Inserts at `position`, in UTF-16 code units.
    ///
    /// # Errors
    /// `InvalidPosition` past the end or inside a surrogate pair; any of `DocumentError`; nothing changed.
    pub async fn insert_at(
        &self,
        root: &str,
        position: u32,
        text: &str,
        origin: Origin,
    ) -> Result<Written, DocumentError> {
        let change = Change::InsertAt { root: root.to_owned(), position, text: text.to_owned() };
        self.change(change, origin, None, Expected::Any).await
    }

    /// Deletes `length` code units from `position` on, both in UTF-16.
    ///
    /// # Errors
    /// `InvalidPosition` past the end or inside a surrogate pair; any of `DocumentError`; nothing changed.
    pub async fn delete_range(
        &self,
        root: &str,
        position: u32,
        length: u32,
        origin: Origin,
    ) -> Result<Written, DocumentError> {
        let change = Change::DeleteRange { root: root.to_owned(), position, length };
        self.change(change, origin, None, Expected::Any).await
    }

    /// Carries out a JSON Patch on a root, in one transaction and as one update.
    ///
    /// # Errors
    /// `WrongRoot`, `Patch`; any of `DocumentError`; nothing changed.
    pub async fn patch_json(
        &self,
        patch: JsonPatch,
        origin: Origin,
        expected: Expected,
    ) -> Result<Written, DocumentError> {
        self.change(Change::Patch(Arc::new(patch)), origin, None, expected).await
    }

    /// Carries out a change: merged, appended, durable, and only then answered and told to the others.
    async fn change(
        &self,
        change: Change,
        origin: Origin,
        user: Option<String>,
        expected: Expected,
    ) -> Result<Written, DocumentError> {
        self.ask(|reply| Command::Change(Box::new(ChangeRequest { change, origin, user, expected, reply })))
            .await?
    }

    /// The whole document, or what the holder of `state_vector` lacks.
    ///
    /// `state_vector`: encoded as Yjs does, checked by the caller with `check_state_vector`.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn state(&self, state_vector: Option<Bytes>) -> Result<State, DocumentError> {
        self.ask(|reply| Command::State { state_vector, reply }).await?
    }

    /// The document as it was at a sequence, or what the holder of `state_vector` lacks of that.
    ///
    /// # Errors
    /// `NotFound` after the head too, `Gone`, `Unavailable`, `Damaged`.
    pub async fn state_at(&self, at: Sequence, state_vector: Option<Bytes>) -> Result<State, DocumentError> {
        let (epoch, replica) = self.replica_at(at).await?;
        let update = match state_vector {
            Some(state_vector) => replica.difference(&state_vector)?,
            None => replica.whole(),
        };
        Ok(State { epoch: Some(epoch), sequence: at, update, state_vector: replica.state_vector() })
    }

    /// The text of a root as it was at a sequence.
    ///
    /// # Errors
    /// As `state_at`.
    pub async fn text_at(
        &self,
        at: Sequence,
        root: &str,
    ) -> Result<(Epoch, Sequence, String), DocumentError> {
        let (epoch, replica) = self.replica_at(at).await?;
        Ok((epoch, at, replica.text(root)))
    }

    /// Rebuilds the document as it was, beside the one that lives.
    async fn replica_at(&self, at: Sequence) -> Result<(Epoch, Replica), DocumentError> {
        const EVERYTHING: PageLimit = PageLimit { events_max: usize::MAX, bytes_max: usize::MAX };
        let (_, head) = self.head().await?;
        if at > head {
            return Err(DocumentError::NotFound);
        }
        let store = &self.0.store;
        let snapshot = store.snapshot_at(&self.0.id, at).await?;
        let after = snapshot.as_ref().map_or(Sequence::ZERO, |snapshot| snapshot.sequence);
        let page = store.log(&self.0.id, after, EVERYTHING).await?.ok_or(DocumentError::NotFound)?;
        let epoch = page.epoch;
        let build = move || {
            let updates =
                page.events.iter().filter(|event| event.sequence <= at).map(|event| &event.update[..]);
            Replica::open(snapshot.as_ref().map(|snapshot| &snapshot.update[..]), updates)
        };
        let interrupted = |_| DocumentError::Unavailable { reason: "rebuilding was interrupted".into() };
        let replica = tokio::task::spawn_blocking(build).await.map_err(interrupted)?;
        Ok((epoch, replica.map_err(|detail| DocumentError::Damaged { detail })?))
    }

    /// The text of a root, with the life and the sequence that it belongs to.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn text(&self, root: &str) -> Result<(Epoch, Sequence, String), DocumentError> {
        let root = root.to_owned();
        self.ask(|reply| Command::Text { root, reply }).await?
    }

    /// What the roots hold, in the order of their names; or the one root, if there is such a one.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn json(&self, root: Option<&str>) -> Result<(Epoch, Sequence, Vec<Shown>), DocumentError> {
        let root = root.map(str::to_owned);
        self.ask(|reply| Command::Json { root, reply }).await?
    }

    /// What the roots held at a sequence.
    ///
    /// # Errors
    /// As `state_at`.
    pub async fn json_at(
        &self,
        at: Sequence,
        root: Option<&str>,
    ) -> Result<(Epoch, Sequence, Vec<Shown>), DocumentError> {
        let (epoch, replica) = self.replica_at(at).await?;
        let root = root.map(str::to_owned);
        let interrupted = |_| DocumentError::Unavailable { reason: "reading was interrupted".into() };
        let read = move || replica.roots(root.as_deref());
        let roots = tokio::task::spawn_blocking(read).await.map_err(interrupted)?;
        Ok((epoch, at, roots))
    }

    /// The document's life and head.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn head(&self) -> Result<(Epoch, Sequence), DocumentError> {
        self.ask(|reply| Command::Head { reply }).await?
    }

    /// Where the subscriber stands, and everything after it.
    ///
    /// # Errors
    /// `Unavailable`, `Damaged`. A document never written is an empty one.
    pub async fn subscribe(&self, known: Known) -> Result<Subscription, DocumentError> {
        self.ask(|reply| Command::Subscribe { known: Box::new(known), reply }).await?
    }

    /// Deletes the document; its streams end. `false`: there was none.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete(&self) -> Result<bool, DocumentError> {
        self.ask(|reply| Command::Delete { reply }).await?
    }

    /// Part of the log after `after`, straight from the store: only what is durable is there.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `Unavailable`, `Damaged`.
    pub async fn log(&self, after: Sequence, limit: PageLimit) -> Result<Log, DocumentError> {
        let page = self.0.store.log(&self.0.id, after, limit).await?.ok_or(DocumentError::NotFound)?;
        let last = page.events.last().map_or(page.head, |event| event.sequence);
        Ok(Log { epoch: page.epoch, events: page.events, next: (last < page.head).then_some(last) })
    }

    /// Counts a stream of a client in until the registration is dropped.
    pub fn register_client(&self, client: Client) -> Registration {
        let client_id = client.client_id.clone();
        let joined = self.0.shared.presence().register(client);
        if let Some(client) = joined {
            self.0.shared.tell(Told::Joined(client));
        }
        Registration { document: self.clone(), client_id }
    }

    fn unregister_client(&self, client_id: &ClientId) {
        let left = self.0.shared.presence().unregister(client_id, Instant::now());
        if let Some(client) = left {
            self.0.shared.tell(Told::Left(client));
        }
        self.touch();
    }

    /// Who has a stream open.
    pub fn clients(&self) -> Vec<Connected> {
        self.0.shared.presence().connected()
    }

    /// Takes in an awareness update of a client and tells the others.
    ///
    /// # Errors
    /// `Refused`; nothing changed.
    pub fn apply_awareness(&self, client: &ClientId, update: &[u8]) -> Result<(), Refused> {
        let told = self.0.shared.presence().apply(client, update, Instant::now())?;
        self.tell_awareness(Some(client.clone()), told);
        Ok(())
    }

    /// Sets or removes the awareness state of a client that has no Yjs library. `json`: one JSON object.
    ///
    /// # Errors
    /// `Refused::Full`; nothing changed.
    pub fn put_awareness(&self, client: &ClientId, json: Option<&str>) -> Result<(), Refused> {
        // The CRDT's client numbers that Yjs draws have 32 bits.
        let number = u64::from(rand::random::<u32>());
        let told = self.0.shared.presence().put(client, json, number, Instant::now())?;
        self.tell_awareness(Some(client.clone()), told);
        Ok(())
    }

    /// Every awareness state, as one update; `None` if nobody shares one.
    pub fn awareness(&self) -> Option<Bytes> {
        self.0.shared.presence().snapshot().map(Bytes::from)
    }

    /// Lets presence age. The registry calls it for every open document a few times a second.
    pub fn expire_presence(&self, now: Instant) {
        let told = {
            let mut presence = self.0.shared.presence();
            if presence.is_empty() { None } else { presence.expire(now) }
        };
        if told.is_some() {
            self.tell_awareness(None, told);
        }
    }

    fn tell_awareness(&self, origin: Option<ClientId>, update: Option<Vec<u8>>) {
        if let Some(update) = update {
            self.0.shared.tell(Told::Awareness { origin, update: update.into() });
        }
        self.touch();
    }

    /// Tells every stream that the server is stopping: it is the last that they are sent.
    pub fn end_streams(&self) {
        self.0.shared.tell(Told::Closed(Closing::ShuttingDown));
    }

    /// Drops the replica from memory; the next question loads it again. Streams stay.
    pub fn unload(&self) {
        // A full inbox means that the document is busy: then it is not the one to unload.
        let _ = self.0.inbox.try_send(Command::Unload);
    }

    pub fn resident_bytes(&self) -> usize {
        self.0.shared.resident_bytes.load(Ordering::Relaxed)
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.0.shared.live.receiver_count()
    }

    /// Since when nobody has used it.
    pub fn idle_since(&self) -> Instant {
        self.0.started + std::time::Duration::from_millis(self.0.used.load(Ordering::Relaxed))
    }

    /// Whether this handle, the registry's, is the only one, and nobody is here.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && self.streams() == 0 && self.0.shared.presence().is_empty()
    }

    fn touch(&self) {
        let milliseconds = u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.used.store(milliseconds, Ordering::Relaxed);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, DocumentError> {
        self.touch();
        let gone = || DocumentError::Unavailable { reason: "the document has just closed".into() };
        let (reply, answer) = oneshot::channel();
        self.0.inbox.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// One stream of a client: counted while this lives.
pub struct Registration {
    document: Document,
    client_id: ClientId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.document.unregister_client(&self.client_id);
    }
}
