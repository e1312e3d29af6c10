//! What can be measured; each scenario is a module.

pub mod baseline;
pub mod fanout;
pub mod idle;
pub mod ingest;
pub mod join;
pub mod rooms;

use std::fmt::Display;

use hyper::Uri;

use crate::Failure;
use crate::process::{Server, own_cpu_seconds};

/// The address of part of a document, as a request names it.
fn uri(document: &str, rest: impl Display) -> Uri {
    format!("/docs/{document}/{rest}").parse().expect("it is made of characters that a URI may have")
}

/// The CPU time that the server and the load use between two moments.
struct CpuMeter<'a> {
    server: &'a Server,
    server_before: Option<f64>,
    own_before: Option<f64>,
}

/// CPU time in seconds.
pub struct CpuUsed {
    server: Option<f64>,
    own: Option<f64>,
}

impl<'a> CpuMeter<'a> {
    fn start(server: &'a Server) -> Self {
        Self { server, server_before: server.cpu_seconds(), own_before: own_cpu_seconds() }
    }

    fn read(&self) -> CpuUsed {
        let since = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
        CpuUsed {
            server: since(self.server.cpu_seconds(), self.server_before),
            own: since(own_cpu_seconds(), self.own_before),
        }
    }
}

/// Microseconds of `seconds` for each of `count`.
fn microseconds_each(seconds: Option<f64>, count: u64) -> Option<f64> {
    seconds.map(|seconds| seconds * 1e6 / count.max(1) as f64)
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Awaits every task; the first failure is the result.
async fn all<T: 'static>(tasks: Vec<tokio::task::JoinHandle<Result<T, Failure>>>) -> Result<Vec<T>, Failure> {
    let mut results = Vec::with_capacity(tasks.len());
    let mut failed = None;
    for task in tasks {
        if failed.is_some() {
            task.abort();
            continue;
        }
        match task.await {
            Ok(Ok(result)) => results.push(result),
            Ok(Err(error)) => failed = Some(error),
            Err(error) => failed = Some(error.into()),
        }
    }
    failed.map_or(Ok(results), Err)
}
