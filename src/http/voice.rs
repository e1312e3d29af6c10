//! How a reader's frames speak of its document: by itself, or among others on one stream.
//!
//! Among others every event's data names the document and its epoch, and every id says where the reader stands in all
//! of them, so that the stream resumes as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::document::presence::Client;
use crate::document::subscription::{Broadcast, Closing, Position, Told};
use crate::event::Event;
use crate::ids::{ClientId, DocumentId, Epoch, Sequence};

use super::encoding::encode_base64;
use super::sse;

/// How frames are made.
pub enum Voice {
    /// The stream is for one document; frames are shared with its other readers.
    Alone,
    Among {
        document: DocumentId,
        positions: Arc<Mutex<Positions>>,
    },
}

impl Voice {
    pub fn sync(&self, position: &Position) -> String {
        let state = &position.state;
        match self {
            Self::Alone => sse::sync(position),
            Self::Among { document, positions } => {
                let id = state.epoch.map(|epoch| advance(positions, document, epoch, state.sequence));
                let data = json!({
                    "seq": state.sequence,
                    "update": encode_base64(&state.update),
                    "state_vector": encode_base64(&state.state_vector),
                    "resumed": position.resumed,
                });
                sse::event("sync", id.as_deref(), &named(document, state.epoch, data))
            }
        }
    }

    pub fn update(&self, epoch: Epoch, event: &Event) -> String {
        match self {
            Self::Alone => sse::update(epoch, event),
            Self::Among { document, positions } => {
                let id = advance(positions, document, epoch, event.sequence);
                let data = json!({
                    "seq": event.sequence,
                    "update": encode_base64(&event.update),
                    "origin": event.origin.client(),
                });
                sse::event("update", Some(&id), &named(document, Some(epoch), data))
            }
        }
    }

    pub fn own_update(&self, epoch: Epoch, sequence: Sequence) -> String {
        match self {
            Self::Alone => sse::own_update(epoch, sequence),
            Self::Among { document, positions } => {
                format!("id: {}\n\n", advance(positions, document, epoch, sequence))
            }
        }
    }

    pub fn awareness(&self, epoch: Option<Epoch>, origin: Option<&ClientId>, update: &[u8]) -> String {
        match self {
            Self::Alone => sse::awareness(origin, update),
            Self::Among { document, .. } => {
                let data = json!({ "update": encode_base64(update), "origin": origin });
                sse::event("awareness", None, &named(document, epoch, data))
            }
        }
    }

    pub fn joined(&self, epoch: Option<Epoch>, client: &Client) -> String {
        match self {
            Self::Alone => sse::joined(client),
            Self::Among { document, .. } => {
                sse::event("join", None, &named(document, epoch, sse::client(client, 1)))
            }
        }
    }

    pub fn left(&self, epoch: Option<Epoch>, client: &Client) -> String {
        match self {
            Self::Alone => sse::left(client),
            Self::Among { document, .. } => {
                sse::event("leave", None, &named(document, epoch, sse::client(client, 0)))
            }
        }
    }

    pub fn closed(&self, epoch: Option<Epoch>, closing: Closing) -> String {
        match self {
            Self::Alone => sse::closed(closing),
            Self::Among { document, positions } => {
                lock(positions).forget(document);
                let (code, detail) = sse::closing(closing);
                let data = json!({ "code": code, "detail": detail });
                sse::event("closed", None, &named(document, epoch, data))
            }
        }
    }

    /// What all of a document's readers are told, but for its author. `epoch`: the reader's.
    pub fn told(&self, epoch: Option<Epoch>, broadcast: &Broadcast) -> Bytes {
        if let Self::Alone = self {
            return broadcast.rendered(sse::told);
        }
        Bytes::from(match broadcast.told() {
            Told::Event { epoch, event } => self.update(*epoch, event),
            Told::Awareness { origin, update } => self.awareness(epoch, origin.as_ref(), update),
            Told::Joined(client) => self.joined(epoch, client),
            Told::Left(client) => self.left(epoch, client),
            Told::Closed(closing) => self.closed(epoch, *closing),
        })
    }
}

/// The data of an event, with its document's name and epoch before the rest.
fn named(document: &DocumentId, epoch: Option<Epoch>, data: Value) -> Value {
    let mut all = Map::new();
    all.insert("doc".into(), json!(document));
    all.insert("epoch".into(), json!(epoch));
    if let Value::Object(fields) = data {
        all.extend(fields);
    }
    Value::Object(all)
}

fn lock(positions: &Mutex<Positions>) -> std::sync::MutexGuard<'_, Positions> {
    positions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves one document on, and says where the reader then stands in all.
fn advance(positions: &Mutex<Positions>, document: &DocumentId, epoch: Epoch, sequence: Sequence) -> String {
    let mut positions = lock(positions);
    positions.0.insert(key(document), (epoch, sequence));
    positions.encode()
}

/// Where a reader stands in each of its documents.
///
/// As text: for each document a checksum of its name (4 bytes), its epoch (8 bytes of ASCII) and its sequence (8 bytes,
/// little end first), all in base64 for addresses: 1,707 characters for 64 documents. Two documents whose names share a
/// checksum start anew, since their epochs differ.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Positions(BTreeMap<u32, (Epoch, Sequence)>);

const PLACE_BYTES: usize = 4 + 8 + 8;

fn key(document: &DocumentId) -> u32 {
    crc32fast::hash(document.as_str().as_bytes())
}

impl Positions {
    /// Takes what `encode` wrote; anything else is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let positions = bytes.chunks(PLACE_BYTES).map(|place| {
            let (key, rest) = place.split_first_chunk::<4>()?;
            let (epoch, sequence) = rest.split_first_chunk::<8>()?;
            let epoch = std::str::from_utf8(epoch).ok()?.parse().ok()?;
            let sequence = u64::from_le_bytes(sequence.try_into().ok()?);
            Some((u32::from_le_bytes(*key), (epoch, Sequence::new(sequence))))
        });
        positions.collect::<Option<_>>().map(Self)
    }

    fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(self.0.len() * PLACE_BYTES);
        for (key, (epoch, sequence)) in &self.0 {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(epoch.as_str().as_bytes());
            bytes.extend_from_slice(&sequence.get().to_le_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub fn of(&self, document: &DocumentId) -> Option<(Epoch, Sequence)> {
        self.0.get(&key(document)).copied()
    }

    fn forget(&mut self, document: &DocumentId) {
        self.0.remove(&key(document));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_where_the_reader_stands_in_every_document() {
        let positions = Mutex::new(Positions::default());
        let mut id = String::new();
        for number in 0..64_u64 {
            let document = format!("document-{number}").parse().expect("an id");
            id = advance(
                &positions,
                &document,
                Epoch::from_entropy(number),
                Sequence::new(number * 1_000_000),
            );
        }
        assert!(id.len() <= 4096 && !id.contains('\n'), "{id}");
        let parsed = Positions::parse(&id).expect("it was written so");
        let document: DocumentId = "document-7".parse().expect("an id");
        assert_eq!(parsed.of(&document), Some((Epoch::from_entropy(7), Sequence::new(7_000_000))));
        for nonsense in ["k3f9x2ab.17", "AAAA", "%", &id[1..]] {
            assert!(
                Positions::parse(nonsense).is_none_or(|positions| positions.of(&document).is_none()),
                "{nonsense}"
            );
        }
    }
}
