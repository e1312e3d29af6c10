//! Puts the parts together, accepts connections, and takes everything down again.
//!
//! The only module that knows every part.

mod accept;
mod configuration;
mod connection;
mod places;
mod proxies;
mod serving;
mod socket;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::auth::Authenticator;
use crate::auth::keys::KeyError;
use crate::document::quarantine::Quarantine;
use crate::document::{handle, job};
use crate::http::events::{self, Streams};
use crate::http::front::Front;
use crate::http::sender::Bounds;
use crate::http::{self, Limits, Part};
use crate::metrics::Metrics;
use crate::registry::{self, Registry};
use crate::sandbox::{self, Sandbox};
use crate::settings::{Settings, StoreUrl};
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::sqlite::SqliteStore;

use self::places::Places;
use self::proxies::Proxies;
use self::serving::{Protocols, Serving};

/// How many messages a reader may be behind before it is caught up from the log.
const BROADCAST_MESSAGES: usize = 32;
/// How often it is looked how late tasks are woken.
const MEASURE_LAG: Duration = Duration::from_millis(250);
/// How often rates forget those who have sent nothing for long.
const FORGET: Duration = Duration::from_secs(10);
/// What is left of a drain for the documents and the store once connections are gone.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Tls(#[from] tls::Unusable),
    #[error("cannot listen for signals: {0}")]
    Signal(io::Error),
    #[error("cannot open the store: {0}")]
    Store(String),
    #[error("settings: `{key}` {source}")]
    Keys { key: &'static str, source: KeyError },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

/// Where connections come in.
pub struct Listeners {
    pub public: TcpListener,
    /// For those who look after the server; `None`: they come in at the other one.
    pub admin: Option<TcpListener>,
}

/// Binds the addresses of the settings. Port 0 gets a free one.
///
/// # Errors
/// `Listen`: the port is taken, or the address is not this machine's.
pub async fn bind(settings: &Settings) -> Result<Listeners, StartError> {
    let public = listen(&settings.server.host, settings.server.port).await?;
    let admin = match settings.admin.port {
        Some(port) => Some(listen(&settings.admin.host, port).await?),
        None => None,
    };
    Ok(Listeners { public, admin })
}

async fn listen(host: &str, port: u16) -> Result<TcpListener, StartError> {
    let address = format!("{}:{port}", bracketed(host));
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
/// `Tls`, `Keys`, `Store`: nothing was served.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let (reloader, acceptor) = start_tls(&settings)?.unzip();
    let metrics = Arc::new(Metrics::default());
    let store = open_counted_store(&settings, &metrics).await?;
    let authenticator = Arc::new(configuration::authenticator(&settings, &*store).await?);
    let quarantine = Quarantine::open(store.clone(), metrics.sandbox.clone());
    let quarantine = quarantine.await.map_err(|error| StartError::Store(error.to_string()))?;
    // With nobody to hear it, the signal would end the process.
    let hangup = signal(SignalKind::hangup()).map_err(StartError::Signal)?;
    announce(&listeners, acceptor.is_some());
    let parts = Parts::start(&settings, store.clone(), quarantine, authenticator, metrics, shutdown.clone());
    let looking_after = tokio::spawn(parts.look_after(hangup, shutdown.clone()));
    let reloading = reloader.map(|reloader| tokio::spawn(reloader.run(shutdown.clone())));
    let connections = TaskTracker::new();
    // Each with a count of its own: where the public is turned away, who looks after the server is not.
    let accepting = |part, tls, listener| {
        let serving = Arc::new(parts.serving(part, &settings, tls, shutdown.clone()));
        let places = Arc::new(parts.places(&settings));
        accept::accept(listener, serving, places, &connections, &shutdown)
    };
    match listeners.admin {
        None => accepting(Part::All, acceptor, listeners.public).await,
        Some(admin) => {
            let public = accepting(Part::Public, acceptor, listeners.public);
            tokio::join!(public, accepting(Part::Operations, None, admin));
        }
    }
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
    // As that.
    let _ = looking_after.await;
    if tokio::time::timeout(CLOSE_TIME, parts.registry.close()).await.is_err() {
        warn!("some documents did not close in time; what was acknowledged is in the log");
    }
    store.close().await;
    info!("stopped");
    Ok(())
}

/// Says on standard output where the server listens: scripts read the ports from there.
fn announce(listeners: &Listeners, tls: bool) {
    if let Ok(address) = listeners.public.local_addr() {
        let scheme = if tls { "https" } else { "http" };
        println!("listening on {scheme}://{address}");
    }
    if let Some(Ok(address)) = listeners.admin.as_ref().map(TcpListener::local_addr) {
        println!("admin listening on http://{address}");
    }
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
    streams: Streams,
    limits: Limits,
    authenticator: Arc<Authenticator>,
    bounds: Arc<Bounds>,
    metrics: Arc<Metrics>,
    /// Cancelled when the drain is over.
    cut: CancellationToken,
}

impl Parts {
    fn start(
        settings: &Settings,
        store: Arc<dyn Store>,
        quarantine: Quarantine,
        authenticator: Arc<Authenticator>,
        metrics: Arc<Metrics>,
        stopping: CancellationToken,
    ) -> Self {
        let limits = &settings.limits;
        let registry_settings = registry::Settings {
            evict_after: Duration::from_secs(settings.documents.idle_seconds),
            resident_bytes_max: settings.documents.memory_mib << 20,
            keep_revocations: configuration::token_life_max(settings),
            document: handle::Settings {
                document_bytes_max: limits.max_document_bytes,
                broadcast_messages: BROADCAST_MESSAGES,
                awareness_states_max: limits.max_presence_entries,
                keep_updates: settings.history.keep_updates,
                keep_days: settings.history.keep_days,
                collect_deleted: settings.history.collect_deleted,
            },
        };
        let revocations = authenticator.revocations().clone();
        let registry = Registry::start(
            registry_settings,
            store,
            metrics.documents.clone(),
            revocations.clone(),
            sandbox(settings, &metrics),
            Arc::new(quarantine),
            stopping.clone(),
        );
        let stream_settings = events::Settings {
            heartbeat: Duration::from_secs(settings.server.heartbeat_seconds),
            stalled_after: Duration::from_secs(limits.stalled_seconds),
            places: configuration::places(settings),
        };
        let frames = metrics.streams.clone();
        let streams = Streams::start(stream_settings, registry.clone(), frames, revocations, stopping);
        let request_limits = Limits {
            update_bytes_max: limits.max_update_bytes,
            document_bytes_max: limits.max_document_bytes,
            awareness_bytes_max: limits.max_awareness_bytes,
            body_time_max: Duration::from_secs(limits.body_seconds),
        };
        let bounds = Arc::new(configuration::bounds(settings));
        let (limits, cut) = (request_limits, CancellationToken::new());
        Self { registry, streams, limits, authenticator, bounds, metrics, cut }
    }

    /// Takes up new keys, and lets go of what nobody needs any more, until `stopping`.
    fn look_after(
        &self,
        mut hangup: Signal,
        stopping: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (authenticator, bounds) = (self.authenticator.clone(), self.bounds.clone());
        let lag = self.metrics.runtime.lag.clone();
        async move {
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
            let reloading = async {
                while stopping.run_until_cancelled(hangup.recv()).await.flatten().is_some() {
                    authenticator.reload_keys().await;
                }
            };
            tokio::join!(authenticator.watch_keys(stopping.clone()), forgetting, measuring, reloading);
        }
    }

    fn places(&self, settings: &Settings) -> Places {
        let limits = &settings.limits;
        let counted = self.metrics.connections.clone();
        Places::new(limits.max_connections, limits.max_connections_per_address, counted)
    }

    fn serving(
        &self,
        part: Part,
        settings: &Settings,
        tls: Option<watch::Receiver<TlsAcceptor>>,
        stopping: CancellationToken,
    ) -> Serving {
        let routes = http::routes(
            part,
            self.registry.clone(),
            self.streams.clone(),
            self.limits,
            self.authenticator.clone(),
            self.metrics.clone(),
            stopping.clone(),
        );
        let front = Front::new(
            configuration::front(settings),
            self.authenticator.clone(),
            self.bounds.clone(),
            self.metrics.turned_away.clone(),
            routes,
        );
        Serving {
            protocols: Protocols::new(settings),
            front,
            tls,
            proxies: Proxies::new(settings.server.trusted_proxies.0.clone()),
            first_request_within: Duration::from_secs(settings.limits.header_seconds),
            stalled_after: Duration::from_secs(settings.limits.stalled_seconds),
            stopping,
            cut: self.cut.clone(),
        }
    }
}
