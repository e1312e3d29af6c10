//! Reads the settings and runs the server until it is told to stop, or does what a command says.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};
use promptgrimoire::auth;
use promptgrimoire::auth::access::Access;
use promptgrimoire::auth::keys::Algorithm;
use promptgrimoire::auth::mint::{self, Order};
use promptgrimoire::document::job;
use promptgrimoire::ids::DocumentId;
use promptgrimoire::sandbox::helper;
use promptgrimoire::settings::Settings;
use promptgrimoire::transfer::Selection;
use promptgrimoire::{server, telemetry, transfer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The system's allocator makes threads wait for each other where one gives back what another has taken, as every update
/// here does: with it, half of an update's system calls are for that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The settings cannot be used.
const EXIT_SETTINGS: u8 = 2;
/// The server could not start or was told twice to stop.
const EXIT_FAILED: u8 = 1;

/// Keeps shared Yjs documents in step over plain HTTP.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file; settings.toml, if there is one, when left out.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Subcommand)]
enum Command {
    /// Writes documents with all their history as JSON lines. The server must not be running: it has /export.
    Export {
        /// Only this document.
        #[arg(long, value_name = "ID", conflicts_with = "prefix")]
        document: Option<DocumentId>,
        /// Only documents whose id begins so.
        #[arg(long, default_value = "")]
        prefix: String,
        /// Where to; standard output when left out.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Makes a token, for trying out, that a server with the same settings takes.
    Token {
        /// Who it is for.
        #[arg(long, value_name = "USER")]
        sub: String,
        /// What it gives, as pattern=access; several times for several. Access is read, write or admin.
        #[arg(long, value_name = "PATTERN=ACCESS", required = true, value_parser = mint::parse_right)]
        docs: Vec<(String, Access)>,
        /// How long it lasts: 90s, 30m, 1h, 7d.
        #[arg(long, default_value = "1h", value_name = "TIME")]
        ttl: jiff::SignedDuration,
        /// The private key as a PEM file; not for HS256, whose secret is in the settings.
        #[arg(long, value_name = "FILE")]
        private_key: Option<PathBuf>,
    },
    /// Works on documents for a server, which starts it.
    #[command(hide = true)]
    Helper {
        #[arg(long)]
        memory_bytes: u64,
        #[arg(long)]
        job_seconds: u64,
    },
    /// Reads what `export` wrote. Documents that exist are left as they are. A running server has /import.
    Import {
        /// Where from; standard input when left out.
        #[arg(value_name = "FILE")]
        input: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Helper { memory_bytes, job_seconds }) = arguments.command {
        let job_time_max = Duration::from_secs(job_seconds);
        let limits = helper::Limits { memory_bytes_max: memory_bytes, job_time_max };
        return match helper::serve(limits, job::work) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(EXIT_FAILED, &error),
        };
    }
    let settings = match Settings::load(arguments.config.as_deref(), std::env::vars_os()) {
        Ok(mut settings) => {
            settings.helper_program = own_program();
            settings
        }
        Err(error) => return fail(EXIT_SETTINGS, &error),
    };
    if let Err(error) = telemetry::start(&settings.log) {
        return fail(EXIT_SETTINGS, &format!("log.level: {error}"));
    }
    // Thousands of streams need as many files; where the system allows no more, it stays as it is.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_FAILED, &error),
    };
    let done = match arguments.command {
        None => runtime.block_on(serve(settings)),
        Some(command) => runtime.block_on(carry_out(&settings, command)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILED, &*error),
    }
}

/// This program, to be started again: on Linux the very file that runs, also when it was replaced meanwhile.
fn own_program() -> Option<PathBuf> {
    if cfg!(target_os = "linux") { Some("/proc/self/exe".into()) } else { std::env::current_exe().ok() }
}

fn fail(code: u8, error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("promptgrimoire: {error}");
    ExitCode::from(code)
}

async fn serve(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listeners = server::bind(&settings).await?;
    let shutdown = CancellationToken::new();
    let mut running = std::pin::pin!(server::run(settings, listeners, shutdown.clone()));
    tokio::select! {
        result = running.as_mut() => return Ok(result?),
        () = received(&mut signals) => shutdown.cancel(),
    }
    tokio::select! {
        result = running.as_mut() => Ok(result?),
        () = received(&mut signals) => Err("told twice to stop: ended at once".into()),
    }
}

/// Prints a token.
fn token(
    settings: &Settings,
    order: &Order,
    private_key: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error>> {
    let Some(algorithm) = settings.auth.algorithm else {
        return Err("settings: `auth.algorithm` is missing: without it nobody takes tokens".into());
    };
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| at(path, &error));
    let key = match (private_key, &settings.auth.key, &settings.auth.key_file) {
        (Some(path), _, _) => read(path)?,
        (None, Some(secret), _) if algorithm == Algorithm::Hs256 => secret.expose().to_owned(),
        (None, _, Some(path)) if algorithm == Algorithm::Hs256 => {
            read(path)?.trim_end_matches(['\n', '\r']).to_owned()
        }
        _ => return Err(format!("--private-key is missing: {} is signed with one", algorithm.name()).into()),
    };
    let id = format!("{:032x}", rand::random::<u128>());
    println!("{}", mint::mint(order, algorithm, &key, &id, auth::seconds(SystemTime::now()))?);
    Ok(())
}

async fn carry_out(settings: &Settings, command: Command) -> Result<(), Box<dyn std::error::Error>> {
    let (outcome, done) = match command {
        Command::Export { document, prefix, output } => {
            let selection = document.map_or(Selection::Prefix(prefix), Selection::One);
            let outcome = match &output {
                Some(path) => {
                    let mut file = BufWriter::new(File::create(path).map_err(|error| at(path, &error))?);
                    let outcome = transfer::export(settings, selection, &mut file).await?;
                    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
                    outcome
                }
                None => transfer::export(settings, selection, &mut BufWriter::new(std::io::stdout())).await?,
            };
            (outcome, "exported")
        }
        // Done before any settings are read.
        Command::Helper { .. } => return Ok(()),
        Command::Import { input } => {
            let outcome = match &input {
                Some(path) => {
                    let mut file = BufReader::new(File::open(path).map_err(|error| at(path, &error))?);
                    transfer::import(settings, &mut file).await?
                }
                None => transfer::import(settings, &mut BufReader::new(std::io::stdin())).await?,
            };
            (outcome, "imported")
        }
        Command::Token { sub, docs, ttl, private_key } => {
            let order = Order {
                user: sub,
                rights: docs,
                life: ttl.unsigned_abs(),
                issuer: settings.auth.issuer.clone(),
                audience: settings.auth.audience.clone(),
            };
            return token(settings, &order, private_key.as_deref());
        }
    };
    for (document, reason) in &outcome.left_out {
        eprintln!("left out `{document}`: {reason}");
    }
    eprintln!("{done} {} documents", outcome.documents);
    if outcome.left_out.is_empty() {
        Ok(())
    } else {
        Err(format!("{} documents were left out", outcome.left_out.len()).into())
    }
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

async fn received((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
