//! The real binary as a process of its own, which can be killed.

use std::ffi::OsStr;
use std::io::{PipeReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use super::certificate::{certificate_file, key_file};
use super::secrets;
use super::{Client, DEADLINE, within_deadline};

/// What a start is given beyond the usual, for the next start too.
struct How {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// A running server that dies with the test.
pub struct Process {
    pub address: SocketAddr,
    /// A client without a name that asks this server.
    pub client: Client,
    child: Running,
    stdout: BufReader<ChildStdout>,
    /// After `child`: when that is gone, this ends.
    log: Log,
    how: How,
    /// After `child`: cleared away when nobody writes there any more.
    directory: TempDir,
}

/// A child that is gone when this is.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.start_kill();
        let deadline = Instant::now() + DEADLINE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// Standard error, collected as it comes: whoever does not read a pipe stops the writer.
struct Log(Option<JoinHandle<String>>);

impl Log {
    fn reading(mut pipe: PipeReader) -> Self {
        Self(Some(std::thread::spawn(move || {
            let mut log = Vec::new();
            let _ = pipe.read_to_end(&mut log);
            String::from_utf8_lossy(&log).into_owned()
        })))
    }

    /// All of it; the child has ended, or will soon.
    fn take_all(&mut self) -> String {
        let Some(reading) = self.0.take() else { return String::new() };
        let log = reading.join().expect("a pipe can be read");
        if !std::thread::panicking() {
            secrets::check_nothing_is_told(&log);
        }
        log
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.take_all();
    }
}

impl Process {
    /// Starts on a free port, with its documents in a directory of its own.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// `variables`: settings in the environment, such as `PROMPTGRIMOIRE__SERVER__DRAIN_SECONDS`.
    pub async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_with_arguments(&[], variables).await
    }

    pub async fn start_with_arguments(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made");
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        Self::launch(directory, How { arguments: arguments.collect(), variables: variables.collect() }).await
    }

    /// Over TLS with the files of `certificates`. Its `client` speaks in clear text, and is not heard.
    pub async fn start_with_tls(certificates: &Path, variables: &[(&str, &str)]) -> Self {
        let (certificate, key) = (certificate_file(certificates), key_file(certificates));
        let path = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
        let (certificate, key) = (path(&certificate), path(&key));
        let mut all = vec![
            ("PROMPTGRIMOIRE__TLS__CERTIFICATE", certificate.as_str()),
            ("PROMPTGRIMOIRE__TLS__KEY", key.as_str()),
        ];
        all.extend(variables);
        Self::start_with(&all).await
    }

    async fn launch(directory: TempDir, how: How) -> Self {
        for (_, key) in how.variables.iter().filter(|(name, _)| name == "PROMPTGRIMOIRE__AUTH__KEY") {
            secrets::keep_secret(key);
        }
        let mut command = command(directory.path());
        command
            .args(&how.arguments)
            .env("PROMPTGRIMOIRE_PORT", "0")
            .env("PROMPTGRIMOIRE__STORE__URL", store_url(directory.path()))
            .env("PROMPTGRIMOIRE__LOG__LEVEL", secrets::LEVEL)
            .envs(how.variables.iter().map(|(name, value)| (name, value)));
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        command.stderr(writer);
        let mut child = Running(command.spawn().expect("the binary starts"));
        // With it goes our own end for writing: the log ends when the child does.
        drop(command);
        let mut log = Log::reading(reader);
        let mut stdout = BufReader::new(child.0.stdout.take().expect("standard output is a pipe"));
        let mut line = String::new();
        within_deadline("line that names the address", stdout.read_line(&mut line))
            .await
            .expect("standard output can be read");
        let announced = line.trim_end().strip_prefix("listening on http");
        let announced = announced.map(|rest| rest.strip_prefix('s').unwrap_or(rest));
        let Some(address) = announced.and_then(|rest| rest.strip_prefix("://")) else {
            drop(child);
            panic!("the binary did not say where it listens: {line:?} {}", log.take_all());
        };
        let address = address.parse().expect("an address with its port");
        Self { address, client: Client::new(address), child, stdout, log, how, directory }
    }

    /// Where the documents are.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn id(&self) -> u32 {
        self.child.0.id().expect("the process was not waited for yet")
    }

    /// SIGKILL: no chance to do anything more. Returns when the process is gone.
    pub async fn kill(&mut self) {
        self.child.0.start_kill().expect("the process runs");
        self.ended().await;
    }

    /// SIGTERM: the request to stop. Returns at once.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// SIGHUP: the request to read again what can be read again.
    pub fn hang_up(&self) {
        self.signal(libc::SIGHUP);
    }

    fn signal(&self, signal: libc::c_int) {
        let id = i32::try_from(self.id()).expect("process ids are small");
        // SAFETY: sends a signal to a child that was not waited for, so the id is still its own.
        let sent = unsafe { libc::kill(id, signal) };
        assert_eq!(sent, 0, "the signal can be sent");
    }

    /// Where the listener for operations is: the line after the one that names the address.
    pub async fn admin_address(&mut self) -> SocketAddr {
        let mut line = String::new();
        within_deadline("line that names the admin address", self.stdout.read_line(&mut line))
            .await
            .expect("standard output can be read");
        let address = line.trim_end().strip_prefix("admin listening on http://");
        address
            .unwrap_or_else(|| panic!("no admin address: {line:?}"))
            .parse()
            .expect("an address with its port")
    }

    /// Waits until the process has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within_deadline("end of the process", self.child.0.wait()).await.expect("a child can be waited for")
    }

    /// What the process wrote on standard output after the line that names its address, once it has ended.
    pub async fn rest_of_output(&mut self) -> String {
        let mut rest = String::new();
        within_deadline("end of standard output", self.stdout.read_to_string(&mut rest))
            .await
            .expect("standard output is UTF-8");
        rest
    }

    /// What the process logged, once it has ended.
    pub fn logged(mut self) -> String {
        self.log.take_all()
    }

    /// Starts again on the same documents, on another port, after the process has ended.
    pub async fn restart(mut self) -> Self {
        assert!(self.child.0.try_wait().expect("a child can be asked").is_some(), "the process has ended");
        Self::launch(self.directory, self.how).await
    }
}

/// Runs the binary to its end, in `directory`: for starts that must fail.
pub async fn run_to_its_end(
    directory: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    variables: &[(&str, &str)],
) -> Output {
    let mut command = command(directory);
    command.args(arguments).envs(variables.iter().copied());
    within_deadline("end of a start that must fail", command.output()).await.expect("the binary starts")
}

/// `store.url` for documents under `directory`.
pub fn store_url(directory: &Path) -> String {
    format!("sqlite:{}", directory.join("data").display())
}

/// The binary in `directory`, without any settings of the machine, and gone when this test is.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_promptgrimoire"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PROMPTGRIMOIRE")) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: one system call that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command
}
