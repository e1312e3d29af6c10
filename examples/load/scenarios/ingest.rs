//! Writers in a closed loop, each posting its next keystroke as soon as the last one is acknowledged.
//!
//! In turn with the same loop against a bare handler, so that what the machine does besides meets both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hyper::Uri;
use tokio::sync::Barrier;

use crate::client::Connection;
use crate::figures::{Bound, Latencies, Report, median};
use crate::process::{Launcher, Server};
use crate::typist::Typist;
use crate::{Common, Failure, StoreKind};

use super::{CpuMeter, CpuUsed, all, microseconds_each, uri};

/// More than any run gets through; a writer that runs out of keystrokes ends the run early.
const UPDATES_PER_SECOND_MAX: f64 = 40_000.0;
/// Of a run's time, not counted.
const WARM_UP_SHARE: f64 = 0.2;

#[derive(Args, Default)]
pub struct Options {
    /// Connections, each with one post under way [default: 256].
    #[arg(long)]
    pub writers: Option<usize>,
    /// Documents that the writers are spread over [default: one for each writer].
    #[arg(long)]
    pub documents: Option<usize>,
    /// Runs against each of the two servers [default: 5].
    #[arg(long)]
    pub runs: Option<usize>,
    /// Seconds that each run is measured for [default: 3].
    #[arg(long)]
    pub seconds: Option<f64>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let writers = common.choose(options.writers, 256, 8);
    let documents = options.documents.unwrap_or(writers).clamp(1, writers);
    let runs = common.choose(options.runs, 5, 1).max(1);
    let seconds = common.choose(options.seconds, 3.0, 0.5);
    let mut report = Report::new(
        "ingest",
        format!(
            "{writers} writers, {documents} documents, {runs} runs of {seconds} s, each after a bare one"
        ),
    );

    let server = launcher.start().await?;
    let bare = launcher.start_bare().await?;
    let mut team = Team::new(writers, documents);
    let (mut bare_runs, mut runs_done) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        team.prepare(seconds);
        bare_runs.push(closed_loop(&bare, &team, seconds).await?);
        let run = closed_loop(&server, &team, seconds).await?;
        team.advance(&run);
        runs_done.push(run);
    }

    let ratios: Vec<f64> = runs_done.iter().zip(&bare_runs).map(|(run, bare)| run.rate / bare.rate).collect();
    let rate = median(runs_done.iter().map(|run| run.rate));
    let bare_rate = median(bare_runs.iter().map(|run| run.rate));
    let judged = writers == 256 && common.store == StoreKind::Sqlite;
    report.add("updates acknowledged, median", rate, "/s");
    report.add("bare handler, median", bare_rate, "/s");
    report.add_bounded(
        "ingest / bare, of medians",
        rate / bare_rate,
        "",
        judged.then_some(Bound::AtLeast(0.5)),
    );
    for (index, ratio) in ratios.iter().enumerate() {
        report.add(format!("ingest / bare, pair {}", index + 1), *ratio, "");
    }
    add_run_figures(&mut report, "post to ack", "update", &runs_done);
    add_run_figures(&mut report, "bare post to answer", "bare request", &bare_runs);
    report.add_known("server resident", server.resident_bytes().map(|bytes| bytes / super::MEBIBYTE), "MiB");
    bare.end().await?;
    server.end().await?;
    Ok(report)
}

pub fn add_run_figures(report: &mut Report, latency: &str, unit_of_work: &str, runs: &[Run]) {
    report.add(
        format!("{latency}, p50"),
        median(runs.iter().map(|run| run.latencies.milliseconds(0.5))),
        "ms",
    );
    report.add(
        format!("{latency}, p99"),
        median(runs.iter().map(|run| run.latencies.milliseconds(0.99))),
        "ms",
    );
    let each = |seconds: fn(&CpuUsed) -> Option<f64>| {
        let used: Option<Vec<f64>> =
            runs.iter().map(|run| microseconds_each(seconds(&run.cpu), run.latencies.count())).collect();
        used.map(median)
    };
    report.add_known(format!("server CPU per {unit_of_work}"), each(|cpu| cpu.server), "us");
    report.add_known(format!("load's CPU per {unit_of_work}"), each(|cpu| cpu.own), "us");
}

/// Writers whose documents go on from run to run.
pub struct Team(Vec<Writer>);

struct Writer {
    typist: Typist,
    uri: Uri,
    /// Keystrokes that were not posted yet.
    bodies: Arc<Vec<Bytes>>,
}

impl Team {
    pub fn new(writers: usize, documents: usize) -> Self {
        let writer = |number| Writer {
            typist: Typist::new(number),
            uri: uri(&format!("ingest-{}", number % documents), "updates"),
            bodies: Arc::default(),
        };
        Self((0..writers).map(writer).collect())
    }

    /// Makes sure that everybody has keystrokes enough for a run.
    pub fn prepare(&mut self, seconds: f64) {
        let updates = UPDATES_PER_SECOND_MAX * seconds * (1.0 + WARM_UP_SHARE);
        let each = (updates / self.0.len() as f64).ceil() as usize;
        for Writer { typist, bodies, .. } in &mut self.0 {
            let missing = each.saturating_sub(bodies.len());
            let mut more = Vec::clone(bodies);
            more.extend(typist.keys(missing));
            *bodies = Arc::new(more);
        }
    }

    /// Forgets what was posted: a later keystroke builds on it, and is the next one to post.
    pub fn advance(&mut self, run: &Run) {
        for (writer, posted) in self.0.iter_mut().zip(&run.posted) {
            writer.bodies = Arc::new(writer.bodies[*posted..].to_vec());
        }
    }
}

pub struct Run {
    pub rate: f64,
    pub latencies: Latencies,
    pub cpu: CpuUsed,
    /// How many keystrokes each writer has posted, those of the warm-up too.
    posted: Vec<usize>,
}

/// One answer: when it came after the start, and how long it took.
struct Answered {
    at: Duration,
    took: Duration,
}

/// Everybody posts through the warm-up and for `seconds`; only the latter count.
pub async fn closed_loop(server: &Server, team: &Team, seconds: f64) -> Result<Run, Failure> {
    let writers = team.0.len();
    let ready = Arc::new(Barrier::new(writers + 1));
    let warm_up = Duration::from_secs_f64(seconds * WARM_UP_SHARE);
    let end = warm_up + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = team
        .0
        .iter()
        .map(|Writer { uri, bodies, .. }| {
            tokio::spawn(write(server.address, uri.clone(), bodies.clone(), ready.clone(), end))
        })
        .collect();
    if tokio::time::timeout(Duration::from_secs(30), ready.wait()).await.is_err() {
        all(tasks).await?;
        return Err("not every writer could connect in time".into());
    }
    let start = tokio::time::Instant::now();
    tokio::time::sleep_until(start + warm_up).await;
    let cpu = CpuMeter::start(server);
    tokio::time::sleep_until(start + end).await;
    let cpu = cpu.read();
    let answered = all(tasks).await?;
    // Should someone have run out of keystrokes, what came after that is no full load.
    let end = answered
        .iter()
        .zip(&team.0)
        .filter(|(answered, writer)| answered.len() == writer.bodies.len())
        .filter_map(|(answered, _)| answered.last())
        .map(|last| last.at)
        .fold(end, Duration::min);
    let posted = answered.iter().map(Vec::len).collect();
    let counted = answered.iter().flatten().filter(|answer| answer.at >= warm_up && answer.at < end);
    let latencies = Latencies::of(counted.map(|answer| answer.took));
    let rate = latencies.count() as f64 / end.saturating_sub(warm_up).as_secs_f64();
    Ok(Run { rate, latencies, cpu, posted })
}

async fn write(
    address: std::net::SocketAddr,
    uri: Uri,
    bodies: Arc<Vec<Bytes>>,
    ready: Arc<Barrier>,
    end: Duration,
) -> Result<Vec<Answered>, Failure> {
    let mut connection = Connection::open(address).await?;
    let mut answered = Vec::with_capacity(bodies.len());
    ready.wait().await;
    let start = Instant::now();
    let mut asked_at = Duration::ZERO;
    for body in &*bodies {
        connection.post(&uri, body.clone()).await?;
        let at = start.elapsed();
        answered.push(Answered { at, took: at - asked_at });
        asked_at = at;
        if at >= end {
            break;
        }
    }
    Ok(answered)
}
