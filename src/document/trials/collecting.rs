//! Snapshots without what was deleted, under clients that still hold it and still point there.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use yrs::updates::encoder::Encode;

use super::super::handle::Change;
use super::super::replica::{Allowance, Changed, Replica};
use super::genuine::Peer;
use super::*;
use crate::event::Origin;

/// The server's copy, and what its store has.
struct Kept {
    seed: u64,
    live: Replica,
    snapshot: Option<Bytes>,
    tail: Vec<Bytes>,
}

impl Kept {
    fn new(seed: u64) -> Self {
        Self { seed, live: Replica::new(0), snapshot: None, tail: Vec::new() }
    }

    fn take(&mut self, update: Vec<u8>) {
        let update = Change::Update(update.into());
        let allowance = Allowance { bytes_max: usize::MAX, is_patient: &|| true, difference_until: None };
        match self.live.change(&update, &Origin::Anonymous, &allowance) {
            Ok(Changed::Update(update)) => self.tail.push(update),
            Ok(Changed::Nothing) => {}
            Err(refused) => panic!("seed {}: a genuine update is refused: {refused:?}", self.seed),
        }
    }

    fn stored(&self) -> Replica {
        let tail = self.tail.iter().map(|update| &update[..]);
        Replica::open(0, self.snapshot.as_deref(), tail).unwrap_or_else(|error| {
            panic!("seed {}: what was accepted once does not load again: {error}", self.seed)
        })
    }

    fn compact(&mut self) {
        let compacted = self.stored().compacted(&self.live.state_vector(), true).expect("it loads as it was");
        assert_eq!(compacted.kept_because, None, "seed {}", self.seed);
        self.snapshot = Some(compacted.update);
        self.tail.clear();
    }

    /// As after a restart: from the store.
    fn reload(&mut self) {
        let stored = self.stored();
        assert_eq!(stored.roots(None), self.live.roots(None), "seed {}", self.seed);
        assert_eq!(stored.state_vector(), self.live.state_vector(), "seed {}", self.seed);
        self.live = stored;
    }
}

fn bring_up_to_date(peer: &Peer, server: &Kept) {
    let state_vector = peer.doc.transact().state_vector().encode_v1();
    peer.receive(&server.live.difference(&state_vector).expect("a state vector"));
}

fn trial(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Kept::new(seed);
    let mut peers: Vec<(Peer, VecDeque<Vec<u8>>)> =
        (1..=3).map(|client| (Peer::new(client), VecDeque::new())).collect();
    for step in 0..120 {
        let index = random.random_range(0..peers.len());
        let (peer, sending) = &mut peers[index];
        match random.random_range(0..12) {
            0..6 => {
                peer.edit(&mut random);
                sending.extend(peer.take());
            }
            6..9 => {
                // What one has written arrives in order, and late.
                let count = random.random_range(0..=sending.len());
                sending.drain(..count).for_each(|update| server.take(update));
            }
            9 => bring_up_to_date(peer, &server),
            10 => server.compact(),
            _ => server.reload(),
        }
        if step == 60 {
            // Has never seen what was collected.
            let newcomer = Peer::new(9);
            bring_up_to_date(&newcomer, &server);
            peers.push((newcomer, VecDeque::new()));
        }
    }
    for (peer, sending) in &mut peers {
        sending.extend(peer.take());
        sending.drain(..).for_each(|update| server.take(update));
    }
    server.compact();
    server.reload();
    let expected = document(0, true);
    expected
        .transact_mut()
        .apply_update(Update::decode_v1(&server.live.whole()).expect("an update"))
        .expect("it applies");
    for (peer, _) in &peers {
        bring_up_to_date(peer, &server);
        assert_eq!(contents(&peer.doc), contents(&expected), "seed {seed}");
    }
}

#[test]
fn clients_converge_however_often_the_deleted_is_collected() {
    on_a_small_stack(|| seeds(60).for_each(trial));
}

/// The failure: the text is deleted for everybody who looks, and for nobody who reads the file.
#[test]
fn deleted_text_is_in_no_snapshot_that_was_collected() {
    let peer = document(7, false);
    let text = peer.get_or_insert_text("text");
    let map = peer.get_or_insert_map("map");
    let mut server = Kept::new(0);
    let mut transaction = peer.transact_mut();
    yrs::Text::insert(&text, &mut transaction, 0, "kept, a secret, kept too");
    yrs::Map::insert(&map, &mut transaction, "key", "another secret");
    yrs::Map::insert(&map, &mut transaction, "list", yrs::ArrayPrelim::from(["a nested secret"]));
    server.take(transaction.encode_update_v1());
    drop(transaction);
    let mut transaction = peer.transact_mut();
    yrs::Text::remove_range(&text, &mut transaction, 4, 10);
    yrs::Map::insert(&map, &mut transaction, "key", "kept");
    yrs::Map::remove(&map, &mut transaction, "list");
    server.take(transaction.encode_update_v1());
    drop(transaction);

    let has_secret = |bytes: &[u8]| bytes.windows(6).any(|part| part == b"secret");
    assert!(has_secret(&server.live.whole()), "the server keeps what was deleted");
    let roots = server.live.roots(None);
    server.compact();
    let snapshot = server.snapshot.clone().expect("one was made");
    assert!(!has_secret(&snapshot));
    server.reload();
    assert_eq!(server.live.roots(None), roots);
    assert_eq!(server.live.text("text"), "kept, kept too");
}
