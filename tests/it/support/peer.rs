//! A Yjs peer: an editor's copy of a document, which yields updates as a browser would.

use yrs::types::Attrs;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Any, Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Text, TextRef, Transact, TransactionMut,
    Update,
};

use super::secrets::keep_begin_secret;

/// The root that is edited: the one that the server takes for the text.
const ROOT: &str = "text";

/// One editor with a CRDT client id of its own.
pub struct Peer {
    doc: Doc,
    text: TextRef,
}

impl Default for Peer {
    fn default() -> Self {
        Self::new()
    }
}

impl Peer {
    /// Draws its id, as every page load does.
    pub fn new() -> Self {
        Self::with_options(Options::default())
    }

    /// With an id that the test knows.
    pub fn numbered(number: u64) -> Self {
        Self::with_options(Options::with_client_id(yrs::block::ClientID::new(number)))
    }

    /// With the content of an update.
    pub fn from_update(update: &[u8]) -> Self {
        let mut peer = Self::new();
        peer.apply(update);
        peer
    }

    fn with_options(options: Options) -> Self {
        let doc = Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..options });
        let text = doc.get_or_insert_text(ROOT);
        Self { doc, text }
    }

    /// Types. Positions and lengths are UTF-16 code units. Every edit yields the update that says it.
    pub fn insert(&mut self, at: u32, text: &str) -> Vec<u8> {
        keep_begin_secret(text);
        self.edit(|root, transaction| root.insert(transaction, at, text))
    }

    /// Types at the end.
    pub fn push(&mut self, text: &str) -> Vec<u8> {
        keep_begin_secret(text);
        self.edit(|root, transaction| root.push(transaction, text))
    }

    pub fn delete(&mut self, at: u32, length: u32) -> Vec<u8> {
        self.edit(|root, transaction| root.remove_range(transaction, at, length))
    }

    /// Makes a range bold.
    pub fn embolden(&mut self, at: u32, length: u32) -> Vec<u8> {
        let bold = Attrs::from([("bold".into(), Any::from(true))]);
        self.edit(|root, transaction| root.format(transaction, at, length, bold))
    }

    fn edit(&mut self, edit: impl FnOnce(&TextRef, &mut TransactionMut<'_>)) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        edit(&self.text, &mut transaction);
        transaction.encode_update_v1()
    }

    /// Takes an update in. What it builds on must be there.
    pub fn apply(&mut self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("the server sends updates only");
        let mut transaction = self.doc.transact_mut();
        transaction.apply_update(update).expect("the server sends updates that can be merged");
        assert!(!transaction.has_missing_updates(), "the server sends nothing before what it builds on");
    }

    pub fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    /// The text's length in UTF-16 code units.
    pub fn length(&self) -> u32 {
        self.text.len(&self.doc.transact())
    }

    pub fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    /// What it has of whom: for comparing, since an encoded state vector has no order.
    pub fn clocks(&self) -> StateVector {
        self.doc.transact().state_vector()
    }

    /// Everything, as one update.
    pub fn whole(&self) -> Vec<u8> {
        self.doc.transact().encode_state_as_update_v1(&StateVector::default())
    }

    /// What the holder of a state vector lacks.
    pub fn difference(&self, state_vector: &[u8]) -> Vec<u8> {
        let state_vector = StateVector::decode_v1(state_vector).expect("a state vector");
        self.doc.transact().encode_diff_v1(&state_vector)
    }
}
