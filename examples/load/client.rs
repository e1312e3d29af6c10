//! One HTTP/1.1 connection, kept alive, and the reading of event streams.
//!
//! The connection is driven by the task that uses it: a task of its own would wake for every message.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::Failure;

/// How often a connection is tried: thousands at once overflow the server's queue of new ones.
const CONNECT_TRIES: u32 = 20;

type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// A connection with one request at a time.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Option<Pin<Box<Driver>>>,
    host: header::HeaderValue,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let mut tries = 0;
        let stream = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(error) if tries == CONNECT_TRIES => return Err(error.into()),
                Err(_) => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        let host = header::HeaderValue::from_str(&address.to_string())?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), host })
    }

    /// Posts JSON and reads the answer, which must be 200.
    pub async fn post(&mut self, uri: &Uri, body: Bytes) -> Result<Bytes, Failure> {
        let request = self.request(Method::POST, uri, Some("application/json"), body)?;
        self.exchange(request).await
    }

    /// Reads a resource, which must be there.
    pub async fn get(&mut self, uri: &Uri) -> Result<Bytes, Failure> {
        let request = self.request(Method::GET, uri, None, Bytes::new())?;
        self.exchange(request).await
    }

    /// Posts an update in JSON; the sequence that it got.
    pub async fn post_update(&mut self, uri: &Uri, body: Bytes) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Written {
            seq: u64,
            changed: bool,
        }
        let answer = self.post(uri, body).await?;
        let written: Written = serde_json::from_slice(&answer)?;
        if !written.changed {
            return Err("an update changed nothing: it was not new".into());
        }
        Ok(written.seq)
    }

    fn request(
        &self,
        method: Method,
        uri: &Uri,
        content_type: Option<&'static str>,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request =
            Request::builder().method(method).uri(uri.clone()).header(header::HOST, self.host.clone());
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
        }
        Ok(request.body(Full::new(body))?)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        let answer = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, Failure>((status, body))
        };
        let (status, body) = driven(&mut self.driver, answer).await?;
        expect_ok(status, &body)?;
        Ok(body)
    }

    /// Opens an event stream on this connection, which is then that stream's.
    pub async fn events(mut self, uri: &Uri) -> Result<Events, Failure> {
        let request = self.request(Method::GET, uri, None, Bytes::new())?;
        let answer = async { Ok::<_, Failure>(self.sender.send_request(request).await?) };
        let response: Response<Incoming> = driven(&mut self.driver, answer).await?;
        expect_ok(response.status(), b"")?;
        Ok(Events {
            driver: self.driver,
            _sender: self.sender,
            body: response.into_body(),
            buffer: BytesMut::new(),
            searched: 0,
        })
    }
}

fn expect_ok(status: StatusCode, body: &[u8]) -> Result<(), Failure> {
    if status == StatusCode::OK {
        return Ok(());
    }
    Err(format!("the server answered {status}: {}", String::from_utf8_lossy(body)).into())
}

/// Awaits an answer while the connection that it comes over runs.
async fn driven<T>(
    driver: &mut Option<Pin<Box<Driver>>>,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut answer = std::pin::pin!(answer);
    if let Some(running) = driver {
        let ended = tokio::select! {
            biased;
            answer = &mut answer => return answer,
            ended = running => ended,
        };
        *driver = None;
        ended?;
    }
    // The connection has ended in good order, and what it brought is there to be read.
    answer.await
}

/// What an event stream says.
#[derive(Debug)]
pub enum Event {
    Sync {
        sequence: u64,
        bytes: usize,
    },
    /// Updates `from` to `sequence`.
    Update {
        from: u64,
        sequence: u64,
    },
    /// An update of the stream's own.
    Own,
    /// Awareness, a comment, `retry`.
    Other,
    Closed,
}

pub struct Events {
    driver: Option<Pin<Box<Driver>>>,
    // While it lives the connection does too.
    _sender: http1::SendRequest<Full<Bytes>>,
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer has no end of an event.
    searched: usize,
}

impl Events {
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let from = self.searched.saturating_sub(1);
            if let Some(at) = self.buffer[from..].windows(2).position(|pair| pair == b"\n\n") {
                let frame = self.buffer.split_to(from + at + 2);
                self.searched = 0;
                return parse(&frame);
            }
            self.searched = self.buffer.len();
            let body = &mut self.body;
            let more = async { Ok(body.frame().await.transpose()?) };
            let frame = driven(&mut self.driver, more).await?.ok_or("the server ended a stream")?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Reads up to the first event; its sequence and its length.
    pub async fn sync(&mut self) -> Result<(u64, usize), Failure> {
        loop {
            match self.next().await? {
                Event::Sync { sequence, bytes } => return Ok((sequence, bytes)),
                Event::Other => {}
                event => return Err(format!("a stream began with {event:?}").into()),
            }
        }
    }
}

fn parse(frame: &[u8]) -> Result<Event, Failure> {
    let (mut name, mut sequence, mut from) = (None, None, None);
    for line in frame.split(|byte| *byte == b'\n') {
        if let Some(rest) = line.strip_prefix(b"event: ") {
            name = Some(rest);
        } else if let Some(rest) = line.strip_prefix(b"id: ") {
            let digits = rest.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
            sequence = Some(std::str::from_utf8(digits)?.parse()?);
        } else if let Some(rest) = line.strip_prefix(b"data: {\"from\":") {
            let digits: &[u8] = rest.split(|byte| *byte == b',').next().unwrap_or_default();
            from = Some(std::str::from_utf8(digits)?.parse()?);
        }
    }
    Ok(match (name, sequence) {
        (Some(b"sync"), sequence) => Event::Sync { sequence: sequence.unwrap_or(0), bytes: frame.len() },
        (Some(b"update"), Some(sequence)) => Event::Update { from: from.unwrap_or(sequence), sequence },
        (None, Some(_)) => Event::Own,
        (Some(b"closed"), _) => Event::Closed,
        _ => Event::Other,
    })
}
