//! A connection as hyper reads and writes it, with what hyper leaves to us.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::socket::Socket;

/// How long a client that is still sending may go on after it was answered.
const LINGER: Duration = Duration::from_secs(2);
/// And how much of it is read and thrown away.
const LINGER_BYTES_MAX: usize = 8 << 20;

/// The client's first words if it speaks HTTP/2.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks, by its first words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// A socket while hyper has it.
pub struct Connection {
    /// `None`: given back.
    stream: Option<Socket>,
    /// The first words, until hyper has read them too.
    first: [u8; HTTP2_PREFACE.len()],
    /// Those of `first` that hyper has not read yet.
    unread: Range<u8>,
    remains: Arc<Mutex<Remaining>>,
}

/// What is there when hyper is done.
pub struct Remains(Arc<Mutex<Remaining>>);

#[derive(Default)]
struct Remaining {
    stream: Option<Socket>,
    peer_is_done: bool,
}

fn locked(remains: &Mutex<Remaining>) -> MutexGuard<'_, Remaining> {
    remains.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    pub fn new(stream: Socket) -> (Self, Remains) {
        let remains = Arc::new(Mutex::default());
        let connection = Self {
            stream: Some(stream),
            first: [0; HTTP2_PREFACE.len()],
            unread: 0..0,
            remains: remains.clone(),
        };
        (connection, Remains(remains))
    }

    fn stream(&mut self) -> Pin<&mut Socket> {
        Pin::new(self.stream.as_mut().expect("it is given back on drop, not before"))
    }

    /// Reads until it is clear what the client speaks. What ends before that is for HTTP/1.1 to judge.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn read_protocol(&mut self) -> io::Result<Protocol> {
        let mut read = 0;
        while read < HTTP2_PREFACE.len() {
            let bytes = self
                .stream
                .as_mut()
                .expect("it is given back on drop, not before")
                .read(&mut self.first[read..])
                .await?;
            let ended = bytes == 0;
            let differs = self.first[read..read + bytes] != HTTP2_PREFACE[read..read + bytes];
            read += bytes;
            self.unread.end += u8::try_from(bytes).expect("at most 24");
            if ended || differs {
                return Ok(Protocol::Http1);
            }
        }
        Ok(Protocol::Http2)
    }

    fn mark_peer_done(&self) {
        locked(&self.remains).peer_is_done = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        locked(&self.remains).stream = self.stream.take();
    }
}

impl Remains {
    /// Closes a connection that hyper is done with.
    ///
    /// A socket closed with bytes unread is reset, and the reset can overtake the answer (a 413, say):
    /// so the rest is read for a while and thrown away.
    pub async fn close(self) {
        let Remaining { stream, peer_is_done } = std::mem::take(&mut *locked(&self.0));
        let Some(mut stream) = stream.filter(|_| !peer_is_done) else { return };
        let drain = async {
            // The end of what the server says; over TLS its last word goes before it.
            if stream.shutdown().await.is_err() {
                return;
            }
            let stream = stream.tcp();
            // On the heap: an array would be part of every connection's task, for as long as it lives.
            let mut scratch = vec![0; 4096];
            let mut read = 0;
            while read < LINGER_BYTES_MAX && stream.readable().await.is_ok() {
                match stream.try_read(&mut scratch) {
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
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let unread = &self.first[usize::from(self.unread.start)..usize::from(self.unread.end)];
            let bytes = unread.len().min(buffer.remaining());
            buffer.put_slice(&unread[..bytes]);
            self.unread.start += u8::try_from(bytes).expect("at most 24");
            // With all that is there: after a read of a few bytes hyper doubles its buffer of 8 KiB.
            // Should the connection be broken or at its end, then the next read says so.
            let _ = self.stream().poll_read(context, buffer);
            return Poll::Ready(Ok(()));
        }
        let (room, filled) = (buffer.remaining(), buffer.filled().len());
        // Of the socket's own methods the one that knows, where it got less than there is room for,
        // that nothing more is there: the others ask the kernel once more.
        let read = ready!(self.stream().poll_read(context, buffer));
        if read.is_err() || (room > 0 && buffer.filled().len() == filled) {
            self.mark_peer_done();
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
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
