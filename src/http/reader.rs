//! One reader of one document: from what happens there to the frames that it is sent.
//!
//! A reader that falls behind the broadcast is caught up from the log in place.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use crate::auth::access::Read;
use crate::document::handle::{Document, DocumentError, Registration};
use crate::document::presence::Client;
use crate::document::subscription::{Broadcast, Closing, Subscription, Told};
use crate::event::Event;
use crate::ids::{ClientId, Epoch, Sequence};
use crate::metrics;
use crate::store::PageLimit;

use super::event_body::WRITE_BYTES;
use super::sse;
use super::tenure::Tenure;
use super::voice::Voice;

/// A reader that fell behind is caught up by pages of this size.
const CATCH_UP: PageLimit = PageLimit { events_max: 512, bytes_max: WRITE_BYTES };

/// One in so many updates has its way to the readers timed, and the first ones of a document, which may be all.
const FAN_OUT_SAMPLE: u64 = 16;

/// One reader of one document.
pub struct Reader {
    /// What every stream begins with.
    first: Option<Bytes>,
    /// The life that it reads; `None` before the first write.
    epoch: Option<Epoch>,
    /// The last sequence that it was sent.
    cursor: Sequence,
    live: broadcast::Receiver<Arc<Broadcast>>,
    client_id: Option<ClientId>,
    /// Who it knows to be here, if it asked to be told.
    clients: Option<Vec<Client>>,
    document: Document<Read>,
    /// `None`: it may read for as long as it likes.
    tenure: Option<Arc<Tenure>>,
    /// `None`: somebody else sees to that.
    heartbeat: Option<tokio::time::Interval>,
    voice: Voice,
    /// Whether it missed something that the log has.
    behind: bool,
    ended: bool,
    metrics: Arc<metrics::Streams>,
    _registration: Option<Registration>,
}

/// What a reader is made of.
pub struct Parts {
    pub document: Document<Read>,
    pub tenure: Option<Arc<Tenure>>,
    pub subscription: Subscription,
    pub client_id: Option<ClientId>,
    pub registration: Option<Registration>,
    /// Who it was told to be here, if it asked to be told.
    pub clients: Option<Vec<Client>>,
    pub heartbeat: Option<tokio::time::Interval>,
    pub voice: Voice,
    pub metrics: Arc<metrics::Streams>,
}

impl Reader {
    /// `greeting`: what comes before everything else.
    pub fn new(parts: Parts, greeting: String) -> Self {
        let Parts {
            document,
            tenure,
            subscription,
            client_id,
            registration,
            clients,
            heartbeat,
            voice,
            metrics,
        } = parts;
        let position = &subscription.position;
        metrics.frames.inc();
        let mut first = greeting;
        first.push_str(&voice.sync(position));
        if let Some(awareness) = document.awareness() {
            first.push_str(&voice.awareness(position.state.epoch, None, &awareness));
        }
        Self {
            first: Some(Bytes::from(first)),
            epoch: position.state.epoch,
            cursor: position.state.sequence,
            live: subscription.live,
            client_id,
            clients,
            document,
            tenure,
            heartbeat,
            voice,
            behind: false,
            ended: false,
            metrics,
            _registration: registration,
        }
    }

    /// The reader's frames, with `kept` for as long as they may come.
    pub fn frames<T: Send>(self, kept: T) -> impl Stream<Item = Bytes> + Send {
        stream::unfold((self, kept), |(mut reader, kept)| async move {
            let frame = reader.next().await?;
            Some((frame, (reader, kept)))
        })
    }

    /// The next bytes of the stream: everything that waits, as one write. `None`: the stream has ended.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.ended {
            return None;
        }
        loop {
            // Before anything else is taken off the broadcast: what follows there lies after what was missed.
            while self.behind && !self.ended {
                if let Some(closing) = self.tenure.as_ref().and_then(|tenure| tenure.is_over()) {
                    return Some(self.end_now(closing));
                }
                if let Some(missed) = self.catch_up().await {
                    return Some(missed);
                }
            }
            let received = tokio::select! {
                biased;
                closing = end(self.tenure.as_deref()) => return Some(self.end_now(closing)),
                received = self.live.recv() => received,
                () = beat(&mut self.heartbeat) => return Some(sse::HEARTBEAT),
            };
            let bytes = match received {
                Ok(broadcast) => {
                    let frame = self.frame(&broadcast);
                    if self.ended || self.live.is_empty() { frame } else { self.gather(frame) }
                }
                Err(RecvError::Lagged(_)) => {
                    self.fall_behind();
                    None
                }
                // The document's task has ended under the stream: the client comes back to a fresh one.
                Err(RecvError::Closed) => return None,
            };
            match bytes {
                Some(bytes) => return Some(bytes),
                None if self.ended => return None,
                None => {}
            }
        }
    }

    /// Adds to `first` what else waits already.
    fn gather(&mut self, first: Option<Bytes>) -> Option<Bytes> {
        let mut gathered = BytesMut::from(first.unwrap_or_default());
        while gathered.len() < WRITE_BYTES && !self.ended && !self.behind {
            match self.live.try_recv() {
                Ok(broadcast) => {
                    if let Some(frame) = self.frame(&broadcast) {
                        gathered.extend_from_slice(&frame);
                    }
                }
                Err(TryRecvError::Lagged(_)) => self.fall_behind(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        (!gathered.is_empty()).then(|| gathered.freeze())
    }

    /// What this reader is sent for a message; `None`: nothing.
    fn frame(&mut self, broadcast: &Broadcast) -> Option<Bytes> {
        match broadcast.told() {
            Told::Event { epoch, event } => {
                if self.epoch == Some(*epoch) && event.sequence <= self.cursor {
                    return None;
                }
                if self.epoch.is_none_or(|known| known == *epoch) && event.sequence != self.cursor.next() {
                    // It was not told what came before: the log has it.
                    self.fall_behind();
                    return None;
                }
                self.epoch = Some(*epoch);
                self.cursor = event.sequence;
                if event.sequence.get() % FAN_OUT_SAMPLE == 0 || event.sequence.get() < FAN_OUT_SAMPLE {
                    self.metrics.fan_out.observe_time(broadcast.told_at().elapsed());
                }
                if self.is_own(event.origin.client()) {
                    self.metrics.frames.inc();
                    return Some(Bytes::from(self.voice.own_update(*epoch, event.sequence)));
                }
            }
            Told::Awareness { origin, .. } if self.is_own(origin.as_ref()) => return None,
            Told::Awareness { .. } => {}
            Told::Joined(client) => {
                let known = self.clients.as_mut()?;
                if known.iter().any(|other| other.client_id == client.client_id) {
                    return None;
                }
                known.push(client.clone());
            }
            Told::Left(client) => {
                let known = self.clients.as_mut()?;
                let before = known.len();
                known.retain(|other| other.client_id != client.client_id);
                if known.len() == before {
                    return None;
                }
            }
            Told::Closed(_) => self.ended = true,
        }
        self.metrics.frames.inc();
        Some(self.voice.told(self.epoch, broadcast))
    }

    fn fall_behind(&mut self) {
        self.behind = true;
        self.metrics.lagged.inc();
    }

    fn update(&self, epoch: Epoch, event: &Event) -> String {
        if self.is_own(event.origin.client()) {
            self.voice.own_update(epoch, event.sequence)
        } else {
            self.voice.update(epoch, event)
        }
    }

    fn is_own(&self, origin: Option<&ClientId>) -> bool {
        origin.is_some() && origin == self.client_id.as_ref()
    }

    /// A page of what the reader missed when it was too slow for the broadcast, from the log.
    ///
    /// The broadcast goes on meanwhile; what it repeats is behind the cursor and left out.
    async fn catch_up(&mut self) -> Option<Bytes> {
        let mut missed = BytesMut::new();
        match self.document.log(self.cursor, CATCH_UP).await {
            Ok(log) if self.epoch.is_none_or(|epoch| epoch == log.epoch) => {
                self.epoch = Some(log.epoch);
                self.metrics.frames.inc_by(log.events.len() as u64);
                for event in &log.events {
                    self.cursor = event.sequence;
                    missed.extend_from_slice(self.update(log.epoch, event).as_bytes());
                }
                self.behind = log.next.is_some();
            }
            Err(DocumentError::NotFound) if self.epoch.is_none() => self.behind = false,
            Ok(_) | Err(DocumentError::NotFound) => self.end(Closing::Deleted, &mut missed),
            // Without the log there would be a hole: the client resumes, or starts from the state.
            Err(_) => self.end(Closing::TooSlow, &mut missed),
        }
        if !self.behind && !self.ended {
            // Signals are not in the log: the state that they lead to makes up for those missed.
            if let Some(awareness) = self.document.awareness() {
                missed.extend_from_slice(self.voice.awareness(self.epoch, None, &awareness).as_bytes());
            }
            self.catch_up_clients(&mut missed);
            // When many streams end at once, each one's leaving pushes the last word out of the broadcast.
            if self.document.has_ended_streams() {
                self.end(Closing::ShuttingDown, &mut missed);
            }
        }
        (!missed.is_empty()).then(|| missed.freeze())
    }

    fn end_now(&mut self, closing: Closing) -> Bytes {
        let mut last = BytesMut::new();
        self.end(closing, &mut last);
        last.freeze()
    }

    fn end(&mut self, closing: Closing, last: &mut BytesMut) {
        self.ended = true;
        last.extend_from_slice(self.voice.closed(self.epoch, closing).as_bytes());
    }

    /// Tells the difference between who the reader knows to be here and who is.
    fn catch_up_clients(&mut self, missed: &mut BytesMut) {
        let Some(known) = self.clients.take() else { return };
        let here: Vec<Client> = self.document.clients().into_iter().map(|entry| entry.client).collect();
        let is_in =
            |list: &[Client], client: &Client| list.iter().any(|other| other.client_id == client.client_id);
        for client in known.iter().filter(|client| !is_in(&here, client)) {
            missed.extend_from_slice(self.voice.left(self.epoch, client).as_bytes());
        }
        for client in here.iter().filter(|client| !is_in(&known, client)) {
            missed.extend_from_slice(self.voice.joined(self.epoch, client).as_bytes());
        }
        self.clients = Some(here);
    }
}

async fn end(tenure: Option<&Tenure>) -> Closing {
    match tenure {
        Some(tenure) => tenure.end().await,
        None => std::future::pending().await,
    }
}

async fn beat(heartbeat: &mut Option<tokio::time::Interval>) {
    match heartbeat {
        Some(heartbeat) => _ = heartbeat.tick().await,
        None => std::future::pending().await,
    }
}
