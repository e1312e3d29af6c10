//! Clients that edit at random, and updates in every shape that such clients send.

use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use yrs::types::Attrs;
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, ArrayPrelim, Doc, In, Map, MapPrelim, ReadTxn, Text, TextPrelim, Transact, TransactionMut,
    Update, Xml, XmlElementPrelim, XmlFragment, XmlTextPrelim, diff_updates_v1, merge_updates_v1,
};

use super::*;

/// A client with undo, and the updates that it has written but not yet sent.
pub(super) struct Peer {
    pub doc: Doc,
    written: Arc<Mutex<Vec<Vec<u8>>>>,
    undo: yrs::undo::UndoManager<()>,
}

impl Peer {
    pub fn new(client: u64) -> Self {
        let doc = document(client, false);
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = written.clone();
        doc.observe_update_v1("written", move |txn, event| {
            if txn.origin().is_none_or(|origin| origin.as_ref() != b"remote") {
                sink.lock().expect("no test panics here").push(event.update.clone());
            }
        })
        .expect("no transaction is open");
        let mut undo = yrs::undo::UndoManager::new();
        for name in ["text", "rich"] {
            undo.expand_scope(&doc, &doc.get_or_insert_text(name));
        }
        undo.expand_scope(&doc, &doc.get_or_insert_map("map"));
        undo.expand_scope(&doc, &doc.get_or_insert_array("list"));
        undo.expand_scope(&doc, &doc.get_or_insert_xml_fragment("xml"));
        Self { doc, written, undo }
    }

    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.written.lock().expect("no test panics here"))
    }

    pub fn receive(&self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("a genuine update");
        self.doc.transact_mut_with("remote").apply_update(update).expect("it applies");
    }

    pub fn edit(&mut self, random: &mut StdRng) {
        match random.random_range(0..20) {
            0 => drop(self.undo.undo_blocking()),
            1 => drop(self.undo.redo_blocking()),
            _ => {
                let mut txn = self.doc.transact_mut();
                for _ in 0..random.random_range(1..4) {
                    edit_once(&mut txn, random);
                }
            }
        }
    }
}

fn edit_once(txn: &mut TransactionMut<'_>, random: &mut StdRng) {
    match random.random_range(0..5) {
        0 => edit_text(&txn.get_or_insert_text("text"), txn, random, false),
        1 => edit_text(&txn.get_or_insert_text("rich"), txn, random, true),
        2 => edit_map(&txn.get_or_insert_map("map"), txn, random, 0),
        3 => edit_list(&txn.get_or_insert_array("list"), txn, random, 0),
        _ => edit_xml(&txn.get_or_insert_xml_fragment("xml"), txn, random, 0),
    }
}

fn edit_text<T: Text>(text: &T, txn: &mut TransactionMut<'_>, random: &mut StdRng, rich: bool) {
    let length = text.len(txn);
    let at = random.random_range(0..=length);
    let count = random.random_range(0..=(length - at).min(5));
    let words = ["a", "bc", "grimoire ", "\n", "é", "世界", "x"];
    let word = words[random.random_range(0..words.len())];
    match random.random_range(0..if rich { 9 } else { 5 }) {
        0..3 => text.insert(txn, at, word),
        3 => text.insert(txn, length, word),
        4 => text.remove_range(txn, at, count),
        5 => text.insert_with_attributes(txn, at, word, attributes(random)),
        6 | 7 => text.format(txn, at, count, attributes(random)),
        _ => drop(text.insert_embed(txn, at, any(random, 0))),
    }
}

fn edit_map<M: Map>(map: &M, txn: &mut TransactionMut<'_>, random: &mut StdRng, depth: u32) {
    let key = ["a", "b", "", "key"][random.random_range(0..4)];
    match (random.random_range(0..6), map.get(txn, key)) {
        (0, _) => drop(map.remove(txn, key)),
        (1 | 2, _) => drop(map.insert(txn, key, nested(random))),
        (3 | 4, Some(value)) if depth < 5 => edit_value(value, txn, random, depth + 1),
        _ => drop(map.insert(txn, key, any(random, 0))),
    }
}

fn edit_list<A: Array>(list: &A, txn: &mut TransactionMut<'_>, random: &mut StdRng, depth: u32) {
    let length = list.len(txn);
    let at = random.random_range(0..=length);
    match random.random_range(0..6) {
        0 => list.remove_range(txn, at, random.random_range(0..=(length - at).min(3))),
        1 => drop(list.insert(txn, at, nested(random))),
        2 | 3 if at < length && depth < 5 => {
            let value = list.get(txn, at).expect("the index is in range");
            edit_value(value, txn, random, depth + 1);
        }
        4 => list.insert_range(txn, at, [any(random, 0), any(random, 0)]),
        _ => drop(list.push_back(txn, any(random, 0))),
    }
}

fn edit_value(value: Out, txn: &mut TransactionMut<'_>, random: &mut StdRng, depth: u32) {
    match value {
        Out::YText(text) => edit_text(&text, txn, random, true),
        Out::YMap(map) => edit_map(&map, txn, random, depth),
        Out::YArray(list) => edit_list(&list, txn, random, depth),
        _ => {}
    }
}

fn edit_xml<X: XmlFragment>(xml: &X, txn: &mut TransactionMut<'_>, random: &mut StdRng, depth: u32) {
    let length = xml.len(txn);
    let at = random.random_range(0..=length);
    match (random.random_range(0..6), xml.get(txn, at)) {
        (0, Some(_)) => xml.remove_range(txn, at, 1),
        (1 | 2, Some(yrs::XmlOut::Element(element))) if depth < 5 => {
            if random.random_bool(0.3) {
                element.insert_attribute(txn, "class", "c");
            } else {
                edit_xml(&element, txn, random, depth + 1);
            }
        }
        (1 | 2, Some(yrs::XmlOut::Text(text))) => edit_text(&text, txn, random, true),
        (3, _) => drop(xml.insert(txn, at, XmlTextPrelim::new("t"))),
        _ => drop(xml.insert(txn, at, XmlElementPrelim::empty("p"))),
    }
}

fn attributes(random: &mut StdRng) -> Attrs {
    let value = if random.random_bool(0.3) { Any::Null } else { any(random, 1) };
    Attrs::from([(["b", "i", "link"][random.random_range(0..3)].into(), value)])
}

fn nested(random: &mut StdRng) -> In {
    match random.random_range(0..3) {
        0 => In::from(TextPrelim::new("nested")),
        1 => In::from(MapPrelim::from([("k", In::Any(any(random, 0)))])),
        _ => In::from(ArrayPrelim::from([In::Any(Any::Null), In::from(TextPrelim::new("in a list"))])),
    }
}

fn any(random: &mut StdRng, depth: u32) -> Any {
    match random.random_range(0..if depth < 3 { 9 } else { 7 }) {
        0 => Any::Null,
        1 => Any::Bool(random.random()),
        2 => Any::from(random.random_range(-1_000_000_i64..1_000_000)),
        3 => Any::from(random.random::<f64>()),
        4 => Any::from(random.random::<i64>() >> 8),
        5 => Any::from("a string é 🌍"),
        6 => Any::from(f64::from(random.random::<f32>())),
        7 => Any::from(vec![any(random, depth + 1), any(random, depth + 1)]),
        _ => Any::from(std::collections::HashMap::from([("k".to_owned(), any(random, depth + 1))])),
    }
}

/// Puts the client's new updates into one of the shapes in which clients send them.
fn shaped(
    peer: &Peer,
    new: &[Vec<u8>],
    old: &[Vec<u8>],
    server: &Server,
    random: &mut StdRng,
) -> Vec<Vec<u8>> {
    let everything = || peer.doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    let theirs = server.known.state_vector().encode();
    let shape = match random.random_range(0..6) {
        _ if new.is_empty() => return vec![],
        0 => merge_updates_v1(new).expect("they merge"),
        1 => everything(),
        2 => {
            let theirs = yrs::StateVector::decode_v1(&theirs).expect("a state vector");
            peer.doc.transact().encode_diff_v1(&theirs)
        }
        3 => {
            // Some of what was sent before: the holes between become skips.
            let some: Vec<_> = old.iter().filter(|_| random.random_bool(0.5)).chain(new).collect();
            merge_updates_v1(some).expect("they merge")
        }
        4 => diff_updates_v1(&everything(), &theirs).expect("they differ"),
        _ => return new.to_vec(),
    };
    vec![shape]
}

/// Several clients on one server; every update must pass, and all must end with the same document.
pub(super) fn session(seed: u64) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::new();
    let mut log = Vec::new();
    // Client ids small and large: the order among them decides conflicts and who is integrated first.
    let mut peers: Vec<Peer> = (0..3)
        .map(|index| Peer::new((random.random::<u64>() >> random.random_range(13..62)) * 4 + index))
        .collect();
    let mut seen = [0; 3];
    let mut sent: [Vec<Vec<u8>>; 3] = Default::default();
    for _ in 0..random.random_range(5..40) {
        let index = random.random_range(0..peers.len());
        let peer = &mut peers[index];
        for _ in 0..random.random_range(1..4) {
            peer.edit(&mut random);
        }
        if random.random_bool(0.5) {
            continue;
        }
        let new = peer.take();
        for update in shaped(peer, &new, &sent[index], &server, &mut random) {
            offer_genuine(&mut server, &update, seed, &mut log);
        }
        sent[index].extend(new);
        if random.random_bool(0.7) {
            for update in &log[seen[index]..] {
                peer.receive(update);
            }
            seen[index] = log.len();
        }
    }
    for (index, peer) in peers.iter().enumerate() {
        for update in peer.take() {
            offer_genuine(&mut server, &update, seed, &mut log);
        }
        for update in &log[seen[index]..] {
            peer.receive(update);
        }
    }
    server.check_equal(&server.reload());
    log
}

fn offer_genuine(server: &mut Server, update: &[u8], seed: u64, log: &mut Vec<Vec<u8>>) {
    match server.offer(update) {
        Ok(changed) => {
            log.extend(changed.then(|| update.to_owned()));
            assert_eq!(server.offer(update), Ok(false), "seed {seed}: a repeat changes nothing");
            server.check();
        }
        Err(refused) => panic!("seed {seed}: {refused:?}: {}", hex(update)),
    }
}

#[test]
fn whatever_clients_send_is_admitted() {
    on_a_small_stack(|| {
        for seed in seeds(200) {
            session(seed);
        }
    });
}
