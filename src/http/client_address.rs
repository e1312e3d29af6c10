//! Whom a request comes from, as far as the network tells.

use std::net::{IpAddr, Ipv6Addr};

/// The address of a client, in each request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

/// What one household or host has of IPv6 (RFC 6177): the rest of an address is the client's to choose.
const SUBNET: u128 = !0 << 64;

impl ClientAddress {
    /// IPv4 addresses in the clothes of IPv6 ones are taken for what they are.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// What stands for the client where clients are counted or limited: of an IPv6 address its /64.
    pub fn counted_as(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & SUBNET).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted_as(address: &str) -> String {
        ClientAddress::new(address.parse().expect("an address")).counted_as().to_string()
    }

    #[test]
    fn a_client_cannot_become_many_by_taking_other_addresses_of_its_subnet() {
        assert_eq!(counted_as("2001:db8:1:2:3:4:5:6"), counted_as("2001:db8:1:2:ffff::1"));
        assert_ne!(counted_as("2001:db8:1:2::1"), counted_as("2001:db8:1:3::1"));
        assert_eq!(counted_as("192.0.2.1"), "192.0.2.1");
        assert_ne!(counted_as("192.0.2.1"), counted_as("192.0.2.2"));
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_the_form_of_an_ipv6_one() {
        assert_eq!(counted_as("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
