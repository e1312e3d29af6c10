//! Certificates that sign themselves, and clients that believe them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::within_deadline;

/// A certificate for the loopback address, and its key.
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
}

impl Certificate {
    pub fn new() -> Self {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate can be made");
        Self { der: made.cert.der().clone(), pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() }
    }

    /// Writes both files of `directory`, the way that most tools do: aside, then in place of the old ones.
    pub fn write_to(&self, directory: &Path) {
        for (path, text) in [(certificate_file(directory), &self.pem), (key_file(directory), &self.key_pem)] {
            let aside = path.with_extension("new");
            std::fs::write(&aside, text).expect("a file can be written");
            std::fs::rename(&aside, &path).expect("a file can be moved");
        }
    }

    /// Connects and shakes hands; `protocols` are offered in ALPN, none at all if there are none.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        let socket = within_deadline("connection", TcpStream::connect(address)).await.expect("accepted");
        let handshake = self.connector(protocols).connect(Self::name(), socket);
        within_deadline("handshake", handshake).await.expect("the certificate is the one that is believed")
    }

    pub fn name() -> ServerName<'static> {
        ServerName::try_from("localhost").expect("a name")
    }

    pub fn connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate can be believed");
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the versions go with the provider")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

pub fn certificate_file(directory: &Path) -> PathBuf {
    directory.join("cert.pem")
}

pub fn key_file(directory: &Path) -> PathBuf {
    directory.join("key.pem")
}
