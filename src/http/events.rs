//! `/docs/{doc}/events`: where a reader stands, then everything that happens, until it goes.
//!
//! And `/events`: the same for many documents on one stream. A stream that takes no byte for `stalled_after` is let go
//! by a watchdog, since its body is not asked for anything then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use warp::Filter;
use warp::http::{Method, header};
use warp::reply::Reply;

use crate::auth;
use crate::auth::access::Read;
use crate::auth::grant::Grant;
use crate::auth::revocations::Revocations;
use crate::document::handle::{Document, Registration};
use crate::document::presence::Client;
use crate::document::subscription::{Closing, Known};
use crate::event::Timestamp;
use crate::ids::ClientId;
use crate::metrics;
use crate::registry::Registry;

use super::error::ApiError;
use super::event_body::{EventBody, Slot};
use super::places::{self, Place, Places};
use super::reader::{Parts, Reader};
use super::route::{
    Request, Response, Route, bytes_response, parse_document_id_in_query, parse_position, request, respond,
    set_header,
};
use super::sse;
use super::tenure::{Tenure, Tenures};
use super::voice::{Positions, Voice};

/// Documents that one stream may be for.
const DOCUMENTS_MAX: usize = 64;
const LABEL_CHARACTERS_MAX: usize = 80;
const EVENT_STREAM: &str = "text/event-stream";

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub heartbeat: Duration,
    pub stalled_after: Duration,
    pub places: places::Limits,
}

/// All streams of this server.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    settings: Settings,
    registry: Registry,
    metrics: Arc<metrics::Streams>,
    stopping: CancellationToken,
    places: Places,
    tenures: Tenures,
    watched: Mutex<Vec<Weak<Slot>>>,
}

impl Streams {
    /// Watches over the streams until `stopping` is cancelled.
    pub fn start(
        settings: Settings,
        registry: Registry,
        metrics: Arc<metrics::Streams>,
        revocations: Arc<Revocations>,
        stopping: CancellationToken,
    ) -> Self {
        let mut revoked = revocations.subscribe();
        let streams = Self(Arc::new(Inner {
            settings,
            registry,
            metrics,
            stopping: stopping.clone(),
            places: Places::new(settings.places),
            tenures: Tenures::new(revocations),
            watched: Mutex::default(),
        }));
        let watching = Arc::downgrade(&streams.0);
        let period = (settings.stalled_after / 8).clamp(Duration::from_millis(50), Duration::from_secs(1));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(period) => {}
                    // Its sender is among the streams, which may be gone.
                    changed = revoked.changed() => if changed.is_err() { return },
                }
                let Some(streams) = watching.upgrade() else { return };
                streams.tenures.look_over(auth::seconds(SystemTime::now()));
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
        document: &Document<Read>,
        client_id: Option<ClientId>,
        label: Option<String>,
        user: Option<&str>,
    ) -> Result<Option<Registration>, ApiError> {
        let (user, connected_at) = (user.map(str::to_owned), Timestamp::from(SystemTime::now()));
        let client = client_id.map(|client_id| Client { client_id, label, user, connected_at });
        Ok(client.map(|client| document.register_client(client)).transpose()?)
    }

    fn begin_tenure(&self, grant: &Grant<Read>) -> Option<Arc<Tenure>> {
        self.0.tenures.begin(grant, auth::seconds(SystemTime::now()))
    }

    /// A place for a stream of whoever asks.
    fn take_place(&self, request: &Request) -> Result<Place, ApiError> {
        let place = self.0.places.take(request.caller()?.user(), request.address())?;
        if self.0.stopping.is_cancelled() { Err(stopping()) } else { Ok(place) }
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
        self.0.places.taken()
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
    let grant: Grant<Read> = request.grant(&id)?;
    request.accepts(&[EVENT_STREAM], EVENT_STREAM)?;
    let client_id = request.query.client_id()?;
    let state_vector = request.query.state_vector()?;
    let with_clients = request.query.flag("clients")?;
    if request.method == Method::HEAD {
        return Ok(with_stream_headers(bytes_response(EVENT_STREAM, Bytes::new())));
    }
    let since = request.since().and_then(parse_position);
    let label = request.query.get("label").map(cut_label);
    let place = streams.take_place(&request)?;

    let document = streams.0.registry.open(&grant);
    streams.0.places.check_document(document.streams())?;
    let registration = streams.register(&document, client_id.clone(), label, grant.user())?;
    let tenure = streams.begin_tenure(&grant);
    // Before the subscription: who comes or goes between the two is told.
    let clients = with_clients.then(|| document.clients().into_iter().map(|entry| entry.client).collect());
    let subscription = document.subscribe(Known { since, state_vector }).await?;
    if streams.0.stopping.is_cancelled() {
        return Err(stopping());
    }
    let heartbeat = Some(streams.heartbeat());
    let (voice, metrics) = (Voice::Alone, streams.0.metrics.clone());
    let parts =
        Parts { document, tenure, subscription, client_id, registration, clients, heartbeat, voice, metrics };
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
    let caller = request.caller()?;
    let mut grants: Vec<Grant<Read>> = Vec::new();
    for raw in request.query.get_all("doc") {
        let id = parse_document_id_in_query(raw)?;
        if !grants.iter().any(|grant| *grant.document() == id) {
            grants.push(caller.grant(id)?);
        }
    }
    if grants.is_empty() || grants.len() > DOCUMENTS_MAX {
        let expected = format!("given for each document, 1 to {DOCUMENTS_MAX} times");
        return Err(ApiError::InvalidParameter { parameter: "doc", expected });
    }
    request.accepts(&[EVENT_STREAM], EVENT_STREAM)?;
    let client_id = request.query.client_id()?;
    let with_clients = request.query.flag("clients")?;
    if request.method == Method::HEAD {
        return Ok(with_stream_headers(bytes_response(EVENT_STREAM, Bytes::new())));
    }
    let since = request.since().and_then(Positions::parse).unwrap_or_default();
    let label = request.query.get("label").map(cut_label);
    let place = streams.take_place(&request)?;

    let positions = Arc::new(Mutex::new(Positions::default()));
    let mut readers = Vec::new();
    let mut first = greeting();
    let (mut trouble, mut any_opened) = (None, false);
    for grant in grants {
        let document = streams.0.registry.open(&grant);
        streams.0.places.check_document(document.streams())?;
        let registration = streams.register(&document, client_id.clone(), label.clone(), grant.user())?;
        let tenure = streams.begin_tenure(&grant);
        let id = grant.document();
        let clients =
            with_clients.then(|| document.clients().into_iter().map(|entry| entry.client).collect());
        let voice = Voice::Among { document: id.clone(), positions: positions.clone() };
        match document.subscribe(Known { since: since.of(id), state_vector: None }).await {
            Ok(subscription) => {
                any_opened = true;
                let client_id = client_id.clone();
                let parts = Parts {
                    document,
                    tenure,
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
