//! Loads a server of its own with genuine Yjs traffic, and tells rates, latencies, CPU and memory.
//!
//! `cargo run --release --example load -- all` runs every scenario, with what is required beside what
//! was measured. Times depend on the machine and on what else it does: only figures of one invocation
//! should be compared, which is why `ingest` brings its own baseline, measured in turn with it.
//!
//! Everything stays on the loopback interface, is bounded in time, and cleans up behind itself.

mod client;
mod figures;
mod process;
mod scenarios;
mod typist;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::figures::Report;
use crate::process::Launcher;
use crate::scenarios::{baseline, fanout, idle, ingest, join, rooms};

/// What anything here can fail with: it is told, and that is the end.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Loads a server and tells rates, latencies, CPU and memory.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

/// What every scenario takes.
#[derive(Args, Clone)]
struct Common {
    /// Use this running server, http://127.0.0.1:PORT, in place of one of our own.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// The process of the server that --url names, for its CPU and memory.
    #[arg(long, global = true, requires = "url")]
    pid: Option<u32>,
    /// Where the server keeps its documents.
    #[arg(long, global = true, value_enum, default_value_t = StoreKind::Sqlite)]
    store: StoreKind,
    /// The server's program; built and taken from the target directory when left out.
    #[arg(long, global = true, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Where data directories are made; the target directory when left out, since the system's own
    /// directory for such things is often in memory, where syncing costs nothing.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Tiny numbers: whether it works, in a few seconds. The figures mean nothing.
    #[arg(long, global = true)]
    quick: bool,
    /// One JSON object on standard output in place of text.
    #[arg(long, global = true)]
    json: bool,
    /// Give up after so many seconds.
    #[arg(long, global = true, default_value_t = 900)]
    limit_seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    Sqlite,
    Memory,
}

#[derive(Subcommand)]
enum Scenario {
    /// A bare handler under the load of `ingest`, and a bare loop of durable writes.
    Baseline(baseline::Options),
    /// Writers in a closed loop, in turn with the bare handler.
    Ingest(ingest::Options),
    /// One writer, many readers of its document.
    Fanout(fanout::Options),
    /// Many documents with a stream and paced typists each.
    Rooms(rooms::Options),
    /// Late joiners of a long document, and large documents opened cold.
    Join(join::Options),
    /// Streams on which nothing happens.
    Idle(idle::Options),
    /// Everything, with what is required.
    All,
    /// The bare handler, as a process of its own.
    #[command(hide = true)]
    ServeBare,
}

impl Common {
    /// A number that was given, or the usual one, or the tiny one of --quick.
    fn choose<T>(&self, given: Option<T>, usual: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { usual })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Thousands of connections need as many files; where the system allows no more, opening them tells.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let limit = Duration::from_secs(arguments.common.limit_seconds);
    let json = arguments.common.json;
    let quick = arguments.common.quick;
    let done = runtime.block_on(async {
        tokio::select! {
            reports = run(arguments) => reports,
            () = tokio::time::sleep(limit) => Err("gave up: --limit-seconds are over".into()),
            // Returning drops what runs, and that ends the children and removes their data.
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    });
    match done {
        Ok(reports) => {
            if json {
                println!("{}", figures::to_json(&reports, !quick));
            } else if reports.len() > 1 {
                figures::print_bounds(&reports, quick);
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&*error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("load: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> Result<Vec<Report>, Failure> {
    let common = arguments.common;
    if matches!(arguments.scenario, Scenario::ServeBare) {
        return baseline::serve().await.map(|()| Vec::new());
    }
    let launcher = Launcher::new(&common)?;
    let mut reports = Vec::new();
    let mut tell = |report: Report| {
        if !common.json {
            report.print(!common.quick);
        }
        reports.push(report);
    };
    match &arguments.scenario {
        Scenario::Baseline(options) => tell(baseline::run(&common, &launcher, options).await?),
        Scenario::Ingest(options) => tell(ingest::run(&common, &launcher, options).await?),
        Scenario::Fanout(options) => tell(fanout::run(&common, &launcher, options).await?),
        Scenario::Rooms(options) => tell(rooms::run(&common, &launcher, options).await?),
        Scenario::Join(options) => tell(join::run(&common, &launcher, options).await?),
        Scenario::Idle(options) => tell(idle::run(&common, &launcher, options).await?),
        Scenario::All => {
            tell(baseline::run(&common, &launcher, &baseline::Options::default()).await?);
            tell(ingest::run(&common, &launcher, &ingest::Options::default()).await?);
            tell(fanout::run(&common, &launcher, &fanout::Options::default()).await?);
            tell(rooms::run(&common, &launcher, &rooms::Options::default()).await?);
            tell(idle::run(&common, &launcher, &idle::Options::default()).await?);
            tell(join::run(&common, &launcher, &join::Options::default()).await?);
        }
        Scenario::ServeBare => unreachable!("served above"),
    }
    Ok(reports)
}

/// The address in `http://127.0.0.1:PORT`, if it is on the loopback interface.
fn parse_url(url: &str) -> Result<SocketAddr, Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let address: SocketAddr = rest.replace("localhost", "127.0.0.1").parse()?;
    if !address.ip().is_loopback() {
        return Err(format!("{address} is not on the loopback interface, and nothing else is loaded").into());
    }
    Ok(address)
}
