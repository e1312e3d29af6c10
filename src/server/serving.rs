//! Serves one connection, from its handshake or its first words to its end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use warp::filters::BoxedFilter;
use warp::http::{HeaderValue, header};
use warp::reply::Response;

use crate::http;
use crate::settings::Settings;

use super::connection::{Connection, FirstRequest, Protocol};
use super::socket::Socket;
use super::tls;

/// What one connection may buffer in each direction; an address may have 32 KiB.
const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
const HTTP2_STREAMS_MAX: u32 = 128;
/// What the headers of one HTTP/2 request may have, the address among them.
const HTTP2_HEADER_BYTES_MAX: u32 = 64 << 10;
/// What one HTTP/2 stream may have in flight towards the server before it is read.
const HTTP2_WINDOW_BYTES: u32 = 256 << 10;
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

/// What all connections of one listener share.
pub struct Serving {
    pub protocols: Protocols,
    pub routes: BoxedFilter<(Response,)>,
    /// With the certificate as it is now; `None`: plain TCP.
    pub tls: Option<watch::Receiver<TlsAcceptor>>,
    pub first_request_within: Duration,
    pub stopping: CancellationToken,
    /// Cancelled when the drain is over.
    pub cut: CancellationToken,
}

impl Serving {
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
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
        &self,
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
        let secure = self.speaks_tls();
        let routes = TowerToHyperService::new(warp::service(self.routes.clone()));
        let service = service_fn(move |request| {
            seen.mark_seen();
            let answer = routes.call(http::detached(request));
            answer.map_ok(move |response| if secure { with_transport_security(response) } else { response })
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
