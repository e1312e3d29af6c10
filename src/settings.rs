//! What can be set, from `settings.toml` and then from the environment.
//!
//! `PROMPTGRIMOIRE_PORT` is the port; `PROMPTGRIMOIRE__SECTION__KEY` is any key. What is unknown or
//! impossible stops the start with one line that names the key.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config::{Config, File, FileFormat};
use ipnet::IpNet;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};

use crate::auth::keys::{Algorithm, Secret};
use crate::http::rates;

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
    pub tls: Tls,
    pub admin: Admin,
    pub store: Store,
    pub documents: Documents,
    pub history: History,
    pub limits: Limits,
    pub auth: Auth,
    pub rates: rates::Settings,
    pub cors: Cors,
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
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    pub heartbeat_seconds: u64,
    pub drain_seconds: u64,
    pub trusted_proxies: Networks,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8080,
            hosts: Vec::new(),
            heartbeat_seconds: 10,
            drain_seconds: 10,
            trusted_proxies: Networks::default(),
        }
    }
}

/// Networks such as `10.0.0.0/8`, or single addresses: a list, or one text with commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Texts")]
pub struct Networks(pub Vec<IpNet>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<String> for Networks {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Texts::One(text).try_into()
    }
}

impl TryFrom<Texts> for Networks {
    type Error = String;

    fn try_from(texts: Texts) -> Result<Self, String> {
        let texts = match texts {
            Texts::One(text) => text.split(',').map(|text| text.trim().to_owned()).collect(),
            Texts::Many(texts) => texts,
        };
        let parse = |text: &String| {
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let network = text.parse().ok().or_else(address);
            network.ok_or_else(|| {
                format!("`server.trusted_proxies` must be networks such as 10.0.0.0/8, and `{text}` is none")
            })
        };
        texts.iter().filter(|text| !text.is_empty()).map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Both or none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Tls {
    #[serde(deserialize_with = "path_unless_empty")]
    pub certificate: Option<PathBuf>,
    #[serde(deserialize_with = "path_unless_empty")]
    pub key: Option<PathBuf>,
}

fn path_unless_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Admin {
    pub host: String,
    /// `None`: no listener of its own.
    pub port: Option<u16>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { host: "127.0.0.1".into(), port: None }
    }
}

/// A text that says nothing counts as left out.
fn filled<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| T::deserialize(text.into_deserializer())).transpose()
}

/// A list, or what the environment has in its place: texts with commas between them.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Given::deserialize(deserializer)? {
        Given::List(list) => list,
        Given::Text(text) => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        }
    })
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
    pub max_connections_per_address: usize,
    pub http2_streams: u32,
    pub max_streams: usize,
    pub max_streams_per_user: usize,
    pub max_streams_per_address: usize,
    pub max_streams_per_document: usize,
    pub max_presence_entries: usize,
    pub max_waiting_writes: usize,
    pub max_waiting_mib: usize,
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
            max_connections_per_address: 1000,
            http2_streams: 100,
            max_streams: 15_000,
            max_streams_per_user: 100,
            max_streams_per_address: 2_000,
            max_streams_per_document: 10_000,
            max_presence_entries: 1_000,
            max_waiting_writes: 16_384,
            max_waiting_mib: 256,
            stalled_seconds: 30,
            header_seconds: 10,
            body_seconds: 30,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Auth {
    pub mode: AuthMode,
    #[serde(deserialize_with = "filled")]
    pub algorithm: Option<Algorithm>,
    #[serde(deserialize_with = "filled")]
    pub key: Option<Secret>,
    #[serde(deserialize_with = "filled")]
    pub key_file: Option<PathBuf>,
    #[serde(deserialize_with = "filled")]
    pub jwks: Option<String>,
    pub jwks_refresh_seconds: u64,
    #[serde(deserialize_with = "filled")]
    pub issuer: Option<String>,
    #[serde(deserialize_with = "filled")]
    pub audience: Option<String>,
    pub max_token_seconds: u64,
    pub allow_anonymous: bool,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            algorithm: None,
            key: None,
            key_file: None,
            jwks: None,
            jwks_refresh_seconds: 300,
            issuer: None,
            audience: None,
            max_token_seconds: 0,
            allow_anonymous: false,
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Cors {
    #[serde(deserialize_with = "list")]
    pub origins: Vec<String>,
    pub credentials: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    #[default]
    None,
    Jwt,
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
        for (key, here, other, there) in [
            ("tls.key", &self.tls.key, "tls.certificate", &self.tls.certificate),
            ("tls.certificate", &self.tls.certificate, "tls.key", &self.tls.key),
        ] {
            if here.is_none() && there.is_some() {
                let problem = format!("is missing, while `{other}` is set");
                return Err(SettingsError::Impossible { key, problem });
            }
        }
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
        let per_address = limits.max_connections_per_address as u64;
        at_least("limits.max_connections_per_address", per_address, 1)?;
        at_least("limits.http2_streams", u64::from(limits.http2_streams), 1)?;
        at_least("limits.max_streams", limits.max_streams as u64, 1)?;
        at_least("limits.stalled_seconds", limits.stalled_seconds, 1)?;
        at_least("limits.header_seconds", limits.header_seconds, 1)?;
        at_least("limits.body_seconds", limits.body_seconds, 1)?;
        at_least("limits.max_streams_per_user", limits.max_streams_per_user as u64, 1)?;
        at_least("limits.max_streams_per_address", limits.max_streams_per_address as u64, 1)?;
        at_least("limits.max_streams_per_document", limits.max_streams_per_document as u64, 1)?;
        at_least("limits.max_waiting_writes", limits.max_waiting_writes as u64, 1)?;
        let one_write = (limits.max_update_bytes.max(limits.max_document_bytes) >> 20) as u64 + 1;
        at_least("limits.max_waiting_mib", limits.max_waiting_mib as u64, 2 * one_write)?;
        at_least("rates.burst_seconds", u64::from(self.rates.burst_seconds), 1)?;
        at_least("limits.max_presence_entries", limits.max_presence_entries as u64, 1)?;
        for directive in self.log.level.split(',') {
            let level = directive.rsplit('=').next().unwrap_or(directive).trim();
            if level.parse::<tracing::level_filters::LevelFilter>().is_err() {
                let problem =
                    format!("names no level in `{directive}`: off, error, warn, info, debug or trace");
                return Err(SettingsError::Impossible { key: "log.level", problem });
            }
        }
        self.check_auth()?;
        self.check_cors()?;
        let admin = self.admin.port.map(|_| ("admin.host", &self.admin.host));
        for (key, host) in std::iter::once(("server.host", &self.server.host)).chain(admin) {
            if self.auth.mode == AuthMode::None && !is_loopback(host) && !self.auth.allow_anonymous {
                return Err(SettingsError::Impossible {
                    key,
                    problem: format!(
                        "is `{host}`, which others can reach, while `auth.mode` is `none`; \
                         set `auth.allow_anonymous = true` if everybody may read and write everything"
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Settings {
    fn check_auth(&self) -> Result<(), SettingsError> {
        let auth = &self.auth;
        at_least("auth.jwks_refresh_seconds", auth.jwks_refresh_seconds, 10)?;
        let given = [
            ("auth.key", auth.key.is_some()),
            ("auth.key_file", auth.key_file.is_some()),
            ("auth.jwks", auth.jwks.is_some()),
        ];
        let given: Vec<&'static str> =
            given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if auth.mode == AuthMode::None {
            return match given.first() {
                Some(key) => {
                    impossible(key, "is given while `auth.mode` is `none`, which asks for no tokens")
                }
                None => Ok(()),
            };
        }
        if auth.algorithm.is_none() {
            return impossible("auth.algorithm", "is missing: HS256, ES256, EdDSA or RS256");
        }
        match given[..] {
            [_] => {}
            [] => {
                return impossible(
                    "auth.key",
                    "is missing, and so are `auth.key_file` and `auth.jwks`: one is needed",
                );
            }
            [_, second, ..] => {
                return impossible(second, "is given beside another key; there can be one only");
            }
        }
        if auth.algorithm == Some(Algorithm::Hs256) && auth.jwks.is_some() {
            return impossible("auth.jwks", "is a set of public keys, and HS256 takes a secret");
        }
        if auth.jwks.as_deref().is_some_and(|jwks| jwks.contains("://") && jwks.contains('@')) {
            // Addresses are told where they fail.
            return impossible("auth.jwks", "has a user or a password in it: a key set is public");
        }
        if let Some(address) = auth.jwks.as_deref().filter(|jwks| jwks.starts_with("http://")) {
            let host = address.trim_start_matches("http://").split(['/', ':']).next().unwrap_or_default();
            if !matches!(host, "127.0.0.1" | "localhost") {
                return impossible(
                    "auth.jwks",
                    "must be https: whoever is between could give us keys of their own",
                );
            }
        }
        if auth.allow_anonymous {
            return impossible(
                "auth.allow_anonymous",
                "is true while `auth.mode` is `jwt`, which lets in nobody without a token",
            );
        }
        Ok(())
    }

    fn check_cors(&self) -> Result<(), SettingsError> {
        let Cors { origins, credentials } = &self.cors;
        if origins.iter().any(|origin| origin == "*") {
            if origins.len() > 1 {
                return impossible("cors.origins", "has `*` among others; it stands alone, or not at all");
            }
            if *credentials {
                return impossible(
                    "cors.credentials",
                    "cannot be true for every origin (`*`): name those that may",
                );
            }
        }
        let is_origin = |origin: &String| {
            let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            origin == "*"
                || authority.is_some_and(|authority| !authority.is_empty() && !authority.contains('/'))
        };
        match origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => impossible(
                "cors.origins",
                &format!("has `{origin}`, which is no origin like `https://app.example.org`"),
            ),
            None => Ok(()),
        }
    }
}

fn impossible(key: &'static str, problem: &str) -> Result<(), SettingsError> {
    Err(SettingsError::Impossible { key, problem: problem.to_owned() })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
