//! Puts the parts together, accepts connections, and takes everything down again.
//!
//! The only module that knows every part.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::document::quarantine::Quarantine;
use crate::document::{handle, job};
use crate::http::events::{self, Streams};
use crate::http::{self, Limits};
use crate::metrics::{Connections, Gauge, Metrics};
use crate::registry::{self, Registry};
use crate::sandbox::{self, Sandbox};
use crate::settings::{Settings, StoreUrl};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;

use self::connection::{Connection, FirstRequest, Protocol};

/// How many messages a reader may be behind before it is caught up from the log.
const BROADCAST_MESSAGES: usize = 32;
/// How many awareness states one document may have.
const AWARENESS_STATES_MAX: usize = 1000;
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
/// What is left of a drain for the documents and the store once connections are gone.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot open the store: {0}")]
    Store(String),
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
    let quarantine = Quarantine::open(store.clone(), metrics.sandbox.clone());
    let quarantine = quarantine.await.map_err(|error| StartError::Store(error.to_string()))?;
    if let Ok(address) = listener.local_addr() {
        // The one line on standard output: scripts read the port from it.
        println!("listening on http://{address}");
    }
    let parts = Parts::start(&settings, store.clone(), quarantine, metrics, shutdown.clone());
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

/// The helpers that the settings allow for. None is started before there is work.
pub fn sandbox(settings: &Settings, metrics: &Metrics) -> Sandbox {
    let documents = &settings.documents;
    let limits = sandbox::Settings {
        program: settings.helper_program.clone(),
        memory_bytes_max: documents.helper_memory_mib << 20,
        time_max: Duration::from_secs_f64(documents.helper_seconds),
    };
    Sandbox::new(limits, job::work, metrics.sandbox.clone())
}

/// What connections share.
struct Parts {
    registry: Registry,
    routes: warp::filters::BoxedFilter<(warp::reply::Response,)>,
    connections: Connections,
    /// Cancelled when the drain is over.
    cut: CancellationToken,
}

impl Parts {
    fn start(
        settings: &Settings,
        store: Arc<dyn Store>,
        quarantine: Quarantine,
        metrics: Arc<Metrics>,
        stopping: CancellationToken,
    ) -> Self {
        let limits = &settings.limits;
        let registry_settings = registry::Settings {
            evict_after: Duration::from_secs(settings.documents.idle_seconds),
            resident_bytes_max: settings.documents.memory_mib << 20,
            document: handle::Settings {
                document_bytes_max: limits.max_document_bytes,
                broadcast_messages: BROADCAST_MESSAGES,
                awareness_states_max: AWARENESS_STATES_MAX,
                keep_updates: settings.history.keep_updates,
                keep_days: settings.history.keep_days,
                collect_deleted: settings.history.collect_deleted,
            },
        };
        let registry = Registry::start(
            registry_settings,
            store,
            metrics.documents.clone(),
            sandbox(settings, &metrics),
            Arc::new(quarantine),
            stopping.clone(),
        );
        let stream_settings = events::Settings {
            heartbeat: Duration::from_secs(settings.server.heartbeat_seconds),
            stalled_after: Duration::from_secs(limits.stalled_seconds),
            streams_max: limits.max_streams,
        };
        let streams =
            Streams::start(stream_settings, registry.clone(), metrics.streams.clone(), stopping.clone());
        let request_limits = Limits {
            update_bytes_max: limits.max_update_bytes,
            document_bytes_max: limits.max_document_bytes,
            awareness_bytes_max: limits.max_awareness_bytes,
            body_time_max: Duration::from_secs(limits.body_seconds),
        };
        let connections = metrics.connections.clone();
        let routes = http::routes(registry.clone(), streams, request_limits, metrics, stopping);
        Self { registry, routes, connections, cut: CancellationToken::new() }
    }
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
            routes: parts.routes.clone(),
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
    routes: warp::filters::BoxedFilter<(warp::reply::Response,)>,
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
        let routes = TowerToHyperService::new(warp::service(self.routes.clone()));
        let service = service_fn(move |request| {
            seen.mark_seen();
            routes.call(http::detached(request))
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
