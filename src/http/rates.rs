//! How much and how often somebody may write: one client, one user, one address.
//!
//! Each has a bucket that fills steadily up to its burst (the generic cell rate algorithm, by `governor`). Off where
//! nobody is asked who they are.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use serde::Deserialize;

use super::error::ApiError;

/// How much per second; 0: any amount. The section `[rates]` of the settings.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub updates_per_client: u32,
    pub updates_per_user: u32,
    pub updates_per_address: u32,
    pub bytes_per_client: u32,
    pub bytes_per_user: u32,
    pub bytes_per_address: u32,
    /// Requests of any kind.
    pub requests_per_address: u32,
    /// How many seconds' worth may come at once.
    pub burst_seconds: u32,
    /// Documents that a user may create in an hour; 0: any number.
    pub documents_per_user_hour: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            updates_per_client: 50,
            updates_per_user: 200,
            updates_per_address: 2_000,
            bytes_per_client: 1 << 20,
            bytes_per_user: 2 << 20,
            bytes_per_address: 16 << 20,
            requests_per_address: 4_000,
            burst_seconds: 10,
            documents_per_user_hour: 500,
        }
    }
}

/// A name as limits know it: its hash, under a key of this process.
pub type Key = u64;

/// The buckets of one kind of holder.
struct Buckets<K: Hash + Eq + Clone> {
    /// `None`: any amount.
    limiter: Option<Limiter<K>>,
    burst: u32,
    whose: &'static str,
    what: &'static str,
}

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

fn limiter<K: Hash + Eq + Clone>(quota: Quota) -> Limiter<K> {
    RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>()
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_second: u32, burst_seconds: u32, whose: &'static str, what: &'static str) -> Self {
        let burst = per_second.saturating_mul(burst_seconds.max(1));
        let quota = NonZeroU32::new(per_second).zip(NonZeroU32::new(burst));
        let quota = quota.map(|(rate, burst)| Quota::per_second(rate).allow_burst(burst));
        Self { limiter: quota.map(limiter), burst, whose, what }
    }

    /// Takes `amount` out of a bucket. What is more than a full one holds empties it.
    fn take(&self, key: &K, amount: usize) -> Result<(), ApiError> {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX).min(self.burst);
        let (Some(limiter), Some(amount)) = (&self.limiter, NonZeroU32::new(amount)) else { return Ok(()) };
        let taken = limiter.check_key_n(key, amount).expect("it is no more than a full bucket holds");
        taken.map(drop).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            let what = format!("{} over the limit of {} a second", self.whose, self.what);
            ApiError::TooManyRequests { what, retry_after_seconds: whole_seconds(wait) }
        })
    }

    fn forget_the_idle(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// Rounded up: whoever waits so long need not come again.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// All buckets of the server.
pub struct Rates {
    client_updates: Buckets<Key>,
    user_updates: Buckets<Key>,
    address_updates: Buckets<IpAddr>,
    client_bytes: Buckets<Key>,
    user_bytes: Buckets<Key>,
    address_bytes: Buckets<IpAddr>,
    address_requests: Buckets<IpAddr>,
    creations: Option<Limiter<Key>>,
    /// Who may create nothing more, and until when.
    spent: Mutex<HashMap<Key, Instant>>,
}

impl Rates {
    pub fn new(settings: Settings) -> Self {
        let burst = settings.burst_seconds;
        let (client, user, address) = ("this client is", "you are", "your address is");
        let (updates, bytes) = ("updates", "bytes");
        let an_hour = Duration::from_secs(60 * 60);
        let creations = NonZeroU32::new(settings.documents_per_user_hour)
            .and_then(|most| Some(Quota::with_period(an_hour / most.get())?.allow_burst(most)));
        Self {
            client_updates: Buckets::new(settings.updates_per_client, burst, client, updates),
            user_updates: Buckets::new(settings.updates_per_user, burst, user, updates),
            address_updates: Buckets::new(settings.updates_per_address, burst, address, updates),
            client_bytes: Buckets::new(settings.bytes_per_client, burst, client, bytes),
            user_bytes: Buckets::new(settings.bytes_per_user, burst, user, bytes),
            address_bytes: Buckets::new(settings.bytes_per_address, burst, address, bytes),
            address_requests: Buckets::new(settings.requests_per_address, burst, address, "requests"),
            creations: creations.map(limiter),
            spent: Mutex::default(),
        }
    }

    /// Any request.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn take_request(&self, address: IpAddr) -> Result<(), ApiError> {
        self.address_requests.take(&address, 1)
    }

    /// A request with a body of so many bytes.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn take_update(&self, user: Key, address: Option<IpAddr>, bytes: usize) -> Result<(), ApiError> {
        self.user_updates.take(&user, 1)?;
        self.user_bytes.take(&user, bytes)?;
        if let Some(address) = address {
            self.address_updates.take(&address, 1)?;
            self.address_bytes.take(&address, bytes)?;
        }
        Ok(())
    }

    /// The same, once it is known which client has sent it.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn take_client_update(&self, client: Key, bytes: usize) -> Result<(), ApiError> {
        self.client_updates.take(&client, 1)?;
        self.client_bytes.take(&client, bytes)
    }

    /// How long a user has to wait before another document can be created; `None`: not at all.
    pub fn creation_wait(&self, user: Key, now: Instant) -> Option<Duration> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let until = *spent.get(&user)?;
        if until <= now {
            spent.remove(&user);
        }
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// A user has created a document.
    pub fn take_creation(&self, user: Key, now: Instant) {
        let Some(limiter) = &self.creations else { return };
        let wait = match limiter.check_key(&user) {
            Ok(left) if left.remaining_burst_capacity() > 0 => return,
            Ok(left) => left.quota().replenish_interval(),
            Err(until) => until.wait_time_from(DefaultClock::default().now()),
        };
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).insert(user, now + wait);
    }

    /// Lets go of the buckets that are full again, as those of strangers are.
    pub fn forget_the_idle(&self, now: Instant) {
        for buckets in [&self.client_updates, &self.user_updates, &self.client_bytes, &self.user_bytes] {
            buckets.forget_the_idle();
        }
        for buckets in [&self.address_updates, &self.address_bytes, &self.address_requests] {
            buckets.forget_the_idle();
        }
        if let Some(creations) = &self.creations {
            creations.retain_recent();
        }
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Settings = Settings {
        updates_per_client: 0,
        updates_per_user: 0,
        updates_per_address: 0,
        bytes_per_client: 0,
        bytes_per_user: 0,
        bytes_per_address: 0,
        requests_per_address: 0,
        burst_seconds: 2,
        documents_per_user_hour: 0,
    };

    fn is_refused(taken: Result<(), ApiError>) -> bool {
        match taken {
            Ok(()) => false,
            Err(ApiError::TooManyRequests { retry_after_seconds, .. }) => {
                assert!(retry_after_seconds > 0);
                true
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// How many of so many attempts pass. Some drops may fall into the bucket meanwhile.
    fn passed(mut attempt: impl FnMut() -> Result<(), ApiError>) -> usize {
        (0..100).filter(|_| !is_refused(attempt())).count()
    }

    #[test]
    fn a_user_over_the_rate_is_refused_and_another_is_not() {
        let rates = Rates::new(Settings { updates_per_user: 5, ..NONE });
        assert!((10..20).contains(&passed(|| rates.take_update(1, None, 7))));
        assert!(!is_refused(rates.take_update(2, None, 7)));
    }

    #[test]
    fn bytes_are_counted_and_one_large_update_passes_a_full_bucket() {
        let rates = Rates::new(Settings { bytes_per_address: 100, ..NONE });
        let address = Some("10.0.0.1".parse().expect("an address"));
        assert!(!is_refused(rates.take_update(1, address, 1_000_000)));
        assert!(
            is_refused(rates.take_update(2, address, 150)),
            "it has emptied the bucket for all of its address"
        );
        assert!(!is_refused(rates.take_update(2, None, 150)));
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let rates = Rates::new(NONE);
        assert_eq!(passed(|| rates.take_update(1, None, usize::MAX)), 100);
        rates.take_creation(1, Instant::now());
        assert_eq!(rates.creation_wait(1, Instant::now()), None);
    }

    #[test]
    fn whoever_has_created_as_much_as_is_allowed_waits_for_the_next() {
        let rates = Rates::new(Settings { documents_per_user_hour: 2, ..NONE });
        let now = Instant::now();
        rates.take_creation(1, now);
        assert_eq!(rates.creation_wait(1, now), None);
        rates.take_creation(1, now);
        let wait = rates.creation_wait(1, now).expect("two are all");
        assert!(wait <= Duration::from_secs(30 * 60) && wait > Duration::from_secs(29 * 60), "{wait:?}");
        assert_eq!(rates.creation_wait(2, now), None);
        assert_eq!(rates.creation_wait(1, now + wait), None);
    }

    #[test]
    fn strangers_are_forgotten() {
        let rates = Rates::new(Settings { updates_per_user: 1000, burst_seconds: 1, ..NONE });
        for user in 0..10_000 {
            assert!(!is_refused(rates.take_update(user, None, 1)));
        }
        let limiter = rates.user_updates.limiter.as_ref().expect("there is a limit");
        while !limiter.is_empty() {
            // A bucket is full again after a millisecond.
            rates.forget_the_idle(Instant::now());
        }
    }
}
