//! One writer, many readers of its document: how many deliveries, how soon, and what each costs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::Barrier;

use crate::client::{Connection, Event};
use crate::figures::{Latencies, Report};
use crate::process::{Launcher, Server};
use crate::typist::Typist;
use crate::{Common, Failure};

use super::{CpuMeter, CpuUsed, all, microseconds_each, uri};

/// How long the last update may take to reach everybody.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args, Default)]
pub struct Options {
    /// Streams of the one document [default: 500].
    #[arg(long)]
    readers: Option<usize>,
    /// Updates posted in each part [default: 400].
    #[arg(long)]
    updates: Option<usize>,
    /// Updates per second in the paced part [default: 20].
    #[arg(long)]
    rate: Option<f64>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let readers = common.choose(options.readers, 500, 10);
    let updates = common.choose(options.updates, 400, 20);
    let rate = common.choose(options.rate, 20.0, 40.0);
    let mut report = Report::new(
        "fanout",
        format!("1 writer, {readers} readers, {updates} updates, {rate}/s and then at once"),
    );
    let server = launcher.start().await?;
    let paced =
        deliver(&server, "paced", readers, updates, Some(Duration::from_secs_f64(1.0 / rate))).await?;
    let paced_deliveries = (readers * updates) as u64;
    report.add("paced: deliveries", paced_deliveries as f64 / paced.took.as_secs_f64(), "/s");
    report.add_latencies("paced: post to event", &paced.latencies);
    report.add_known(
        "paced: server CPU per delivery",
        microseconds_each(paced.cpu.server, paced_deliveries),
        "us",
    );
    let full = deliver(&server, "closed-loop", readers, updates, None).await?;
    let deliveries = (readers * updates) as u64;
    report.add("closed loop: deliveries", deliveries as f64 / full.took.as_secs_f64(), "/s");
    report.add("closed loop: updates", updates as f64 / full.took.as_secs_f64(), "/s");
    report.add_latencies("closed loop: post to event", &full.latencies);
    report.add_known(
        "closed loop: server CPU per delivery",
        microseconds_each(full.cpu.server, deliveries),
        "us",
    );
    report.add_known(
        "closed loop: load's CPU per delivery",
        microseconds_each(full.cpu.own, deliveries),
        "us",
    );
    report.add_known("server resident", server.resident_bytes().map(|bytes| bytes / super::MEBIBYTE), "MiB");
    server.end().await?;
    Ok(report)
}

struct Delivered {
    took: Duration,
    latencies: Latencies,
    cpu: CpuUsed,
}

/// An event that was read: the sequences that it brought, and when.
struct Read {
    from: u64,
    sequence: u64,
    at: Instant,
}

/// Posts updates, each after the last one's ack, at the earliest `period` after it.
async fn deliver(
    server: &Server,
    document: &str,
    readers: usize,
    updates: usize,
    period: Option<Duration>,
) -> Result<Delivered, Failure> {
    let mut typist = Typist::new(0);
    let bodies = typist.keys(updates + 1);
    let target = uri(document, "updates");
    let mut writer = Connection::open(server.address).await?;
    let first = writer.post_update(&target, bodies[0].clone()).await?;
    let last = first + updates as u64;
    let ready = Arc::new(Barrier::new(readers + 1));
    let tasks: Vec<_> = (0..readers)
        .map(|number| tokio::spawn(read(server.address, document.to_owned(), number, ready.clone(), last)))
        .collect();
    if tokio::time::timeout(PATIENCE, ready.wait()).await.is_err() {
        all(tasks).await?;
        return Err("not every reader could connect in time".into());
    }
    let cpu = CpuMeter::start(server);
    let start = Instant::now();
    let mut ticks = period.map(tokio::time::interval);
    let mut posted_at = Vec::with_capacity(updates);
    for body in &bodies[1..] {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        posted_at.push(Instant::now());
        writer.post_update(&target, body.clone()).await?;
    }
    let reads =
        tokio::time::timeout(PATIENCE, all(tasks)).await.map_err(|_| "some readers did not get it all")??;
    let cpu = cpu.read();
    let end = reads.iter().flatten().map(|read| read.at).max().unwrap_or(start);
    let latencies = Latencies::of(reads.iter().flatten().flat_map(|read| {
        (read.from..=read.sequence).map(|sequence| read.at - posted_at[(sequence - first - 1) as usize])
    }));
    Ok(Delivered { took: end - start, latencies, cpu })
}

/// Reads up to the sequence `last`, which must come without a hole.
async fn read(
    address: SocketAddr,
    document: String,
    number: usize,
    ready: Arc<Barrier>,
    last: u64,
) -> Result<Vec<Read>, Failure> {
    let uri = uri(&document, format_args!("events?client_id=reader-{number}"));
    let mut events = Connection::open(address).await?.events(&uri).await?;
    let (mut known, _) = events.sync().await?;
    let mut reads = Vec::with_capacity((last - known) as usize);
    ready.wait().await;
    while known < last {
        match events.next().await? {
            Event::Update { from, sequence } if from == known + 1 => {
                reads.push(Read { from, sequence, at: Instant::now() });
                known = sequence;
            }
            Event::Other => {}
            event => return Err(format!("after {known} came {event:?}").into()),
        }
    }
    Ok(reads)
}
