//! Who is here: the clients with a stream, and the awareness states that they share.
//!
//! Pure: time comes in as an argument, what others must be told goes out as a value.
//! States are kept in memory only.
//!
//! Format: <https://github.com/yjs/y-protocols/blob/master/PROTOCOL.md>, the awareness update:
//! a count, then for each state the CRDT client's number, a clock, and JSON text (`null`: gone).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::event::Timestamp;
use crate::ids::ClientId;

use super::lib0::{Malformed, Reader, write_var_string, write_varuint};

/// How long a client's states stay after its last stream ended: time enough to reconnect.
pub const GRACE: Duration = Duration::from_secs(3);
/// How long a state stays that no stream stands behind, counted from its last renewal.
/// Yjs clients renew every 15 s and forget what is silent for 30 s.
pub const LIFE_WITHOUT_STREAM: Duration = Duration::from_secs(35);
/// How often the server renews a state that was put as plain JSON, as a Yjs client would.
const RENEWAL: Duration = Duration::from_secs(15);
/// Clocks are read by JavaScript, exact up to 2^53 − 1; room is left for the server's own steps.
const CLOCK_MAX: u64 = (1 << 53) - (1 << 20);

/// One client with a stream open: typed, so that nobody has to guess what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Client {
    pub client_id: ClientId,
    /// What it calls itself.
    pub label: Option<String>,
    /// Who is logged in, from the token and from nowhere else.
    pub user: Option<String>,
    pub connected_at: Timestamp,
}

/// A client and how many streams it has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connected {
    #[serde(flatten)]
    pub client: Client,
    pub streams: usize,
}

/// Whose an awareness state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub client_id: ClientId,
    /// As in `Client`.
    pub user: Option<String>,
}

/// Why an awareness update was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the bytes are no awareness update: {0}")]
    Malformed(#[from] Malformed),
    #[error("a state is no JSON: {0}")]
    NotJson(String),
    #[error("this document has {0} awareness states already, the most that it may have")]
    Full(usize),
    #[error("the client id `{0}` is another user's here")]
    Taken(ClientId),
    #[error("a state says to be of user `{claimed}`, and the token is of another")]
    Impersonates { claimed: String },
}

/// One awareness state.
#[derive(Debug)]
struct State {
    clock: u64,
    /// JSON text.
    json: Box<str>,
    /// Whoever sent it first; others' attempts on it are ignored.
    owner: Owner,
    renewed: Instant,
    /// Set by a client without a Yjs library: the server renews it.
    renewed_by_us: Option<Instant>,
}

#[derive(Debug)]
struct Streams {
    connected: Connected,
    /// Since when the client has no stream; its states wait out the grace.
    gone: Option<Instant>,
}

/// The clients and states of one document.
#[derive(Debug, Default)]
pub struct Presence {
    /// Boxed: with one client in it, as is usual, the map has room for eleven.
    clients: BTreeMap<ClientId, Box<Streams>>,
    states: HashMap<u64, State>,
    /// Clocks of states that are gone, so that a repeat of an old message doesn't bring one back.
    departed: HashMap<u64, (u64, Instant)>,
    states_max: usize,
}

impl Presence {
    /// `states_max`: how many awareness states the document may have.
    pub fn new(states_max: usize) -> Self {
        Self { states_max, ..Self::default() }
    }

    /// # Errors
    /// `Taken`: a client id that is in use is its user's.
    pub fn check_is_free(&self, client: &ClientId, user: Option<&str>) -> Result<(), Refused> {
        match self.clients.get(client) {
            Some(streams) if streams.connected.client.user.as_deref() != user => {
                Err(Refused::Taken(client.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Counts one more stream of a client. Returns the client if it is its first.
    ///
    /// # Errors
    /// `Taken`.
    pub fn register(&mut self, client: Client) -> Result<Option<Client>, Refused> {
        self.check_is_free(&client.client_id, client.user.as_deref())?;
        let streams = self.clients.entry(client.client_id.clone()).or_insert_with(|| {
            Box::new(Streams { connected: Connected { client: client.clone(), streams: 0 }, gone: None })
        });
        streams.gone = None;
        streams.connected.streams += 1;
        if streams.connected.streams > 1 {
            return Ok(None);
        }
        streams.connected.client = client.clone();
        Ok(Some(client))
    }

    /// Counts one stream of a client less. Returns the client if it was its last.
    pub fn unregister(&mut self, client: &ClientId, now: Instant) -> Option<Client> {
        let streams = self.clients.get_mut(client)?;
        streams.connected.streams = streams.connected.streams.saturating_sub(1);
        if streams.connected.streams > 0 {
            return None;
        }
        streams.gone = Some(now);
        Some(streams.connected.client.clone())
    }

    /// Who has a stream open, in the order of their ids.
    pub fn connected(&self) -> Vec<Connected> {
        self.clients
            .values()
            .filter(|streams| streams.gone.is_none())
            .map(|streams| streams.connected.clone())
            .collect()
    }

    /// Whether nobody is here: no client within its grace, and no state.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty() && self.states.is_empty()
    }

    /// Takes in an awareness update of `owner`. Returns the part of it that others must be told.
    ///
    /// A state that somebody else owns, or that is older than what is known, is left out.
    ///
    /// # Errors
    /// The update is taken whole or refused whole.
    pub fn apply(&mut self, owner: &Owner, update: &[u8], now: Instant) -> Result<Option<Vec<u8>>, Refused> {
        self.check_is_free(&owner.client_id, owner.user.as_deref())?;
        let entries = read_update(update)?;
        for entry in &entries {
            check_identity(owner, entry.json)?;
        }
        let fresh = entries
            .iter()
            .filter(|entry| entry.json.is_some() && !self.states.contains_key(&entry.number))
            .count();
        if self.states.len() + fresh > self.states_max {
            return Err(Refused::Full(self.states_max));
        }
        let mut told = Update::default();
        for entry in entries {
            if self.take(owner, &entry, now) {
                told.push(entry.number, entry.clock, entry.json);
            }
        }
        Ok(told.finish())
    }

    /// Whether the entry is news. The rule is that of y-protocols: a higher clock wins, and
    /// at the same clock only a departure does.
    fn take(&mut self, owner: &Owner, entry: &Entry<'_>, now: Instant) -> bool {
        match (self.states.get_mut(&entry.number), entry.json) {
            (Some(state), _) if state.owner != *owner => false,
            (Some(state), Some(json)) => {
                let news = entry.clock > state.clock;
                if news {
                    state.clock = entry.clock;
                    state.json = json.into();
                    state.renewed = now;
                    state.renewed_by_us = None;
                }
                news
            }
            (Some(state), None) => {
                let news = entry.clock >= state.clock;
                if news {
                    self.states.remove(&entry.number);
                    remember_departed(&mut self.departed, self.states_max, entry.number, entry.clock, now);
                }
                news
            }
            (None, Some(json)) => {
                // A state that the server removed comes back at the next clock of its owner.
                if self.departed.get(&entry.number).is_some_and(|(clock, _)| entry.clock <= *clock) {
                    return false;
                }
                self.departed.remove(&entry.number);
                let state = State {
                    clock: entry.clock,
                    json: json.into(),
                    owner: owner.clone(),
                    renewed: now,
                    renewed_by_us: None,
                };
                self.states.insert(entry.number, state);
                true
            }
            (None, None) => false,
        }
    }

    /// Sets the state of a client that has no Yjs library; `None` removes it.
    ///
    /// `number`: what the client's state is to be known by, if it has none yet.
    /// Returns what others must be told.
    ///
    /// # Errors
    /// `Full`, `Taken`, `Impersonates`.
    pub fn put(
        &mut self,
        owner: &Owner,
        json: Option<&str>,
        number: u64,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refused> {
        self.check_is_free(&owner.client_id, owner.user.as_deref())?;
        check_identity(owner, json)?;
        let existing = self
            .states
            .iter()
            .find(|(_, state)| state.owner == *owner && state.renewed_by_us.is_some())
            .map(|(number, state)| (*number, state.clock));
        let mut told = Update::default();
        match (existing, json) {
            (Some((number, clock)), None) => {
                self.states.remove(&number);
                remember_departed(&mut self.departed, self.states_max, number, clock, now);
                told.push(number, clock, None);
            }
            (None, None) => {}
            (existing, Some(json)) => {
                if existing.is_none() && self.states.len() >= self.states_max {
                    return Err(Refused::Full(self.states_max));
                }
                // A state at clock 0 is never taken by a newcomer, so the first is 1.
                let (number, clock) = existing.map_or((number, 1), |(number, clock)| (number, clock + 1));
                let state = State {
                    clock,
                    json: json.into(),
                    owner: owner.clone(),
                    renewed: now,
                    renewed_by_us: Some(now),
                };
                self.states.insert(number, state);
                told.push(number, clock, Some(json));
            }
        }
        Ok(told.finish())
    }

    /// All states as one awareness update; `None` if there are none.
    pub fn snapshot(&self) -> Option<Vec<u8>> {
        let mut update = Update::default();
        for (number, state) in &self.states {
            update.push(*number, state.clock, Some(&state.json));
        }
        update.finish()
    }

    /// Removes what nobody stands behind any more, and renews what the server renews.
    /// Returns what others must be told.
    pub fn expire(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut told = Update::default();
        let clients = &self.clients;
        let departed = &mut self.departed;
        let states_max = self.states_max;
        self.states.retain(|number, state| {
            let ended = match clients.get(&state.owner.client_id).map(|streams| streams.gone) {
                Some(None) => false,
                Some(Some(gone)) => {
                    // A state renewed after the stream ended has the longer life of one without a stream.
                    let since = now.duration_since(state.renewed);
                    let renewed_since = state.renewed > gone;
                    if renewed_since {
                        since >= LIFE_WITHOUT_STREAM
                    } else {
                        now.duration_since(gone) >= GRACE
                    }
                }
                None => now.duration_since(state.renewed) >= LIFE_WITHOUT_STREAM,
            };
            if ended {
                // Null at the same clock: at the next one it would beat the client's own return.
                told.push(*number, state.clock, None);
                remember_departed(departed, states_max, *number, state.clock, now);
                return false;
            }
            if state.renewed_by_us.is_some_and(|renewed| now.duration_since(renewed) >= RENEWAL) {
                state.renewed_by_us = Some(now);
                state.clock += 1;
                told.push(*number, state.clock, Some(&state.json));
            }
            true
        });
        self.clients.retain(|_, streams| streams.gone.is_none_or(|gone| now.duration_since(gone) < GRACE));
        self.departed.retain(|_, (_, since)| now.duration_since(*since) < LIFE_WITHOUT_STREAM);
        told.finish()
    }

    /// Forgets every state, as when the document is deleted.
    pub fn clear_states(&mut self) {
        self.states.clear();
        self.departed.clear();
    }
}

/// A state may say who its user is, as editors show it; where the token says that, it must say the same.
///
/// # Errors
/// `Impersonates`.
fn check_identity(owner: &Owner, json: Option<&str>) -> Result<(), Refused> {
    let (Some(user), Some(json)) = (&owner.user, json) else { return Ok(()) };
    let state: Value = serde_json::from_str(json).map_err(|error| Refused::NotJson(error.to_string()))?;
    let claimed = match &state["user"]["id"] {
        Value::Null => return Ok(()),
        Value::String(claimed) => claimed.clone(),
        other => other.to_string(),
    };
    if claimed == *user { Ok(()) } else { Err(Refused::Impersonates { claimed }) }
}

/// A document that has seen more departures than it may have states forgets them all: an old message that comes again
/// then brings a state back for its life without a stream, which does less harm than a list without bound.
fn remember_departed(
    departed: &mut HashMap<u64, (u64, Instant)>,
    departures_max: usize,
    number: u64,
    clock: u64,
    now: Instant,
) {
    if departed.len() >= departures_max {
        departed.clear();
    }
    departed.insert(number, (clock, now));
}

struct Entry<'a> {
    number: u64,
    clock: u64,
    /// `None`: gone.
    json: Option<&'a str>,
}

fn read_update(bytes: &[u8]) -> Result<Vec<Entry<'_>>, Refused> {
    let mut reader = Reader::new(bytes);
    // An entry takes four bytes at the least: a number, a clock, and a string with its length.
    let count = reader.count(4)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let number = reader.varuint()?;
        let offset = reader.offset();
        let clock = reader.varuint()?;
        if clock > CLOCK_MAX {
            return Err(Reader::malformed(offset, "a clock is too large").into());
        }
        let text = reader.var_string()?;
        let json = serde_json::from_str::<&serde_json::value::RawValue>(text)
            .map_err(|error| Refused::NotJson(error.to_string()))?;
        entries.push(Entry { number, clock, json: (json.get() != "null").then_some(text) });
    }
    reader.finish()?;
    Ok(entries)
}

/// An awareness update under construction.
#[derive(Default)]
struct Update {
    count: u64,
    entries: Vec<u8>,
}

impl Update {
    fn push(&mut self, number: u64, clock: u64, json: Option<&str>) {
        self.count += 1;
        write_varuint(&mut self.entries, number);
        write_varuint(&mut self.entries, clock);
        write_var_string(&mut self.entries, json.unwrap_or("null"));
    }

    /// `None` if nothing was pushed.
    fn finish(self) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        let mut update = Vec::with_capacity(self.entries.len() + 2);
        write_varuint(&mut update, self.count);
        update.extend_from_slice(&self.entries);
        Some(update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        Presence::new(3)
    }

    fn owner(name: &str) -> Owner {
        Owner { client_id: id(name), user: None }
    }

    fn id(name: &str) -> ClientId {
        name.parse().expect("a client id")
    }

    fn client(name: &str) -> Client {
        let connected_at = Timestamp::from_milliseconds(0);
        Client { client_id: id(name), label: None, user: None, connected_at }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// An awareness update of one state. `"null"`: gone.
    fn update(number: u64, clock: u64, json: &str) -> Vec<u8> {
        let mut update = Update::default();
        update.push(number, clock, Some(json));
        update.finish().expect("one state was pushed")
    }

    /// What is told, as (number, clock, JSON).
    fn told(update: Option<Vec<u8>>) -> Vec<(u64, u64, String)> {
        let Some(update) = update else { return Vec::new() };
        let entries = read_update(&update).expect("what is told is an awareness update");
        let text = |entry: &Entry<'_>| entry.json.unwrap_or("null").to_owned();
        let mut told: Vec<_> = entries.iter().map(|entry| (entry.number, entry.clock, text(entry))).collect();
        told.sort();
        told
    }

    fn state(number: u64, clock: u64, json: &str) -> (u64, u64, String) {
        (number, clock, json.to_owned())
    }

    #[test]
    fn a_state_without_a_stream_lives_35_seconds_from_its_last_renewal() {
        let start = Instant::now();
        let mut presence = presence();
        presence.apply(&owner("a"), &update(1, 1, "{}"), start).expect("taken");
        assert_eq!(told(presence.expire(start + seconds(34.9))), []);
        presence.apply(&owner("a"), &update(1, 2, "{}"), start + seconds(34.9)).expect("renewed");
        assert_eq!(told(presence.expire(start + seconds(69.8))), []);
        assert_eq!(told(presence.expire(start + seconds(69.9))), [state(1, 2, "null")]);
        assert_eq!(told(presence.expire(start + seconds(100.0))), []);
        assert!(presence.is_empty());
    }

    #[test]
    fn a_state_with_a_stream_behind_it_lives_on_without_renewal() {
        let start = Instant::now();
        let mut presence = presence();
        presence.register(client("a")).expect("it is free");
        presence.apply(&owner("a"), &update(1, 1, "{}"), start).expect("taken");
        assert_eq!(told(presence.expire(start + seconds(3600.0))), []);
        assert_eq!(told(presence.snapshot()), [state(1, 1, "{}")]);
    }

    #[test]
    fn states_are_removed_at_the_same_clock_3_seconds_after_the_last_stream_ended() {
        let start = Instant::now();
        let mut presence = presence();
        assert!(presence.register(client("a")).expect("it is free").is_some());
        assert!(presence.register(client("a")).expect("it is free").is_none());
        presence.apply(&owner("a"), &update(1, 7, "{}"), start).expect("taken");
        assert!(presence.unregister(&id("a"), start).is_none());
        assert_eq!(told(presence.expire(start + seconds(60.0))), []);
        let ended = start + seconds(60.0);
        assert!(presence.unregister(&id("a"), ended).is_some());
        assert_eq!(told(presence.expire(ended + seconds(2.9))), []);
        assert_eq!(told(presence.expire(ended + seconds(3.0))), [state(1, 7, "null")]);
        let back = presence.apply(&owner("a"), &update(1, 8, "{}"), ended + seconds(4.0)).expect("taken");
        assert_eq!(told(back), [state(1, 8, "{}")], "a returning client's next state wins");
    }

    #[test]
    fn a_client_that_is_back_within_3_seconds_keeps_its_states() {
        let start = Instant::now();
        let mut presence = presence();
        presence.register(client("a")).expect("it is free");
        presence.apply(&owner("a"), &update(1, 1, "{}"), start).expect("taken");
        presence.unregister(&id("a"), start);
        presence.register(client("a")).expect("it is free");
        assert_eq!(told(presence.expire(start + seconds(600.0))), []);
        // The grace begins anew with the next end.
        presence.unregister(&id("a"), start + seconds(600.0));
        assert_eq!(told(presence.expire(start + seconds(602.9))), []);
        assert_eq!(told(presence.expire(start + seconds(603.0))), [state(1, 1, "null")]);
    }

    #[test]
    fn a_state_renewed_after_the_stream_ended_has_the_life_of_one_without() {
        let start = Instant::now();
        let mut presence = presence();
        presence.register(client("a")).expect("it is free");
        presence.apply(&owner("a"), &update(1, 1, "{}"), start).expect("taken");
        presence.unregister(&id("a"), start);
        presence.apply(&owner("a"), &update(1, 2, "{}"), start + seconds(1.0)).expect("renewed");
        assert_eq!(told(presence.expire(start + seconds(3.0))), []);
        assert_eq!(told(presence.expire(start + seconds(35.9))), []);
        assert_eq!(told(presence.expire(start + seconds(36.0))), [state(1, 2, "null")]);
    }

    #[test]
    fn a_state_of_somebody_elses_is_left_alone_and_the_rest_is_taken() {
        let now = Instant::now();
        let mut presence = presence();
        presence.apply(&owner("a"), &update(1, 5, "{}"), now).expect("taken");
        let mut both = Update::default();
        both.push(1, 9, None);
        both.push(2, 1, Some("[]"));
        let both = both.finish().expect("two states were pushed");
        assert_eq!(told(presence.apply(&owner("b"), &both, now).expect("taken")), [state(2, 1, "[]")]);
        assert_eq!(told(presence.snapshot()), [state(1, 5, "{}"), state(2, 1, "[]")]);
    }

    #[test]
    fn a_higher_clock_wins_and_at_the_same_clock_only_a_departure_does() {
        let now = Instant::now();
        let mut presence = presence();
        let mut apply = |clock, json: &str| {
            told(presence.apply(&owner("a"), &update(1, clock, json), now).expect("an awareness update"))
        };
        assert_eq!(apply(3, "1"), [state(1, 3, "1")]);
        assert_eq!(apply(3, "2"), []);
        assert_eq!(apply(2, "null"), []);
        assert_eq!(apply(3, "null"), [state(1, 3, "null")]);
        assert_eq!(apply(3, "null"), []);
        assert_eq!(apply(3, "1"), [], "an old message brings nothing back");
        assert_eq!(apply(4, "1"), [state(1, 4, "1")]);
        assert_eq!(apply(9, "null"), [state(1, 9, "null")]);
    }

    #[test]
    fn an_update_is_taken_whole_or_refused_whole() {
        let now = Instant::now();
        let mut presence = presence();
        let mut good = update(1, 1, "{}");
        good[0] = 2;
        assert!(matches!(presence.apply(&owner("a"), &good, now), Err(Refused::Malformed(_))));
        good.extend_from_slice(&update(2, 1, "{]")[1..]);
        assert!(matches!(presence.apply(&owner("a"), &good, now), Err(Refused::NotJson(_))));
        let too_late = update(1, CLOCK_MAX + 1, "{}");
        assert!(matches!(presence.apply(&owner("a"), &too_late, now), Err(Refused::Malformed(_))));
        assert!(presence.is_empty());
    }

    #[test]
    fn a_document_has_room_for_so_many_states_and_no_more() {
        let now = Instant::now();
        let mut presence = presence();
        for number in 1..=3 {
            presence.apply(&owner("a"), &update(number, 1, "{}"), now).expect("there is room");
        }
        assert_eq!(presence.apply(&owner("a"), &update(4, 1, "{}"), now), Err(Refused::Full(3)));
        assert_eq!(presence.put(&owner("b"), Some("{}"), 5, now), Err(Refused::Full(3)));
        presence.apply(&owner("a"), &update(1, 2, "{}"), now).expect("what is there can change");
        presence.apply(&owner("a"), &update(2, 1, "null"), now).expect("and go");
        assert_eq!(told(presence.put(&owner("b"), Some("{}"), 5, now).expect("room")), [state(5, 1, "{}")]);
    }

    #[test]
    fn a_state_put_as_json_is_renewed_for_yjs_clients_every_15_seconds() {
        let start = Instant::now();
        let mut presence = presence();
        presence.register(client("a")).expect("it is free");
        assert_eq!(told(presence.put(&owner("a"), Some("{}"), 9, start).expect("room")), [state(9, 1, "{}")]);
        assert_eq!(told(presence.expire(start + seconds(14.9))), []);
        assert_eq!(told(presence.expire(start + seconds(15.0))), [state(9, 2, "{}")]);
        assert_eq!(told(presence.expire(start + seconds(29.9))), []);
        assert_eq!(told(presence.expire(start + seconds(30.0))), [state(9, 3, "{}")]);
        let changed = presence.put(&owner("a"), Some("[]"), 77, start + seconds(31.0)).expect("room");
        assert_eq!(told(changed), [state(9, 4, "[]")], "its number stays");
        let gone = presence.put(&owner("a"), None, 78, start + seconds(32.0)).expect("room");
        assert_eq!(told(gone), [state(9, 4, "null")]);
    }

    #[test]
    fn a_state_put_by_a_client_without_a_stream_lives_35_seconds() {
        let start = Instant::now();
        let mut presence = presence();
        presence.put(&owner("a"), Some("{}"), 9, start).expect("room");
        assert_eq!(told(presence.expire(start + seconds(15.0))), [state(9, 2, "{}")]);
        assert_eq!(told(presence.expire(start + seconds(30.0))), [state(9, 3, "{}")]);
        assert_eq!(told(presence.expire(start + seconds(35.0))), [state(9, 3, "null")]);
    }

    #[test]
    fn clients_are_listed_while_they_have_a_stream() {
        let now = Instant::now();
        let mut presence = presence();
        presence.register(client("b")).expect("it is free");
        presence.register(client("a")).expect("it is free");
        presence.register(client("b")).expect("it is free");
        let names = |presence: &Presence| -> Vec<(String, usize)> {
            let connected = presence.connected().into_iter();
            connected.map(|entry| (entry.client.client_id.to_string(), entry.streams)).collect()
        };
        assert_eq!(names(&presence), [("a".into(), 1), ("b".into(), 2)]);
        presence.unregister(&id("b"), now);
        presence.unregister(&id("a"), now);
        assert_eq!(names(&presence), [("b".into(), 1)]);
        assert!(presence.unregister(&id("nobody"), now).is_none());
    }

    #[test]
    fn a_client_id_in_use_is_its_user_s() {
        let (mut presence, now) = (presence(), Instant::now());
        let of = |user: &str| Owner { user: Some(user.into()), ..owner("a") };
        presence.register(Client { user: Some("ada".into()), ..client("a") }).expect("it is free");
        let by_bob = presence.register(Client { user: Some("bob".into()), ..client("a") });
        assert!(matches!(by_bob, Err(Refused::Taken(_))));
        presence.apply(&of("ada"), &update(1, 1, "{}"), now).expect("taken");
        assert!(matches!(presence.apply(&of("bob"), &update(1, 2, "{}"), now), Err(Refused::Taken(_))));
        assert!(matches!(presence.put(&of("bob"), None, 2, now), Err(Refused::Taken(_))));
        assert!(presence.check_is_free(&id("b"), Some("bob")).is_ok());
    }

    #[test]
    fn a_state_is_of_its_user_after_the_stream_has_gone() {
        let (mut presence, now) = (presence(), Instant::now());
        let of = |user: &str| Owner { user: Some(user.into()), ..owner("a") };
        presence.apply(&of("ada"), &update(1, 1, "{}"), now).expect("taken");
        assert_eq!(presence.apply(&of("bob"), &update(1, 2, "null"), now), Ok(None), "it is left as it is");
    }

    #[test]
    fn a_state_cannot_claim_to_be_of_another_user() {
        let (mut presence, now) = (presence(), Instant::now());
        let ada = Owner { user: Some("ada".into()), ..owner("a") };
        for honest in
            [r#"{"user":{"id":"ada","name":"Ada"}}"#, r#"{"user":{"name":"bob"}}"#, r#"{"user":"bob"}"#]
        {
            presence.put(&ada, Some(honest), 1, now).expect("it claims nothing else");
        }
        for claimed in
            [r#"{"user":{"id":"bob"}}"#, r#"{"user":{"id":7}}"#, r#"{"user":{"id":"ada","id":"bob"}}"#]
        {
            assert!(
                matches!(presence.put(&ada, Some(claimed), 1, now), Err(Refused::Impersonates { .. })),
                "{claimed}"
            );
            let update = update(2, 1, claimed);
            assert!(
                matches!(presence.apply(&ada, &update, now), Err(Refused::Impersonates { .. })),
                "{claimed}"
            );
        }
        presence
            .put(&owner("b"), Some(r#"{"user":{"id":"bob"}}"#), 3, now)
            .expect("nobody was asked who they are");
    }
}
