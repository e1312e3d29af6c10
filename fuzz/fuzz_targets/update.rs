//! Any bytes, through reader and admission into yrs: nothing may crash, hang, grow without bound or stay parked.
//!
//! The input is one or more updates, each behind its length in one byte, offered to one document in turn.

#![no_main]

use libfuzzer_sys::fuzz_target;
use promptgrimoire::document::admission::Known;
use promptgrimoire::document::format::{DeleteSet, read_update};
use yrs::updates::decoder::Decode;
use yrs::{Doc, OffsetKind, Options, ReadTxn, Transact, Update};

fuzz_target!(|input: &[u8]| {
    let mut document = Document::default();
    let mut rest = input;
    while let Some((&length, tail)) = rest.split_first() {
        let (update, tail) = tail.split_at(tail.len().min(length.into()));
        document.offer(update);
        rest = tail;
    }
    let state = document.doc.transact().encode_state_as_update_v1(&yrs::StateVector::default());
    let mut copy = Document::default();
    assert!(copy.offer(&state), "the document's own state is refused");
    assert_eq!(copy.known.state_vector(), document.known.state_vector());
});

struct Document {
    doc: Doc,
    known: Known,
}

impl Default for Document {
    fn default() -> Self {
        let doc = Doc::with_options(Options {
            skip_gc: true,
            offset_kind: OffsetKind::Utf16,
            cleanup_formatting: false,
            ..Options::with_client_id(yrs::block::ClientID::new(0))
        });
        Self { doc, known: Known::default() }
    }
}

impl Document {
    /// Applies an update if it is admitted, and says whether it was.
    fn offer(&mut self, update: &[u8]) -> bool {
        let Ok(outline) = read_update(update) else { return false };
        let Ok(admission) = self.known.admit(&outline) else { return false };
        let decoded = Update::decode_v1(update).expect("yrs decodes what the reader lets through");
        let mut txn = self.doc.transact_mut();
        txn.apply_update(decoded).expect("yrs applies what is admitted");
        let mut derived = DeleteSet::default();
        for (client, ranges) in txn.delete_set().iter() {
            for range in ranges.iter() {
                derived.insert(client.get(), range.clone());
            }
        }
        drop(txn);
        assert!(!self.doc.transact().has_missing_updates(), "something is parked");
        self.known.record(admission, &outline.deletions, &derived);
        true
    }
}
