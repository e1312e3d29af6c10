//! Streams on which nothing happens: what each takes in memory.

use std::time::Duration;

use clap::Args;

use crate::client::{Connection, Events};
use crate::figures::{Bound, Report};
use crate::process::{Launcher, Server};
use crate::typist::Typist;
use crate::{Common, Failure};

use super::{CpuMeter, MEBIBYTE, all, microseconds_each, uri};

/// How many connections are being opened at a time.
const OPENING: usize = 100;

#[derive(Args, Default)]
pub struct Options {
    /// Streams [default: 5000].
    #[arg(long)]
    streams: Option<usize>,
    /// Documents that they are spread over [default: one for each, and then one for all].
    #[arg(long)]
    documents: Option<usize>,
    /// Seconds for which the streams are left alone [default: 12].
    #[arg(long)]
    seconds: Option<f64>,
}

pub async fn run(common: &Common, launcher: &Launcher, options: &Options) -> Result<Report, Failure> {
    let streams = common.choose(options.streams, 5000, 50);
    let seconds = common.choose(options.seconds, 12.0, 0.5);
    let mut report = Report::new("idle", format!("{streams} streams, left alone for {seconds} s"));
    let counts = match options.documents {
        Some(documents) => vec![(documents.clamp(1, streams), true), (documents.clamp(1, streams), false)],
        None => vec![(streams, true), (streams, false), (1, true)],
    };
    for (documents, is_written) in counts {
        let name = match (documents, is_written) {
            (1, _) => "one document".to_owned(),
            (count, true) => format!("{count} documents"),
            (count, false) => format!("{count} documents never written"),
        };
        let server = launcher.start().await?;
        // What is there once and for all, threads and buffers, should be there before.
        drop(open(&server, "warm-up", 100.min(streams), 10, true).await?);
        tokio::time::sleep(Duration::from_secs_f64((seconds / 4.0).min(2.0))).await;
        let before = server.resident_bytes();
        let opened = open(&server, "idle", streams, documents, is_written).await?;
        let cpu = CpuMeter::start(&server);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let cpu = cpu.read();
        if let (Some(before), Some(after)) = (before, server.resident_bytes()) {
            let each = (after - before) / streams as f64 / 1e3;
            report.add_bounded(format!("{name}: memory per stream"), each, "KB", Some(Bound::Below(20.0)));
            report.add(format!("{name}: resident"), after / MEBIBYTE, "MiB");
        }
        let per_second = microseconds_each(cpu.server, streams as u64).map(|each| each / seconds);
        report.add_known(format!("{name}: server CPU per stream and second"), per_second, "us");
        drop(opened);
        server.end().await?;
    }
    Ok(report)
}

async fn open(
    server: &Server,
    name: &str,
    streams: usize,
    documents: usize,
    is_written: bool,
) -> Result<Vec<Events>, Failure> {
    let address = server.address;
    if is_written {
        let mut connection = Connection::open(address).await?;
        for number in 0..documents {
            let body = Typist::new(number).key();
            connection.post_update(&uri(&format!("{name}-{number}"), "updates"), body).await?;
        }
    }
    let mut opened = Vec::with_capacity(streams);
    let mut numbers = (0..streams).peekable();
    while numbers.peek().is_some() {
        let opening = numbers.by_ref().take(OPENING).map(|number| {
            let uri = uri(
                &format!("{name}-{}", number % documents),
                format_args!("events?client_id=reader-{number}"),
            );
            tokio::spawn(async move {
                let mut events = Connection::open(address).await?.events(&uri).await?;
                events.sync().await?;
                Ok(events)
            })
        });
        opened.extend(all(opening.collect()).await?);
    }
    Ok(opened)
}
