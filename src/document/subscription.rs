//! What a subscriber gets: where it stands first, then everything that happens, in order.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::event::Event;
use crate::ids::{ClientId, Epoch, Sequence};

use super::presence::Client;

/// Something that all of a document's subscribers are told.
#[derive(Debug)]
pub enum Told {
    /// An accepted update, after it is durable. `epoch` is the life it belongs to.
    Event { epoch: Epoch, event: Event },
    /// A change of who is here, in the Yjs awareness encoding. Passed on, never logged.
    Awareness { origin: Option<ClientId>, update: Bytes },
    /// A client's first stream opened.
    Joined(Client),
    /// A client's last stream ended.
    Left(Client),
    /// The document ends this life: streams end with this as their last word.
    Closed(Closing),
}

/// Why a stream is ended on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    ShuttingDown,
    Deleted,
    TooSlow,
    Unavailable,
    TokenExpired,
    Revoked,
}

/// A message and its one rendering: whoever tells it first renders it, all others share the bytes.
#[derive(Debug)]
pub struct Broadcast {
    told: Told,
    /// When it was told.
    at: Instant,
    rendered: OnceLock<Bytes>,
}

impl Broadcast {
    pub fn new(told: Told) -> Arc<Self> {
        Arc::new(Self { told, at: Instant::now(), rendered: OnceLock::new() })
    }

    pub fn told(&self) -> &Told {
        &self.told
    }

    pub fn told_at(&self) -> Instant {
        self.at
    }

    /// The message in the form that goes out. `render` must depend on the message alone.
    pub fn rendered(&self, render: impl FnOnce(&Told) -> Bytes) -> Bytes {
        self.rendered.get_or_init(|| render(&self.told)).clone()
    }
}

/// Where a new subscriber stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The update that brings the subscriber to `sequence`.
    pub state: State,
    /// Whether `state` continues from the sequence that the subscriber named.
    pub resumed: bool,
}

/// A document, or the part of it that somebody lacks, as one update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `None`: never written.
    pub epoch: Option<Epoch>,
    pub sequence: Sequence,
    /// Yjs encoding v1.
    pub update: Bytes,
    /// What the server has, encoded as Yjs does.
    pub state_vector: Bytes,
}

/// What a subscriber knows already.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// It has seen everything up to there.
    pub since: Option<(Epoch, Sequence)>,
    /// Its state vector, encoded as Yjs does.
    pub state_vector: Option<Bytes>,
}

/// A subscriber's start and everything after it. Nothing falls between the two.
#[derive(Debug)]
pub struct Subscription {
    pub position: Position,
    /// Yields `Lagged` where the subscriber was too slow: the log has what it missed.
    pub live: broadcast::Receiver<Arc<Broadcast>>,
}
