//! Takes connections off a listener for as long as there is room for them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::http::ClientAddress;

use super::places::{Full, Places};
use super::serving::Serving;

/// What may wait in the kernel for a connection's peer; it asks for more at half of this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 << 10;
/// After a failed accept (too many open files, say) the next try waits this long.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long a client that is one too many has to hear so.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// Accepts until `stopping`; `connections` has those that are still open then.
pub async fn accept(
    listener: TcpListener,
    serving: Arc<Serving>,
    places: Arc<Places>,
    connections: &TaskTracker,
    stopping: &CancellationToken,
) {
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
        // Of a proxy of ours the clients are many.
        let address = ClientAddress::new(peer.ip());
        let counted = (!serving.proxies.trusts(address.0)).then(|| address.counted_as());
        let place = match places.take(counted) {
            Ok(place) => place,
            Err(full) => {
                if !serving.speaks_tls() {
                    connections.spawn(refuse(stream, full));
                }
                // Over TLS it would take a handshake to say so, and to serve it costs no more.
                continue;
            }
        };
        if let Err(error) = set_options(&stream, serving.stalled_after) {
            debug!(%error, "could not set the options of a connection");
        }
        let serving = serving.clone();
        connections.spawn(async move {
            serving.serve(stream, peer).await;
            drop(place);
        });
    }
}

fn set_options(stream: &TcpStream, stalled_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer that has vanished, or takes nothing, is given up by the kernel; twice the time leaves
    // a stream that recovers its chance to say why it ended.
    let socket = socket2::SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(stalled_after * 2))?;
        // Otherwise megabytes wait in the kernel, and it asks for more when a third of them is gone:
        // a slow reader would seem to take nothing for minutes.
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    socket.set_keepalive(true)
}

/// Tells a client over the limit so, and hangs up.
async fn refuse(mut stream: TcpStream, full: Full) {
    let whose = match full {
        Full::Server => "the server has",
        Full::Address => "your address has",
    };
    let body = format!(
        r#"{{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"{whose} all the connections that it may have; try again","code":"unavailable"}}"#
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let say = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whether it hears is its affair.
    let _ = tokio::time::timeout(REFUSAL_TIME, say).await;
}
