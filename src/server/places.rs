//! How many connections there may be, altogether and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::Connections;

/// The connections of one listener.
pub struct Places {
    connections_max: usize,
    per_address_max: usize,
    taken: Mutex<Taken>,
    counted: Connections,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// Only addresses that have any.
    by_address: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Server,
    Address,
}

/// One of the connections that there may be; given back when dropped.
pub struct Place {
    places: Arc<Places>,
    address: Option<IpAddr>,
}

impl Places {
    pub fn new(connections_max: usize, per_address_max: usize, counted: Connections) -> Self {
        Self { connections_max, per_address_max, taken: Mutex::default(), counted }
    }

    /// `address`: what the connection counts under; `None` where many clients come from one address.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, Full> {
        let mut taken = self.taken();
        if taken.all >= self.connections_max {
            self.counted.refused_by_server.inc();
            return Err(Full::Server);
        }
        if let Some(address) = address {
            let from_there = taken.by_address.get(&address).copied().unwrap_or_default();
            if from_there >= self.per_address_max {
                self.counted.refused_by_address.inc();
                return Err(Full::Address);
            }
            taken.by_address.insert(address, from_there + 1);
        }
        taken.all += 1;
        self.counted.open.inc();
        Ok(Place { places: self.clone(), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        self.places.counted.open.dec();
        let Some(address) = self.address else { return };
        if let Entry::Occupied(mut from_there) = taken.by_address.entry(address) {
            *from_there.get_mut() -= 1;
            if *from_there.get() == 0 {
                from_there.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn an_address_that_is_full_leaves_places_to_others() {
        let places = Arc::new(Places::new(3, 2, Connections::default()));
        let first = places.take(address("192.0.2.1")).expect("a place");
        let _second = places.take(address("192.0.2.1")).expect("a place");
        assert_eq!(places.take(address("192.0.2.1")).err(), Some(Full::Address));
        let _other = places.take(address("192.0.2.2")).expect("a place");
        assert_eq!(places.take(address("192.0.2.3")).err(), Some(Full::Server));
        drop(first);
        let _third = places.take(address("192.0.2.1")).expect("a place that was given back");
        assert_eq!(places.counted.open.get(), 3);
        assert_eq!(places.counted.refused_by_address.get(), 1);
        assert_eq!(places.counted.refused_by_server.get(), 1);
    }

    #[test]
    fn an_address_that_is_shared_by_many_has_the_limit_of_all() {
        let places = Arc::new(Places::new(3, 1, Connections::default()));
        let taken: Vec<_> = (0..3).map(|_| places.take(None).expect("a place")).collect();
        assert_eq!(places.take(None).err(), Some(Full::Server));
        drop(taken);
        assert!(places.take(None).is_ok());
    }

    #[test]
    fn an_address_that_has_left_is_forgotten() {
        let places = Arc::new(Places::new(3, 2, Connections::default()));
        drop(places.take(address("192.0.2.1")));
        assert!(places.taken().by_address.is_empty());
    }
}
