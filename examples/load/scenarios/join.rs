//! Coming late: to a long document that is open, and to a large one that the server must load first.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Uri;

use crate::client::Connection;
use crate::figures::{Bound, Latencies, Report};
use crate::process::{Launcher, Server};
use crate::typist::{self, Editor};
use crate::{Common, Failure, StoreKind};

use super::{CpuMeter, all, microseconds_each, uri};

/// How many keystrokes of the long document are under way at a time, each in a document's own order.
const AT_A_TIME: usize = 8;

#[derive(Args, Default)]
pub struct Options {
    /// Keystrokes in the long document [default: 20000].
    #[arg(long)]
    keystrokes: Option<usize>,
    /// Streams opened on it [default: 400].
    #[arg(long)]
    joiners: Option<usize>,
    /// Bytes that the large document takes encoded, about [default: 1000000].
    #[arg(long)]
    bytes: Option<usize>,
    /// How many times it is opened cold, in each way [default: 7].
    #[arg(long)]
    repeats: Option<usize>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let keystrokes = common.choose(options.keystrokes, 20_000, 400);
    let joiners = common.choose(options.joiners, 400, 10);
    let bytes = common.choose(options.bytes, 1_000_000, 50_000);
    let repeats = common.choose(options.repeats, 7, 1);
    let mut report = Report::new(
        "join",
        format!(
            "{joiners} join {keystrokes} keystrokes, {AT_A_TIME} at a time; {bytes} bytes opened cold, {repeats} times"
        ),
    );
    let mut server = launcher.start().await?;
    join(&mut report, &server, keystrokes, joiners).await?;
    if launcher.is_foreign() || common.store == StoreKind::Memory {
        eprintln!("load: opening cold is left out: it takes a server of our own that keeps its documents");
        return Ok(report);
    }

    // Cold twice over: many small blocks, as people write, and one large one, as they paste.
    post_in_order(&server, "edited", Editor::new(2).pieces(bytes)).await?;
    post_in_order(&server, "pasted", vec![typist::pasted(bytes)]).await?;
    for (document, what) in [("edited", "written in small pieces"), ("pasted", "pasted whole")] {
        for (way, part) in [("state", "state"), ("stream", "events")] {
            let uri = uri(document, part);
            let (mut opened, mut size) = (Vec::new(), 0);
            for _ in 0..repeats {
                server.restart().await?;
                let (took, length) = first_look(&server, &uri, way == "stream").await?;
                opened.push(took);
                size = length;
            }
            let opened = Latencies::of(opened);
            let bound = (bytes >= 1_000_000).then_some(Bound::Below(100.0));
            report.add(format!("cold {way}, {what}: answer"), size as f64 / 1e6, "MB");
            report.add_bounded(format!("cold {way}, {what}: p50"), opened.milliseconds(0.5), "ms", bound);
            report.add(format!("cold {way}, {what}: worst"), opened.milliseconds(1.0), "ms");
        }
        server.restart().await?;
        let mut connection = Connection::open(server.address).await?;
        connection.get(&uri(document, "state")).await?;
        let again = Instant::now();
        connection.get(&uri(document, "state")).await?;
        report.add(format!("warm state, {what}"), again.elapsed().as_secs_f64() * 1e3, "ms");
    }
    server.end().await?;
    Ok(report)
}

async fn join(
    report: &mut Report,
    server: &Server,
    keystrokes: usize,
    joiners: usize,
) -> Result<(), Failure> {
    post_in_order(server, "long", Editor::new(1).keystrokes(keystrokes)).await?;
    let cpu = CpuMeter::start(server);
    let mut tasks = Vec::new();
    for place in 0..AT_A_TIME {
        let address = server.address;
        tasks.push(tokio::spawn(async move {
            let mut joined = Vec::new();
            for number in (place..joiners).step_by(AT_A_TIME) {
                let uri = uri("long", format_args!("events?client_id=joiner-{number}"));
                let begin = Instant::now();
                let mut events = Connection::open(address).await?.events(&uri).await?;
                let (_, bytes) = events.sync().await?;
                joined.push((begin.elapsed(), bytes));
            }
            Ok::<_, Failure>(joined)
        }));
    }
    let joined = all(tasks).await?.concat();
    let cpu = cpu.read();
    let latencies = Latencies::of(joined.iter().map(|(took, _)| *took));
    report.add("late join: sync event", joined.first().map_or(0, |(_, bytes)| *bytes) as f64 / 1e3, "KB");
    report.add_latencies("late join: connect to sync", &latencies);
    report.add_known("late join: server CPU each", microseconds_each(cpu.server, latencies.count()), "us");
    Ok(())
}

/// Posts updates that build on each other.
async fn post_in_order(server: &Server, document: &str, bodies: Vec<Bytes>) -> Result<(), Failure> {
    let uri = uri(document, "updates");
    let mut connection = Connection::open(server.address).await?;
    for body in bodies {
        connection.post_update(&uri, body).await?;
    }
    Ok(())
}

/// How long the first look at a document takes, and how long what it brings is, in bytes of JSON.
async fn first_look(server: &Server, uri: &Uri, as_stream: bool) -> Result<(Duration, usize), Failure> {
    let mut connection = Connection::open(server.address).await?;
    // The connection is not what is measured, nor is the rest of the server's start.
    connection.get(&Uri::from_static("/healthz")).await?;
    let begin = Instant::now();
    let bytes = if as_stream {
        connection.events(uri).await?.sync().await?.1
    } else {
        connection.get(uri).await?.len()
    };
    Ok((begin.elapsed(), bytes))
}
