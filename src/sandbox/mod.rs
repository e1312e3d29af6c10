//! Work that may never end, or take its process with it, done where it can be stopped.
//!
//! The CRDT library can loop for ever, run out of stack or of memory, or crash, on documents that were written for that.
//! Nothing within the process helps: a loop goes on, and a crash takes all documents along. So such work is done by
//! helpers: processes of this same program (`helper`) that have a deadline, little memory and nothing of the server's,
//! neither its files nor its environment. One that fails is killed, and the next job gets a fresh one.
//!
//! A job is bytes, and so is its answer: what they mean is `document::job`'s affair.
//!
//! Invariants:
//! - a job is blamed only for what happened after a helper had begun it;
//! - a helper does one job at a time, and is never used again after a failure;
//! - helpers end with the server, however that ends, since their standard input does.

pub mod helper;
mod process;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics;

use self::process::{Broken, Process};

/// Helpers at a time, and so jobs.
const HELPERS_MAX: usize = 2;
/// A job waits for a helper so many times as long as it may take itself.
const WAITING_FACTOR: u32 = 3;
/// For each so many bytes that it begins with, a job may take as long again: honest documents are large, too.
const BYTES_IN_TIME: usize = 16 << 20;
/// A helper is let go after so many jobs.
const JOBS_MAX: u32 = 1000;
/// And after one with so many bytes, whose memory is then given back.
const LARGE_JOB_BYTES: usize = 4 << 20;

/// Does a job and says what came of it. Any bytes may be given.
pub type Work = fn(&[u8]) -> Vec<u8>;

/// What helpers are allowed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This program, as the system finds it. `None`: there are no helpers, and jobs are done in this process, with
    /// nothing but the deadline.
    pub program: Option<PathBuf>,
    /// Address space of one helper.
    pub memory_bytes_max: u64,
    /// How long a small job may take.
    pub time_max: Duration,
}

/// Why a job has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("it was not done within {} s", .time_max.as_secs_f64())]
    TimedOut { time_max: Duration },
    #[error("the process that did it has died: {detail}")]
    Died { detail: String },
    /// Nobody has begun it.
    #[error("there is no process to do it: {reason}")]
    NotBegun { reason: String },
}

impl Failure {
    /// Whether the job may be what failed, and not what it needs.
    pub fn is_the_jobs(&self) -> bool {
        !matches!(self, Self::NotBegun { .. })
    }
}

struct Inner {
    settings: Settings,
    work: Work,
    metrics: Arc<metrics::Sandbox>,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Process>>,
}

/// The helpers. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

impl Sandbox {
    /// Starts no helper before there is a job.
    ///
    /// `work`: what is done where there are no helpers; theirs is given to `helper::serve`.
    pub fn new(settings: Settings, work: Work, metrics: Arc<metrics::Sandbox>) -> Self {
        let places = Arc::new(Semaphore::new(HELPERS_MAX));
        Self(Arc::new(Inner { settings, work, metrics, places, idle: Mutex::default() }))
    }

    /// Has a job done.
    ///
    /// # Errors
    /// `Failure`.
    pub async fn run(&self, job: Bytes) -> Result<Bytes, Failure> {
        let done = self.attempt(job).await;
        let metrics = &self.0.metrics;
        match &done {
            Ok(_) => metrics.done.inc(),
            Err(Failure::TimedOut { .. }) => metrics.timed_out.inc(),
            Err(Failure::Died { .. }) => metrics.died.inc(),
            Err(Failure::NotBegun { .. }) => metrics.not_begun.inc(),
        };
        done
    }

    async fn attempt(&self, job: Bytes) -> Result<Bytes, Failure> {
        let waiting = self.0.settings.time_max.saturating_mul(WAITING_FACTOR);
        let place = match tokio::time::timeout(waiting, self.0.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => place,
            _ => return Err(Failure::NotBegun { reason: "all helpers are busy".into() }),
        };
        let Some(program) = &self.0.settings.program else {
            return self.run_here(job, place).await;
        };
        if let Some(process) = self.take_idle() {
            match self.run_in(process, &job).await {
                // It had died before: that says nothing of the job.
                Err(Attempt::NotBegun(_)) => {}
                Err(Attempt::Failed(failure)) => return Err(failure),
                Ok(answer) => return Ok(answer),
            }
        }
        let started = Process::start(program, &self.0.settings).await;
        let process = started.map_err(|error| Failure::NotBegun { reason: error.to_string() })?;
        self.run_in(process, &job).await.map_err(|attempt| match attempt {
            Attempt::Failed(failure) => failure,
            // It was well, and then was given this.
            Attempt::NotBegun(detail) => Failure::Died { detail },
        })
    }

    async fn run_in(&self, mut process: Process, job: &[u8]) -> Result<Bytes, Attempt> {
        let time_max = time_for(job.len(), self.0.settings.time_max);
        let done = tokio::time::timeout(time_max, process.run(job)).await;
        match done {
            Ok(Ok(answer)) => {
                if process.jobs_done() < JOBS_MAX && job.len() + answer.len() < LARGE_JOB_BYTES {
                    self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
                }
                Ok(answer)
            }
            Ok(Err(broken)) => {
                let end = process.end().await;
                Err(match broken {
                    _ if end.was_told_to => {
                        Attempt::Failed(Failure::NotBegun { reason: "the helper was told to end".into() })
                    }
                    Broken::BeforeItBegan => Attempt::NotBegun(end.detail),
                    Broken::Since => Attempt::Failed(Failure::Died { detail: end.detail }),
                })
            }
            Err(_elapsed) => {
                process.kill().await;
                Err(Attempt::Failed(Failure::TimedOut { time_max }))
            }
        }
    }

    /// A helper that waits for a job, the one that was used last.
    fn take_idle(&self) -> Option<Process> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut process) = idle.pop() {
            if process.is_alive() {
                return Some(process);
            }
        }
        None
    }

    /// Without helpers: what does not end keeps its thread and its place.
    async fn run_here(&self, job: Bytes, place: OwnedSemaphorePermit) -> Result<Bytes, Failure> {
        let time_max = time_for(job.len(), self.0.settings.time_max);
        let work = self.0.work;
        let doing = tokio::task::spawn_blocking(move || {
            let _place = place;
            Bytes::from(work(&job))
        });
        match tokio::time::timeout(time_max, doing).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(panicked)) => Err(Failure::Died { detail: panicked.to_string() }),
            Err(_elapsed) => Err(Failure::TimedOut { time_max }),
        }
    }
}

/// How long a job may take.
fn time_for(job_bytes: usize, time_max: Duration) -> Duration {
    time_max.saturating_mul(1 + u32::try_from(job_bytes / BYTES_IN_TIME).unwrap_or(u32::MAX - 1))
}

/// Why one helper did not do a job.
enum Attempt {
    /// It ended before it had begun, and how.
    NotBegun(String),
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_helpers(work: Work, time_max: Duration) -> Sandbox {
        let settings = Settings { program: None, memory_bytes_max: u64::MAX, time_max };
        Sandbox::new(settings, work, Arc::default())
    }

    #[tokio::test]
    async fn without_helpers_a_panic_is_the_end_of_one_job_only() {
        let sandbox = without_helpers(
            |job| if job.is_empty() { panic!("no job") } else { job.to_vec() },
            Duration::from_secs(60),
        );
        let failed = sandbox.run(Bytes::new()).await;
        assert!(
            matches!(&failed, Err(failure @ Failure::Died { .. }) if failure.is_the_jobs()),
            "{failed:?}"
        );
        assert_eq!(sandbox.run(Bytes::from_static(b"job")).await, Ok(Bytes::from_static(b"job")));
        assert_eq!((sandbox.0.metrics.died.get(), sandbox.0.metrics.done.get()), (1, 1));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_nobodys_fault() {
        let settings = Settings {
            program: Some("/nowhere/promptgrimoire".into()),
            memory_bytes_max: 1 << 30,
            time_max: Duration::from_secs(60),
        };
        let sandbox = Sandbox::new(settings, <[u8]>::to_vec, Arc::default());
        let failed = sandbox.run(Bytes::from_static(b"job")).await.expect_err("there is no such program");
        assert!(!failed.is_the_jobs(), "{failed}");
    }
}
