//! A reader of event streams that does what a browser does, and shows what a browser hides.
//!
//! Rules: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>

use std::pin::Pin;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{bytes_of, within_deadline};

/// One thing that came on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// What a browser would fire.
    Event(Event),
    /// An id without data: it moves the last event id, and fires nothing.
    Id(String),
    /// How long to wait before a reconnection, in milliseconds.
    Retry(u64),
    Comment(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `message` where the stream names none.
    pub name: String,
    /// The id that came with this event; an event without one leaves the last event id as it is.
    pub id: Option<String>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{:?}: {error}", self.data))
    }

    /// The update that the event carries.
    pub fn update(&self) -> Vec<u8> {
        bytes_of(&self.json()["update"])
    }

    pub fn seq(&self) -> u64 {
        self.json()["seq"].as_u64().expect("a sequence")
    }
}

type Chunks = Pin<Box<dyn stream::Stream<Item = Option<Bytes>> + Send>>;

/// An open event stream.
pub struct Stream {
    chunks: Chunks,
    parser: Parser,
    /// What was parsed and not yet asked for.
    frames: std::collections::VecDeque<Frame>,
    /// What a browser would send as `Last-Event-ID`.
    pub last_event_id: String,
    headers: reqwest::header::HeaderMap,
}

impl Stream {
    pub fn new(response: reqwest::Response) -> Self {
        let headers = response.headers().clone();
        Self::over(Box::pin(response.bytes_stream().map(Result::ok)), headers)
    }

    /// What comes on a bare socket, after `received`.
    pub fn from_socket(socket: TcpStream, received: Vec<u8>) -> Self {
        let rest = stream::unfold(socket, |mut socket| async move {
            let mut chunk = Vec::with_capacity(16 << 10);
            match socket.read_buf(&mut chunk).await {
                Ok(0) => None,
                Ok(_) => Some((Some(Bytes::from(chunk)), socket)),
                Err(_) => Some((None, socket)),
            }
        });
        let first = stream::once(async move { Some(Bytes::from(received)) });
        Self::over(Box::pin(first.chain(rest)), reqwest::header::HeaderMap::new())
    }

    fn over(chunks: Chunks, headers: reqwest::header::HeaderMap) -> Self {
        let (parser, frames) = (Parser::default(), std::collections::VecDeque::new());
        Self { chunks, parser, frames, last_event_id: String::new(), headers }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is visible ASCII"))
    }

    /// The next frame; `None` when the stream has ended or broken off.
    pub async fn frame(&mut self) -> Option<Frame> {
        within_deadline("frame", async {
            while self.frames.is_empty() {
                let chunk = self.chunks.next().await.flatten()?;
                self.frames.extend(self.parser.read(&chunk));
            }
            let frame = self.frames.pop_front();
            if let Some(Frame::Id(id) | Frame::Event(Event { id: Some(id), .. })) = &frame {
                self.last_event_id.clone_from(id);
            }
            frame
        })
        .await
    }

    /// The next event or bare id: what moves a reader. Comments and `retry` are passed over.
    ///
    /// # Panics
    /// If the stream ends first.
    pub async fn next(&mut self) -> Frame {
        loop {
            match self.frame().await {
                Some(Frame::Comment(_) | Frame::Retry(_)) => {}
                Some(frame) => return frame,
                None => panic!("the stream has ended"),
            }
        }
    }

    /// The next event, which must have this name, and no bare id before it.
    pub async fn event(&mut self, name: &str) -> Event {
        match self.next().await {
            Frame::Event(event) if event.name == name => event,
            other => panic!("{name} should be next, not {other:?}"),
        }
    }

    /// The next bare id, which must come before any event.
    pub async fn bare_id(&mut self) -> String {
        match self.next().await {
            Frame::Id(id) => id,
            other => panic!("a bare id should be next, not {other:?}"),
        }
    }

    /// The `sync` that every stream begins with.
    pub async fn sync(&mut self) -> Event {
        self.event("sync").await
    }

    /// Reads to the end. Returns what came, without comments.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut rest = Vec::new();
        while let Some(frame) = self.frame().await {
            if !matches!(frame, Frame::Comment(_)) {
                rest.push(frame);
            }
        }
        rest
    }
}

/// Splits bytes into lines and lines into frames, wherever the bytes were cut.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    name: String,
    id: Option<String>,
    data: Option<String>,
}

impl Parser {
    fn read(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let belongs_to_return = byte == b'\n' && std::mem::take(&mut self.after_return);
            self.after_return = byte == b'\r';
            match byte {
                _ if belongs_to_return => {}
                b'\r' | b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let line = String::from_utf8(line).expect("an event stream is UTF-8");
                    frames.extend(self.line(&line));
                }
                byte => self.line.push(byte),
            }
        }
        frames
    }

    fn line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => return Some(Frame::Comment(value.to_owned())),
            "event" => self.name = value.to_owned(),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                return value.parse().ok().map(Frame::Retry);
            }
            _ => panic!("a field that the contract does not know: {line:?}"),
        }
        None
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let name = std::mem::take(&mut self.name);
        match (self.data.take(), self.id.take()) {
            (Some(data), id) => {
                let name = if name.is_empty() { "message".to_owned() } else { name };
                Some(Frame::Event(Event { name, id, data }))
            }
            (None, Some(id)) => Some(Frame::Id(id)),
            (None, None) => None,
        }
    }
}

#[test]
fn a_frame_is_read_the_same_wherever_the_bytes_are_cut() {
    let sent = b": hello\nretry: 1500\r\n\r\nevent: update\rid: e.1\rdata: {}\r\rid: e.2\n\ndata:a\ndata\n\n";
    let whole = Parser::default().read(sent);
    let event = |name: &str, id: Option<&str>, data: &str| {
        Frame::Event(Event { name: name.into(), id: id.map(Into::into), data: data.into() })
    };
    let expected = [
        Frame::Comment("hello".into()),
        Frame::Retry(1500),
        event("update", Some("e.1"), "{}"),
        Frame::Id("e.2".into()),
        event("message", None, "a\n"),
    ];
    assert_eq!(whole, expected);
    let mut parser = Parser::default();
    let one_by_one: Vec<Frame> = sent.iter().flat_map(|byte| parser.read(&[*byte])).collect();
    assert_eq!(one_by_one, expected);
}
