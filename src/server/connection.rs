//! A connection as hyper reads and writes it, with what hyper leaves to us.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client that is still sending may go on after it was answered.
const LINGER: Duration = Duration::from_secs(2);
/// And how much of it is read and thrown away.
const LINGER_BYTES_MAX: usize = 8 << 20;

/// A socket, shared between hyper and the task that serves it.
pub struct Connection {
    stream: Arc<TcpStream>,
    peer_is_done: Arc<AtomicBool>,
}

/// The task's half.
pub struct Remains {
    stream: Arc<TcpStream>,
    peer_is_done: Arc<AtomicBool>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> (Self, Remains) {
        let stream = Arc::new(stream);
        let peer_is_done = Arc::new(AtomicBool::new(false));
        let remains = Remains { stream: stream.clone(), peer_is_done: peer_is_done.clone() };
        (Self { stream, peer_is_done }, remains)
    }
}

impl Remains {
    /// Closes a connection that hyper is done with.
    ///
    /// A socket closed with bytes unread is reset, and the reset can overtake the answer (a 413, say):
    /// so the rest is read for a while and thrown away.
    pub async fn close(self) {
        if self.peer_is_done.load(Ordering::Relaxed) {
            return;
        }
        if socket2::SockRef::from(&*self.stream).shutdown(Shutdown::Write).is_err() {
            return;
        }
        let drain = async {
            let mut scratch = [0; 4096];
            let mut read = 0;
            while read < LINGER_BYTES_MAX && self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut scratch) {
                    Ok(0) => return,
                    Ok(bytes) => read += bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        // Whoever is not done by then gets the reset after all.
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let room = buffer.remaining();
            // Not `initialize_unfilled`: zeroing the rest of the buffer makes all of it resident.
            match self.stream.try_read_buf(buffer) {
                Ok(bytes) => {
                    if bytes == 0 && room > 0 {
                        self.peer_is_done.store(true, Ordering::Relaxed);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.peer_is_done.store(true, Ordering::Relaxed);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// Whether a connection has asked for anything yet.
#[derive(Debug, Default, Clone)]
pub struct FirstRequest(Arc<AtomicBool>);

impl FirstRequest {
    pub fn mark_seen(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn was_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
