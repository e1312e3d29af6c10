//! The handle to an open document: what the rest of the server can ask of it.
//!
//! Every change and every look at the content goes to the owning task (`actor`), one at a time.
//! Presence is not content: it lives under a lock of its own, held for one method at a time.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::auth::access::{Admin, MayWrite, Read};
use crate::auth::grant::Grant;
use crate::event::{Event, Origin, Timestamp};
use crate::ids::{ClientId, DocumentId, Epoch, Sequence};
use crate::metrics::Documents;
use crate::sandbox::Sandbox;
use crate::store::{PageLimit, Retention, Store, StoreError};

use super::actor::{Actor, ChangeRequest, Command, FreezeRequest, Parts};
use super::authors::{self, Authors};
use super::format::ClientNumber;
use super::job::{self, JobError, Past};
use super::json::Shown;
use super::json_patch::{Fault, JsonPatch};
use super::presence::{Client, Connected, Owner, Presence, Refused};
use super::quarantine::Quarantine;
use super::replica::restoring::Content as Restored;
use super::replica::{Allowance, ChangeError, Changed, Replica};
use super::subscription::{Broadcast, Closing, Known, State, Subscription, Told};
use super::text::{Edit, Op, Place, TextChange, Unit};

/// How many commands wait for the owning task before callers wait to hand theirs over.
const INBOX_COMMANDS: usize = 256;

/// A merge or an edit that takes longer is given up. Genuine updates of the largest size take a tenth of a second.
pub(super) const MERGE_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the smallest way to a new text is looked for.
pub(super) const DIFFERENCE_TIME_MAX: Duration = Duration::from_millis(200);

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
    /// Whether snapshots are without what was deleted.
    pub collect_deleted: bool,
}

impl Settings {
    pub(super) fn retention(&self, now: Timestamp) -> Retention {
        const DAY_MILLISECONDS: i64 = 24 * 60 * 60 * 1000;
        let keep_since = now.milliseconds() - i64::from(self.keep_days) * DAY_MILLISECONDS;
        Retention { keep_updates: self.keep_updates, keep_since: Timestamp::from_milliseconds(keep_since) }
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
    /// Both in the unit that the edit is counted in.
    #[error("position {position} lies outside the text of length {length}, or inside a character")]
    InvalidPosition { position: i64, length: u64 },
    #[error("the root `{root}` holds something else than text")]
    WrongType { root: String },
    /// The root is neither a map nor an array, or not the one of them that the patch is for.
    #[error("{detail}")]
    WrongRoot { detail: &'static str },
    #[error("operation {index} of the patch does not fit: {fault}")]
    Patch { index: usize, fault: Fault },
    #[error("the base lies after {head}, the last sequence that there is")]
    InvalidBase { head: Sequence },
    #[error("the idempotency key was given to another request before")]
    KeyReused,
    #[error("the document exists already")]
    Exists { epoch: Option<Epoch>, sequence: Sequence },
    #[error("the document is frozen since {since} and takes no changes")]
    Frozen { since: Timestamp },
    #[error("that part of the log has been compacted away; it begins with {oldest}")]
    Gone { oldest: Sequence },
    /// Retry on a fresh open.
    #[error("{reason}")]
    Unavailable { reason: String },
    /// The document is out of service: retrying does not help.
    #[error("{detail}")]
    Damaged { detail: String },
    /// It is out of service until the operator releases it.
    #[error(
        "the document has killed or run out the process that works on it, more than once, and is quarantined"
    )]
    Quarantined,
}

impl DocumentError {
    pub(super) fn too_costly() -> Self {
        Self::Invalid { reason: format!("merging it takes over {} s", MERGE_TIME_MAX.as_secs()) }
    }
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

/// A change that somebody asks for.
#[derive(Debug, Clone)]
pub enum Change {
    /// Yjs encoding v1.
    Update(Bytes),
    /// An edit of the text as it is.
    Text(TextChange),
    /// An edit of the text as it was, made there under a number that is new to the document.
    Rebased {
        update: Bytes,
        number: ClientNumber,
        /// The text whose length is to be answered, and in what, if it was an edit of one.
        text: Option<(String, Unit)>,
    },
    /// A JSON Patch of a root as it is. Shared: it is handed from thread to thread.
    Patch(Arc<JsonPatch>),
    /// What the document held before.
    Restore(Arc<Restored>),
}

/// Where in a document's history somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub epoch: Expected,
    pub sequence: Sequence,
}

/// Names a request that must be carried out only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    pub key: String,
    /// Of all that is asked: under the same key nothing else may be.
    pub digest: [u8; 32],
}

/// Who asks for a change, and on what terms.
#[derive(Debug, Clone)]
pub struct Terms {
    pub origin: Origin,
    pub user: Option<String>,
    pub expected: Expected,
    /// The state that the change is meant for; `None`: whatever it is by then.
    pub base: Option<Base>,
    pub once: Option<Once>,
}

impl Terms {
    /// On whatever the document is by then, as often as it is asked for.
    pub fn plain(origin: Origin) -> Self {
        Self { origin, user: None, expected: Expected::Any, base: None, once: None }
    }
}

/// What a new document begins with.
#[derive(Debug, Clone)]
pub enum Content {
    /// Yjs encoding v1.
    Update(Bytes),
    Text {
        root: String,
        text: String,
    },
}

/// Which life of the document a change is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    Any,
    This(Epoch),
    /// The first of a document that was never written, or is no more.
    New,
    /// The caller named a life that no document ever had.
    Unknown,
}

impl Expected {
    /// # Errors
    /// `Exists` or `EpochChanged` if the document is at `epoch` and `head`, and another life was meant.
    pub(super) fn check(self, epoch: Option<Epoch>, head: Sequence) -> Result<(), DocumentError> {
        match self {
            _ if self.is_met(epoch) => Ok(()),
            Self::New => Err(DocumentError::Exists { epoch, sequence: head }),
            _ => Err(DocumentError::EpochChanged { epoch }),
        }
    }

    fn is_met(self, epoch: Option<Epoch>) -> bool {
        match self {
            Self::Any => true,
            Self::This(expected) => epoch == Some(expected),
            Self::New => epoch.is_none(),
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
    /// After an edit of a text: how long it is then, in the edit's unit.
    pub length: Option<u64>,
}

/// What became of a change, or why nothing did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Written(Written),
    /// Its base is not the head any more: it is to be made there, and merged.
    Behind,
}

/// A document at the moment in which it was frozen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// `None`: it was thawed.
    pub since: Option<Timestamp>,
    pub state: State,
    pub text: String,
}

/// Part of a document's log.
#[derive(Debug, Clone)]
pub struct Log {
    pub epoch: Epoch,
    pub events: Vec<Event>,
    /// `after` of the next page; `None` on the last.
    pub next: Option<Sequence>,
}

/// What documents work with.
#[derive(Clone)]
pub struct Surroundings {
    pub store: Arc<dyn Store>,
    pub settings: Settings,
    pub metrics: Arc<Documents>,
    pub authors: Arc<Authors>,
    pub sandbox: Sandbox,
    pub quarantine: Arc<Quarantine>,
    pub tasks: TaskTracker,
}

/// What the owning task and the handles share.
pub(super) struct Shared {
    pub(super) live: broadcast::Sender<Arc<Broadcast>>,
    presence: Mutex<Presence>,
    /// What the replica takes in memory, in bytes, roughly.
    pub(super) resident_bytes: AtomicUsize,
    /// Set before the streams are told so.
    stopping: AtomicBool,
    /// Those of all documents.
    pub(super) metrics: Arc<Documents>,
    /// Held by whoever has a job done in the sandbox: one document has one helper at a time, and one strike.
    pub(super) job: tokio::sync::Mutex<()>,
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

pub(super) struct Inner {
    pub(super) id: DocumentId,
    inbox: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    pub(super) store: Arc<dyn Store>,
    sandbox: Sandbox,
    pub(super) quarantine: Arc<Quarantine>,
    started: Instant,
    /// When it was last used, in milliseconds after `started`.
    used: AtomicU64,
}

/// A document that is open, for whoever may do with it what `L` says. Cheap to clone; while a clone exists the document
/// is not evicted.
pub struct Document<L = Admin>(pub(super) Arc<Inner>, PhantomData<fn() -> L>);

impl<L> Clone for Document<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl Document {
    /// Starts the task that owns the document. Nothing is read before the first question.
    ///
    /// The task ends when the last handle is gone.
    pub fn start(id: DocumentId, surroundings: &Surroundings) -> Self {
        let Surroundings { store, settings, metrics, authors, sandbox, quarantine, tasks } =
            surroundings.clone();
        let (inbox, commands) = mpsc::channel(INBOX_COMMANDS);
        let shared = Arc::new(Shared {
            live: broadcast::Sender::new(settings.broadcast_messages),
            presence: Mutex::new(Presence::new(settings.awareness_states_max)),
            resident_bytes: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            metrics,
            job: tokio::sync::Mutex::default(),
        });
        let parts = Parts {
            store: store.clone(),
            settings,
            authors,
            sandbox: sandbox.clone(),
            quarantine: quarantine.clone(),
            shared: shared.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(Box::new(Actor::new(id.clone(), parts, commands)).run());
        let (started, used) = (Instant::now(), AtomicU64::new(0));
        Self(Arc::new(Inner { id, inbox, shared, store, sandbox, quarantine, started, used }), PhantomData)
    }

    /// The document, for whoever was granted access to it.
    pub fn granted<L>(&self, grant: &Grant<L>) -> Document<L> {
        debug_assert_eq!(grant.document(), &self.0.id, "a grant is for one document");
        Document(self.0.clone(), PhantomData)
    }

    /// Lets the document take no changes any more, or takes that back. Answers with what it is at that moment.
    ///
    /// `since`: now, or `None` to thaw. One that is frozen already stays frozen since then. `root`: the text that is
    /// answered.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn set_frozen(&self, since: Option<Timestamp>, root: &str) -> Result<Frozen, DocumentError> {
        let root = root.to_owned();
        self.ask(|reply| Command::Freeze(Box::new(FreezeRequest { since, root, reply }))).await?
    }

    /// Deletes the document; its streams end. `false`: there was none.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn delete(&self) -> Result<bool, DocumentError> {
        self.ask_in_any_case(|reply| Command::Delete { reply }).await?
    }
}

impl<L: MayWrite> Document<L> {
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
        let terms = Terms { user, expected, ..Terms::plain(origin) };
        self.change(Change::Update(update), terms).await
    }

    /// Writes a document that does not exist yet: with an update of somebody's, or with a root text.
    ///
    /// # Errors
    /// `Exists`; any of `DocumentError`; nothing changed.
    pub async fn create(
        &self,
        content: Content,
        origin: Origin,
        user: Option<String>,
    ) -> Result<Written, DocumentError> {
        let change = match content {
            Content::Update(update) => Change::Update(update),
            Content::Text { root, text } => {
                Change::Text(TextChange { root, unit: Unit::default(), edit: Edit::Replace(text) })
            }
        };
        self.change(change, Terms { user, expected: Expected::New, ..Terms::plain(origin) }).await
    }

    /// Makes the root text `root` read `text`, by the smallest edit that leads there.
    ///
    /// # Errors
    /// Any of `DocumentError`; nothing changed.
    pub async fn set_text(&self, root: &str, text: &str, origin: Origin) -> Result<Written, DocumentError> {
        self.edit(root, Edit::Replace(text.to_owned()), origin).await
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
        let op = Op::Insert { at: Place::At(position.into()), text: text.to_owned() };
        self.edit(root, Edit::Ops(vec![op]), origin).await
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
        let op = Op::Delete { at: Place::At(position.into()), length: length.into() };
        self.edit(root, Edit::Ops(vec![op]), origin).await
    }

    async fn edit(&self, root: &str, edit: Edit, origin: Origin) -> Result<Written, DocumentError> {
        let change = TextChange { root: root.to_owned(), unit: Unit::Utf16, edit };
        self.edit_text(change, Terms::plain(origin)).await
    }

    /// Edits a text: as it is, or as it was at a base, and then merged with what has happened since.
    ///
    /// # Errors
    /// Any of `DocumentError`; nothing changed.
    pub async fn edit_text(&self, change: TextChange, terms: Terms) -> Result<Written, DocumentError> {
        self.change_on_base(Change::Text(change), terms).await
    }

    /// Makes the document hold what it held at a sequence, as a new edit: no earlier one is undone for anybody.
    ///
    /// # Errors
    /// `NotFound` after the head too, `Gone`, `WrongRoot` if some of it cannot be brought back; any of `DocumentError`;
    /// nothing changed.
    pub async fn restore(&self, at: Sequence, terms: Terms) -> Result<Written, DocumentError> {
        let (epoch, replica) = self.replica_at(at, 0).await?;
        let read = move || {
            let started = Instant::now();
            let is_patient = || started.elapsed() < MERGE_TIME_MAX;
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| replica.content(&is_patient)))
                .unwrap_or_else(|_panic| {
                    Err(DocumentError::Invalid { reason: "the earlier content cannot be read".into() })
                })
        };
        let interrupted = |_| DocumentError::Unavailable { reason: "restoring was interrupted".into() };
        let content = tokio::task::spawn_blocking(read).await.map_err(interrupted)??;
        // What was read is of one life: what is there by now may be another.
        let expected = match terms.expected {
            Expected::Any => Expected::This(epoch),
            expected => expected,
        };
        self.change(Change::Restore(Arc::new(content)), Terms { expected, ..terms }).await
    }

    /// Carries out a JSON Patch on a root, in one transaction and as one update: on the root as it is, or as it was at
    /// a base, and then merged with what has happened since.
    ///
    /// # Errors
    /// `WrongRoot`, `Patch`; any of `DocumentError`; nothing changed.
    pub async fn patch_json(&self, patch: JsonPatch, terms: Terms) -> Result<Written, DocumentError> {
        self.change_on_base(Change::Patch(Arc::new(patch)), terms).await
    }

    async fn change_on_base(&self, change: Change, terms: Terms) -> Result<Written, DocumentError> {
        let Some(base) = terms.base else {
            return self.change(change, terms).await;
        };
        if let Outcome::Written(written) = self.ask_for(change.clone(), terms.clone()).await? {
            return Ok(written);
        }
        let number = authors::draw();
        let (epoch, replica) = self.replica_at(base.sequence, number).await?;
        let text = match &change {
            Change::Text(TextChange { root, unit, .. }) => Some((root.clone(), *unit)),
            _ => None,
        };
        let change = move || change_elsewhere(replica, &change);
        let interrupted = |_| DocumentError::Unavailable { reason: "the edit was interrupted".into() };
        let update = tokio::task::spawn_blocking(change).await.map_err(interrupted)??;
        // The history that was read is that of one life: what is there by now may be another.
        let base = Base { epoch: Expected::This(epoch), sequence: base.sequence };
        let terms = Terms { base: Some(base), ..terms };
        self.change(Change::Rebased { update, number, text }, terms).await
    }

    /// Carries out a change that is meant for the document whatever it is.
    async fn change(&self, change: Change, terms: Terms) -> Result<Written, DocumentError> {
        match self.ask_for(change, terms).await? {
            Outcome::Written(written) => Ok(written),
            Outcome::Behind => Err(DocumentError::Unavailable { reason: "a change was not rebased".into() }),
        }
    }

    /// Carries out a change: merged, appended, durable, and only then answered and told to the others.
    async fn ask_for(&self, change: Change, terms: Terms) -> Result<Outcome, DocumentError> {
        self.ask(|reply| Command::Change(Box::new(ChangeRequest { change, terms, reply }))).await?
    }
}

impl<L> Document<L> {
    pub fn id(&self) -> &DocumentId {
        &self.0.id
    }

    /// The whole document, or what the holder of `state_vector` lacks.
    ///
    /// `state_vector`: encoded as Yjs does, checked by the caller with `check_state_vector`.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn state(&self, state_vector: Option<Bytes>) -> Result<State, DocumentError> {
        let state_vector = state_vector.map(Box::new);
        self.ask(|reply| Command::State { state_vector, reply }).await?
    }

    /// The document as it was at a sequence, or what the holder of `state_vector` lacks of that.
    ///
    /// # Errors
    /// `NotFound` after the head too, `Gone`, `Unavailable`, `Damaged`.
    pub async fn state_at(&self, at: Sequence, state_vector: Option<Bytes>) -> Result<State, DocumentError> {
        let _turn = self.turn_at_the_sandbox().await?;
        let (epoch, past) = self.past(at).await?;
        let done = job::state(&self.0.sandbox, &past, state_vector.as_deref()).await;
        let (update, state_vector) = self.judge(done).await?;
        Ok(State { epoch: Some(epoch), sequence: at, update, state_vector })
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
        let _turn = self.turn_at_the_sandbox().await?;
        let (epoch, past) = self.past(at).await?;
        let done = job::text(&self.0.sandbox, &past, root).await;
        Ok((epoch, at, self.judge(done).await?))
    }

    /// How the document came to be what it was.
    async fn past(&self, at: Sequence) -> Result<(Epoch, Past), DocumentError> {
        let (epoch, head) = self.head().await?;
        if at > head {
            return Err(DocumentError::NotFound);
        }
        let store = &self.0.store;
        let snapshot = store.snapshot_at(&self.0.id, at).await?;
        let after = snapshot.as_ref().map_or(Sequence::ZERO, |snapshot| snapshot.sequence);
        let events = if after == at {
            // A version's snapshot stays when the log around it is gone.
            Vec::new()
        } else {
            let events_max = usize::try_from(at.since(after)).unwrap_or(usize::MAX);
            let up_to = PageLimit { events_max, bytes_max: usize::MAX };
            store.log(&self.0.id, after, up_to).await?.ok_or(DocumentError::NotFound)?.events
        };
        let events = events.into_iter().take_while(|event| event.sequence <= at);
        let updates = events.map(|event| event.update).collect();
        Ok((epoch, Past { snapshot: snapshot.map(|snapshot| snapshot.update), updates }))
    }

    /// Rebuilds the document as it was, beside the one that lives: rehearsed in the sandbox first.
    ///
    /// `number`: the Yjs client number that is written to it with, if anything is.
    async fn replica_at(
        &self,
        at: Sequence,
        number: ClientNumber,
    ) -> Result<(Epoch, Replica), DocumentError> {
        let _turn = self.turn_at_the_sandbox().await?;
        let (epoch, past) = self.past(at).await?;
        let rehearsed = job::rehearse(&self.0.sandbox, &past).await;
        let whole = self.judge(rehearsed).await?;
        let build = move || Replica::open(number, Some(&whole), std::iter::empty());
        let interrupted = |_| DocumentError::Unavailable { reason: "rebuilding was interrupted".into() };
        let replica = tokio::task::spawn_blocking(build).await.map_err(interrupted)?;
        Ok((epoch, replica.map_err(|detail| DocumentError::Damaged { detail })?))
    }

    /// Waits until no other job is done for this document. Its past is read only then: it may be large.
    async fn turn_at_the_sandbox(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, DocumentError> {
        let turn = self.0.shared.job.lock().await;
        self.check_in_service()?;
        Ok(turn)
    }

    /// What a job that failed means for the document, and for whoever asked for it.
    async fn judge<T>(&self, done: Result<T, JobError>) -> Result<T, DocumentError> {
        let failure = match done {
            Ok(done) => return Ok(done),
            Err(JobError::Refused { detail }) => return Err(DocumentError::Damaged { detail }),
            Err(JobError::Failed(failure)) => failure,
        };
        if self.0.quarantine.strike(&self.0.id, &failure).await {
            self.0.shared.tell(Told::Closed(Closing::Unavailable));
            self.unload();
            return Err(DocumentError::Quarantined);
        }
        Err(DocumentError::Unavailable { reason: failure.to_string() })
    }

    /// Whether anything may be asked of the document.
    ///
    /// # Errors
    /// `Quarantined`.
    pub fn check_in_service(&self) -> Result<(), DocumentError> {
        self.0.quarantine.check(&self.0.id)
    }

    /// Waits until the document has got as far as `reached`, and says where it is then.
    ///
    /// A document never written stands at zero. While this waits it counts as a stream.
    ///
    /// # Errors
    /// `EpochChanged` if it is of another life, and so will never get there; `Unavailable`, `Damaged`.
    pub async fn reach(&self, reached: Base) -> Result<(Option<Epoch>, Sequence), DocumentError> {
        // Listening before asking: nothing falls between.
        let mut live = self.0.shared.live.subscribe();
        loop {
            let at = match self.head().await {
                Ok((epoch, head)) => (Some(epoch), head),
                Err(DocumentError::NotFound) => (None, Sequence::ZERO),
                Err(error) => return Err(error),
            };
            if at.0.is_some() && !reached.epoch.is_met(at.0) {
                return Err(DocumentError::EpochChanged { epoch: at.0 });
            }
            if at.1 >= reached.sequence {
                return Ok(at);
            }
            let changes = async {
                loop {
                    match live.recv().await.as_deref().map(Broadcast::told) {
                        Ok(Told::Event { event, .. }) if event.sequence < reached.sequence => {}
                        Ok(Told::Awareness { .. } | Told::Joined(_) | Told::Left(_)) => {}
                        _ => break,
                    }
                }
            };
            changes.await;
        }
    }

    /// The text of a root, with the life and the sequence that it belongs to.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn text(&self, root: &str) -> Result<(Epoch, Sequence, String), DocumentError> {
        let root = Box::from(root);
        self.ask(|reply| Command::Text { root, reply }).await?
    }

    /// What the roots hold, in the order of their names; or the one root, if there is such a one.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Damaged`.
    pub async fn json(&self, root: Option<&str>) -> Result<(Epoch, Sequence, Vec<Shown>), DocumentError> {
        let root = root.map(Box::from);
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
        let _turn = self.turn_at_the_sandbox().await?;
        let (epoch, past) = self.past(at).await?;
        let done = job::json(&self.0.sandbox, &past, root).await;
        Ok((epoch, at, self.judge(done).await?))
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

    /// Part of the log after `after`, straight from the store: only what is durable is there.
    ///
    /// # Errors
    /// `NotFound`, `Gone`, `Unavailable`, `Damaged`.
    pub async fn log(&self, after: Sequence, limit: PageLimit) -> Result<Log, DocumentError> {
        self.check_in_service()?;
        let page = self.0.store.log(&self.0.id, after, limit).await?.ok_or(DocumentError::NotFound)?;
        let last = page.events.last().map_or(page.head, |event| event.sequence);
        Ok(Log { epoch: page.epoch, events: page.events, next: (last < page.head).then_some(last) })
    }

    /// Counts a stream of a client in until the registration is dropped.
    ///
    /// # Errors
    /// `Taken`.
    pub fn register_client(&self, client: Client) -> Result<Registration, Refused> {
        let client_id = client.client_id.clone();
        let joined = self.0.shared.presence().register(client)?;
        if let Some(client) = joined {
            self.0.shared.tell(Told::Joined(client));
        }
        Ok(Registration { document: Document(self.0.clone(), PhantomData), client_id })
    }

    /// # Errors
    /// `Taken`: the client id is in use, and another user's.
    pub fn check_client(&self, client_id: &ClientId, user: Option<&str>) -> Result<(), Refused> {
        self.0.shared.presence().check_is_free(client_id, user)
    }

    /// Who has a stream open.
    pub fn clients(&self) -> Vec<Connected> {
        self.0.shared.presence().connected()
    }

    /// Takes in an awareness update of a client and tells the others.
    ///
    /// # Errors
    /// `Refused`; nothing changed.
    pub fn apply_awareness(&self, owner: &Owner, update: &[u8]) -> Result<(), Refused> {
        let told = self.0.shared.presence().apply(owner, update, Instant::now())?;
        self.tell_awareness(Some(owner.client_id.clone()), told);
        Ok(())
    }

    /// Sets or removes the awareness state of a client that has no Yjs library. `json`: one JSON object.
    ///
    /// # Errors
    /// `Refused`; nothing changed.
    pub fn put_awareness(&self, owner: &Owner, json: Option<&str>) -> Result<(), Refused> {
        // The CRDT's client numbers that Yjs draws have 32 bits.
        let number = u64::from(rand::random::<u32>());
        let told = self.0.shared.presence().put(owner, json, number, Instant::now())?;
        self.tell_awareness(Some(owner.client_id.clone()), told);
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
        self.0.shared.stopping.store(true, Ordering::Release);
        self.0.shared.tell(Told::Closed(Closing::ShuttingDown));
    }

    /// Whether the streams were told that the server is stopping: for those who fell behind and did not hear it.
    pub fn has_ended_streams(&self) -> bool {
        self.0.shared.stopping.load(Ordering::Acquire)
    }

    /// Forgets what is known of the document: the store has got another one under its name.
    pub async fn reload(&self) {
        // An error means that the task has ended, and knows nothing any more.
        let _ = self.0.inbox.send(Command::Reload).await;
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
        self.0.started + Duration::from_millis(self.0.used.load(Ordering::Relaxed))
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
        self.check_in_service()?;
        self.ask_in_any_case(command).await
    }

    async fn ask_in_any_case<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, DocumentError> {
        self.touch();
        let gone = || DocumentError::Unavailable { reason: "the document has just closed".into() };
        let (reply, answer) = oneshot::channel();
        self.0.inbox.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// Edits a replica that is thrown away afterwards. Returns the update that says what was done.
fn change_elsewhere(mut replica: Replica, change: &Change) -> Result<Bytes, DocumentError> {
    /// No structs, no deletions.
    const NOTHING: Bytes = Bytes::from_static(&[0, 0]);
    let started = Instant::now();
    let allowance = Allowance {
        // That the document has room is asked when the edit is merged into it.
        bytes_max: usize::MAX,
        is_patient: &|| started.elapsed() < MERGE_TIME_MAX,
        difference_until: Some(started + DIFFERENCE_TIME_MAX),
    };
    match replica.change(change, &Origin::Anonymous, &allowance) {
        Ok(Changed::Update(update)) => Ok(update),
        Ok(Changed::Nothing) => Ok(NOTHING),
        Err(ChangeError::Refused(error)) => Err(error),
        Err(ChangeError::Broken { reason }) => Err(DocumentError::Invalid { reason }),
        Err(ChangeError::TooCostly) => Err(DocumentError::too_costly()),
    }
}

/// One stream of a client: counted while this lives.
pub struct Registration {
    document: Document<Read>,
    client_id: ClientId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let shared = &self.document.0.shared;
        let left = shared.presence().unregister(&self.client_id, Instant::now());
        if let Some(client) = left {
            shared.tell(Told::Left(client));
        }
        self.document.touch();
    }
}
