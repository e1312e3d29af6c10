//! `/docs/{doc}/events`: where a reader stands, then everything that happens, until it goes.
//!
//! And `/events`: the same for many documents on one stream. A stream that takes no byte for `stalled_after` is let go
//! by a watchdog, since its body is not asked for anything then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::{Method, header};
use warp::reply::Reply;

use crate::document::handle::{Document, Registration};
use crate::document::presence::Client;
use crate::document::subscription::{Closing, Known};
use crate::event::Timestamp;
use crate::ids::{ClientId, DocumentId};
use crate::metrics;
use crate::registry::Registry;

use super::error::ApiError;
use super::event_body::{EventBody, Slot};
use super::reader::{Parts, Reader};
use super::route::{
    Request, Response, Route, bytes_response, parse_document_id, parse_document_id_in_query, parse_position,
    request, respond, set_header,
};
use super::sse;
use super::voice::{Places, Voice};

/// Documents that one stream may be for.
const DOCUMENTS_MAX: usize = 64;
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
    metrics: Arc<metrics::Streams>,
    stopping: CancellationToken,
    open: AtomicUsize,
    watched: Mutex<Vec<Weak<Slot>>>,
}

impl Streams {
    /// Watches over the streams until `stopping` is cancelled.
    pub fn start(
        settings: Settings,
        registry: Registry,
        metrics: Arc<metrics::Streams>,
        stopping: CancellationToken,
    ) -> Self {
        let streams = Self(Arc::new(Inner {
            settings,
            registry,
            metrics,
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

    pub fn route_of_many(&self) -> Route {
        let streams = self.clone();
        warp::path!("events")
            .and(request())
            .then(move |request| handle_many(request, streams.clone()))
            .map(respond)
            .boxed()
    }

    fn register(
        &self,
        document: &Document,
        client_id: Option<ClientId>,
        label: Option<String>,
    ) -> Option<Registration> {
        let connected_at = Timestamp::from(SystemTime::now());
        client_id
            .map(|client_id| document.register_client(Client { client_id, label, user: None, connected_at }))
    }

    fn heartbeat(&self) -> tokio::time::Interval {
        let period = self.0.settings.heartbeat;
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat
    }

    /// Answers with a stream, which is watched from here on.
    fn answer(&self, frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
        let slot = Slot::new(frames);
        self.0.watched().push(Arc::downgrade(&slot));
        let mut response = warp::reply::stream(EventBody(slot)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(EVENT_STREAM));
        with_stream_headers(response)
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
    let since = request.since().and_then(parse_position);
    let label = request.query.get("label").map(cut_label);
    let place = Place::take(&streams)?;

    let document = streams.0.registry.open(&id);
    let registration = streams.register(&document, client_id.clone(), label);
    // Before the subscription: who comes or goes between the two is told.
    let clients = with_clients.then(|| document.clients().into_iter().map(|entry| entry.client).collect());
    let subscription = document.subscribe(Known { since, state_vector }).await?;
    if streams.0.stopping.is_cancelled() {
        return Err(stopping());
    }
    let heartbeat = Some(streams.heartbeat());
    let (voice, metrics) = (Voice::Alone, streams.0.metrics.clone());
    let parts = Parts { document, subscription, client_id, registration, clients, heartbeat, voice, metrics };
    Ok(streams.answer(Reader::new(parts, greeting()).frames(place)))
}

/// How a stream begins: the time after which an `EventSource` reconnects differs, so that they do not come all at once.
fn greeting() -> String {
    sse::retry(rand::random_range(1000..=3000))
}

/// `/events`: many documents on one stream.
async fn handle_many(request: Result<Request, ApiError>, streams: Streams) -> Result<Response, ApiError> {
    let request = request?;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { allow: "GET, HEAD" });
    }
    let mut ids: Vec<DocumentId> = Vec::new();
    for raw in request.query.get_all("doc") {
        let id = parse_document_id_in_query(raw)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() || ids.len() > DOCUMENTS_MAX {
        let expected = format!("given for each document, 1 to {DOCUMENTS_MAX} times");
        return Err(ApiError::InvalidParameter { parameter: "doc", expected });
    }
    request.accepts(&[EVENT_STREAM], EVENT_STREAM)?;
    let client_id = request.query.client_id()?;
    let with_clients = request.query.flag("clients")?;
    if request.method == Method::HEAD {
        return Ok(with_stream_headers(bytes_response(EVENT_STREAM, Bytes::new())));
    }
    let since = request.since().and_then(Places::parse).unwrap_or_default();
    let label = request.query.get("label").map(cut_label);
    let place = Place::take(&streams)?;

    let places = Arc::new(Mutex::new(Places::default()));
    let mut readers = Vec::new();
    let mut first = greeting();
    let (mut trouble, mut any_opened) = (None, false);
    for id in ids {
        let document = streams.0.registry.open(&id);
        let registration = streams.register(&document, client_id.clone(), label.clone());
        let clients =
            with_clients.then(|| document.clients().into_iter().map(|entry| entry.client).collect());
        let voice = Voice::Among { document: id.clone(), places: places.clone() };
        match document.subscribe(Known { since: since.of(&id), state_vector: None }).await {
            Ok(subscription) => {
                any_opened = true;
                let client_id = client_id.clone();
                let parts = Parts {
                    document,
                    subscription,
                    client_id,
                    registration,
                    clients,
                    heartbeat: None,
                    voice,
                    metrics: streams.0.metrics.clone(),
                };
                readers.push(Reader::new(parts, std::mem::take(&mut first)).frames(()).boxed());
            }
            // The others go on without it.
            Err(error) => {
                let closed =
                    Bytes::from(std::mem::take(&mut first) + &voice.closed(None, Closing::Unavailable));
                readers.push(stream::iter([closed]).boxed());
                trouble = Some(error);
            }
        }
        if streams.0.stopping.is_cancelled() {
            return Err(stopping());
        }
    }
    if let Some(error) = trouble.filter(|_| !any_opened) {
        return Err(error.into());
    }
    let heartbeat = streams.heartbeat();
    let frames = stream::unfold(
        (stream::select_all(readers), heartbeat, place),
        |(mut all, mut heartbeat, place)| async move {
            let frame = tokio::select! {
                biased;
                frame = all.next() => frame?,
                _ = heartbeat.tick() => sse::HEARTBEAT,
            };
            heartbeat.reset();
            Some((frame, (all, heartbeat, place)))
        },
    );
    Ok(streams.answer(frames))
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
