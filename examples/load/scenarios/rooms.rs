//! Many documents, each with a stream that listens and with people who type at a person's pace.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Uri;
use tokio::sync::watch;

use crate::client::{Connection, Event, Events};
use crate::figures::{Bound, Latencies, Report};
use crate::process::Launcher;
use crate::typist::Typist;
use crate::{Common, Failure, StoreKind};

use super::{CpuMeter, MEBIBYTE, all, microseconds_each, uri};

/// How many connections are being opened at a time.
const OPENING: usize = 64;
/// What goes before the part that counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long after the last ack an update may still arrive.
const LAST_ARRIVALS: Duration = Duration::from_secs(2);

#[derive(Args, Default)]
pub struct Options {
    /// Documents with one stream each [default: 1100].
    #[arg(long)]
    documents: Option<usize>,
    /// Updates per second, of all documents together [default: 1100].
    #[arg(long)]
    rate: Option<f64>,
    /// People who type in each document [default: 1].
    #[arg(long)]
    typists: Option<usize>,
    /// Seconds that are measured [default: 15].
    #[arg(long)]
    seconds: Option<f64>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let documents = common.choose(options.documents, 1100, 20);
    let rate = common.choose(options.rate, 1100.0, 40.0);
    let typists = common.choose(options.typists, 1, 2).clamp(1, 16);
    let seconds = common.choose(options.seconds, 15.0, 1.0);
    let mut report = Report::new(
        "rooms",
        format!(
            "{documents} documents, 1 stream and {typists} typing in each, {rate} updates/s for {seconds} s"
        ),
    );
    let server = launcher.start().await?;
    let resident_before = server.resident_bytes();

    let period = Duration::from_secs_f64((documents * typists) as f64 / rate);
    let counted = Duration::from_secs_f64(seconds);
    let keys = ((WARM_UP + counted).as_secs_f64() / period.as_secs_f64()).ceil() as usize + 1;
    let (start, started) = watch::channel(None);
    let mut readers = Vec::new();
    let mut writers = Vec::new();
    let mut rooms = (0..documents).peekable();
    while rooms.peek().is_some() {
        let opening = rooms
            .by_ref()
            .take(OPENING)
            .map(|number| tokio::spawn(open(server.address, number, typists, keys)));
        for room in all(opening.collect()).await? {
            for (place, writer) in room.writers.into_iter().enumerate() {
                // Spread over the period, so that posts come evenly.
                let share = (room.number * typists + place) as f64 / (documents * typists) as f64;
                writers.push(tokio::spawn(type_keys(writer, started.clone(), period, share, counted)));
            }
            readers.push(tokio::spawn(listen(room.events, started.clone(), room.known)));
        }
    }
    let resident_open = server.resident_bytes();
    let begin = Instant::now();
    start.send_replace(Some(begin));
    tokio::time::sleep(WARM_UP).await;
    let cpu = CpuMeter::start(&server);
    tokio::time::sleep(counted).await;
    let cpu = cpu.read();
    let resident = server.resident_bytes();
    let posts = all(writers).await?;
    tokio::time::sleep(LAST_ARRIVALS).await;
    start.send_replace(None);
    let arrivals = all(readers).await?;
    let arrived: HashMap<(usize, u64), Instant> = arrivals
        .iter()
        .enumerate()
        .flat_map(|(room, reads)| reads.iter().map(move |(sequence, at)| ((room, *sequence), *at)))
        .collect();
    let (from, until) = (begin + WARM_UP, begin + WARM_UP + counted);
    let within: Vec<&Posted> =
        posts.iter().flatten().filter(|post| (from..until).contains(&post.due)).collect();
    let mut latencies = Vec::with_capacity(within.len());
    let mut missing = 0;
    for post in &within {
        match arrived.get(&(post.room, post.sequence)) {
            Some(at) => latencies.push(at.saturating_duration_since(post.due)),
            None => missing += 1,
        }
    }
    if missing > 0 {
        return Err(format!("{missing} of {} updates did not arrive", within.len()).into());
    }
    let latencies = Latencies::of(latencies);
    let acks = Latencies::of(within.iter().map(|post| post.acked.saturating_duration_since(post.due)));
    let judged = documents >= 1100 && rate >= 1100.0 && common.store == StoreKind::Sqlite;
    let updates = latencies.count();
    report.add("updates", updates as f64 / seconds, "/s");
    report.add("due to event, p50", latencies.milliseconds(0.5), "ms");
    report.add_bounded(
        "due to event, p99",
        latencies.milliseconds(0.99),
        "ms",
        judged.then_some(Bound::Below(50.0)),
    );
    report.add("due to event, worst", latencies.milliseconds(1.0), "ms");
    report.add("due to ack, p50", acks.milliseconds(0.5), "ms");
    report.add("due to ack, p99", acks.milliseconds(0.99), "ms");
    report.add_known("server CPU per update", microseconds_each(cpu.server, updates), "us");
    report.add_known("load's CPU per update", microseconds_each(cpu.own, updates), "us");
    let mebibytes = |bytes: Option<f64>| bytes.map(|bytes| bytes / MEBIBYTE);
    report.add_known("resident before", mebibytes(resident_before), "MiB");
    report.add_known("resident with all streams open", mebibytes(resident_open), "MiB");
    report.add_known("resident at the end", mebibytes(resident), "MiB");
    if let Some(peak) = server.resident_bytes_peak() {
        let bound = judged.then_some(Bound::Below(250.0));
        report.add_bounded("resident at the most", peak / 1e6, "MB", bound);
    }
    server.end().await?;
    Ok(report)
}

struct Room {
    number: usize,
    events: Events,
    known: u64,
    writers: Vec<Writer>,
}

struct Writer {
    room: usize,
    connection: Connection,
    uri: Uri,
    keys: Vec<Bytes>,
}

/// Writes everybody's first key, and then listens: so the document is there.
async fn open(address: SocketAddr, number: usize, typists: usize, keys: usize) -> Result<Room, Failure> {
    let document = format!("room-{number}");
    let mut writers = Vec::with_capacity(typists);
    for place in 0..typists {
        let mut typist = Typist::new(number * typists + place);
        let mut connection = Connection::open(address).await?;
        let uri = uri(&document, "updates");
        connection.post_update(&uri, typist.key()).await?;
        writers.push(Writer { room: number, connection, uri, keys: typist.keys(keys) });
    }
    let uri = uri(&document, "events?client_id=listener");
    let mut events = Connection::open(address).await?.events(&uri).await?;
    let (known, _) = events.sync().await?;
    Ok(Room { number, events, known, writers })
}

struct Posted {
    room: usize,
    sequence: u64,
    /// When it should have been posted: a typist that waits for a late ack counts the wait.
    due: Instant,
    acked: Instant,
}

type Started = watch::Receiver<Option<Instant>>;

async fn type_keys(
    mut writer: Writer,
    mut started: Started,
    period: Duration,
    share: f64,
    counted: Duration,
) -> Result<Vec<Posted>, Failure> {
    let begin = started.wait_for(Option::is_some).await?.expect("this is what was waited for");
    let end = begin + WARM_UP + counted;
    let mut posted = Vec::with_capacity(writer.keys.len());
    let mut due = begin + period.mul_f64(share);
    for key in writer.keys {
        if due >= end {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let sequence = writer.connection.post_update(&writer.uri, key).await?;
        posted.push(Posted { room: writer.room, sequence, due, acked: Instant::now() });
        due += period;
    }
    Ok(posted)
}

/// Reads until a while after the end; every sequence must come, in order.
async fn listen(
    mut events: Events,
    mut started: Started,
    mut known: u64,
) -> Result<Vec<(u64, Instant)>, Failure> {
    let mut arrived = Vec::new();
    started.wait_for(Option::is_some).await?;
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event? {
                Event::Update { from, sequence } if from == known + 1 => {
                    let now = Instant::now();
                    arrived.extend((from..=sequence).map(|sequence| (sequence, now)));
                    known = sequence;
                }
                Event::Other => {}
                event => return Err(format!("after {known} came {event:?}").into()),
            },
            over = started.wait_for(Option::is_none) => {
                over?;
                return Ok(arrived);
            }
        }
    }
}
