//! Who may do what.
//!
//! Credentials are what a request says of its caller, unchecked. The `Authenticator` turns them into a `Caller`, and a
//! caller is granted access to a document or is not: a `Grant` is the proof, only this module makes one, and the
//! registry hands out nothing without one.
//!
//! Invariants:
//! - the algorithm is the operator's choice, never the token's;
//! - what was revoked grants nothing from the moment at which that is known, tokens seen before included;
//! - a denial says the same of documents that exist and of those that do not.
//!
//! Elsewhere: where credentials stand in a request (`http::credentials`), when streams end (`http::tenure`), where
//! revocations are kept (`store`).

pub mod access;
pub mod grant;
pub mod keys;
pub mod mint;
pub mod revocations;
pub mod tickets;
pub mod token;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::grant::{Bearer, Caller};
use self::keys::{Algorithm, KeyError, KeyRing, Secret, Source};
use self::revocations::Revocations;
use self::tickets::{Tickets, TooMany};
use self::token::{BadToken, Demands};

/// Tokens that were found good and need no second look at their signature. At 300 bytes each they take 3 MB.
const CHECKED_TOKENS_MAX: usize = 10_000;
/// How often a file with keys is looked at.
const WATCH: Duration = Duration::from_secs(2);
/// An unknown key has the key set fetched, but not more often than this.
const FETCH_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How tokens are checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub algorithm: Algorithm,
    pub source: Source,
    pub demands: Demands,
}

/// What a request says of its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    None,
    Token(Secret),
    Ticket(Secret),
    /// Something that is no token, and says why.
    Unusable(&'static str),
}

/// The request does not say who asks, or not in a way that is believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("a token is needed: `Authorization: Bearer`, or `?ticket=` for an event stream")]
    Missing,
    #[error(transparent)]
    BadToken(#[from] BadToken),
    #[error("the ticket is not known: it is good once, for 30 s")]
    BadTicket,
    #[error("{0}")]
    Unusable(&'static str),
}

/// Finds out who asks.
pub struct Authenticator {
    rule: Rule,
    revocations: Arc<Revocations>,
    tickets: Tickets,
}

enum Rule {
    /// Everybody may do everything.
    Open,
    Tokens(Box<Verifier>),
}

struct Verifier {
    keys: KeyRing,
    demands: Demands,
    /// By SHA-256, so that no token is kept.
    checked: Cache<[u8; 32], Arc<Bearer>>,
    /// When a key that was not known had the key set fetched.
    fetched: Mutex<Option<Instant>>,
}

impl Authenticator {
    /// Asks nobody who they are.
    pub fn open(revocations: Arc<Revocations>) -> Self {
        Self { rule: Rule::Open, revocations, tickets: Tickets::default() }
    }

    /// Asks everybody for a token.
    ///
    /// # Errors
    /// There are no keys to be had.
    pub async fn demanding_tokens(
        settings: Settings,
        revocations: Arc<Revocations>,
    ) -> Result<Self, KeyError> {
        let Settings { algorithm, source, demands } = settings;
        let keys = KeyRing::open(algorithm, source).await?;
        let (checked, fetched) = (Cache::new(CHECKED_TOKENS_MAX), Mutex::new(None));
        let rule = Rule::Tokens(Box::new(Verifier { keys, demands, checked, fetched }));
        Ok(Self { rule, revocations, tickets: Tickets::default() })
    }

    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// # Errors
    /// `Unauthorized`.
    pub async fn identify(&self, credentials: &Credentials, now: SystemTime) -> Result<Caller, Unauthorized> {
        let Rule::Tokens(verifier) = &self.rule else { return Ok(Caller::anyone()) };
        let caller = match credentials {
            Credentials::None => return Err(Unauthorized::Missing),
            Credentials::Unusable(reason) => return Err(Unauthorized::Unusable(reason)),
            Credentials::Token(token) => {
                let bearer = verifier.check(token.expose(), seconds(now)).await?;
                Caller::known(bearer, self.revocations.clone())
            }
            Credentials::Ticket(ticket) => {
                self.tickets.redeem(ticket.expose(), Instant::now()).ok_or(Unauthorized::BadTicket)?
            }
        };
        if let Some(bearer) = caller.bearer() {
            self.check_still_good(bearer, now)?;
        }
        Ok(caller)
    }

    /// Whether a token that was good is so still.
    ///
    /// # Errors
    /// `Expired`, `Revoked`.
    fn check_still_good(&self, bearer: &Bearer, now: SystemTime) -> Result<(), BadToken> {
        token::check_expiry(bearer, seconds(now))?;
        if self.revocations.refuse(bearer) { Err(BadToken::Revoked) } else { Ok(()) }
    }

    /// A ticket that stands for the caller's token.
    ///
    /// # Errors
    /// `TooMany`.
    pub fn issue_ticket(&self, caller: &Caller) -> Result<String, TooMany> {
        self.tickets.issue(caller, rand::random(), Instant::now())
    }

    /// Reads the keys again, as whoever has replaced them asks for.
    pub async fn reload_keys(&self) {
        if let Rule::Tokens(verifier) = &self.rule {
            verifier.reload().await;
        }
    }

    /// Takes up new keys as they appear, until `stopping`.
    pub async fn watch_keys(&self, stopping: CancellationToken) {
        let Rule::Tokens(verifier) = &self.rule else { return };
        let period = verifier.keys.refresh().unwrap_or(WATCH);
        let mut modified = verifier.keys.modified();
        while stopping.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
            let found = verifier.keys.modified();
            if verifier.keys.refresh().is_some() || found != modified {
                modified = found;
                verifier.reload().await;
            }
        }
    }
}

impl Verifier {
    async fn check(&self, token: &str, now: i64) -> Result<Arc<Bearer>, BadToken> {
        if token.len() > token::TOKEN_BYTES_MAX {
            return Err(BadToken::TooLong);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(bearer) = self.checked.get(&digest) {
            token::check_expiry(&bearer, now)?;
            return Ok(bearer);
        }
        let keys = self.keys.now();
        let checked = match token::check(token, &keys, &self.demands, now) {
            Err(BadToken::UnknownKey) if self.keys.refresh().is_some() => {
                // The issuer may have begun to sign with another key just now.
                // Boxed: every request would have room for it.
                Box::pin(self.fetch_again()).await;
                token::check(token, &self.keys.now(), &self.demands, now)
            }
            checked => checked,
        };
        let bearer = Arc::new(checked?);
        // Keys that were replaced meanwhile have emptied the cache: what they signed must not return to it.
        if Arc::ptr_eq(&keys, &self.keys.now()) {
            self.checked.insert(digest, bearer.clone());
        }
        Ok(bearer)
    }

    async fn fetch_again(&self) {
        // Whoever comes while it is fetched waits for that, and then finds it fresh.
        let mut fetched = self.fetched.lock().await;
        if fetched.is_none_or(|at| at.elapsed() >= FETCH_AGAIN_AFTER) {
            self.reload().await;
            *fetched = Some(Instant::now());
        }
    }

    async fn reload(&self) {
        match self.keys.reload().await {
            Ok(()) => {
                self.checked.clear();
                info!("took up the keys for tokens anew");
            }
            Err(error) => warn!(%error, "the keys for tokens stay as they are: {error}"),
        }
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
