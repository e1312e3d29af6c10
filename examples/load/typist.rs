//! Updates as a Yjs client writes them: made beforehand, by a real replica of its own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use yrs::{Doc, ReadTxn, StateVector, Text, TextRef, Transact};

const ROOT: &str = "text";

/// Somebody who types at the end of a text, one key at a time, and knows of nobody else.
pub struct Typist {
    doc: Doc,
    text: TextRef,
    random: StdRng,
    body_end: String,
}

impl Typist {
    /// `number` tells typists apart; it is also in the client id.
    pub fn new(number: usize) -> Self {
        let mut random = StdRng::seed_from_u64(number as u64);
        // Yjs draws a 32-bit number; the low bits keep two typists apart.
        let client = u64::from(random.random_range(1..1_u32 << 15)) << 16 | (number as u64 & 0xffff);
        let doc = Doc::with_client_id(client);
        let text = doc.get_or_insert_text(ROOT);
        Self { doc, text, random, body_end: format!("\",\"client_id\":\"typist-{number}\"}}") }
    }

    /// The next key, as the body of a request.
    pub fn key(&mut self) -> Bytes {
        let mut transaction = self.doc.transact_mut();
        let end = self.text.len(&transaction);
        let mut key = [0; 4];
        let key = char::from(self.random.random_range(b'a'..=b'z')).encode_utf8(&mut key);
        self.text.insert(&mut transaction, end, key);
        let update = transaction.encode_update_v1();
        body(&update, &self.body_end)
    }

    pub fn keys(&mut self, count: usize) -> Vec<Bytes> {
        (0..count).map(|_| self.key()).collect()
    }
}

/// Somebody who writes a few characters here and there, so that nothing grows together.
///
/// Edits are near the beginning of the text: finding a place costs a walk from there.
pub struct Editor {
    doc: Doc,
    text: TextRef,
    random: StdRng,
    length: u32,
}

impl Editor {
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let doc = Doc::with_client_id(u64::from(random.random::<u32>()));
        let text = doc.get_or_insert_text(ROOT);
        Self { doc, text, random, length: 0 }
    }

    /// Moves the caret and types a word.
    fn write_word(&mut self, updates: &mut Vec<Bytes>, each_key: bool) {
        const WITHIN: u32 = 400;
        let at = self.random.random_range(0..=self.length.min(WITHIN));
        let letters: String = (0..self.random.random_range(2..=10))
            .map(|_| char::from(self.random.random_range(b'a'..=b'z')))
            .collect();
        for (offset, letter) in letters.char_indices() {
            let mut transaction = self.doc.transact_mut();
            let mut key = [0; 4];
            self.text.insert(&mut transaction, at + offset as u32, letter.encode_utf8(&mut key));
            if each_key {
                updates.push(body(&transaction.encode_update_v1(), "\"}"));
            }
        }
        self.length += letters.len() as u32;
    }

    /// At least so many keystrokes, each the body of a request.
    pub fn keystrokes(&mut self, count: usize) -> Vec<Bytes> {
        let mut updates = Vec::with_capacity(count + 10);
        while updates.len() < count {
            self.write_word(&mut updates, true);
        }
        updates
    }

    /// Grows the text until it takes about so many bytes encoded; in pieces, each the body of a request.
    pub fn pieces(&mut self, encoded_bytes: usize) -> Vec<Bytes> {
        const WORDS_A_PIECE: usize = 2000;
        let mut pieces = Vec::new();
        let mut known = self.doc.transact().state_vector();
        let mut written = 0;
        while written < encoded_bytes {
            for _ in 0..WORDS_A_PIECE {
                self.write_word(&mut Vec::new(), false);
            }
            let transaction = self.doc.transact();
            let piece = transaction.encode_state_as_update_v1(&known);
            known = transaction.state_vector();
            written += piece.len();
            pieces.push(body(&piece, "\"}"));
        }
        pieces
    }
}

/// A text that was pasted whole: as few blocks as there can be.
pub fn pasted(bytes: usize) -> Bytes {
    let doc = Doc::with_client_id(0x5ca1_ab1e);
    let text = doc.get_or_insert_text(ROOT);
    text.insert(&mut doc.transact_mut(), 0, &"All work and no play. ".repeat(bytes / 22));
    body(&doc.transact().encode_state_as_update_v1(&StateVector::default()), "\"}")
}

fn body(update: &[u8], end: &str) -> Bytes {
    Bytes::from(format!("{{\"update\":\"{}{end}", STANDARD.encode(update)))
}
