//! Floods over HTTP/2: who sends too much of what costs the server more than the sender is bounded or hung up on,
//! and others are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Peer, Process, within_deadline};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much more memory the server may have taken at its peak: what its connections may buffer, with room for the
/// allocator's habits. What a flood sends is more than this.
const GROWTH_MAX: u64 = 16 << 20;

/// What one request may hold of its body: an update in base64, and some JSON around it.
const BODY_BYTES_MAX: u64 = 3 << 19;

const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a request: <https://www.rfc-editor.org/rfc/rfc7541#appendix-A>
pub fn request(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    // Literals without indexing, of names that the static table has: method, path, scheme, authority.
    for (name, value) in [(2, method), (4, path), (6, "http"), (1, "localhost")] {
        block.extend([name, u8::try_from(value.len()).expect("a short value")]);
        block.extend(value.as_bytes());
    }
    block
}

/// What the server has said on a connection.
#[derive(Default)]
struct Said {
    frames: Vec<(u8, u32, Vec<u8>)>,
}

impl Said {
    fn code(&self, kind: u8) -> Option<u32> {
        let (.., payload) = self.frames.iter().find(|(this, ..)| *this == kind)?;
        let at = if kind == GO_AWAY { 4 } else { 0 };
        Some(u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes")))
    }
}

async fn read_frame(socket: &mut OwnedReadHalf) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    socket.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Reads what the server says until it hangs up.
async fn read_to_the_end(mut socket: OwnedReadHalf) -> Said {
    let mut said = Said::default();
    while let Some(frame) = read_frame(&mut socket).await {
        // Answers to a flood of pings are as many as these.
        if !matches!(frame.0, PING | SETTINGS) {
            said.frames.push(frame);
        }
    }
    said
}

/// A connection that has said that it speaks HTTP/2.
async fn connect(process: &Process) -> (OwnedReadHalf, OwnedWriteHalf) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Little is kept for a flood that does not read: it is the server that has to bear it.
    socket.set_recv_buffer_size(16 << 10).expect("the size can be set");
    let connecting = socket.connect(process.address);
    let mut socket: TcpStream = within_deadline("connection", connecting).await.expect("accepted");
    socket.write_all(PREFACE).await.expect("taken");
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("taken");
    socket.into_split()
}

/// The most memory that the server has ever had, in bytes.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// A flood that is under way.
struct Flood {
    /// That others write meanwhile.
    document: String,
    sent: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Flood {
    /// Sends `piece` again and again, until the server takes no more or `bytes_max` are sent.
    fn start(mut socket: OwnedWriteHalf, piece: Vec<u8>, bytes_max: u64) -> Self {
        let (sent, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (sent.clone(), ended.clone());
        let task = tokio::spawn(async move {
            while count.load(Ordering::Relaxed) < bytes_max && socket.write_all(&piece).await.is_ok() {
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            end.store(true, Ordering::Relaxed);
            // Whoever has more to read is not hung up on by this end.
            std::future::pending::<()>().await;
        });
        static FLOODS: AtomicU64 = AtomicU64::new(0);
        let document = format!("during-{}", FLOODS.fetch_add(1, Ordering::Relaxed));
        Self { document, sent, ended, task }
    }

    /// Whether there is nothing more to wait for.
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An honest client writes and is answered until the flood has ended, or has been held up for 100 of its writes.
async fn be_served_during(process: &Process, flood: &Flood) {
    let mut peer = Peer::new();
    let document = flood.document.as_str();
    let mut stream = process.client.events(document, "reader").await;
    stream.sync().await;
    let (mut sent, mut held_up) = (0, 0);
    while !flood.has_ended() && held_up < 100 {
        let ack = process.client.write(document, "tab-1", &peer.push("x")).await;
        assert_eq!(stream.event("update").await.id, Some(ack.id()));
        let now = flood.sent.load(Ordering::Relaxed);
        held_up = if now == sent { held_up + 1 } else { 0 };
        sent = now;
    }
    let ack = process.client.write(document, "tab-1", &peer.push("!")).await;
    assert_eq!(stream.event("update").await.id, Some(ack.id()));
    assert_eq!(process.client.text(document).await, peer.text());
}

fn expect_bounded(process: &Process, before: u64) {
    let grown = peak(process).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the server took {grown} bytes more");
}

async fn started() -> (Process, u64) {
    let process = Process::start_with(&[("PROMPTGRIMOIRE__LIMITS__HEADER_SECONDS", "5")]).await;
    process.client.write("warm", "tab-1", &Peer::new().insert(0, "x")).await;
    let before = peak(&process);
    (process, before)
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_taken_back_by_the_ten_thousand_end_the_connection() {
    let (process, before) = started().await;
    let (reading, writing) = connect(&process).await;
    let mut piece = Vec::new();
    let block = request("GET", "/docs/warm/state");
    for number in 0..10_000 {
        let stream = number * 2 + 1;
        piece.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
        piece.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    let bytes = piece.len() as u64;
    let flood = Flood::start(writing, piece, bytes);
    let reading = tokio::spawn(read_to_the_end(reading));
    be_served_during(&process, &flood).await;
    let said = within_deadline("end of the connection", reading).await.expect("no panic");
    assert_eq!(said.code(GO_AWAY), Some(ENHANCE_YOUR_CALM));
    expect_bounded(&process, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_that_must_be_answered_are_bounded() {
    let (process, before) = started().await;
    let pieces = [
        frame(SETTINGS, 0, 0, &[]).repeat(1000),
        // The size of the header table, now small, now large.
        [frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]), frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0])]
            .concat()
            .repeat(500),
        frame(PING, 0, 0, b"pingping").repeat(1000),
    ];
    for piece in pieces {
        for reads in [false, true] {
            let (reading, mut writing) = connect(&process).await;
            // Who has asked for something may stay.
            let good = frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/docs/warm/events"));
            writing.write_all(&good).await.expect("taken");
            let flood = Flood::start(writing, piece.clone(), 64 << 20);
            let reading = reads.then(|| tokio::spawn(read_to_the_end(reading)));
            be_served_during(&process, &flood).await;
            if let Some(reading) = reading {
                reading.abort();
            }
        }
    }
    expect_bounded(&process, before);
}

/// CVE-2024-27316 and its kin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_go_on_and_on_end_the_connection() {
    let (process, before) = started().await;
    let mut header = vec![
        0,
        1,
        b'x',
        127,
        128 + (8000 - 127 - (8000 - 127) / 128 * 128) as u8,
        ((8000 - 127) / 128) as u8,
    ];
    header.extend(vec![b'y'; 8000]);
    for piece in [frame(CONTINUATION, 0, 1, &header), frame(CONTINUATION, 0, 1, &[]).repeat(100)] {
        let (reading, mut writing) = connect(&process).await;
        writing.write_all(&frame(HEADERS, END_STREAM, 1, &request("GET", "/healthz"))).await.expect("taken");
        let flood = Flood::start(writing, piece, u64::MAX);
        let reading = tokio::spawn(read_to_the_end(reading));
        be_served_during(&process, &flood).await;
        within_deadline("end of the connection", reading).await.expect("no panic");
    }
    expect_bounded(&process, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_never_end_end_the_connection() {
    let variables = [
        ("PROMPTGRIMOIRE__LIMITS__HEADER_SECONDS", "1"),
        ("PROMPTGRIMOIRE__LIMITS__STALLED_SECONDS", "1"),
        ("PROMPTGRIMOIRE__SERVER__HEARTBEAT_SECONDS", "1"),
    ];
    let process = Process::start_with(&variables).await;
    let block = request("GET", "/healthz");
    for after_a_good_request in [false, true] {
        let (mut reading, mut writing) = connect(&process).await;
        if after_a_good_request {
            let good = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
            writing.write_all(&good).await.expect("taken");
            within_deadline("answer", async {
                while read_frame(&mut reading).await.expect("the connection is whole").0 != HEADERS {}
            })
            .await;
        }
        writing.write_all(&frame(HEADERS, END_STREAM, 3, &block)).await.expect("taken");
        within_deadline("end of the connection", read_to_the_end(reading)).await;
    }
    assert_eq!(process.client.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_data_than_was_allowed_ends_the_stream_or_the_connection() {
    let (process, before) = started().await;
    let (reading, mut writing) = connect(&process).await;
    let block = request("POST", "/docs/a/updates");
    for stream in 0..50 {
        writing.write_all(&frame(HEADERS, END_HEADERS, stream * 2 + 1, &block)).await.expect("taken");
    }
    // A handler reads a body as it comes, so it is one over the limit that is no longer read.
    let piece: Vec<u8> =
        (0..50).flat_map(|stream| frame(DATA, 0, stream * 2 + 1, &[b'x'; 16 << 10])).collect();
    let flood = Flood::start(writing, piece, 512 << 20);
    let reading = tokio::spawn(read_to_the_end(reading));
    be_served_during(&process, &flood).await;
    let said = within_deadline("end of the connection", reading).await.expect("no panic");
    assert!(said.code(GO_AWAY).is_some());
    assert!(flood.sent.load(Ordering::Relaxed) < 512 << 20);
    // Fifty bodies of an update's size, in base64, may be there.
    expect_bounded(&process, before + 50 * BODY_BYTES_MAX);
}

#[tokio::test]
async fn one_stream_over_the_limit_is_reset() {
    let process = Process::start_with(&[("PROMPTGRIMOIRE__LIMITS__HTTP2_STREAMS", "2")]).await;
    let (mut reading, mut writing) = connect(&process).await;
    let (kind, _, settings) = within_deadline("settings", read_frame(&mut reading)).await.expect("a frame");
    assert_eq!(kind, SETTINGS);
    let streams_max = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit");
    assert_eq!(streams_max[2..], [0, 0, 0, 2]);
    let block = request("GET", "/docs/a/events");
    for stream in [1, 3, 5] {
        let headers = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        writing.write_all(&headers).await.expect("taken");
    }
    let reset = within_deadline("reset", async {
        loop {
            let (kind, stream, payload) = read_frame(&mut reading).await.expect("the connection is whole");
            if kind == RESET {
                return (stream, payload);
            }
        }
    })
    .await;
    assert_eq!(reset, (5, REFUSED_STREAM.to_be_bytes().to_vec()));
}
