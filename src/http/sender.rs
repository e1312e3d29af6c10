//! Who sends a request, and how much they have sent.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Unauthorized;
use crate::auth::grant::Caller;
use crate::ids::ClientId;

use super::ClientAddress;
use super::error::ApiError;
use super::rates::{self, Key, Rates};
use super::waiting::{self, Waiting, Write};

/// The bounds that all senders share.
pub struct Bounds {
    /// `None`: nobody is asked who they are, so nobody is counted.
    rates: Option<Rates>,
    waiting: Waiting,
    hasher: RandomState,
}

impl Bounds {
    pub fn new(rates: Option<rates::Settings>, waiting: waiting::Limits) -> Self {
        let (rates, waiting) = (rates.map(Rates::new), Waiting::new(waiting));
        Self { rates, waiting, hasher: RandomState::new() }
    }

    /// # Errors
    /// `TooManyRequests`: the address sends too many, of whatever kind.
    pub fn take_request(&self, address: ClientAddress) -> Result<(), ApiError> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.take_request(address.counted_as()))
    }

    /// To be called now and then.
    pub fn forget_the_idle(&self, now: Instant) {
        if let Some(rates) = &self.rates {
            rates.forget_the_idle(now);
        }
    }
}

/// Who sends a request. Travels with it to whoever asks.
#[derive(Clone)]
pub struct Sender {
    pub caller: Result<Caller, Unauthorized>,
    pub address: Option<ClientAddress>,
    counted: Option<Counted>,
}

#[derive(Clone)]
struct Counted {
    bounds: Arc<Bounds>,
    /// The user's; of those that nobody knows, the address's.
    key: Key,
}

impl Default for Sender {
    /// Somebody of whom nothing was found out: may do nothing.
    fn default() -> Self {
        Self { caller: Err(Unauthorized::Missing), address: None, counted: None }
    }
}

impl Sender {
    pub fn new(caller: Result<Caller, Unauthorized>, address: ClientAddress, bounds: Arc<Bounds>) -> Self {
        let user = caller.as_ref().ok().and_then(Caller::user);
        let key = match user {
            Some(user) => bounds.hasher.hash_one(user),
            None => bounds.hasher.hash_one(address.counted_as()),
        };
        Self { caller, address: Some(address), counted: Some(Counted { bounds, key }) }
    }

    /// Begins something that will have to be written.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn enter(&self) -> Result<Option<Write>, ApiError> {
        self.counted.as_ref().map(|counted| counted.bounds.waiting.enter(counted.key)).transpose()
    }

    /// What stands for its address where senders are counted.
    pub fn counted_address(&self) -> Option<IpAddr> {
        self.address.map(ClientAddress::counted_as)
    }

    fn rates(&self) -> Option<(&Rates, Key)> {
        let counted = self.counted.as_ref()?;
        Some((counted.bounds.rates.as_ref()?, counted.key))
    }

    /// A body of so many bytes has arrived.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn take_update(&self, bytes: usize) -> Result<(), ApiError> {
        self.rates().map_or(Ok(()), |(rates, key)| rates.take_update(key, self.counted_address(), bytes))
    }

    /// It turned out which client has sent it.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub fn take_client_update(&self, client_id: &ClientId, bytes: usize) -> Result<(), ApiError> {
        let Some((rates, user)) = self.rates() else { return Ok(()) };
        let client =
            self.counted.as_ref().map_or(0, |counted| counted.bounds.hasher.hash_one((user, client_id)));
        rates.take_client_update(client, bytes)
    }

    /// How long to wait before a document can be created; `None`: not at all.
    pub fn creation_wait(&self, now: Instant) -> Option<Duration> {
        let (rates, user) = self.rates()?;
        rates.creation_wait(user, now)
    }

    /// A document was created.
    pub fn take_creation(&self, now: Instant) {
        if let Some((rates, user)) = self.rates() {
            rates.take_creation(user, now);
        }
    }
}
