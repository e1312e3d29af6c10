//! What can be set, from `settings.toml` and then from the environment.
//!
//! `PROMPTGRIMOIRE_PORT` is the port; `PROMPTGRIMOIRE__SECTION__KEY` is any key. What is unknown or
//! impossible stops the start with one line that names the key.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};
use serde::Deserialize;

/// Read where it exists, when no file is named.
const DEFAULT_FILE: &str = "settings.toml";
const PORT_VARIABLE: &str = "PROMPTGRIMOIRE_PORT";
const VARIABLE_PREFIX: &str = "PROMPTGRIMOIRE__";

/// 1 PiB: no machine has more.
const HELPER_MEMORY_MIB_MAX: u64 = 1 << 30;
/// Nobody waits longer for an answer.
const HELPER_SECONDS_MAX: f64 = 3600.0;

/// Why the settings cannot be used: one line that names the key.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings: {0}")]
    Unreadable(String),
    #[error("settings: unknown key `{0}`")]
    UnknownKey(String),
    #[error("settings: `{key}` {problem}")]
    Impossible { key: &'static str, problem: String },
}

/// All settings. Each key's meaning, unit and default stand in `settings.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub server: Server,
    pub store: Store,
    pub documents: Documents,
    pub history: History,
    pub limits: Limits,
    pub auth: Auth,
    pub log: Log,
    /// This program, which helpers are processes of. Nothing that can be set: `main` knows. `None`: no helpers.
    #[serde(skip)]
    pub helper_program: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub heartbeat_seconds: u64,
    pub drain_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: 8080, heartbeat_seconds: 10, drain_seconds: 10 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Store {
    pub url: StoreUrl,
}

impl Default for Store {
    fn default() -> Self {
        Self { url: StoreUrl::Sqlite("data".into()) }
    }
}

/// `sqlite:<directory>` or `memory`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum StoreUrl {
    Sqlite(PathBuf),
    Memory,
}

impl TryFrom<String> for StoreUrl {
    type Error = String;

    fn try_from(raw: String) -> Result<Self, String> {
        match raw.split_once(':') {
            None if raw == "memory" => Ok(Self::Memory),
            Some(("sqlite", directory)) if !directory.is_empty() => Ok(Self::Sqlite(directory.into())),
            _ => Err("`store.url` must be `sqlite:<directory>` or `memory`".into()),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Documents {
    pub idle_seconds: u64,
    pub memory_mib: usize,
    pub helper_seconds: f64,
    pub helper_memory_mib: u64,
}

impl Default for Documents {
    fn default() -> Self {
        Self { idle_seconds: 60, memory_mib: 1024, helper_seconds: 10.0, helper_memory_mib: 1024 }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct History {
    pub keep_updates: u64,
    pub keep_days: u32,
    pub collect_deleted: bool,
}

impl Default for History {
    fn default() -> Self {
        Self { keep_updates: 10_000, keep_days: 30, collect_deleted: false }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub max_update_bytes: usize,
    pub max_document_bytes: usize,
    pub max_awareness_bytes: usize,
    pub max_connections: usize,
    pub max_streams: usize,
    pub stalled_seconds: u64,
    pub header_seconds: u64,
    pub body_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_update_bytes: 1 << 20,
            max_document_bytes: 64 << 20,
            max_awareness_bytes: 64 << 10,
            max_connections: 20_000,
            max_streams: 15_000,
            stalled_seconds: 30,
            header_seconds: 10,
            body_seconds: 30,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Auth {
    pub mode: AuthMode,
    pub allow_anonymous: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    #[default]
    None,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Reads `file` (or `settings.toml` where it exists), then `environment`, and checks the result.
    ///
    /// # Errors
    /// A file that is missing or no TOML, an unknown key, an impossible value.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let unreadable = |error: config::ConfigError| SettingsError::Unreadable(one_line(&error.to_string()));
        let mut builder = Config::builder();
        builder = match file {
            Some(file) => builder.add_source(File::from(file).format(FileFormat::Toml)),
            None => builder.add_source(File::new(DEFAULT_FILE, FileFormat::Toml).required(false)),
        };
        for (name, value) in environment {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            let key = if name == PORT_VARIABLE {
                "server.port".to_owned()
            } else if let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) {
                rest.to_ascii_lowercase().replace("__", ".")
            } else {
                continue;
            };
            builder = builder.set_override(&key, value).map_err(|_| {
                SettingsError::UnknownKey(format!("{key}` (from {name})").trim_end_matches('`').into())
            })?;
        }
        let config = builder.build().map_err(unreadable)?;
        let mut unknown = None;
        let settings: Self = serde_ignored::deserialize(config, |path| {
            unknown.get_or_insert_with(|| path.to_string());
        })
        .map_err(unreadable)?;
        if let Some(key) = unknown {
            return Err(SettingsError::UnknownKey(key));
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        at_least("server.heartbeat_seconds", self.server.heartbeat_seconds, 1)?;
        at_least("documents.memory_mib", self.documents.memory_mib as u64, 1)?;
        let memory_mib = self.documents.helper_memory_mib;
        if !(1..=HELPER_MEMORY_MIB_MAX).contains(&memory_mib) {
            let problem = format!("is {memory_mib}; it must be 1 to {HELPER_MEMORY_MIB_MAX}");
            return Err(SettingsError::Impossible { key: "documents.helper_memory_mib", problem });
        }
        let seconds = self.documents.helper_seconds;
        if !(seconds > 0.0 && seconds <= HELPER_SECONDS_MAX) {
            let problem = format!("is {seconds}; it must be over 0, and {HELPER_SECONDS_MAX} at the most");
            return Err(SettingsError::Impossible { key: "documents.helper_seconds", problem });
        }
        at_least("history.keep_updates", self.history.keep_updates, 1)?;
        at_least("history.keep_days", u64::from(self.history.keep_days), 1)?;
        let limits = &self.limits;
        at_least("limits.max_update_bytes", limits.max_update_bytes as u64, 64)?;
        at_least("limits.max_document_bytes", limits.max_document_bytes as u64, 64)?;
        at_least("limits.max_awareness_bytes", limits.max_awareness_bytes as u64, 64)?;
        at_least("limits.max_connections", limits.max_connections as u64, 1)?;
        at_least("limits.max_streams", limits.max_streams as u64, 1)?;
        at_least("limits.stalled_seconds", limits.stalled_seconds, 1)?;
        at_least("limits.header_seconds", limits.header_seconds, 1)?;
        at_least("limits.body_seconds", limits.body_seconds, 1)?;
        for directive in self.log.level.split(',') {
            let level = directive.rsplit('=').next().unwrap_or(directive).trim();
            if level.parse::<tracing::level_filters::LevelFilter>().is_err() {
                let problem =
                    format!("names no level in `{directive}`: off, error, warn, info, debug or trace");
                return Err(SettingsError::Impossible { key: "log.level", problem });
            }
        }
        let loopback = self.server.host == "localhost"
            || self.server.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.auth.mode == AuthMode::None && !loopback && !self.auth.allow_anonymous {
            return Err(SettingsError::Impossible {
                key: "server.host",
                problem: format!(
                    "is `{}`, which others can reach, while `auth.mode` is `none`; \
                     set `auth.allow_anonymous = true` if everybody may read and write everything",
                    self.server.host
                ),
            });
        }
        Ok(())
    }
}

fn at_least(key: &'static str, given: u64, least: u64) -> Result<(), SettingsError> {
    if given < least {
        let problem = format!("is {given}; it must be {least} at the least");
        return Err(SettingsError::Impossible { key, problem });
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
