//! Awareness updates, written and read by yrs: another implementation of the format than the server's.

use std::collections::HashMap;

use serde_json::Value;
use yrs::block::ClientID;
use yrs::sync::AwarenessUpdate;
use yrs::sync::awareness::AwarenessUpdateEntry;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;

/// An update of one state. `Value::Null`: it is gone.
pub fn awareness(number: u64, clock: u32, state: &Value) -> Vec<u8> {
    awareness_of(&[(number, clock, state.clone())])
}

/// An update of several states: the CRDT client's number, the clock, the state.
pub fn awareness_of(states: &[(u64, u32, Value)]) -> Vec<u8> {
    let entry = |(number, clock, state): &(u64, u32, Value)| {
        (ClientID::new(*number), AwarenessUpdateEntry { clock: *clock, json: state.to_string().into() })
    };
    AwarenessUpdate { clients: states.iter().map(entry).collect::<HashMap<_, _>>() }.encode_v1()
}

/// The states in an update, by number.
pub fn states_of(update: &[u8]) -> Vec<(u64, u32, Value)> {
    let update = AwarenessUpdate::decode_v1(update).expect("an awareness update");
    let entry = |(number, entry): (&ClientID, &AwarenessUpdateEntry)| {
        let state = serde_json::from_str(&entry.json).expect("a state is JSON");
        (number.get(), entry.clock, state)
    };
    let mut states: Vec<_> = update.clients.iter().map(entry).collect();
    states.sort_by_key(|(number, ..)| *number);
    states
}
