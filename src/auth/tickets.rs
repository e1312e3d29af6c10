//! Stand-ins for a token in an address, where an `EventSource` can put nothing else: good for one stream, and soon gone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::grant::Caller;

/// How long a ticket can be used.
pub const LIFE: Duration = Duration::from_secs(30);
/// Tickets that wait to be used. At 100 bytes each this is a megabyte.
const TICKETS_MAX: usize = 10_000;
/// One user's part of them: whoever asks for more finds the oldest gone.
const OF_ONE_USER_MAX: usize = 100;

/// The tickets that wait to be used.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<String, Waiting>>);

struct Waiting {
    caller: Caller,
    until: Instant,
}

/// There are as many tickets as there may be; some end every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many tickets wait to be used")]
pub struct TooMany;

impl Tickets {
    /// `entropy`: 128 random bits.
    ///
    /// # Errors
    /// `TooMany`.
    pub fn issue(&self, caller: &Caller, entropy: [u8; 16], now: Instant) -> Result<String, TooMany> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let user = caller.user();
        let of_user = waiting.values().filter(|other| other.caller.user() == user).count();
        if waiting.len() >= TICKETS_MAX || of_user >= OF_ONE_USER_MAX {
            waiting.retain(|_, ticket| ticket.until > now);
        }
        let of_user = waiting.iter().filter(|(_, other)| other.caller.user() == user);
        if of_user.clone().count() >= OF_ONE_USER_MAX {
            let oldest = of_user.min_by_key(|(_, ticket)| ticket.until).map(|(ticket, _)| ticket.clone());
            oldest.and_then(|ticket| waiting.remove(&ticket));
        }
        if waiting.len() >= TICKETS_MAX {
            return Err(TooMany);
        }
        let ticket = URL_SAFE_NO_PAD.encode(entropy);
        waiting.insert(ticket.clone(), Waiting { caller: caller.clone(), until: now + LIFE });
        Ok(ticket)
    }

    /// Whoever the ticket was issued to. It is used up.
    pub fn redeem(&self, ticket: &str, now: Instant) -> Option<Caller> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(ticket)?;
        (waiting.until > now).then_some(waiting.caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_once_and_for_half_a_minute() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = |entropy| tickets.issue(&Caller::anyone(), [entropy; 16], now).expect("there is room");
        let (first, second) = (issue(1), issue(2));
        assert!(tickets.redeem(&first, now).is_some());
        assert!(tickets.redeem(&first, now).is_none(), "it is used up");
        assert!(tickets.redeem(&second, now + LIFE).is_none(), "it is too old");
        assert!(tickets.redeem("", now).is_none());
    }

    #[test]
    fn one_user_s_tickets_push_out_each_other_and_nobody_else_s() {
        let (tickets, now) = (Tickets::default(), Instant::now());
        let issue = |number: usize| {
            let mut entropy = [0; 16];
            entropy[..8].copy_from_slice(&number.to_le_bytes());
            tickets
                .issue(&Caller::anyone(), entropy, now + Duration::from_millis(number as u64))
                .expect("a ticket")
        };
        let first = issue(0);
        let last = (1..=OF_ONE_USER_MAX).map(issue).last().expect("some");
        assert!(tickets.redeem(&first, now).is_none());
        assert!(tickets.redeem(&last, now).is_some());
    }
}
