//! Joins a document with yrs, follows it, and types into it: a Yjs client in Rust.
//!
//! ```sh
//! cargo run --example yrs_client -- --server http://127.0.0.1:8080 --document welcome
//! ```
//!
//! Prints the text whenever it has changed. Each line on standard input is written at the end of the text. At the end
//! of the input everything is on the server's disk, and the program ends; with `--follow` it stays and goes on printing.
//!
//! Where the server asks for a token, put it into `PROMPTGRIMOIRE_TOKEN`.
//!
//! Two rules keep a copy in step, whatever breaks in between:
//! - what came from the server is applied in any case: Yjs updates may be repeated and may overlap;
//! - what is missing on the server is one difference, against the state vector that the server told last. It is sent
//!   after each edit, and again after each connection, so nothing has to be remembered about what was sent.

use std::error::Error;
use std::io::BufRead;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, TextRef, Transact, Update};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long to wait after something broke.
const PAUSE: Duration = Duration::from_secs(1);
/// The server sends a comment every 10 s: a stream that is silent for so long is dead.
const SILENCE: Duration = Duration::from_secs(30);

/// Follows a document and types into it.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    server: String,
    #[arg(long, default_value = "welcome")]
    document: String,
    /// For a server that asks for one; better in the environment as PROMPTGRIMOIRE_TOKEN, which `ps` does not show.
    #[arg(long)]
    token: Option<String>,
    /// Stay after the end of the input.
    #[arg(long)]
    follow: bool,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    let token = arguments.token.or_else(|| std::env::var("PROMPTGRIMOIRE_TOKEN").ok());
    let mut client = Client::new(&arguments.server, &arguments.document, token.as_deref())?;
    let mut stream = client.connected().await?;
    let mut lines = Some(lines());
    loop {
        tokio::select! {
            event = stream.event() => match event {
                Some(event) => client.take(&event).await?,
                None => stream = client.connected().await?,
            },
            // Not before the document is here: a line belongs at the end of what there is.
            line = next(&mut lines), if client.is_synced => match line {
                Some(line) => client.write(&line).await?,
                None if arguments.follow => lines = None,
                None => return Ok(()),
            },
        }
    }
}

/// A copy of one document that is kept in step.
struct Client {
    http: reqwest::Client,
    document: String,
    client_id: String,
    doc: Doc,
    text: TextRef,
    /// Which life of the document this is a copy of; null: nobody has written yet.
    epoch: Value,
    /// What the server is known to have.
    servers: StateVector,
    /// What the next stream goes on after.
    last_event_id: Option<String>,
    is_synced: bool,
}

impl Client {
    fn new(server: &str, document: &str, token: Option<&str>) -> Outcome<Self> {
        let doc = Doc::new();
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            // A token belongs into a header: addresses are logged.
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            http: reqwest::Client::builder().default_headers(headers).build()?,
            document: format!("{}/docs/{document}", server.trim_end_matches('/')),
            // The number that yrs drew for this copy serves as well as any other.
            client_id: format!("yrs-{}", doc.client_id()),
            text: doc.get_or_insert_text("text"),
            doc,
            epoch: Value::Null,
            servers: StateVector::default(),
            last_event_id: None,
            is_synced: false,
        })
    }

    /// A stream, however long that takes; unless the server does not want us.
    async fn connected(&self) -> Outcome<Stream> {
        loop {
            let mut request = self.http.get(format!("{}/events?client_id={}", self.document, self.client_id));
            if let Some(id) = &self.last_event_id {
                request = request.header("Last-Event-ID", id);
            }
            match request.send().await.and_then(Response::error_for_status) {
                Ok(response) => return Ok(Stream { response, received: Vec::new() }),
                Err(error) if error.status().is_some_and(is_final) => return Err(error.into()),
                Err(error) => eprintln!("no stream, trying again: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Applies what the server sent, and answers a `sync` with what the server lacks.
    async fn take(&mut self, event: &Event) -> Outcome<()> {
        if event.id.is_some() {
            self.last_event_id.clone_from(&event.id);
        }
        if !matches!(event.name.as_str(), "sync" | "update") {
            return Ok(());
        }
        let data: Value = serde_json::from_str(&event.data)?;
        if event.name == "sync" && !self.epoch.is_null() && self.epoch != data["epoch"] {
            return Err("the document was deleted: this copy belongs to its earlier life".into());
        }
        let before = self.read();
        self.doc.transact_mut().apply_update(Update::decode_v1(&bytes(&data["update"])?)?)?;
        let after = self.read();
        if after != before || !self.is_synced {
            println!("{}", json!(after));
        }
        if event.name == "sync" {
            self.epoch = data["epoch"].clone();
            self.servers = StateVector::decode_v1(&bytes(&data["state_vector"])?)?;
            self.is_synced = true;
            self.push().await?;
        }
        Ok(())
    }

    /// Appends to the text, and returns when the server has it on disk.
    async fn write(&mut self, line: &str) -> Outcome<()> {
        self.text.push(&mut self.doc.transact_mut(), line);
        self.push().await
    }

    /// Sends what the server lacks, until it has it. Sending it twice does no harm.
    async fn push(&mut self) -> Outcome<()> {
        let (update, ours) = {
            let transaction = self.doc.transact();
            (transaction.encode_diff_v1(&self.servers), transaction.state_vector())
        };
        let body = json!({
            "update": STANDARD.encode(update), "client_id": self.client_id, "epoch": self.epoch,
        });
        loop {
            let request = self.http.post(format!("{}/updates", self.document)).json(&body);
            match request.send().await {
                Ok(response) if response.status().is_success() => {
                    self.epoch = response.json::<Value>().await?["epoch"].clone();
                    self.servers = ours;
                    return Ok(());
                }
                // Frozen, too many requests, stopping, or not there: later.
                Ok(response) if is_for_now(response.status()) => {}
                Ok(response) => return Err(response.text().await?.into()),
                Err(error) => eprintln!("not sent, trying again: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn read(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }
}

fn is_final(status: StatusCode) -> bool {
    status.is_client_error() && !is_for_now(status)
}

fn is_for_now(status: StatusCode) -> bool {
    matches!(status, StatusCode::LOCKED | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn bytes(value: &Value) -> Outcome<Vec<u8>> {
    Ok(STANDARD.decode(value.as_str().ok_or("base64 is expected")?)?)
}

/// An open event stream.
struct Stream {
    response: Response,
    /// What came and was not understood yet, since its end is missing.
    received: Vec<u8>,
}

struct Event {
    name: String,
    id: Option<String>,
    data: String,
}

impl Stream {
    /// The next event, or `None` when the stream has ended or broken off. May be called off without loss.
    async fn event(&mut self) -> Option<Event> {
        loop {
            // An empty line ends an event.
            if let Some(end) = self.received.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.received.drain(..end + 2).collect();
                return Some(Event::parse(&String::from_utf8_lossy(&event)));
            }
            let piece = tokio::time::timeout(SILENCE, self.response.chunk()).await;
            self.received.extend(piece.ok()?.ok()??);
        }
    }
}

impl Event {
    /// Comments and `retry` make an event without a name, which is one that nobody looks at.
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
            text.lines().find_map(value)
        };
        Self {
            name: field("event").unwrap_or_default(),
            id: field("id"),
            data: field("data").unwrap_or_default(),
        }
    }
}

/// The lines of standard input. Reading them blocks, so a thread does it.
fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut line = String::new();
        while input.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if sender.blocking_send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next line; waits for good where there are no more lines.
async fn next(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match lines {
        Some(lines) => lines.recv().await,
        None => std::future::pending().await,
    }
}
