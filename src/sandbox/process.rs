//! A helper as the server sees it: a child that is given jobs and can be killed.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tracing::debug;

use super::Settings;
use super::helper::{ANSWER, BEGUN, READY};

/// How long a helper may take to start, or to be gone once it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of what a helper says on standard error is kept, from its end.
const LAST_WORDS_BYTES: usize = 512;
/// Signals that somebody sends to end a program, as a service manager does to all of a service's processes.
const TOLD_TO_END: [i32; 3] = [1, 2, 15];

/// The allocator gives back what it does not use, since address space is what counts: that saves a quarter of it.
const ALLOCATOR_VARIABLE: &str = "_RJEM_MALLOC_CONF";
const ALLOCATOR_OPTIONS: &str = "retain:false,narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0";

/// When a helper broke off.
pub enum Broken {
    BeforeItBegan,
    Since,
}

/// How a helper ended.
pub struct End {
    /// Somebody wanted it to.
    pub was_told_to: bool,
    pub detail: String,
}

pub struct Process {
    child: Child,
    jobs: ChildStdin,
    answers: ChildStdout,
    /// Ends with what it has said last.
    listening: JoinHandle<String>,
    answer_bytes_max: u64,
    jobs_done: u32,
}

impl Process {
    /// Starts a helper and waits until it says that it is ready.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn start(program: &Path, settings: &Settings) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg0(env!("CARGO_PKG_NAME"))
            .arg("helper")
            .arg(format!("--memory-bytes={}", settings.memory_bytes_max))
            .arg(format!("--job-seconds={}", settings.time_max.as_secs() + 1))
            .env_clear()
            .env(ALLOCATOR_VARIABLE, ALLOCATOR_OPTIONS)
            .current_dir("/")
            // What a terminal sends to the server is not for the helper.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let piped = || io::Error::other("a helper has no pipes");
        let jobs = child.stdin.take().ok_or_else(piped)?;
        let answers = child.stdout.take().ok_or_else(piped)?;
        let listening = tokio::spawn(listen(child.stderr.take().ok_or_else(piped)?));
        let answer_bytes_max = settings.memory_bytes_max;
        let mut process = Self { child, jobs, answers, listening, answer_bytes_max, jobs_done: 0 };
        match tokio::time::timeout(PATIENCE, process.answers.read_u8()).await {
            Ok(Ok(READY)) => {
                debug!(process.id = process.child.id(), "started a helper");
                Ok(process)
            }
            _ => {
                process.kill().await;
                let detail = process.end().await.detail;
                Err(io::Error::other(format!("a helper did not start: {detail}")))
            }
        }
    }

    /// Has a job done. After an error, or when this is not waited for to its end, the helper is of no use any more.
    pub async fn run(&mut self, job: &[u8]) -> Result<Bytes, Broken> {
        // The helper says nothing before it has read all of it, so neither waits for the other.
        let given = async {
            self.jobs.write_u64_le(job.len() as u64).await?;
            self.jobs.write_all(job).await?;
            self.jobs.flush().await
        };
        given.await.map_err(|_gone| Broken::BeforeItBegan)?;
        match self.answers.read_u8().await {
            Ok(BEGUN) => {}
            _ => return Err(Broken::BeforeItBegan),
        }
        let answer = async {
            if self.answers.read_u8().await? != ANSWER {
                return Err(io::Error::other("it is no answer"));
            }
            // What has run into a trap may say anything.
            let length = self.answers.read_u64_le().await?;
            if length > self.answer_bytes_max {
                return Err(io::Error::other("the answer is too long"));
            }
            let mut answer = Vec::new();
            (&mut self.answers).take(length).read_to_end(&mut answer).await?;
            if answer.len() as u64 == length { Ok(answer) } else { Err(io::Error::other("it broke off")) }
        };
        let answer = answer.await.map_err(|_broken| Broken::Since)?;
        self.jobs_done += 1;
        Ok(answer.into())
    }

    pub fn jobs_done(&self) -> u32 {
        self.jobs_done
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, which helps against everything; also where the process is stopped.
    pub async fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.start_kill();
        let _ = tokio::time::timeout(PATIENCE, self.child.wait()).await;
    }

    /// How it ended, after it has broken off. Asked once.
    pub async fn end(&mut self) -> End {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let Ok(Ok(status)) = ended else {
            self.kill().await;
            return End { was_told_to: false, detail: "it said something else than an answer".into() };
        };
        let was_told_to = status.signal().is_some_and(|signal| TOLD_TO_END.contains(&signal));
        let last_words = tokio::time::timeout(PATIENCE, &mut self.listening).await;
        let detail = match last_words {
            Ok(Ok(last_words)) if !last_words.is_empty() => format!("{status}: {last_words}"),
            _ => status.to_string(),
        };
        End { was_told_to, detail }
    }
}

/// Keeps the end of what a helper says, as one line and without what Rust advises.
async fn listen(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut piece = [0; LAST_WORDS_BYTES];
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        kept.extend_from_slice(&piece[..length]);
        let surplus = kept.len().saturating_sub(LAST_WORDS_BYTES);
        kept.drain(..surplus);
    }
    let kept = String::from_utf8_lossy(&kept);
    let said = kept.split("note: run with `RUST_BACKTRACE").next().unwrap_or_default();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}
