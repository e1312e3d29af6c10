//! The streams that there may be: in all, and of one user, one address and one document.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ApiError;

/// How many streams there may be. `usize::MAX`: any number.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub in_all: usize,
    pub of_user: usize,
    pub of_address: usize,
    pub of_document: usize,
}

/// Whose a stream is, as far as that is known and matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    User(String),
    Address(IpAddr),
}

/// All of the server's places. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    taken: AtomicUsize,
    by_holder: Mutex<HashMap<Holder, usize>>,
}

impl Places {
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner { limits, taken: AtomicUsize::new(0), by_holder: Mutex::default() }))
    }

    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Takes a place for a stream, until it is dropped. What cannot be had is not waited for.
    ///
    /// # Errors
    /// `Unavailable` if the server has all that it may have, `TooManyRequests` if the user or the address has.
    pub fn take(&self, user: Option<&str>, address: Option<IpAddr>) -> Result<Place, ApiError> {
        let Limits { in_all, of_user, of_address, .. } = self.0.limits;
        let mut place = Place { places: self.clone(), holders: Vec::new() };
        if self.0.taken.fetch_add(1, Ordering::Relaxed) >= in_all {
            let reason = "the server has all the streams that it may have".into();
            return Err(ApiError::Unavailable { reason });
        }
        if let Some(user) = user.filter(|_| of_user < usize::MAX) {
            place.hold(Holder::User(user.to_owned()), of_user, "you have")?;
        }
        if let Some(address) = address.filter(|_| of_address < usize::MAX) {
            place.hold(Holder::Address(address), of_address, "your address has")?;
        }
        Ok(place)
    }

    /// # Errors
    /// `TooManyRequests` if a document that has `streams` already may have no more.
    pub fn check_document(&self, streams: usize) -> Result<(), ApiError> {
        let limit = self.0.limits.of_document;
        if streams >= limit { Err(too_many("the document has", limit)) } else { Ok(()) }
    }
}

fn too_many(who_has: &str, limit: usize) -> ApiError {
    ApiError::TooManyRequests {
        what: format!("{who_has} {limit} streams open, the most there may be"),
        retry_after_seconds: 5,
    }
}

/// One stream's place.
#[derive(Debug)]
pub struct Place {
    places: Places,
    holders: Vec<Holder>,
}

impl Place {
    fn hold(&mut self, holder: Holder, limit: usize, who_has: &str) -> Result<(), ApiError> {
        let mut by_holder = self.places.0.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        let held = by_holder.entry(holder.clone()).or_default();
        if *held >= limit {
            return Err(too_many(who_has, limit));
        }
        *held += 1;
        self.holders.push(holder);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.taken.fetch_sub(1, Ordering::Relaxed);
        if self.holders.is_empty() {
            return;
        }
        let mut by_holder = self.places.0.by_holder.lock().unwrap_or_else(PoisonError::into_inner);
        for holder in self.holders.drain(..) {
            if let Entry::Occupied(mut held) = by_holder.entry(holder) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { in_all: 5, of_user: 2, of_address: 3, of_document: 10 };

    #[test]
    fn a_user_or_an_address_with_all_its_streams_gets_no_more_and_others_do() {
        let places = Places::new(LIMITS);
        let home = Some("10.0.0.1".parse().expect("an address"));
        let first = places.take(Some("ada"), home).expect("there is room");
        let _second = places.take(Some("ada"), home).expect("there is room");
        assert!(matches!(places.take(Some("ada"), None), Err(ApiError::TooManyRequests { .. })));
        let _third = places.take(Some("bob"), home).expect("there is room");
        assert!(matches!(places.take(Some("eve"), home), Err(ApiError::TooManyRequests { .. })));
        assert_eq!(places.taken(), 3, "what was refused holds no place");
        drop(first);
        let _again = places.take(Some("ada"), home).expect("a place was given back");
        let _more = [places.take(None, None).expect("room"), places.take(None, None).expect("room")];
        assert!(matches!(places.take(None, None), Err(ApiError::Unavailable { .. })));
    }

    #[test]
    fn places_given_back_leave_nothing_behind() {
        let places = Places::new(LIMITS);
        drop(places.take(Some("ada"), Some("::1".parse().expect("an address"))).expect("there is room"));
        assert_eq!(places.taken(), 0);
        assert!(places.0.by_holder.lock().expect("not poisoned").is_empty());
    }
}
