//! The body of an event stream: what the connection reads from, and the watchdog may take away.
//!
//! A connection that takes no byte is not asked for anything, so somebody else has to notice.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;

use crate::document::subscription::Closing;

use super::sse;

/// Waiting frames leave together up to about this many bytes.
pub const WRITE_BYTES: usize = 64 << 10;

pub type Frames = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// What the connection reads from.
pub struct Slot {
    reading: Mutex<Reading>,
}

struct Reading {
    /// `None`: taken away.
    frames: Option<Frames>,
    /// What the connection was not handed yet of the last frames: it stays when the stream is let go,
    /// since half a frame can't be followed by another.
    rest: Bytes,
    /// When the connection was given bytes and has not come back for more since.
    handed_over: Option<Instant>,
}

impl Slot {
    pub fn new(frames: impl Stream<Item = Bytes> + Send + 'static) -> Arc<Self> {
        let frames: Option<Frames> = Some(Box::pin(frames));
        Arc::new(Self { reading: Mutex::new(Reading { frames, rest: Bytes::new(), handed_over: None }) })
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees everything that the stream holds if the connection takes nothing.
    pub fn let_go_if_stalled(&self, now: Instant, stalled_after: Duration) {
        let mut reading = self.reading();
        let stalled = reading.handed_over.is_some_and(|since| now.duration_since(since) >= stalled_after);
        let frames = if stalled { reading.frames.take() } else { None };
        drop(reading);
        drop(frames);
    }
}

pub struct EventBody(pub Arc<Slot>);

impl Stream for EventBody {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut reading = self.0.reading();
        if !reading.rest.is_empty() {
            // By pieces, so that whoever takes some of a large frame is seen to.
            let bytes = reading.rest.len().min(WRITE_BYTES);
            let piece = reading.rest.split_to(bytes);
            reading.handed_over = Some(Instant::now());
            return Poll::Ready(Some(Ok(piece)));
        }
        let Some(frames) = reading.frames.as_mut() else {
            // The stream was let go and the connection takes bytes again: these are its last.
            let last = reading.handed_over.take();
            return Poll::Ready(last.map(|_| Ok(Bytes::from(sse::closed(Closing::TooSlow)))));
        };
        let polled = frames.as_mut().poll_next(context);
        reading.handed_over = match polled {
            Poll::Ready(Some(_)) => Some(Instant::now()),
            Poll::Ready(None) | Poll::Pending => None,
        };
        polled.map(|frame| {
            frame.map(|mut frame| {
                let bytes = frame.len().min(WRITE_BYTES);
                reading.rest = frame.split_off(bytes);
                Ok(frame)
            })
        })
    }
}
