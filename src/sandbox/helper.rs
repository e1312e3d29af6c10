//! The helper's own side: it takes jobs from standard input and writes their answers on standard output.
//!
//! A job is its length, eight bytes with the lowest first, and so many bytes. For each the helper writes `BEGUN` and,
//! when it is done, `ANSWER` and the answer in the same form. Before the first it writes `READY`.
//!
//! One thread does the jobs and the main thread reads, so that the end of the input is noticed in the middle of a job
//! too: then the server is gone, and so is the helper.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rlimit::Resource;

use super::{Work, time_for};
use crate::metrics::process::processor_seconds;

pub const READY: u8 = b'R';
pub const BEGUN: u8 = b'B';
pub const ANSWER: u8 = b'A';

/// As much as the server's threads have: what gets by here gets by there too.
const STACK_BYTES: usize = 2 << 20;
/// Files that may be open: the three that it is given, and one to look at its own time.
const FILES_MAX: u64 = 8;
/// A panic: the server sees the process end, and reads why on its standard error.
const EXIT_PANICKED: i32 = 101;

/// What a helper allows itself.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Address space, all in all.
    pub memory_bytes_max: u64,
    /// Processor time of a small job. The server looks at the clock; this is for when the server cannot.
    pub job_time_max: Duration,
}

/// Does jobs until standard input ends, and ends the process then.
///
/// # Errors
/// The limits cannot be set, or the pipes are broken.
pub fn serve(limits: Limits, work: Work) -> io::Result<()> {
    rlimit::setrlimit(Resource::AS, limits.memory_bytes_max, limits.memory_bytes_max)?;
    rlimit::setrlimit(Resource::NOFILE, FILES_MAX, FILES_MAX)?;
    rlimit::setrlimit(Resource::FSIZE, 0, 0)?;
    rlimit::setrlimit(Resource::CORE, 0, 0)?;
    let (jobs, inbox) = mpsc::sync_channel::<Vec<u8>>(0);
    let doing = move || {
        while let Ok(job) = inbox.recv() {
            if answer(&job, limits, work).is_err() {
                // Nobody is there to read it.
                std::process::exit(0);
            }
        }
    };
    thread::Builder::new().name("jobs".into()).stack_size(STACK_BYTES).spawn(doing)?;
    write(&[READY])?;
    let mut input = io::stdin().lock();
    loop {
        let mut length = [0; 8];
        match input.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => std::process::exit(0),
            read => read?,
        }
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(io::Error::other)?;
        let mut job = vec![0; length];
        input.read_exact(&mut job)?;
        jobs.send(job).map_err(io::Error::other)?;
    }
}

fn answer(job: &[u8], limits: Limits, work: Work) -> io::Result<()> {
    if let Some(used) = processor_seconds() {
        // Counted from the start of the process on, so it moves with every job.
        let until = Duration::from_secs_f64(used) + 2 * time_for(job.len(), limits.job_time_max);
        rlimit::setrlimit(Resource::CPU, until.as_secs() + 1, rlimit::INFINITY)?;
    }
    write(&[BEGUN])?;
    let Ok(answer) = catch_unwind(AssertUnwindSafe(|| work(job))) else {
        std::process::exit(EXIT_PANICKED);
    };
    let mut output = io::stdout().lock();
    output.write_all(&[ANSWER])?;
    output.write_all(&(answer.len() as u64).to_le_bytes())?;
    output.write_all(&answer)?;
    output.flush()
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()
}
