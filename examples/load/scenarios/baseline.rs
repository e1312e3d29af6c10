//! What the machine does at best: a handler that only reads and writes JSON, and a file that is only synced.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use warp::Filter;

use crate::figures::{Latencies, Report, median};
use crate::process::Launcher;
use crate::{Common, Failure};

use super::ingest::{Team, add_run_figures, closed_loop};

/// About what one keystroke takes in a log, with what belongs to it.
const RECORD: [u8; 100] = [b'.'; 100];

#[derive(Args, Default)]
pub struct Options {
    /// Connections, each with one post under way [default: 256].
    #[arg(long)]
    writers: Option<usize>,
    /// Runs [default: 3].
    #[arg(long)]
    runs: Option<usize>,
    /// Seconds that each run is measured for [default: 3].
    #[arg(long)]
    seconds: Option<f64>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let writers = common.choose(options.writers, 256, 8);
    let runs = common.choose(options.runs, 3, 1).max(1);
    let seconds = common.choose(options.seconds, 3.0, 0.5);
    let mut report = Report::new("baseline", format!("{writers} writers, {runs} runs of {seconds} s"));

    let bare = launcher.start_bare().await?;
    let mut team = Team::new(writers, writers);
    team.prepare(seconds);
    let mut bare_runs = Vec::new();
    for _ in 0..runs {
        bare_runs.push(closed_loop(&bare, &team, seconds).await?);
    }
    bare.end().await?;
    report.add("bare handler, median", median(bare_runs.iter().map(|run| run.rate)), "/s");
    add_run_figures(&mut report, "bare post to answer", "bare request", &bare_runs);

    let directory = launcher.directory()?;
    let path = directory.path().join("log");
    let window = Duration::from_secs_f64(seconds);
    let syncs = tokio::task::spawn_blocking(move || synced_appends(&path, window)).await??;
    report.add("durable writes, one after the other", syncs.count() as f64 / seconds, "/s");
    report.add_latencies("durable write", &syncs);
    Ok(report)
}

/// Appends records, each synced before the next.
fn synced_appends(path: &Path, window: Duration) -> Result<Latencies, Failure> {
    let mut file = File::create_new(path)?;
    let start = Instant::now();
    let mut latencies = Vec::new();
    while start.elapsed() < window {
        let before = Instant::now();
        file.write_all(&RECORD)?;
        file.sync_data()?;
        latencies.push(before.elapsed());
    }
    Ok(Latencies::of(latencies))
}

/// What `ingest` posts, read and left alone.
#[derive(Deserialize)]
struct Posted {
    update: String,
    client_id: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    epoch: &'static str,
    seq: usize,
    changed: bool,
}

/// Serves the bare handler until it is killed.
pub async fn serve() -> Result<(), Failure> {
    let handler = warp::path!("docs" / String / "updates").and(warp::post()).and(warp::body::json()).map(
        |document: String, posted: Posted| {
            let seq =
                document.len() + posted.update.len() + posted.client_id.map_or(0, |client| client.len());
            warp::reply::json(&Answer { epoch: "k3f9x2ab", seq, changed: true })
        },
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    warp::serve(handler).incoming(listener).run().await;
    Ok(())
}
