//! Serves one connection, from its handshake or its first words to its end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use warp::http::{HeaderValue, header};
use warp::reply::Response;

use crate::http::front::Front;
use crate::settings::Settings;

use super::connection::{Connection, FirstRequest, Protocol};
use super::proxies::Proxies;
use super::socket::Socket;
use super::tls;

/// What one connection may buffer in each direction; an address may have 32 KiB.
const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
/// What the headers of one HTTP/1.1 request may have; an address may have 32 KiB of it.
const HTTP1_HEADERS_MAX: usize = 100;
/// What the headers of one HTTP/2 request may have, the address among them.
const HTTP2_HEADER_BYTES_MAX: u32 = 64 << 10;
/// What one HTTP/2 stream may have in flight towards the server before it is read.
const HTTP2_WINDOW_BYTES: u32 = 256 << 10;
/// And all streams of a connection together: so much waits in memory for readers that do not read.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Frames are read whole, into a buffer of the connection.
const HTTP2_FRAME_BYTES_MAX: u32 = 16 << 10;
/// Streams that a client may have taken back before they were looked at, as in a rapid reset (CVE-2023-44487);
/// one more ends the connection.
const HTTP2_EARLY_RESETS_MAX: usize = 20;
/// Streams that the server may have to reset for a client's faults (CVE-2025-8671); one more ends the connection.
const HTTP2_FAULTS_MAX: usize = 100;
/// For a year, whoever has once come over TLS comes by no other way.
const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// How connections are served, by what their clients speak.
///
/// Not hyper-util's builder for both: its connections, most of them streams that idle, have room for
/// the larger of the two protocols.
pub struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub fn new(settings: &Settings) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .max_headers(HTTP1_HEADERS_MAX)
            .header_read_timeout(Duration::from_secs(settings.limits.header_seconds))
            // Not `pipeline_flush`: with it hyper buffers for a reader that takes nothing without a bound.
            .max_buf_size(CONNECTION_BUFFER_BYTES);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.limits.http2_streams)
            .max_pending_accept_reset_streams(HTTP2_EARLY_RESETS_MAX)
            .max_local_error_reset_streams(HTTP2_FAULTS_MAX)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES_MAX)
            .max_send_buf_size(CONNECTION_BUFFER_BYTES)
            // As much as HTTP/1.1 takes: the default is less than an address may have.
            .max_header_list_size(HTTP2_HEADER_BYTES_MAX)
            .keep_alive_interval(Duration::from_secs(settings.server.heartbeat_seconds.max(1) * 2))
            .keep_alive_timeout(Duration::from_secs(settings.limits.stalled_seconds));
        Self { http1, http2 }
    }
}

/// What all connections of one listener share.
pub struct Serving {
    pub protocols: Protocols,
    pub front: Front,
    /// With the certificate as it is now; `None`: plain TCP.
    pub tls: Option<watch::Receiver<TlsAcceptor>>,
    pub proxies: Proxies,
    pub first_request_within: Duration,
    /// How long a peer may take nothing before its streams are ended.
    pub stalled_after: Duration,
    pub stopping: CancellationToken,
    /// Cancelled when the drain is over.
    pub cut: CancellationToken,
}

impl Serving {
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // hyper gives up neither a peer that says nothing, nor half of HTTP/2's first words.
        let late = Instant::now() + self.first_request_within;
        let Some((socket, agreed)) = self.shake_hands(stream, peer, late).await else { return };
        let (io, remains) = Connection::new(socket);
        if self.serve_until_done(io, agreed, peer, late).await {
            remains.close().await;
        }
    }

    /// The socket that requests come on, and the protocol if that was agreed upon. `None`: there is no connection.
    async fn shake_hands(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        late: Instant,
    ) -> Option<(Socket, Option<Protocol>)> {
        let Some(tls) = &self.tls else { return Some((Socket::Plain(stream), None)) };
        // Boxed: its room would be part of every connection's task, for as long as it lives.
        let handshake = Box::pin(tls.borrow().accept(stream));
        let done = tokio::select! {
            biased;
            done = handshake => done,
            () = self.stopping.cancelled() => return None,
            () = tokio::time::sleep_until(late) => return None,
        };
        match done {
            Ok(stream) => {
                let agreed = tls::agreed_protocol(stream.get_ref().1);
                Some((Socket::Tls(Box::new(stream)), agreed))
            }
            Err(error) => {
                debug!(%peer, %error, "a handshake failed");
                None
            }
        }
    }

    /// Whether the connection came to its own end, so that it may be closed in good order.
    async fn serve_until_done(
        self: &Arc<Self>,
        mut io: Connection,
        agreed: Option<Protocol>,
        peer: SocketAddr,
        late: Instant,
    ) -> bool {
        let protocol = match agreed {
            Some(protocol) => Ok(protocol),
            None => tokio::select! {
                biased;
                protocol = io.read_protocol() => protocol,
                () = self.stopping.cancelled() => return false,
                () = tokio::time::sleep_until(late) => return false,
            },
        };
        let first_request = FirstRequest::default();
        let seen = first_request.clone();
        let (serving, peer_address) = (self.clone(), peer.ip());
        let service =
            service_fn(move |request| {
                seen.mark_seen();
                let client = serving.proxies.client(peer_address, request.headers());
                let secure = serving.speaks_tls();
                let answer = serving.front.clone().answer(request, client);
                // Boxed: a connection keeps room for it as long as it lives, and most are streams.
                Box::pin(answer.map_ok(
                    move |response| if secure { with_transport_security(response) } else { response },
                ))
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
        late: Instant,
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

fn with_transport_security(mut response: Response) -> Response {
    response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, TRANSPORT_SECURITY);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use warp::{Filter, Reply};

    use crate::auth::Authenticator;
    use crate::http::sender::Sender;
    use crate::metrics::Metrics;
    use crate::server::configuration;

    use super::*;

    /// What a route is told of a client that is connected through `proxies`.
    async fn seen_by_a_route(proxies: &str, request: &str) -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let routes = warp::ext::get().map(|sender: Sender| {
            let address = sender.address.expect("it has come over a network");
            address.0.to_string().into_response()
        });
        let settings = Settings::default();
        let metrics = Metrics::default();
        let authenticator = Arc::new(Authenticator::open(Arc::default()));
        let bounds = Arc::new(configuration::bounds(&settings));
        let turned_away = metrics.turned_away.clone();
        let front =
            Front::new(configuration::front(&settings), authenticator, bounds, turned_away, routes.boxed());
        let serving = Arc::new(Serving {
            protocols: Protocols::new(&Settings::default()),
            front,
            tls: None,
            proxies: Proxies::new(vec![proxies.parse().expect("a network")]),
            first_request_within: Duration::from_secs(60),
            stalled_after: Duration::from_secs(60),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        });
        let served = tokio::spawn(async move {
            let (stream, peer) = listener.accept().await.expect("somebody connects");
            serving.serve(stream, peer).await;
        });
        let mut socket = TcpStream::connect(address).await.expect("accepted");
        socket.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        served.await.expect("no panic");
        answer.rsplit("\r\n").next().expect("a body").to_owned()
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                           x-forwarded-for: 203.0.113.5\r\nx-forwarded-for: 2001:db8::7\r\n\r\n";

    #[tokio::test]
    async fn routes_are_told_whom_a_trusted_proxy_speaks_for() {
        assert_eq!(seen_by_a_route("127.0.0.0/8", REQUEST).await, "2001:db8::7");
    }

    #[tokio::test]
    async fn routes_are_told_the_peer_where_nobody_else_is_trusted() {
        assert_eq!(seen_by_a_route("10.0.0.0/8", REQUEST).await, "127.0.0.1");
    }
}
