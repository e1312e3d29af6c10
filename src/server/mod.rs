//! Puts the parts together, accepts connections, and takes everything down again.
//!
//! The only module that knows every part.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::auth::keys::{Algorithm, KeyError, Source};
use crate::auth::revocations::Revocations;
use crate::auth::token::Demands;
use crate::auth::{self, Authenticator};
use crate::document::handle;
use crate::http::cross_origin::CrossOrigin;
use crate::http::events::{self, Streams};
use crate::http::front::{self, Front};
use crate::http::sender::Bounds;
use crate::http::{self, Limits, places, rates, waiting};
use crate::metrics::{Connections, Gauge, Histogram, Metrics};
use crate::registry::{self, Registry};
use crate::settings::{Auth, AuthMode, Settings, StoreUrl};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;

use self::connection::{Connection, FirstRequest, Protocol};

/// How many messages a reader may be behind before it is caught up from the log.
const BROADCAST_MESSAGES: usize = 32;
/// What one connection may buffer in each direction; an address may have 32 KiB.
const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
/// What may wait in the kernel for a connection's peer; it asks for more at half of this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 << 10;
const HTTP2_STREAMS_MAX: u32 = 128;
/// What the headers of one HTTP/2 request may have, the address among them.
const HTTP2_HEADER_BYTES_MAX: u32 = 64 << 10;
/// What one HTTP/2 stream may have in flight towards the server before it is read.
const HTTP2_WINDOW_BYTES: u32 = 256 << 10;
/// After a failed accept (too many open files, say) the next try waits this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often it is looked how late tasks are woken.
const MEASURE_LAG: Duration = Duration::from_millis(250);
/// How often rates forget those who have sent nothing for long.
const FORGET: Duration = Duration::from_secs(10);
/// What is left of a drain for the documents and the store once connections are gone.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the store: {0}")]
    Store(String),
    #[error("settings: `{key}` {source}")]
    Keys { key: &'static str, source: KeyError },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

/// Binds the address of the settings. Port 0 gets a free one.
///
/// # Errors
/// `Listen`: the port is taken, or the address is not this machine's.
pub async fn bind(settings: &Settings) -> Result<TcpListener, StartError> {
    let address = format!("{}:{}", bracketed(&settings.server.host), settings.server.port);
    TcpListener::bind(&address).await.map_err(|source| StartError::Listen { address, source })
}

/// An IPv6 address stands in brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Serves until `shutdown` is cancelled, then drains.
///
/// No new connections, running requests finish, streams are told `shutting_down` and end; what is
/// not done after `server.drain_seconds` is cut off. Returns when the store is closed.
///
/// # Errors
/// `Store`: nothing was served.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let metrics = Arc::new(Metrics::default());
    let store = open_counted_store(&settings, &metrics).await?;
    let authenticator = Arc::new(authenticator(&settings, &*store).await?);
    if let Ok(address) = listener.local_addr() {
        // The one line on standard output: scripts read the port from it.
        println!("listening on http://{address}");
    }
    let lag = metrics.runtime.lag.clone();
    let parts = Parts::start(&settings, store.clone(), authenticator, metrics, shutdown.clone());
    let watching =
        tokio::spawn(look_after(parts.authenticator.clone(), parts.bounds.clone(), lag, shutdown.clone()));
    let connections = accept(&settings, listener, &parts, &shutdown).await;
    info!("stopping: streams end, running requests have {} s", settings.server.drain_seconds);
    parts.registry.end_streams();
    connections.close();
    let drain = Duration::from_secs(settings.server.drain_seconds);
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        warn!("{} connections were cut off", connections.len());
    }
    parts.cut.cancel();
    if tokio::time::timeout(CLOSE_TIME, parts.registry.close()).await.is_err() {
        warn!("some documents did not close in time; what was acknowledged is in the log");
    }
    // It waits for nothing but the shutdown.
    let _ = watching.await;
    store.close().await;
    info!("stopped");
    Ok(())
}

/// Opens the store that the settings name.
///
/// # Errors
/// `Store`.
pub async fn open_store(settings: &Settings) -> Result<Arc<dyn Store>, StartError> {
    open_counted_store(settings, &Metrics::default()).await
}

async fn open_counted_store(settings: &Settings, metrics: &Metrics) -> Result<Arc<dyn Store>, StartError> {
    match &settings.store.url {
        StoreUrl::Memory => Ok(Arc::new(MemoryStore::new())),
        StoreUrl::Sqlite(directory) => {
            let (directory, metrics) = (directory.clone(), metrics.store.clone());
            let opened =
                tokio::task::spawn_blocking(move || SqliteStore::open_with(&directory, metrics)).await;
            match opened {
                Ok(Ok(store)) => Ok(Arc::new(store)),
                Ok(Err(error)) => Err(StartError::Store(error.to_string())),
                Err(panicked) => Err(StartError::Store(panicked.to_string())),
            }
        }
    }
}

/// Finds out who asks, as the settings have it; with what was revoked before.
async fn authenticator(settings: &Settings, store: &dyn Store) -> Result<Authenticator, StartError> {
    let revocations = Arc::new(Revocations::default());
    let kept = store.revocations().await.map_err(|error| StartError::Store(error.to_string()))?;
    kept.into_iter().for_each(|revocation| revocations.add(revocation));
    let auth = &settings.auth;
    let (AuthMode::Jwt, Some(algorithm)) = (auth.mode, auth.algorithm) else {
        return Ok(Authenticator::open(revocations));
    };
    let (key, source) = key_source(auth);
    let demands = Demands {
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        lifetime_max: token_life_max(settings).map(|life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
    };
    let settings = auth::Settings { algorithm, source, demands };
    let opened = Authenticator::demanding_tokens(settings, revocations).await;
    opened.map_err(|source| StartError::Keys { key, source })
}

/// Where keys come from, with the name of the setting that says so.
pub fn key_source(auth: &Auth) -> (&'static str, Source) {
    if let Some(path) = &auth.key_file {
        return ("auth.key_file", Source::File(path.clone()));
    }
    if let Some(jwks) = &auth.jwks {
        let refresh = Duration::from_secs(auth.jwks_refresh_seconds);
        let is_address = jwks.starts_with("https://") || jwks.starts_with("http://");
        let source = if is_address {
            Source::KeySetAddress { address: jwks.clone(), refresh }
        } else {
            Source::KeySetFile(jwks.into())
        };
        return ("auth.jwks", source);
    }
    let key = auth.key.clone().unwrap_or_default();
    // A secret is itself; of a public key, which is no secret, the setting may also name the file.
    let is_text = auth.algorithm == Some(Algorithm::Hs256) || key.expose().contains("-----BEGIN ");
    let source = if is_text { Source::Text(key) } else { Source::File(key.expose().into()) };
    ("auth.key", source)
}

fn token_life_max(settings: &Settings) -> Option<Duration> {
    let seconds = settings.auth.max_token_seconds;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Users and addresses are counted where it is known who they are; alone on one's own machine nobody is.
fn places(settings: &Settings) -> places::Limits {
    let limits = &settings.limits;
    let counted = |limit| if settings.auth.mode == AuthMode::None { usize::MAX } else { limit };
    places::Limits {
        in_all: limits.max_streams,
        of_user: counted(limits.max_streams_per_user),
        of_address: counted(limits.max_streams_per_address),
        of_document: limits.max_streams_per_document,
    }
}

/// Rates count where it is known who writes; how much may wait is limited everywhere.
fn bounds(settings: &Settings) -> Bounds {
    let (rates, limits) = (&settings.rates, &settings.limits);
    let rates = rates::Settings {
        updates_per_client: rates.updates_per_client,
        updates_per_user: rates.updates_per_user,
        updates_per_address: rates.updates_per_address,
        bytes_per_client: rates.bytes_per_client,
        bytes_per_user: rates.bytes_per_user,
        bytes_per_address: rates.bytes_per_address,
        requests_per_address: rates.requests_per_address,
        burst_seconds: rates.burst_seconds,
        documents_per_user_hour: rates.documents_per_user_hour,
    };
    let waiting = waiting::Limits { writes: limits.max_waiting_writes, bytes: limits.max_waiting_mib << 20 };
    Bounds::new((settings.auth.mode != AuthMode::None).then_some(rates), waiting)
}

fn front_settings(settings: &Settings) -> front::Settings {
    let origins = settings.cors.origins.clone();
    let cross_origin = CrossOrigin {
        any: origins.iter().any(|origin| origin == "*"),
        origins,
        with_credentials: settings.cors.credentials,
    };
    front::Settings { cross_origin, hosts: settings.server.hosts.clone() }
}

/// What connections share.
struct Parts {
    registry: Registry,
    front: Front,
    authenticator: Arc<Authenticator>,
    bounds: Arc<Bounds>,
    connections: Connections,
    /// Cancelled when the drain is over.
    cut: CancellationToken,
}

impl Parts {
    fn start(
        settings: &Settings,
        store: Arc<dyn Store>,
        authenticator: Arc<Authenticator>,
        metrics: Arc<Metrics>,
        stopping: CancellationToken,
    ) -> Self {
        let limits = &settings.limits;
        let registry_settings = registry::Settings {
            evict_after: Duration::from_secs(settings.documents.idle_seconds),
            resident_bytes_max: settings.documents.memory_mib << 20,
            keep_revocations: token_life_max(settings),
            document: handle::Settings {
                document_bytes_max: limits.max_document_bytes,
                broadcast_messages: BROADCAST_MESSAGES,
                awareness_states_max: limits.max_presence_entries,
                keep_updates: settings.history.keep_updates,
                keep_days: settings.history.keep_days,
            },
        };
        let revocations = authenticator.revocations().clone();
        let registry = Registry::start(
            registry_settings,
            store,
            metrics.documents.clone(),
            revocations.clone(),
            stopping.clone(),
        );
        let stream_settings = events::Settings {
            heartbeat: Duration::from_secs(settings.server.heartbeat_seconds),
            stalled_after: Duration::from_secs(limits.stalled_seconds),
            places: places(settings),
        };
        let streams = Streams::start(
            stream_settings,
            registry.clone(),
            metrics.streams.clone(),
            revocations,
            stopping.clone(),
        );
        let request_limits = Limits {
            update_bytes_max: limits.max_update_bytes,
            document_bytes_max: limits.max_document_bytes,
            awareness_bytes_max: limits.max_awareness_bytes,
            body_time_max: Duration::from_secs(limits.body_seconds),
        };
        let (connections, turned_away) = (metrics.connections.clone(), metrics.turned_away.clone());
        let routes =
            http::routes(registry.clone(), streams, request_limits, authenticator.clone(), metrics, stopping);
        let bounds = Arc::new(bounds(settings));
        let front =
            Front::new(front_settings(settings), authenticator.clone(), bounds.clone(), turned_away, routes);
        Self { registry, front, authenticator, bounds, connections, cut: CancellationToken::new() }
    }
}

/// Takes up new keys, and lets go of what nobody needs any more, until `stopping`.
async fn look_after(
    authenticator: Arc<Authenticator>,
    bounds: Arc<Bounds>,
    lag: Histogram,
    stopping: CancellationToken,
) {
    let forgetting = async {
        while stopping.run_until_cancelled(tokio::time::sleep(FORGET)).await.is_some() {
            bounds.forget_the_idle(Instant::now());
        }
    };
    let measuring = async {
        loop {
            let due = tokio::time::Instant::now() + MEASURE_LAG;
            if stopping.run_until_cancelled(tokio::time::sleep_until(due)).await.is_none() {
                return;
            }
            lag.observe_time(due.elapsed());
        }
    };
    tokio::join!(authenticator.watch_keys(stopping.clone()), forgetting, measuring);
}

/// Accepts until `stopping`. Returns the connections that are still open.
async fn accept(
    settings: &Settings,
    listener: TcpListener,
    parts: &Parts,
    stopping: &CancellationToken,
) -> TaskTracker {
    let connections = TaskTracker::new();
    let protocols = Arc::new(Protocols::new(settings));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (place, before) = Place::take(&parts.connections);
        if before >= settings.limits.max_connections {
            parts.connections.refused.inc();
            connections.spawn(refuse(stream, place));
            continue;
        }
        if let Err(error) = set_options(&stream, settings) {
            debug!(%error, "could not set the options of a connection");
        }
        let serving = Serving {
            protocols: protocols.clone(),
            front: parts.front.clone(),
            first_request_within: Duration::from_secs(settings.limits.header_seconds),
            stopping: stopping.clone(),
            cut: parts.cut.clone(),
        };
        connections.spawn(async move {
            serving.serve(stream, peer).await;
            drop(place);
        });
    }
    connections
}

/// How connections are served, by what their clients speak.
///
/// Not hyper-util's builder for both: its connections, most of them streams that idle, have room for
/// the larger of the two protocols.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new(settings: &Settings) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(settings.limits.header_seconds))
            // Not `pipeline_flush`: with it hyper buffers for a reader that takes nothing without a bound.
            .max_buf_size(CONNECTION_BUFFER_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .max_send_buf_size(CONNECTION_BUFFER_BYTES)
            // As much as HTTP/1.1 takes: the default is less than an address may have.
            .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
            .keep_alive_interval(Duration::from_secs(settings.server.heartbeat_seconds.max(1) * 2))
            .keep_alive_timeout(Duration::from_secs(settings.limits.stalled_seconds));
        Self { http1, http2 }
    }
}

/// One of the connections that the server may have.
struct Place(Gauge);

impl Place {
    /// The place, and how many were taken before.
    fn take(connections: &Connections) -> (Self, usize) {
        let before = connections.open.inc();
        (Self(connections.open.clone()), usize::try_from(before).unwrap_or_default())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn set_options(stream: &TcpStream, settings: &Settings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer that has vanished, or takes nothing, is given up by the kernel; twice the time leaves
    // a stream that recovers its chance to say why it ended.
    let socket = socket2::SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(Duration::from_secs(settings.limits.stalled_seconds * 2)))?;
        // Otherwise megabytes wait in the kernel, and it asks for more when a third of them is gone:
        // a slow reader would seem to take nothing for minutes.
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    socket.set_keepalive(true)
}

/// Tells a client over the limit so, and hangs up.
async fn refuse(stream: TcpStream, place: Place) {
    use tokio::io::AsyncWriteExt;
    const BODY: &str = r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the server has all the connections that it may have; try again","code":"unavailable"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    let mut stream = stream;
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whether it hears is its affair: the place is what matters.
    let _ = tokio::time::timeout(Duration::from_secs(1), say).await;
    drop(place);
}

struct Serving {
    protocols: Arc<Protocols>,
    front: Front,
    first_request_within: Duration,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Serving {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let (io, remains) = Connection::new(stream);
        if self.serve_until_done(io, peer).await {
            remains.close().await;
        }
    }

    /// Whether the connection came to its own end, so that it may be closed in good order.
    async fn serve_until_done(&self, mut io: Connection, peer: SocketAddr) -> bool {
        // hyper gives up neither a peer that says nothing, nor half of HTTP/2's first words.
        let late = tokio::time::Instant::now() + self.first_request_within;
        let protocol = tokio::select! {
            biased;
            protocol = io.read_protocol() => protocol,
            () = self.stopping.cancelled() => return false,
            () = tokio::time::sleep_until(late) => return false,
        };
        let first_request = FirstRequest::default();
        let seen = first_request.clone();
        let front = self.front.clone();
        let service = service_fn(move |request| {
            seen.mark_seen();
            // Boxed: a connection keeps room for it as long as it lives, and most are streams.
            Box::pin(front.clone().answer(request))
        });
        let ended = match protocol {
            Ok(Protocol::Http1) => {
                let connection = pin!(self.protocols.http1.serve_connection(TokioIo::new(io), service));
                self.drive(connection, late, first_request).await
            }
            Ok(Protocol::Http2) => {
                let connection = self.protocols.http2.serve_connection(TokioIo::new(io), service);
                // Boxed: other connections should have no room for it.
                self.drive(Box::pin(connection).as_mut(), late, first_request).await
            }
            Err(error) => {
                debug!(%peer, %error, "a connection broke before it said anything");
                return !self.stopping.is_cancelled();
            }
        };
        if let Some(Err(error)) = &ended {
            debug!(%peer, %error, "a connection ended in an error");
        }
        ended.is_some() && !self.stopping.is_cancelled()
    }

    /// Serves to the connection's own end; `None`: it was cut off.
    async fn drive<C: GracefulConnection>(
        &self,
        mut connection: Pin<&mut C>,
        late: tokio::time::Instant,
        first_request: FirstRequest,
    ) -> Option<Result<(), C::Error>> {
        let mut asked_to_stop = false;
        let mut waiting_for_first = true;
        loop {
            tokio::select! {
                // Nearly always it is the connection that has woken up.
                biased;
                ended = connection.as_mut() => return Some(ended),
                () = self.stopping.cancelled(), if !asked_to_stop => {
                    asked_to_stop = true;
                    connection.as_mut().graceful_shutdown();
                }
                // A connection is cut off after it was asked to stop, never before.
                () = self.cut.cancelled(), if asked_to_stop => return None,
                () = tokio::time::sleep_until(late), if waiting_for_first => {
                    waiting_for_first = false;
                    if !first_request.was_seen() {
                        return None;
                    }
                }
            }
        }
    }
}
