//! Server-Sent Events, encoded once for all readers of a message.
//!
//! Everything that goes into a frame is a number, base64, a checked id, or JSON, which writes line
//! breaks as escapes: so no caller can end a line, and `data:` is always one.
//!
//! Format: <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::fmt::Write;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::document::presence::Client;
use crate::document::subscription::{Closing, Position, Told};
use crate::event::Event;
use crate::ids::{Epoch, Sequence};

use super::encoding::{encode_base64, encode_base64_into};

/// A comment: it keeps proxies from ending a silent connection, and fires nothing.
pub const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// How long an `EventSource` waits before it reconnects.
pub fn retry(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n\n")
}

#[derive(Serialize)]
struct Sync {
    epoch: Option<Epoch>,
    seq: Sequence,
    update: String,
    state_vector: String,
    resumed: bool,
}

/// The first event of every stream.
pub fn sync(position: &Position) -> String {
    let state = &position.state;
    let data = Sync {
        epoch: state.epoch,
        seq: state.sequence,
        update: encode_base64(&state.update),
        state_vector: encode_base64(&state.state_vector),
        resumed: position.resumed,
    };
    // A document never written has no epoch, and so no place that an id could name.
    let id = state.epoch.map_or_else(String::new, |epoch| format!("id: {epoch}.{}\n", state.sequence));
    format!("event: sync\n{id}data: {}\n\n", to_json(&data))
}

/// One accepted update.
pub fn update(epoch: Epoch, event: &Event) -> String {
    let mut frame = String::with_capacity(event.update.len().div_ceil(3) * 4 + 160);
    let sequence = event.sequence;
    let _ = write!(frame, "event: update\nid: {epoch}.{sequence}\ndata: {{\"seq\":{sequence},\"update\":\"");
    encode_base64_into(&event.update, &mut frame);
    // A client id needs no escapes: it was parsed.
    match event.origin.client() {
        Some(client) => {
            let _ = write!(frame, "\",\"origin\":\"{client}\"}}\n\n");
        }
        None => frame.push_str("\",\"origin\":null}\n\n"),
    }
    frame
}

/// An update of the stream's own: it moves `Last-Event-ID` and fires no event.
pub fn own_update(epoch: Epoch, sequence: Sequence) -> String {
    format!("id: {epoch}.{sequence}\n\n")
}

/// An awareness update. Signals carry no id: they are not in the log.
pub fn awareness(origin: Option<&crate::ids::ClientId>, update: &[u8]) -> String {
    frame("awareness", &json!({ "update": encode_base64(update), "origin": origin }))
}

pub fn joined(client: &Client) -> String {
    frame("join", &Entry { client, streams: 1 })
}

pub fn left(client: &Client) -> String {
    frame("leave", &Entry { client, streams: 0 })
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    client: &'a Client,
    streams: usize,
}

/// A client as the list of clients has it.
pub fn client(client: &Client, streams: usize) -> Value {
    serde_json::to_value(Entry { client, streams }).expect("a client is made of strings and numbers")
}

/// The code and the detail that tell why a stream ends.
pub fn closing(closing: Closing) -> (&'static str, &'static str) {
    match closing {
        Closing::ShuttingDown => ("shutting_down", "the server is stopping; reconnect"),
        Closing::Deleted => ("deleted", "the document was deleted"),
        Closing::TooSlow => ("too_slow", "the stream could not take a byte for too long; reconnect"),
        Closing::Unavailable => ("unavailable", "the document cannot be read now; try again later"),
        Closing::TokenExpired => ("token_expired", "the token has ended; come back with a new one"),
        Closing::Revoked => ("revoked", "the access was taken back"),
    }
}

/// The last event of a stream that is ended on purpose.
pub fn closed(why: Closing) -> String {
    let (code, detail) = closing(why);
    frame("closed", &json!({ "code": code, "detail": detail }))
}

/// Renders what every reader of a document is told, but for its author.
pub fn told(told: &Told) -> Bytes {
    Bytes::from(match told {
        Told::Event { epoch, event } => update(*epoch, event),
        Told::Awareness { origin, update } => awareness(origin.as_ref(), update),
        Told::Joined(client) => joined(client),
        Told::Left(client) => left(client),
        Told::Closed(closing) => closed(*closing),
    })
}

/// Any event.
pub fn event(name: &'static str, id: Option<&str>, data: &Value) -> String {
    let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
    format!("event: {name}\n{id}data: {data}\n\n")
}

fn frame(name: &'static str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", to_json(data))
}

fn to_json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("events are made of strings, numbers and named fields")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Origin, Timestamp};

    fn event(origin: Option<&str>) -> Event {
        let client = origin.map(|origin| origin.parse().expect("a client id"));
        Event {
            sequence: Sequence::new(18),
            origin: Origin::from(client),
            user: None,
            time: Timestamp::from_milliseconds(0),
            update: Bytes::from_static(&[0, 0]),
        }
    }

    #[test]
    fn an_update_is_one_event_with_an_id_of_epoch_and_sequence() {
        let epoch: Epoch = "k3f9x2ab".parse().expect("an epoch");
        assert_eq!(
            update(epoch, &event(Some("tab-2"))),
            "event: update\nid: k3f9x2ab.18\ndata: {\"seq\":18,\"update\":\"AAA=\",\"origin\":\"tab-2\"}\n\n"
        );
        assert!(update(epoch, &event(None)).ends_with("\"origin\":null}\n\n"));
        assert_eq!(own_update(epoch, Sequence::new(19)), "id: k3f9x2ab.19\n\n");
    }

    #[test]
    fn nothing_that_a_caller_sent_starts_a_new_line() {
        let client = Client {
            client_id: "tab-1".parse().expect("a client id"),
            label: Some("a\nevent: admin\rdata: x\r\n\u{2028}\0".into()),
            user: None,
            connected_at: Timestamp::from_milliseconds(0),
        };
        let frame = joined(&client);
        assert_eq!(frame.matches('\n').count(), 3, "{frame:?}");
        assert!(!frame.contains('\r') && !frame.contains('\0'), "{frame:?}");
    }
}
