//! The server inside the test's own process.

use std::net::SocketAddr;
use std::thread::JoinHandle;

use promptgrimoire::server::{self, StartError};
use promptgrimoire::settings::{Settings, StoreUrl};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::certificate::{certificate_file, key_file};
use super::secrets::{self, SERVER_THREAD};
use super::{Certificate, Client, until};

/// A server on a free port, stopped and cleared away when dropped.
///
/// It has threads of its own, so a test that keeps its thread busy doesn't hold it up.
pub struct Server {
    pub address: SocketAddr,
    /// Of the listener for operations, where the settings ask for one.
    pub admin: Option<SocketAddr>,
    /// A client without a name that asks this server.
    pub client: Client,
    shutdown: CancellationToken,
    running: Option<JoinHandle<Result<(), StartError>>>,
    /// Kept until the server has closed its store.
    _directory: Option<TempDir>,
}

impl Server {
    /// Everything as it comes, documents in memory.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Documents in memory; `change` changes the settings that a test is about.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::launch(StoreUrl::Memory, None, change).await
    }

    /// Documents in SQLite, in a directory that lives as long as the server.
    pub async fn start_on_disk_with(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
        let url = StoreUrl::Sqlite(directory.path().to_owned());
        Self::launch(url, Some(directory), change).await
    }

    /// Over TLS with this certificate, documents in memory. Its `client` speaks in clear text, and is not heard.
    pub async fn start_with_tls(certificate: &Certificate, change: impl FnOnce(&mut Settings)) -> Self {
        let directory = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
        certificate.write_to(directory.path());
        let files = (certificate_file(directory.path()), key_file(directory.path()));
        let with_tls = |settings: &mut Settings| {
            (settings.tls.certificate, settings.tls.key) = (Some(files.0), Some(files.1));
            change(settings);
        };
        Self::launch(StoreUrl::Memory, Some(directory), with_tls).await
    }

    async fn launch(url: StoreUrl, directory: Option<TempDir>, change: impl FnOnce(&mut Settings)) -> Self {
        secrets::listen();
        let mut settings = Settings::default();
        settings.server.port = 0;
        // A test that wants to see a drain sets its length; all others want to be done.
        settings.server.drain_seconds = 0;
        settings.store.url = url;
        change(&mut settings);
        let shutdown = CancellationToken::new();
        let (announce, announced) = tokio::sync::oneshot::channel();
        let stop = shutdown.clone();
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name(SERVER_THREAD)
                .enable_all()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(async {
                let listeners = server::bind(&settings).await?;
                let address = |listener: &tokio::net::TcpListener| {
                    listener.local_addr().expect("a bound socket has an address")
                };
                let _ = announce.send((address(&listeners.public), listeners.admin.as_ref().map(address)));
                server::run(settings, listeners, stop).await
            })
        });
        let (address, admin) = announced.await.expect("the server binds");
        let client = Client::new(address);
        Self { address, admin, client, shutdown, running: Some(running), _directory: directory }
    }

    /// Tells the server to stop, as a signal does. Returns at once.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Whether the server has returned.
    pub fn has_returned(&self) -> bool {
        self.running.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until the server has returned.
    ///
    /// # Panics
    /// If it failed.
    pub async fn returned(mut self) {
        until("return of the server", async || self.has_returned().then_some(())).await;
        self.join();
    }

    fn join(&mut self) {
        let Some(running) = self.running.take() else { return };
        match running.join() {
            Ok(Ok(())) => secrets::check_nothing_was_heard(),
            // A second panic while a test fails would hide the first.
            _ if std::thread::panicking() => {}
            Ok(Err(error)) => panic!("the server failed: {error}"),
            Err(_) => panic!("the server panicked"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.join();
    }
}
