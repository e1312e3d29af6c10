//! `/docs/{doc}/events`: where a reader stands, then everything that happens, until it goes.
//!
//! A reader that falls behind the broadcast is caught up from the log in place. One that takes no
//! byte for `stalled_after` is let go by a watchdog, since its body is not asked for anything then.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::{Method, header};
use warp::reply::Reply;

use crate::document::handle::{Document, DocumentError, Registration};
use crate::document::presence::Client;
use crate::document::subscription::{Broadcast, Closing, Known, Told};
use crate::event::Timestamp;
use crate::ids::{ClientId, Epoch, Sequence};
use crate::registry::Registry;
use crate::store::PageLimit;

use super::error::ApiError;
use super::route::{
    Request, Response, Route, bytes_response, parse_document_id, parse_position, request, respond, set_header,
};
use super::sse;

/// Waiting frames leave together up to about this many bytes.
const WRITE_BYTES: usize = 64 << 10;
/// A reader that fell behind is caught up by pages of this size.
const CATCH_UP: PageLimit = PageLimit { events_max: 512, bytes_max: WRITE_BYTES };
const LABEL_CHARACTERS_MAX: usize = 80;
const EVENT_STREAM: &str = "text/event-stream";

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub heartbeat: Duration,
    pub stalled_after: Duration,
    pub streams_max: usize,
}

/// All streams of this server.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    settings: Settings,
    registry: Registry,
    stopping: CancellationToken,
    open: AtomicUsize,
    watched: Mutex<Vec<Weak<Slot>>>,
}

impl Streams {
    /// Watches over the streams until `stopping` is cancelled.
    pub fn start(settings: Settings, registry: Registry, stopping: CancellationToken) -> Self {
        let streams = Self(Arc::new(Inner {
            settings,
            registry,
            stopping: stopping.clone(),
            open: AtomicUsize::new(0),
            watched: Mutex::default(),
        }));
        let watching = Arc::downgrade(&streams.0);
        let period = (settings.stalled_after / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
        tokio::spawn(async move {
            while stopping.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
                let Some(streams) = watching.upgrade() else { return };
                streams.let_go_of_stalled(Instant::now());
            }
        });
        streams
    }

    pub fn route(&self) -> Route {
        let streams = self.clone();
        warp::path!("docs" / String / "events")
            .and(request())
            .then(move |id: String, request| handle(id, request, streams.clone()))
            .map(respond)
            .boxed()
    }

    /// Streams that are open.
    pub fn open_count(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn watched(&self) -> MutexGuard<'_, Vec<Weak<Slot>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_go_of_stalled(&self, now: Instant) {
        let stalled: Vec<Arc<Slot>> = {
            let mut watched = self.watched();
            watched.retain(|slot| slot.strong_count() > 0);
            watched.iter().filter_map(Weak::upgrade).collect()
        };
        for slot in stalled {
            slot.let_go_if_stalled(now, self.settings.stalled_after);
        }
    }
}

async fn handle(
    id: String,
    request: Result<Request, ApiError>,
    streams: Streams,
) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let id = parse_document_id(&id)?;
    request.accepts(&[EVENT_STREAM], EVENT_STREAM)?;
    let client_id = request.query.client_id()?;
    let state_vector = request.query.state_vector()?;
    let with_clients = request.query.flag("clients")?;
    if request.method == Method::HEAD {
        return Ok(with_stream_headers(bytes_response(EVENT_STREAM, Bytes::new())));
    }
    // Nonsense counts as absent: an EventSource would give up for good on a 400.
    let last_event_id = request.headers.get("last-event-id").map(|value| value.to_str().unwrap_or(""));
    let since = last_event_id.or_else(|| request.query.get("since")).and_then(parse_position);
    let label = request.query.get("label").map(cut_label);
    let place = Place::take(&streams)?;

    let document = streams.0.registry.open(&id);
    let registration = client_id.clone().map(|client_id| {
        let connected_at = Timestamp::from(SystemTime::now());
        document.register_client(Client { client_id, label, user: None, connected_at })
    });
    // Before the subscription: who comes or goes between the two is told.
    let clients = with_clients.then(|| document.clients().into_iter().map(|entry| entry.client).collect());
    let subscription = document.subscribe(Known { since, state_vector }).await?;
    if streams.0.stopping.is_cancelled() {
        return Err(stopping());
    }
    let position = &subscription.position;
    let mut first = sse::retry(rand::random_range(1000..=3000));
    first.push_str(&sse::sync(position));
    if let Some(awareness) = document.awareness() {
        first.push_str(&sse::awareness(None, &awareness));
    }
    let period = streams.0.settings.heartbeat;
    let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let reader = Reader {
        first: Some(Bytes::from(first)),
        epoch: position.state.epoch,
        cursor: position.state.sequence,
        live: subscription.live,
        client_id,
        clients,
        document,
        heartbeat,
        behind: false,
        ended: false,
        _registration: registration,
        _place: place,
    };
    let frames = stream::unfold(reader, |mut reader| async move {
        let frame = reader.next().await?;
        Some((frame, reader))
    });
    let slot = Arc::new(Slot {
        reading: Mutex::new(Reading {
            frames: Some(Box::pin(frames)),
            rest: Bytes::new(),
            handed_over: None,
        }),
    });
    streams.0.watched().push(Arc::downgrade(&slot));
    let mut response = warp::reply::stream(EventBody(slot)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(EVENT_STREAM));
    Ok(with_stream_headers(response))
}

/// Headers that keep proxies and caches from holding the stream back.
fn with_stream_headers(mut response: Response) -> Response {
    set_header(&mut response, "cache-control", "no-store, no-transform");
    set_header(&mut response, "x-accel-buffering", "no");
    response
}

fn cut_label(label: &str) -> String {
    label.chars().take(LABEL_CHARACTERS_MAX).collect()
}

fn stopping() -> ApiError {
    ApiError::Unavailable { reason: "the server is stopping; try again".into() }
}

/// One of the streams that the server may have.
struct Place(Streams);

impl Place {
    fn take(streams: &Streams) -> Result<Self, ApiError> {
        let place = Self(streams.clone());
        let before = streams.0.open.fetch_add(1, Ordering::Relaxed);
        if before >= streams.0.settings.streams_max {
            return Err(ApiError::Unavailable {
                reason: "the server has all the streams that it may have".into(),
            });
        }
        if streams.0.stopping.is_cancelled() {
            return Err(stopping());
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One reader of one document.
struct Reader {
    /// What every stream begins with.
    first: Option<Bytes>,
    /// The life that it reads; `None` before the first write.
    epoch: Option<Epoch>,
    /// The last sequence that it was sent.
    cursor: Sequence,
    live: broadcast::Receiver<Arc<Broadcast>>,
    client_id: Option<ClientId>,
    /// Who it knows to be here, if it asked to be told.
    clients: Option<Vec<Client>>,
    document: Document,
    heartbeat: tokio::time::Interval,
    /// Whether it missed something that the log has.
    behind: bool,
    ended: bool,
    _registration: Option<Registration>,
    _place: Place,
}

impl Reader {
    /// The next bytes of the stream: everything that waits, as one write. `None`: the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.ended {
            return None;
        }
        while self.behind {
            if let Some(missed) = self.catch_up().await {
                return Some(missed);
            }
        }
        loop {
            let received = tokio::select! {
                biased;
                received = self.live.recv() => received,
                _ = self.heartbeat.tick() => return Some(sse::HEARTBEAT),
            };
            let bytes = match received {
                Ok(broadcast) => {
                    let frame = self.frame(&broadcast);
                    if self.ended || self.live.is_empty() { frame } else { self.gather(frame) }
                }
                Err(RecvError::Lagged(_)) => {
                    self.behind = true;
                    self.catch_up().await
                }
                // The document's task has ended under the stream: the client comes back to a fresh one.
                Err(RecvError::Closed) => return None,
            };
            match bytes {
                Some(bytes) => return Some(bytes),
                None if self.ended => return None,
                None => {}
            }
        }
    }

    /// Adds to `first` what else waits already.
    fn gather(&mut self, first: Option<Bytes>) -> Option<Bytes> {
        let mut gathered = BytesMut::from(first.unwrap_or_default());
        while gathered.len() < WRITE_BYTES && !self.ended && !self.behind {
            match self.live.try_recv() {
                Ok(broadcast) => {
                    if let Some(frame) = self.frame(&broadcast) {
                        gathered.extend_from_slice(&frame);
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.behind = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        (!gathered.is_empty()).then(|| gathered.freeze())
    }

    /// What this reader is sent for a message; `None`: nothing.
    fn frame(&mut self, broadcast: &Broadcast) -> Option<Bytes> {
        match broadcast.told() {
            Told::Event { epoch, event } => {
                if self.epoch == Some(*epoch) && event.sequence <= self.cursor {
                    return None;
                }
                self.epoch = Some(*epoch);
                self.cursor = event.sequence;
                if self.is_own(event.origin.client()) {
                    return Some(Bytes::from(sse::own_update(*epoch, event.sequence)));
                }
            }
            Told::Awareness { origin, .. } if self.is_own(origin.as_ref()) => return None,
            Told::Awareness { .. } => {}
            Told::Joined(client) => {
                let known = self.clients.as_mut()?;
                if known.iter().any(|other| other.client_id == client.client_id) {
                    return None;
                }
                known.push(client.clone());
            }
            Told::Left(client) => {
                let known = self.clients.as_mut()?;
                let before = known.len();
                known.retain(|other| other.client_id != client.client_id);
                if known.len() == before {
                    return None;
                }
            }
            Told::Closed(_) => self.ended = true,
        }
        Some(broadcast.rendered(sse::told))
    }

    fn is_own(&self, origin: Option<&ClientId>) -> bool {
        origin.is_some() && origin == self.client_id.as_ref()
    }

    /// A page of what the reader missed when it was too slow for the broadcast, from the log.
    ///
    /// The broadcast goes on meanwhile; what it repeats is behind the cursor and left out.
    async fn catch_up(&mut self) -> Option<Bytes> {
        let mut missed = BytesMut::new();
        match self.document.log(self.cursor, CATCH_UP).await {
            Ok(log) if self.epoch.is_none_or(|epoch| epoch == log.epoch) => {
                self.epoch = Some(log.epoch);
                for event in &log.events {
                    self.cursor = event.sequence;
                    let frame = if self.is_own(event.origin.client()) {
                        sse::own_update(log.epoch, event.sequence)
                    } else {
                        sse::update(log.epoch, event)
                    };
                    missed.extend_from_slice(frame.as_bytes());
                }
                self.behind = log.next.is_some();
            }
            Err(DocumentError::NotFound) if self.epoch.is_none() => self.behind = false,
            Ok(_) | Err(DocumentError::NotFound) => self.end(Closing::Deleted, &mut missed),
            // Without the log there would be a hole: the client resumes, or starts from the state.
            Err(_) => self.end(Closing::TooSlow, &mut missed),
        }
        if !self.behind && !self.ended {
            // Signals are not in the log: the state that they lead to makes up for those missed.
            if let Some(awareness) = self.document.awareness() {
                missed.extend_from_slice(sse::awareness(None, &awareness).as_bytes());
            }
            self.catch_up_clients(&mut missed);
        }
        (!missed.is_empty()).then(|| missed.freeze())
    }

    fn end(&mut self, closing: Closing, last: &mut BytesMut) {
        self.ended = true;
        last.extend_from_slice(sse::closed(closing).as_bytes());
    }

    /// Tells the difference between who the reader knows to be here and who is.
    fn catch_up_clients(&mut self, missed: &mut BytesMut) {
        let Some(known) = self.clients.take() else { return };
        let here: Vec<Client> = self.document.clients().into_iter().map(|entry| entry.client).collect();
        let is_in =
            |list: &[Client], client: &Client| list.iter().any(|other| other.client_id == client.client_id);
        for client in known.iter().filter(|client| !is_in(&here, client)) {
            missed.extend_from_slice(sse::left(client).as_bytes());
        }
        for client in here.iter().filter(|client| !is_in(&known, client)) {
            missed.extend_from_slice(sse::joined(client).as_bytes());
        }
        self.clients = Some(here);
    }
}

type Frames = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// What the connection reads from, and the watchdog may take away.
struct Slot {
    reading: Mutex<Reading>,
}

struct Reading {
    /// `None`: taken away.
    frames: Option<Frames>,
    /// What the connection was not handed yet of the last frames: it stays when the stream is let go,
    /// since half a frame can't be followed by another.
    rest: Bytes,
    /// When the connection was given bytes and has not come back for more since.
    handed_over: Option<Instant>,
}

impl Slot {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees everything that the stream holds if the connection takes nothing.
    fn let_go_if_stalled(&self, now: Instant, stalled_after: Duration) {
        let mut reading = self.reading();
        let stalled = reading.handed_over.is_some_and(|since| now.duration_since(since) >= stalled_after);
        let frames = if stalled { reading.frames.take() } else { None };
        drop(reading);
        drop(frames);
    }
}

struct EventBody(Arc<Slot>);

impl Stream for EventBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reading = self.0.reading();
        if !reading.rest.is_empty() {
            // By pieces, so that whoever takes some of a large frame is seen to.
            let bytes = reading.rest.len().min(WRITE_BYTES);
            let piece = reading.rest.split_to(bytes);
            reading.handed_over = Some(Instant::now());
            return Poll::Ready(Some(Ok(piece)));
        }
        let Some(frames) = reading.frames.as_mut() else {
            // The stream was let go and the connection takes bytes again: these are its last.
            let last = reading.handed_over.take();
            return Poll::Ready(last.map(|_| Ok(Bytes::from(sse::closed(Closing::TooSlow)))));
        };
        let polled = frames.as_mut().poll_next(context);
        reading.handed_over = match polled {
            Poll::Ready(Some(_)) => Some(Instant::now()),
            Poll::Ready(None) | Poll::Pending => None,
        };
        polled.map(|frame| {
            frame.map(|mut frame| {
                let bytes = frame.len().min(WRITE_BYTES);
                reading.rest = frame.split_off(bytes);
                Ok(frame)
            })
        })
    }
}
