//! Any bytes, through everything that reads what callers send, and nothing behind it: many inputs in little time.
//!
//! Nothing may crash or hang, and what was read and is written again must be read as the same.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use promptgrimoire::archive;
use promptgrimoire::document::admission::Known;
use promptgrimoire::document::check_state_vector;
use promptgrimoire::document::format::{read_state_vector, read_update};
use promptgrimoire::document::json_patch::JsonPatch;
use promptgrimoire::document::presence::{Owner, Presence};
use promptgrimoire::http::encoding::{decode_base64, decode_base64_in_query, encode_base64};

fuzz_target!(|input: &[u8]| {
    read_bytes(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    for decoded in [decode_base64(text), decode_base64_in_query(text)].into_iter().flatten() {
        assert_eq!(decode_base64(&encode_base64(&decoded)).expect("our own encoding"), decoded);
        read_bytes(&decoded);
    }
    let mut archive = archive::Reader::new(1 << 20);
    let _ = text.lines().try_for_each(|line| archive.take(line).map(drop));
    if let Ok(operations) = serde_json::from_str(text) {
        let _ = JsonPatch::parse("root".into(), None, operations);
    }
});

fn read_bytes(bytes: &[u8]) {
    if let Ok(outline) = read_update(bytes) {
        for share in &outline.clients {
            for block in outline.blocks_of(share) {
                block.format_name();
            }
        }
        if let Ok(admission) = Known::default().admit(&outline) {
            for portion in admission.portions(2) {
                read_update(&portion).expect("a portion of an update is one");
            }
        }
        let again = [&[0][..], &outline.deletions.encode()].concat();
        assert_eq!(read_update(&again).expect("our own delete set").deletions, outline.deletions);
    }
    if let Ok(vector) = read_state_vector(bytes) {
        check_state_vector(&vector.encode()).expect("our own state vector");
    }
    let owner = Owner { client_id: "tab-1".parse().expect("a client id"), user: Some("ada".into()) };
    let (mut presence, now) = (Presence::new(100), Instant::now());
    if let Ok(Some(told)) = presence.apply(&owner, bytes, now) {
        let mut other = Presence::new(100);
        other.apply(&owner, &told, now).expect("what others are told");
        if let Some(snapshot) = presence.snapshot() {
            Presence::new(100).apply(&owner, &snapshot, now).expect("what newcomers are told");
        }
    }
}
