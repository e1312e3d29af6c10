//! Reads the settings, binds, and runs the server until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use promptgrimoire::settings::Settings;
use promptgrimoire::{server, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The settings cannot be used.
const EXIT_SETTINGS: u8 = 2;
/// The server could not start or was told twice to stop.
const EXIT_FAILED: u8 = 1;

/// Keeps shared Yjs documents in step over plain HTTP.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The settings file; settings.toml, if there is one, when left out.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let settings = match Settings::load(arguments.config.as_deref(), std::env::vars_os()) {
        Ok(settings) => settings,
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
    match runtime.block_on(serve(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILED, &*error),
    }
}

fn fail(code: u8, error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    eprintln!("promptgrimoire: {error}");
    ExitCode::from(code)
}

async fn serve(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = server::bind(&settings).await?;
    let shutdown = CancellationToken::new();
    let mut running = std::pin::pin!(server::run(settings, listener, shutdown.clone()));
    tokio::select! {
        result = running.as_mut() => return Ok(result?),
        () = received(&mut signals) => shutdown.cancel(),
    }
    tokio::select! {
        result = running.as_mut() => Ok(result?),
        () = received(&mut signals) => Err("told twice to stop: ended at once".into()),
    }
}

async fn received((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
