//! Puts the parts together, accepts connections, and takes everything down again.
//!
//! The only module that knows every part.

mod accept;
mod connection;
mod serving;
mod socket;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::document::handle;
use crate::http::events::{self, Streams};
use crate::http::{self, Limits};
use crate::metrics::{Connections, Metrics};
use crate::registry::{self, Registry};
use crate::settings::{Settings, StoreUrl};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;

use self::serving::{Protocols, Serving};

/// How many messages a reader may be behind before it is caught up from the log.
const BROADCAST_MESSAGES: usize = 32;
/// How many awareness states one document may have.
const AWARENESS_STATES_MAX: usize = 1000;
/// What is left of a drain for the documents and the store once connections are gone.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Tls(#[from] tls::Unusable),
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
/// `Tls`, `Store`: nothing was served.
pub async fn run(
    settings: Settings,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let (reloader, acceptor) = start_tls(&settings)?.unzip();
    let metrics = Arc::new(Metrics::default());
    let store = open_counted_store(&settings, &metrics).await?;
    if let Ok(address) = listener.local_addr() {
        // The one line on standard output: scripts read the port from it.
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        println!("listening on {scheme}://{address}");
    }
    let parts = Parts::start(&settings, store.clone(), metrics, shutdown.clone());
    let reloading = reloader.map(|reloader| tokio::spawn(reloader.run(shutdown.clone())));
    let accept_settings = accept::Settings {
        connections_max: settings.limits.max_connections,
        stalled_after: Duration::from_secs(settings.limits.stalled_seconds),
    };
    let serving = Arc::new(parts.serving(&settings, acceptor, shutdown.clone()));
    let connections = TaskTracker::new();
    accept::accept(accept_settings, listener, serving, &parts.connections, &connections, &shutdown).await;
    info!("stopping: streams end, running requests have {} s", settings.server.drain_seconds);
    parts.registry.end_streams();
    connections.close();
    let drain = Duration::from_secs(settings.server.drain_seconds);
    if tokio::time::timeout(drain, connections.wait()).await.is_err() {
        warn!("{} connections were cut off", connections.len());
    }
    parts.cut.cancel();
    if let Some(reloading) = reloading {
        // It has nothing to close, and has ended with the first word of the shutdown.
        let _ = reloading.await;
    }
    if tokio::time::timeout(CLOSE_TIME, parts.registry.close()).await.is_err() {
        warn!("some documents did not close in time; what was acknowledged is in the log");
    }
    store.close().await;
    info!("stopped");
    Ok(())
}

type Tls = (tls::Reloader, watch::Receiver<TlsAcceptor>);

fn start_tls(settings: &Settings) -> Result<Option<Tls>, tls::Unusable> {
    let (Some(certificate), Some(key)) = (&settings.tls.certificate, &settings.tls.key) else {
        return Ok(None);
    };
    tls::Reloader::start(tls::Files { certificate: certificate.clone(), key: key.clone() }).map(Some)
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
            },
        };
        let registry = Registry::start(registry_settings, store, metrics.documents.clone(), stopping.clone());
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

    fn serving(
        &self,
        settings: &Settings,
        tls: Option<watch::Receiver<TlsAcceptor>>,
        stopping: CancellationToken,
    ) -> Serving {
        Serving {
            protocols: Protocols::new(settings),
            routes: self.routes.clone(),
            tls,
            first_request_within: Duration::from_secs(settings.limits.header_seconds),
            stopping,
            cut: self.cut.clone(),
        }
    }
}
