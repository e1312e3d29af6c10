//! The task that owns one open document.
//!
//! Every change passes here one at a time: merge into the replica, append to the log, and when the
//! log has it, answer and tell the others. Changes that wait together are appended together.
//!
//! Invariants:
//! - events leave in the order of their sequences, each after its append succeeded;
//! - a look at the content happens between two turns, so it never shows what is not durable;
//! - a failed append throws the replica away, since it knows more than the log: a retry would be
//!   taken for a repeat. The next turn loads the log again, and tells what turns out to be in it.
//!
//! Elsewhere: what an update does (`replica`), eviction (`registry`), wire formats (`http`).

mod compaction;
mod receipts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::event::{Event, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::sandbox::Sandbox;
use crate::store::{PageLimit, Receipt, Store, StoreError, Stored};

use self::compaction::Compaction;
use super::authors::{self, Authors};
use super::format::ClientNumber;
use super::handle::{
    Change, DIFFERENCE_TIME_MAX, DocumentError, Frozen, MERGE_TIME_MAX, Once, Outcome, Settings, Shared,
    Terms, Written,
};
use super::json::Shown;
use super::quarantine::Quarantine;
use super::replica::{Allowance, ChangeError, Changed, Replica};
use super::subscription::{Closing, Known, Position, State, Subscription, Told};
use super::text::TextChange;

/// How many changes one append may carry: enough that a commit is shared, few enough that its wait is short.
const TURN_CHANGES_MAX: usize = 512;
/// How many bytes of updates one append may carry.
const TURN_BYTES_MAX: usize = 4 << 20;
/// A resumed stream that is further behind than this gets the whole document.
const RESUME_UPDATES_MAX: u64 = 4096;
/// How long to wait before a log that could not be read is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// A replica takes about this many times its encoded size (measured: 16 KB take 73, 181 KB take 670).
const RESIDENT_FACTOR: usize = 4;
/// What an open document takes without content: the task, its channels, an empty replica.
const RESIDENT_BASE_BYTES: usize = 12 << 10;
/// Replicas up to this size are built on the spot; larger ones would hold up other documents.
const INLINE_LOAD_BYTES_MAX: u64 = 64 << 10;

/// Updates up to this size are merged on the spot; larger ones could hold up other documents.
const INLINE_MERGE_BYTES_MAX: usize = 1 << 10;
/// Documents up to this size are read on the spot where all of their content is looked at.
const INLINE_READ_BYTES_MAX: usize = 16 << 10;
/// In documents up to this size, encoded, an edit of a text is counted out on the spot.
const INLINE_EDIT_BYTES_MAX: usize = 256 << 10;

type Reply<T> = oneshot::Sender<Result<T, DocumentError>>;

pub(super) enum Command {
    /// Boxed, as are others' parts: the inbox of every open document has room for 32 commands.
    Change(Box<ChangeRequest>),
    State {
        state_vector: Option<Box<Bytes>>,
        reply: Reply<State>,
    },
    Text {
        root: Box<str>,
        reply: Reply<(Epoch, Sequence, String)>,
    },
    Json {
        root: Option<Box<str>>,
        reply: Reply<(Epoch, Sequence, Vec<Shown>)>,
    },
    Head {
        reply: Reply<(Epoch, Sequence)>,
    },
    Subscribe {
        known: Box<Known>,
        reply: Reply<Subscription>,
    },
    Freeze(Box<FreezeRequest>),
    Delete {
        reply: Reply<bool>,
    },
    Unload,
    /// The store has got another document under this name.
    Reload,
}

pub(super) struct FreezeRequest {
    /// `None`: to be thawed.
    pub(super) since: Option<Timestamp>,
    pub(super) root: String,
    pub(super) reply: Reply<Frozen>,
}

pub(super) struct ChangeRequest {
    pub(super) change: Change,
    pub(super) terms: Terms,
    pub(super) reply: Reply<Outcome>,
}

/// What an actor works with.
pub(super) struct Parts {
    pub(super) store: Arc<dyn Store>,
    pub(super) settings: Settings,
    pub(super) authors: Arc<Authors>,
    pub(super) sandbox: Sandbox,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: TaskTracker,
}

/// One life of the document, as far as it was told.
#[derive(Debug, Clone, Copy)]
struct Life {
    epoch: Epoch,
    head: Sequence,
}

/// What has been appended since the newest snapshot.
#[derive(Debug, Default, Clone, Copy)]
struct Tail {
    updates: u64,
    bytes: u64,
    snapshot_bytes: u64,
}

pub(super) struct Actor {
    id: DocumentId,
    store: Arc<dyn Store>,
    settings: Settings,
    authors: Arc<Authors>,
    sandbox: Sandbox,
    quarantine: Arc<Quarantine>,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    tasks: TaskTracker,
    /// `None`: never written, as far as is known.
    life: Option<Life>,
    /// `None`: not loaded, or thrown away.
    replica: Option<Replica>,
    /// Since when it takes no changes; as of the last load.
    frozen_at: Option<Timestamp>,
    /// An append failed and may be in the log all the same: subscribers are owed a look.
    in_doubt: bool,
    tail: Tail,
    /// The whole state at the head, kept while nothing changes: many late joiners, one encoding.
    whole: Option<Bytes>,
    compaction: Option<JoinHandle<Option<u64>>>,
}

/// The changes that are appended together, with what their callers are told afterwards.
#[derive(Default)]
struct Turn {
    events: Vec<Event>,
    receipts: Vec<Receipt>,
    bytes: usize,
    answers: Vec<(Reply<Outcome>, Result<Outcome, DocumentError>)>,
}

impl Actor {
    pub(super) fn new(id: DocumentId, parts: Parts, inbox: mpsc::Receiver<Command>) -> Self {
        let Parts { store, settings, authors, sandbox, quarantine, shared, tasks } = parts;
        Self {
            id,
            store,
            settings,
            authors,
            sandbox,
            quarantine,
            shared,
            inbox,
            tasks,
            life: None,
            replica: None,
            frozen_at: None,
            in_doubt: false,
            tail: Tail::default(),
            whole: None,
            compaction: None,
        }
    }

    /// Runs until the last handle is gone.
    ///
    /// `self`: boxed, since an async function has room for what it is given twice.
    pub(super) async fn run(mut self: Box<Self>) {
        let mut next = None;
        loop {
            let command = match next.take() {
                Some(command) => Some(command),
                None => self.wait().await,
            };
            let Some(command) = command else { break };
            next = self.obey(command).await;
            self.compact_if_due();
            self.measure();
        }
        Box::pin(self.close()).await;
    }

    /// The next command; meanwhile a compaction may end, or a log in doubt be read.
    async fn wait(&mut self) -> Option<Command> {
        loop {
            tokio::select! {
                biased;
                command = self.inbox.recv() => return command,
                written = async { self.compaction.as_mut().expect("guarded by the condition").await },
                    if self.compaction.is_some() => self.compacted(written.ok().flatten()),
                () = tokio::time::sleep(RETRY), if self.in_doubt => {
                    // Failing again is no news: the failure was logged, and the doubt stays.
                    let _ = Box::pin(self.load()).await;
                }
            }
        }
    }

    /// Carries out a command. Returns one that was taken from the inbox and is still to do.
    ///
    /// What it takes is boxed: the task of an idle document should have no room for it.
    async fn obey(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Change(request) => return Box::pin(self.turn(request)).await,
            Command::State { state_vector, reply } => {
                let state = Box::pin(self.state(state_vector.as_deref().map(|bytes| &bytes[..]))).await;
                let _ = reply.send(state);
            }
            Command::Text { root, reply } => {
                let text = Box::pin(self.text(&root)).await;
                let _ = reply.send(text);
            }
            Command::Json { root, reply } => {
                let json = Box::pin(self.json(root)).await;
                let _ = reply.send(json);
            }
            Command::Head { reply } => {
                let head = match Box::pin(self.load()).await {
                    Ok(_) => self.written(),
                    Err(error) => Err(error),
                };
                let _ = reply.send(head.map(|life| (life.epoch, life.head)));
            }
            Command::Subscribe { known, reply } => {
                let subscription = Box::pin(self.subscribe(*known)).await;
                let _ = reply.send(subscription);
            }
            Command::Freeze(request) => {
                let FreezeRequest { since, root, reply } = *request;
                let frozen = self.set_frozen(since, &root).await;
                let _ = reply.send(frozen);
            }
            Command::Delete { reply } => {
                let deleted = Box::pin(self.delete()).await;
                let _ = reply.send(deleted);
            }
            Command::Reload => {
                self.discard();
                self.in_doubt = true;
            }
            Command::Unload => {
                if self.compaction.is_none() {
                    self.discard();
                }
            }
        }
        None
    }

    /// Takes the changes that wait, merges each, appends them all at once, then answers and tells.
    async fn turn(&mut self, first: Box<ChangeRequest>) -> Option<Command> {
        let now = Timestamp::from(SystemTime::now());
        let mut turn = Turn::default();
        let mut next = Some(Command::Change(first));
        while let Some(Command::Change(request)) = next {
            let ChangeRequest { change, terms, reply } = *request;
            let answer = self.carry_out(&mut turn, change, terms, now).await;
            turn.answers.push((reply, answer));
            let full = turn.answers.len() >= TURN_CHANGES_MAX || turn.bytes >= TURN_BYTES_MAX;
            next = if full { None } else { self.inbox.try_recv().ok() };
        }
        // What became of it is in the answers.
        let _ = self.flush(&mut turn).await;
        for (reply, answer) in turn.answers {
            self.count(&answer);
            let _ = reply.send(answer);
        }
        next
    }

    fn count(&self, answer: &Result<Outcome, DocumentError>) {
        let metrics = &self.shared.metrics;
        match answer {
            Ok(Outcome::Written(Written { changed: true, .. })) => _ = metrics.logged.inc(),
            Ok(Outcome::Written(Written { changed: false, .. })) => _ = metrics.unchanged.inc(),
            // It comes again.
            Ok(Outcome::Behind) => {}
            Err(_) => _ = metrics.refused.inc(),
        }
    }

    /// Appends what the turn has so far. If that fails, so has everything that was answered in it: a repeat of what is
    /// in an append is no more durable than that, and a refusal may rest on it too.
    async fn flush(&mut self, turn: &mut Turn) -> Result<(), DocumentError> {
        let events = std::mem::take(&mut turn.events);
        let receipts = std::mem::take(&mut turn.receipts);
        let appended = self.append(events, receipts).await;
        if let Err(error) = &appended {
            for (_, answer) in &mut turn.answers {
                *answer = Err(error.clone());
            }
        }
        appended
    }

    /// Carries out a change, unless it is a repeat of one that must not be repeated.
    async fn carry_out(
        &mut self,
        turn: &mut Turn,
        change: Change,
        terms: Terms,
        time: Timestamp,
    ) -> Result<Outcome, DocumentError> {
        let Some(once) = terms.once.clone() else {
            return self.merge(turn, change, terms, time).await;
        };
        let user = terms.user.clone();
        if let Some(first) = self.receipt(turn, &once, user.as_deref(), time).await? {
            return if first.digest == once.digest {
                receipts::read(&first.answer).map(Outcome::Written)
            } else {
                Err(DocumentError::KeyReused)
            };
        }
        let outcome = self.merge(turn, change, terms, time).await?;
        if let Outcome::Written(written) = &outcome {
            let Once { key, digest } = once;
            turn.receipts.push(Receipt { user, key, digest, answer: receipts::write(written), time });
        }
        Ok(outcome)
    }

    /// What the first request under this key was answered, in this turn or before.
    async fn receipt(
        &self,
        turn: &Turn,
        once: &Once,
        user: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Receipt>, DocumentError> {
        let is_its = |kept: &&Receipt| kept.key == once.key && kept.user.as_deref() == user;
        if let Some(kept) = turn.receipts.iter().find(is_its) {
            return Ok(Some(kept.clone()));
        }
        let kept = self.store.receipt(&self.id, user, &once.key).await?;
        Ok(kept.filter(|kept| kept.time > Receipt::forgotten_at(now)))
    }

    /// Merges one change into the replica, and adds what it did to the turn.
    async fn merge(
        &mut self,
        turn: &mut Turn,
        change: Change,
        terms: Terms,
        time: Timestamp,
    ) -> Result<Outcome, DocumentError> {
        if self.replica.is_none() {
            // Thrown away in this very turn: what was merged before must be in the log first.
            Box::pin(self.flush(turn)).await?;
        }
        self.load().await?;
        let epoch = self.life.map(|life| life.epoch);
        let head = self.life.map_or(Sequence::ZERO, |life| life.head);
        let pending = turn.events.last().map_or(head, |event| event.sequence);
        terms.expected.check(epoch, pending)?;
        terms.base.map_or(Ok(()), |base| base.epoch.check(epoch, pending))?;
        if let Some(since) = self.frozen_at {
            return Err(DocumentError::Frozen { since });
        }
        match (&change, terms.base) {
            (Change::Text(_) | Change::Patch(_), Some(base)) if base.sequence > pending => {
                return Err(DocumentError::InvalidBase { head: pending });
            }
            (Change::Text(_) | Change::Patch(_), Some(base)) if base.sequence < pending => {
                return Ok(Outcome::Behind);
            }
            _ => {}
        }
        let document_bytes_max = self.settings.document_bytes_max;
        let Some(mut replica) = self.replica.take() else {
            return Err(DocumentError::Unavailable { reason: "the document was not loaded".into() });
        };
        let may_take_long = may_take_long(&change, &replica);
        let is_own = matches!(&change, Change::Text(_) | Change::Patch(_) | Change::Restore(_));
        let Terms { origin, user, .. } = terms;
        let merging_origin = origin.clone();
        let merge = move || {
            let started = Instant::now();
            let allowance = Allowance {
                bytes_max: document_bytes_max,
                is_patient: &|| started.elapsed() < MERGE_TIME_MAX,
                difference_until: Some(started + DIFFERENCE_TIME_MAX),
            };
            let merged = catch_unwind(AssertUnwindSafe(|| {
                let changed = replica.change(&change, &merging_origin, &allowance)?;
                let length = match &change {
                    Change::Update(_)
                    | Change::Patch(_)
                    | Change::Restore(_)
                    | Change::Rebased { text: None, .. } => None,
                    Change::Text(TextChange { root, unit, .. })
                    | Change::Rebased { text: Some((root, unit)), .. } => {
                        let broken = |error: DocumentError| ChangeError::Broken { reason: error.to_string() };
                        Some(replica.text_length(root, *unit).map_err(broken)?)
                    }
                };
                Ok((changed, length))
            }));
            (replica, merged)
        };
        let (replica, merged) = if may_take_long {
            let interrupted = |_| DocumentError::Unavailable { reason: "merging was interrupted".into() };
            tokio::task::spawn_blocking(merge).await.map_err(interrupted)?
        } else {
            merge()
        };
        let number = replica.number();
        self.replica = Some(replica);
        match merged {
            Ok(Ok((Changed::Update(update), length))) => {
                let life = *self.life.get_or_insert_with(|| Life {
                    epoch: Epoch::from_entropy(rand::random()),
                    head: Sequence::ZERO,
                });
                if is_own {
                    self.authors.remember(&self.id, life.epoch, number);
                }
                let sequence = pending.next();
                self.whole = None;
                turn.bytes += update.len();
                turn.events.push(Event { sequence, origin, user, time, update });
                Ok(Outcome::Written(Written { epoch: Some(life.epoch), sequence, changed: true, length }))
            }
            Ok(Ok((Changed::Nothing, length))) => {
                Ok(Outcome::Written(Written { epoch, sequence: pending, changed: false, length }))
            }
            Ok(Err(ChangeError::Refused(error))) => Err(error),
            Ok(Err(ChangeError::Broken { reason })) => Err(self.broken(&reason)),
            Ok(Err(ChangeError::TooCostly)) => {
                warn!(document.id = %self.id, "gave up a change of document `{}` that takes too long to merge", self.id);
                self.discard();
                Err(DocumentError::too_costly())
            }
            Err(_panic) => Err(self.broken("it panicked")),
        }
    }

    /// The replica may be half changed: it is rebuilt from the log, which has nothing of the change.
    fn broken(&mut self, reason: &str) -> DocumentError {
        error!(document.id = %self.id, reason, "merging into document `{}` failed; it is loaded again", self.id);
        self.discard();
        DocumentError::Invalid { reason: "the update could not be merged".into() }
    }

    /// Makes events and receipts durable, then tells the events.
    async fn append(&mut self, events: Vec<Event>, receipts: Vec<Receipt>) -> Result<(), DocumentError> {
        if events.is_empty() && receipts.is_empty() {
            return Ok(());
        }
        let created = events.first().is_some_and(|first| first.sequence == Sequence::ZERO.next());
        let epoch = self.life.map(|life| life.epoch);
        let started = Instant::now();
        let appended = self.store.record(&self.id, epoch, events.clone(), receipts).await;
        if let Err(error) = appended {
            warn!(document.id = %self.id, %error, "could not append to the log of document `{}`", self.id);
            if created {
                self.life = None;
            }
            self.discard();
            self.in_doubt = !matches!(error, StoreError::Corrupt { .. });
            return Err(match error {
                StoreError::Corrupt { .. } => error.into(),
                // The log turned out to be elsewhere: to the caller that is a matter of trying again.
                _ => DocumentError::Unavailable { reason: error.to_string() },
            });
        }
        let metrics = &self.shared.metrics;
        metrics.append.observe_time(started.elapsed());
        metrics.update_bytes.inc_by(events.iter().map(|event| event.update.len() as u64).sum());
        if let Some(epoch) = epoch {
            self.tell(epoch, events);
        }
        Ok(())
    }

    fn tell(&mut self, epoch: Epoch, events: Vec<Event>) {
        for event in events {
            self.life = Some(Life { epoch, head: event.sequence });
            self.tail.updates += 1;
            self.tail.bytes += event.update.len() as u64;
            self.shared.tell(Told::Event { epoch, event });
        }
    }

    /// Makes sure that the replica stands where the log does.
    async fn load(&mut self) -> Result<&mut Replica, DocumentError> {
        if self.replica.is_none() {
            Box::pin(self.load_anew()).await?;
        }
        Ok(self.replica.as_mut().expect("loaded above"))
    }

    async fn load_anew(&mut self) -> Result<(), DocumentError> {
        let started = Instant::now();
        let stored = self.store.load(&self.id).await?;
        let Some(stored) = stored else {
            self.replica = Some(Replica::new(authors::draw()));
            self.frozen_at = None;
            self.in_doubt = false;
            self.tail = Tail::default();
            if self.life.take().is_some() {
                self.shared.tell(Told::Closed(Closing::Deleted));
            }
            return Ok(());
        };
        let summary = stored.summary.clone();
        let snapshot = stored.snapshot.clone();
        let tail = Tail {
            updates: 0,
            bytes: 0,
            snapshot_bytes: snapshot.as_ref().map_or(0, |snapshot| snapshot.update.len() as u64),
        };
        let events = stored.tail.clone();
        let remembered = self.authors.of(&self.id, summary.epoch);
        let build = move || {
            catch_unwind(|| open(&stored, remembered))
                .unwrap_or_else(|_panic| Err("its updates cannot be merged any more".into()))
        };
        let built = if summary.bytes <= INLINE_LOAD_BYTES_MAX {
            build()
        } else {
            let unavailable = |_| DocumentError::Unavailable { reason: "loading was interrupted".into() };
            tokio::task::spawn_blocking(build).await.map_err(unavailable)?
        };
        let replica = built.map_err(|detail| {
            error!(document.id = %self.id, detail, "document `{}` is out of service", self.id);
            DocumentError::Damaged { detail: format!("document `{}` cannot be opened: {detail}", self.id) }
        })?;
        self.catch_up_subscribers(summary.epoch, summary.head, &events).await?;
        self.tail = Tail {
            updates: events.len() as u64,
            bytes: events.iter().map(|event| event.update.len() as u64).sum(),
            ..tail
        };
        self.life = Some(Life { epoch: summary.epoch, head: summary.head });
        if events.is_empty() {
            // A snapshot was compared with what it loads as before it was written.
            self.whole = snapshot.map(|snapshot| snapshot.update);
        }
        self.replica = Some(replica);
        self.frozen_at = summary.frozen_at;
        self.in_doubt = false;
        self.shared.metrics.load.observe_time(started.elapsed());
        Ok(())
    }

    /// Tells what the log has and subscribers were not told: an append whose fate was in doubt.
    async fn catch_up_subscribers(
        &mut self,
        epoch: Epoch,
        head: Sequence,
        tail: &[Event],
    ) -> Result<(), DocumentError> {
        let told = match self.life {
            Some(life) if life.epoch == epoch => life.head,
            Some(_) => {
                self.shared.tell(Told::Closed(Closing::Deleted));
                return Ok(());
            }
            // Subscribers from before the first write stand at zero, and so does a first load.
            None => Sequence::ZERO,
        };
        if told >= head || self.shared.live.receiver_count() == 0 {
            return Ok(());
        }
        let reaches = tail.first().is_some_and(|event| event.sequence <= told.next());
        let missed = if reaches {
            tail.iter().filter(|event| event.sequence > told).cloned().collect()
        } else {
            match self.log_between(told, head).await? {
                Some(missed) => missed,
                None => {
                    // Without the log there would be a hole: they come back, and start from the state.
                    self.shared.tell(Told::Closed(Closing::TooSlow));
                    return Ok(());
                }
            }
        };
        self.tell(epoch, missed);
        Ok(())
    }

    /// Every event after `after` up to `head`; `None` where the log does not reach back so far.
    async fn log_between(
        &self,
        after: Sequence,
        head: Sequence,
    ) -> Result<Option<Vec<Event>>, DocumentError> {
        let limit = PageLimit { events_max: usize::MAX, bytes_max: usize::MAX };
        match self.store.log(&self.id, after, limit).await {
            Ok(Some(page)) => {
                Ok(Some(page.events.into_iter().filter(|event| event.sequence <= head).collect()))
            }
            Ok(None) | Err(StoreError::Compacted { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn written(&self) -> Result<Life, DocumentError> {
        self.life.ok_or(DocumentError::NotFound)
    }

    async fn state(&mut self, state_vector: Option<&[u8]>) -> Result<State, DocumentError> {
        self.load().await?;
        self.written()?;
        self.state_against(state_vector)
    }

    /// The whole document, or what `state_vector` lacks. The replica is loaded.
    fn state_against(&mut self, state_vector: Option<&[u8]>) -> Result<State, DocumentError> {
        let replica = self.replica.as_ref().expect("the caller loaded it");
        let update = match state_vector {
            Some(state_vector) => replica.difference(state_vector)?,
            None => match &self.whole {
                Some(whole) => whole.clone(),
                None => {
                    let whole = without_spare_room(replica.whole());
                    self.whole = Some(whole.clone());
                    whole
                }
            },
        };
        Ok(State {
            epoch: self.life.map(|life| life.epoch),
            sequence: self.life.map_or(Sequence::ZERO, |life| life.head),
            update,
            state_vector: replica.state_vector(),
        })
    }

    async fn text(&mut self, root: &str) -> Result<(Epoch, Sequence, String), DocumentError> {
        self.load().await?;
        let life = self.written()?;
        let replica = self.replica.as_ref().expect("loaded above");
        Ok((life.epoch, life.head, replica.text(root)))
    }

    /// What the roots hold. Read elsewhere if that may take long, as nothing else does anything with the replica then.
    async fn json(&mut self, root: Option<Box<str>>) -> Result<(Epoch, Sequence, Vec<Shown>), DocumentError> {
        self.load().await?;
        let life = self.written()?;
        let replica = self.replica.take().expect("loaded above");
        let may_take_long = replica.encoded_bytes() > INLINE_READ_BYTES_MAX;
        let read = move || {
            let roots = catch_unwind(AssertUnwindSafe(|| replica.roots(root.as_deref())));
            (replica, roots)
        };
        let (replica, roots) = if may_take_long {
            let interrupted = |_| DocumentError::Unavailable { reason: "reading was interrupted".into() };
            tokio::task::spawn_blocking(read).await.map_err(interrupted)?
        } else {
            read()
        };
        self.replica = Some(replica);
        let Ok(roots) = roots else {
            error!(document.id = %self.id, "reading document `{}` panicked; it is loaded again", self.id);
            self.discard();
            return Err(DocumentError::Unavailable { reason: "the content could not be read".into() });
        };
        Ok((life.epoch, life.head, roots))
    }

    /// One turn covers where the subscriber stands and what it gets from then on: nothing falls between.
    async fn subscribe(&mut self, known: Known) -> Result<Subscription, DocumentError> {
        self.load().await?;
        let resumed = match known.since {
            Some((epoch, since)) => self.resume(epoch, since).await?,
            None => None,
        };
        let position = match resumed {
            Some(state) => Position { state, resumed: true },
            None => {
                let state = self.state_against(known.state_vector.as_deref())?;
                Position { state, resumed: false }
            }
        };
        Ok(Subscription { position, live: self.shared.live.subscribe() })
    }

    /// What came after `since`, if that is of this life and the log still reaches it.
    async fn resume(&mut self, epoch: Epoch, since: Sequence) -> Result<Option<State>, DocumentError> {
        let Some(life) = self.life.filter(|life| life.epoch == epoch && since <= life.head) else {
            return Ok(None);
        };
        let far_behind = life.head.since(since) > RESUME_UPDATES_MAX;
        let missed = if since == life.head {
            Vec::new()
        } else if far_behind {
            let limit = PageLimit { events_max: 1, bytes_max: usize::MAX };
            match self.store.log(&self.id, since, limit).await {
                Ok(Some(_)) => return self.state_against(None).map(Some),
                Ok(None) | Err(StoreError::Compacted { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        } else {
            match self.log_between(since, life.head).await? {
                Some(missed) => missed,
                None => return Ok(None),
            }
        };
        let replica = self.replica.as_ref().expect("the caller loaded it");
        let covering = replica.covering(missed.iter().map(|event| &event.update[..]))?;
        // The size of the whole is an estimate until it is encoded, which costs more than what is usual here.
        if covering.len() * 2 >= replica.encoded_bytes() {
            let whole = self.state_against(None)?;
            if whole.update.len() <= covering.len() {
                return Ok(Some(whole));
            }
        }
        let replica = self.replica.as_ref().expect("the caller loaded it");
        let (epoch, sequence) = (Some(life.epoch), life.head);
        Ok(Some(State { epoch, sequence, update: covering, state_vector: replica.state_vector() }))
    }

    /// Freezes or thaws. No change passes between the note in the store and the state that is answered.
    async fn set_frozen(&mut self, since: Option<Timestamp>, root: &str) -> Result<Frozen, DocumentError> {
        self.load().await?;
        let life = self.written()?;
        let since = since.map(|now| self.frozen_at.unwrap_or(now));
        if since != self.frozen_at {
            if let Err(error) = self.store.set_frozen(&self.id, life.epoch, since).await {
                // Whether it was noted is not known: the next turn reads it again.
                self.discard();
                return Err(error.into());
            }
            self.frozen_at = since;
        }
        let text = self.replica.as_ref().map_or_else(String::new, |replica| replica.text(root));
        Ok(Frozen { since, state: self.state_against(None)?, text })
    }

    async fn delete(&mut self) -> Result<bool, DocumentError> {
        let deleted = self.store.delete(&self.id).await?;
        if !deleted && self.life.is_none() {
            return Ok(false);
        }
        self.discard();
        self.quarantine.forget(&self.id);
        self.life = None;
        self.in_doubt = false;
        self.shared.presence().clear_states();
        self.shared.tell(Told::Closed(Closing::Deleted));
        if deleted {
            info!(document.id = %self.id, "deleted document `{}`", self.id);
        }
        Ok(deleted)
    }

    /// Throws the replica away; the next question loads it again.
    fn discard(&mut self) {
        self.whole = None;
        if let Some(replica) = self.replica.take() {
            // What is thrown away after a panic inside it may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(replica)));
        }
    }

    /// Writes a snapshot when the log after the last one has become long.
    fn compact_if_due(&mut self) {
        let updates_due = (self.settings.keep_updates / 4).clamp(8, 1000);
        let bytes_due = self.tail.snapshot_bytes.max(1 << 20);
        if self.compaction.is_some() || (self.tail.updates < updates_due && self.tail.bytes < bytes_due) {
            return;
        }
        let (Some(replica), Some(life)) = (&self.replica, self.life) else { return };
        if self.quarantine.holds(&self.id) {
            return;
        }
        let compaction = Compaction {
            id: self.id.clone(),
            store: self.store.clone(),
            sandbox: self.sandbox.clone(),
            quarantine: self.quarantine.clone(),
            shared: self.shared.clone(),
            life,
            state_vector: replica.state_vector(),
            retention: self.settings.retention(Timestamp::from(SystemTime::now())),
            collects_deleted: self.settings.collect_deleted,
        };
        self.tail = Tail { updates: 0, bytes: 0, ..self.tail };
        self.compaction = Some(self.tasks.spawn(compaction.run()));
    }

    fn compacted(&mut self, snapshot_bytes: Option<u64>) {
        self.compaction = None;
        match snapshot_bytes {
            Some(snapshot_bytes) => {
                self.shared.metrics.compacted.inc();
                self.tail.snapshot_bytes = snapshot_bytes;
            }
            None => _ = self.shared.metrics.compactions_failed.inc(),
        }
        if self.quarantine.holds(&self.id) {
            self.discard();
        }
    }

    fn measure(&self) {
        let replica = self.replica.as_ref();
        let content =
            replica.map_or(0, |replica| replica.encoded_bytes() * RESIDENT_FACTOR + replica.copied_bytes());
        let whole = self.whole.as_ref().map_or(0, Bytes::len);
        self.shared.resident_bytes.store(RESIDENT_BASE_BYTES + content + whole, Ordering::Relaxed);
    }

    /// The last handle is gone: nothing waits and nobody listens.
    async fn close(mut self: Box<Self>) {
        // A short log makes the next opening quick.
        if self.tail.updates > 64 && self.compaction.is_none() {
            self.tail.updates = u64::MAX;
            self.compact_if_due();
        }
        if let Some(compaction) = self.compaction.take() {
            let written = compaction.await;
            self.compacted(written.ok().flatten());
        }
    }
}

/// yrs writes into a kilobyte at least; what is kept of a small document should be no larger than it.
fn without_spare_room(encoded: Bytes) -> Bytes {
    const SMALL: usize = 1 << 10;
    if encoded.len() < SMALL { Bytes::copy_from_slice(&encoded) } else { encoded }
}

/// Builds a replica that writes under the `remembered` number, or under one that nobody has written with.
fn open(stored: &Stored, remembered: Option<ClientNumber>) -> Result<Replica, String> {
    let snapshot = stored.snapshot.as_ref().map(|snapshot| &snapshot.update[..]);
    loop {
        let number = remembered.unwrap_or_else(authors::draw);
        let replica = Replica::open(number, snapshot, stored.tail.iter().map(|event| &event.update[..]))?;
        if remembered.is_some() || !replica.has_written(number) {
            return Ok(replica);
        }
    }
}

/// Whether a change could hold up other documents.
fn may_take_long(change: &Change, replica: &Replica) -> bool {
    let bytes = match change {
        Change::Update(update) => return update.len() > INLINE_MERGE_BYTES_MAX,
        Change::Text(change) => change.bytes(),
        Change::Rebased { update, .. } => update.len(),
        // It is counted out on a copy of its root, and may say a lot in few bytes.
        Change::Patch(_) | Change::Restore(_) => return true,
    };
    bytes > INLINE_MERGE_BYTES_MAX || replica.encoded_bytes() > INLINE_EDIT_BYTES_MAX
}

#[cfg(test)]
mod tests;
