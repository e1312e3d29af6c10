//! The servers under load: started as children, looked at through /proc, and ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Common, Failure, StoreKind, parse_url};

/// The clock in which Linux counts a process's CPU time for users, whatever the kernel's own runs at.
const TICKS_PER_SECOND: f64 = 100.0;
const PROGRAM: &str = "promptgrimoire";
/// How long a server may take until it listens, or until it is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Knows how to start a server.
pub struct Launcher {
    /// A server that runs already.
    running: Option<(SocketAddr, Option<u32>)>,
    program: PathBuf,
    store: StoreKind,
    directories: PathBuf,
}

impl Launcher {
    /// Builds the server first where cargo runs us: a figure of yesterday's program misleads.
    pub fn new(common: &Common) -> Result<Self, Failure> {
        let ourselves = std::env::current_exe()?;
        // target/<profile>/examples/load
        let profile =
            ourselves.parent().and_then(Path::parent).ok_or("this program lies nowhere")?.to_owned();
        let directories = common.directory.clone().unwrap_or_else(|| profile.clone());
        let running = match &common.url {
            Some(url) => Some((parse_url(url)?, common.pid)),
            None => None,
        };
        let program = common.server.clone().unwrap_or_else(|| profile.join(PROGRAM));
        if common.server.is_none() && running.is_none() {
            build(&profile)?;
        }
        if !program.exists() && running.is_none() {
            return Err(
                format!("there is no {}: build it, or name one with --server", program.display()).into()
            );
        }
        Ok(Self { running, program, store: common.store, directories })
    }

    /// Whether the server is one that we did not start, and so cannot start again.
    pub fn is_foreign(&self) -> bool {
        self.running.is_some()
    }

    pub async fn start(&self) -> Result<Server, Failure> {
        if let Some((address, pid)) = self.running {
            return Ok(Server { child: None, address, pid, data: None, command: None });
        }
        let data = self.directory()?;
        let url = match self.store {
            StoreKind::Sqlite => format!("sqlite:{}", data.path().join("store").display()),
            StoreKind::Memory => "memory".into(),
        };
        let launch = Launch { program: self.program.clone(), directory: data.path().to_owned(), store: url };
        let (child, address) = spawn(launch.command()).await?;
        let pid = child.id();
        Ok(Server { child: Some(child), address, pid, data: Some(data), command: Some(launch) })
    }

    /// The bare handler of `baseline`, in a process of its own.
    pub async fn start_bare(&self) -> Result<Server, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve-bare");
        let (child, address) = spawn(command).await?;
        let pid = child.id();
        Ok(Server { child: Some(child), address, pid, data: None, command: None })
    }

    /// A new directory on the disk where the server's data goes; removed when dropped.
    pub fn directory(&self) -> Result<TempDir, Failure> {
        Ok(tempfile::Builder::new().prefix("load-").tempdir_in(&self.directories)?)
    }
}

fn build(profile: &Path) -> Result<(), Failure> {
    let Some(cargo) = std::env::var_os("CARGO") else { return Ok(()) };
    let mut command = std::process::Command::new(cargo);
    command.args(["build", "--quiet", "--bin", PROGRAM, "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    if profile.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    if command.status()?.success() { Ok(()) } else { Err("the server could not be built".into()) }
}

struct Launch {
    program: PathBuf,
    directory: PathBuf,
    store: String,
}

impl Launch {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            // Where there is no settings.toml: the defaults are measured.
            .current_dir(&self.directory)
            .env("PROMPTGRIMOIRE_PORT", "0")
            .env("PROMPTGRIMOIRE__STORE__URL", &self.store)
            // All clients are on one machine here.
            .env("PROMPTGRIMOIRE__LIMITS__MAX_CONNECTIONS_PER_ADDRESS", "1000000")
            .env("PROMPTGRIMOIRE__LOG__LEVEL", "warn");
        command
    }
}

/// Starts a server and waits for the line that names its address.
async fn spawn(mut command: Command) -> Result<(Child, SocketAddr), Failure> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().ok_or("a piped output is there to be taken")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .map_err(|_| "the server did not start in time")??
        .ok_or("the server ended before it listened")?;
    let url = line.strip_prefix("listening on ").ok_or_else(|| format!("unexpected: {line}"))?;
    Ok((child, parse_url(url)?))
}

/// A server that runs; ours are killed when dropped, and their data is removed.
pub struct Server {
    child: Option<Child>,
    pub address: SocketAddr,
    pid: Option<u32>,
    command: Option<Launch>,
    // After the child, which writes there until it is gone.
    data: Option<TempDir>,
}

impl Server {
    /// Tells it to stop, waits, and starts it again on the same data.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        let launch = self.command.as_ref().ok_or("only a server of our own can be started again")?;
        if let Some(mut child) = self.child.take() {
            let pid = child.id().ok_or("the server is gone already")?;
            // The standard library can only kill.
            let told = Command::new("kill").arg("-TERM").arg(pid.to_string()).status().await?;
            if !told.success() {
                return Err("the server could not be told to stop".into());
            }
            tokio::time::timeout(PATIENCE, child.wait()).await.map_err(|_| "the server did not stop")??;
        }
        let (child, address) = spawn(launch.command()).await?;
        self.pid = child.id();
        self.child = Some(child);
        self.address = address;
        Ok(())
    }

    /// Ends it and waits until it is gone, so that it does not disturb what is measured next.
    pub async fn end(mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        drop(self.data.take());
        Ok(())
    }

    /// CPU seconds that it has used, its own and the kernel's for it.
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.pid?)
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<f64> {
        status_bytes(self.pid?, "VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn resident_bytes_peak(&self) -> Option<f64> {
        status_bytes(self.pid?, "VmHWM:")
    }
}

/// CPU seconds of this very process: what the load itself cost.
pub fn own_cpu_seconds() -> Option<f64> {
    cpu_seconds(std::process::id())
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks and parentheses; what follows has neither.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn status_bytes(pid: u32, key: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}
