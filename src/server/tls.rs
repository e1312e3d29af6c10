//! The certificate that the server shows, and the key behind it: read at the start, and again when they change.
//!
//! The whole configuration is replaced, not the certificate alone: with it go the sessions that clients could
//! resume without being shown the new one. Connections that are open keep what they were made with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, InconsistentKeys, ServerConfig, ServerConnection};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::Protocol;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Where certificate and key are, both in PEM.
#[derive(Debug, Clone)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why the files cannot be used: one line that names the key of the settings.
#[derive(Debug, thiserror::Error)]
#[error("`{key}`: {}: {problem}", .path.display())]
pub struct Unusable {
    key: &'static str,
    path: PathBuf,
    problem: String,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

type Versions = [Option<Version>; 2];

/// Keeps what new connections are shown in step with the files.
pub struct Reloader {
    files: Files,
    seen: Versions,
    hangup: Signal,
    current: watch::Sender<TlsAcceptor>,
}

impl Reloader {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Why they cannot be used; or there can be no handler of signals.
    pub fn start(files: Files) -> Result<(Self, watch::Receiver<TlsAcceptor>), Unusable> {
        let hangup = signal(SignalKind::hangup())
            .map_err(|error| files.unusable_certificate(format!("cannot wait for SIGHUP: {error}")))?;
        let seen = files.versions();
        let (current, receiver) = watch::channel(files.load()?);
        Ok((Self { files, seen, hangup, current }, receiver))
    }

    /// Reads the files again on SIGHUP and when they have changed. What cannot be used leaves everything as it is.
    pub async fn run(mut self, stopping: CancellationToken) {
        loop {
            let asked = tokio::select! {
                () = stopping.cancelled() => return,
                _ = self.hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let files = self.files.clone();
            let seen = self.seen;
            // Files may lie on something slow.
            let read = tokio::task::spawn_blocking(move || {
                // Before they are read: what changes meanwhile is read once more.
                let versions = files.versions();
                let changed = versions != seen;
                (versions, (asked || changed).then(|| files.load()))
            });
            let Ok((versions, loaded)) = read.await else { continue };
            self.seen = versions;
            match loaded {
                None => {}
                Some(Ok(acceptor)) => {
                    self.current.send_replace(acceptor);
                    info!("new connections are shown the certificate as it is now");
                }
                Some(Err(problem)) => {
                    warn!(%problem, "the certificate stays the one that was read before: {problem}");
                }
            }
        }
    }
}

impl Files {
    fn load(&self) -> Result<TlsAcceptor, Unusable> {
        let chain = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| self.unusable_certificate(pem_problem(&error)))?;
        if chain.is_empty() {
            return Err(self.unusable_certificate("has no certificate in PEM".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|error| self.unusable_key(pem_problem(&error)))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unusable_key(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    self.unusable_key("is not the key of the certificate".into())
                }
                rustls::Error::InvalidCertificate(_) => {
                    self.unusable_certificate("is no certificate that can be read".into())
                }
                error => self.unusable_key(error.to_string()),
            })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn versions(&self) -> Versions {
        [&self.certificate, &self.key].map(|path| version(path).ok())
    }

    fn unusable_certificate(&self, problem: String) -> Unusable {
        Unusable { key: "tls.certificate", path: self.certificate.clone(), problem }
    }

    fn unusable_key(&self, problem: String) -> Unusable {
        Unusable { key: "tls.key", path: self.key.clone(), problem }
    }
}

/// A file that is replaced by a link to another one is another file.
fn version(path: &Path) -> io::Result<Version> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path)?;
    Ok(Version { modified: metadata.modified()?, bytes: metadata.len(), inode: metadata.ino() })
}

fn pem_problem(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        pem::Error::NoItemsFound => "has nothing of the kind in PEM".into(),
        // Its own words may quote the file.
        _ => "is no PEM".into(),
    }
}

/// What client and server agreed upon in their handshake; `None`: the client did not say what it speaks.
pub fn agreed_protocol(connection: &ServerConnection) -> Option<Protocol> {
    match connection.alpn_protocol()? {
        HTTP2 => Some(Protocol::Http2),
        _ => Some(Protocol::Http1),
    }
}
