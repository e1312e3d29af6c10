//! The reader, the admission and yrs together, under genuine and hostile updates from many seeds.
//!
//! `PROMPTGRIMOIRE_SEEDS` sets how many seeds each trial runs; the default takes a few seconds in all.

mod collecting;
mod genuine;
mod hostile;
mod nesting;
mod shown;

use std::collections::BTreeMap;

use yrs::types::ToJson;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, OffsetKind, Options, Out, ReadTxn, Transact, Update, WriteTxn};

use super::admission::{Known, Refusal};
use super::format::{DeleteSet, FormatError, read_state_vector, read_update};

/// What tokio gives its threads, on which updates are applied.
const STACK_BYTES: usize = 2 * 1024 * 1024;

fn seeds(default: u64) -> std::ops::Range<u64> {
    let count = std::env::var("PROMPTGRIMOIRE_SEEDS").ok();
    0..count.map_or(default, |count| count.parse().expect("PROMPTGRIMOIRE_SEEDS is a number"))
}

/// Runs `trial` on a stack of the size that it will have in the server.
fn on_a_small_stack(trial: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(trial);
    thread.expect("a thread starts").join().expect("the trial passes");
}

fn document(client: u64, skip_gc: bool) -> Doc {
    let client = yrs::block::ClientID::new(client);
    Doc::with_options(Options {
        skip_gc,
        offset_kind: OffsetKind::Utf16,
        cleanup_formatting: !skip_gc,
        ..Options::with_client_id(client)
    })
}

#[derive(Debug, PartialEq)]
enum Refused {
    Format(FormatError),
    Admission(Refusal),
}

/// A document as the server keeps it.
struct Server {
    doc: Doc,
    known: Known,
}

impl Server {
    fn new() -> Self {
        Self { doc: document(0, true), known: Known::default() }
    }

    /// Takes an update the way the server does, and checks that what admission promises is so.
    ///
    /// Answers whether anything changed.
    fn offer(&mut self, update: &[u8]) -> Result<bool, Refused> {
        let outline = read_update(update).map_err(Refused::Format)?;
        let admission = self.known.admit(&outline).map_err(Refused::Admission)?;
        let changes = !admission.changes_nothing();
        let decoded = Update::decode_v1(update).expect("yrs decodes what the reader lets through");
        let mut txn = self.doc.transact_mut();
        txn.apply_update(decoded).expect("yrs applies what is admitted");
        let derived = to_delete_set(txn.delete_set());
        let inserted = !txn.insert_set().is_empty();
        drop(txn);
        assert_eq!(changes, inserted || !derived.is_empty(), "{}", hex(update));
        self.known.record(admission, &outline.deletions, &derived);
        Ok(changes)
    }

    fn state(&self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v1(&yrs::StateVector::default())
    }

    /// Checks that nothing is parked and that `Known` says of the document what the document says of itself.
    fn check(&self) {
        let txn = self.doc.transact();
        assert!(!txn.has_missing_updates(), "something is parked");
        let theirs = read_state_vector(&txn.state_vector().encode_v1()).expect("a state vector");
        assert_eq!(self.known.state_vector(), theirs);
        assert_eq!(self.known.deleted(), &to_delete_set(&txn.snapshot().delete_set));
    }

    /// Writes the document, and reads it again.
    fn reload(&self) -> Server {
        self.check();
        let state = self.state();
        let mut copy = Server::new();
        if let Err(refused) = copy.offer(&state) {
            panic!("the state is refused: {refused:?}: {}", hex(&state));
        }
        copy.check();
        assert_eq!(copy.known.state_vector(), self.known.state_vector());
        copy
    }

    /// Checks that two documents are the same in everything that a reader can see.
    fn check_equal(&self, other: &Server) {
        assert_eq!(self.known.deleted(), other.known.deleted());
        assert_eq!(contents(&self.doc), contents(&other.doc), "{}", hex(&self.state()));
    }
}

fn to_delete_set(theirs: &yrs::IdSet) -> DeleteSet {
    let mut set = DeleteSet::default();
    for (client, ranges) in theirs.iter() {
        for range in ranges.iter() {
            set.insert(client.get(), range.clone());
        }
    }
    set
}

/// All roots that hold something, each seen as a text and as a map, which show any content without harm.
fn contents(doc: &Doc) -> BTreeMap<String, (String, String)> {
    let names: Vec<String> = doc.transact().root_refs().map(|(name, _)| name.to_owned()).collect();
    let mut txn = doc.transact_mut();
    names
        .into_iter()
        .map(|name| {
            let text = txn.get_or_insert_text(name.as_str()).get_string(&txn);
            let map = txn.get_or_insert_map(name.as_str());
            let mut entries: Vec<String> = yrs::Map::iter(&map, &txn)
                .map(|(key, value)| format!("{key}: {}", sorted_json(&value, &txn)))
                .collect();
            entries.sort();
            (name, (text, entries.join(", ")))
        })
        .filter(|(_, (text, entries))| !text.is_empty() || !entries.is_empty())
        .collect()
}

/// A value as JSON, the keys of its maps in order.
fn sorted_json<T: ReadTxn>(value: &Out, txn: &T) -> String {
    fn write(any: &yrs::Any, out: &mut String) {
        match any {
            yrs::Any::Map(map) => {
                let mut keys: Vec<_> = map.keys().collect();
                keys.sort();
                for key in keys {
                    out.push_str(key);
                    write(&map[key], out);
                }
            }
            yrs::Any::Array(values) => values.iter().for_each(|value| write(value, out)),
            // A whole number may come back as a float: JavaScript sees no difference.
            yrs::Any::Number(number) => {
                out.push_str(&format!("{:?} {:?} ", number.as_f64(), number.as_i64()))
            }
            plain => out.push_str(&format!("{plain:?} ")),
        }
    }
    let mut out = String::new();
    write(&value.to_json(txn), &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
