//! Updates that no client writes: genuine ones with damage, and made-up ones of the right form.
//!
//! Nothing may panic, hang or stay parked, and whatever is admitted must leave a document that can be written and
//! read again.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::genuine::session;
use super::shown::check_shown;
use super::*;
use crate::document::lib0::{write_var_string, write_varuint};

/// Changes some bytes, or cuts, repeats or inserts some.
fn damage(update: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=update.len());
        let to = random.random_range(at..=update.len().min(at + 8));
        match random.random_range(0..7) {
            0 if at < update.len() => update[at] ^= 1 << random.random_range(0..8),
            1 if at < update.len() => update[at] = random.random(),
            2 if at < update.len() => update[at] = random.random_range(0..12),
            3 => update.truncate(at),
            4 => drop(update.drain(at..to)),
            5 => update.insert(at, random.random_range(0..12)),
            _ => {
                let again = update[at..to].to_vec();
                update.splice(at..at, again);
            }
        }
    }
}

/// Checks that the document survives being written and read again, the order of its text aside.
///
/// Made-up neighbours can contradict each other, and then the order in which blocks arrive decides about theirs, as it
/// does between any two Yjs clients. What is there, what is deleted and what a map holds is the same nevertheless.
fn check_reload(server: &Server) {
    let copy = server.reload();
    assert_eq!(server.known.deleted(), copy.known.deleted());
    let unordered = |server: &Server| {
        let mut contents = contents(&server.doc);
        for (text, entries) in contents.values_mut() {
            for text in [text, entries] {
                let mut units: Vec<char> = text.chars().collect();
                units.sort_unstable();
                *text = units.into_iter().collect();
            }
        }
        contents
    };
    assert_eq!(unordered(server), unordered(&copy), "{}", hex(&server.state()));
}

#[test]
fn damaged_updates_are_refused_or_harmless() {
    on_a_small_stack(|| {
        for seed in seeds(60) {
            let mut random = StdRng::seed_from_u64(seed);
            let log = session(seed);
            let mut server = Server::new();
            for update in &log {
                for _ in 0..30 {
                    let mut damaged = update.clone();
                    damage(&mut damaged, &mut random);
                    if server.offer(&damaged).is_ok() {
                        server.check();
                    }
                }
                // It may be refused by now: damage that passed can have taken its place.
                let _ = server.offer(update);
            }
            check_reload(&server);
            check_shown(&server);
        }
    });
}

#[test]
fn random_bytes_never_panic() {
    for seed in seeds(2000) {
        let mut random = StdRng::seed_from_u64(seed);
        let length = random.random_range(0..60);
        let bytes: Vec<u8> = (0..length)
            .map(|_| if random.random_bool(0.5) { random.random_range(0..12) } else { random.random() })
            .collect();
        let _ = read_update(&bytes);
        let _ = read_state_vector(&bytes);
    }
}

/// Writes updates of the right form that refer to each other at random.
struct Author<'a> {
    random: &'a mut StdRng,
    known: &'a Known,
    bytes: Vec<u8>,
}

const CLIENTS: u64 = 4;

impl Author<'_> {
    fn update(mut self) -> Vec<u8> {
        let mut clients: Vec<u64> = (1..=CLIENTS).filter(|_| self.random.random_bool(0.5)).collect();
        if self.random.random_bool(0.5) {
            clients.reverse();
        }
        self.number(clients.len() as u64);
        for client in clients {
            let count = self.random.random_range(1..5);
            self.number(count);
            self.number(client);
            let next_clock = self.known.next_clock(client);
            // Sometimes it begins with what is known already.
            let back = if self.random.random_bool(0.3) { self.random.random_range(0..4) } else { 0 };
            let mut clock = next_clock.saturating_sub(back);
            self.number(clock.into());
            for _ in 0..count {
                clock += self.block(client, clock);
            }
        }
        self.deletions();
        self.bytes
    }

    fn number(&mut self, number: u64) {
        write_varuint(&mut self.bytes, number);
    }

    fn text(&mut self, texts: &[&str]) {
        let text = texts[self.random.random_range(0..texts.len())];
        write_var_string(&mut self.bytes, text);
    }

    /// An id that the block at this place can refer to: mostly near the end of what is known, where it matters.
    fn id(&mut self, client: u64, clock: u32) {
        let of = self.random.random_range(1..=CLIENTS);
        let limit = if of == client { clock } else { self.known.next_clock(of) + 3 };
        let back = self.random.random_range(1..10).min(limit);
        self.number(of);
        self.number((limit - back).into());
    }

    fn block(&mut self, client: u64, clock: u32) -> u32 {
        let kind = [4, 4, 4, 4, 7, 7, 8, 8, 1, 0, 6, 5, 3][self.random.random_range(0..13)];
        if kind == 0 {
            let length = self.random.random_range(1..4);
            self.bytes.extend([0, length as u8]);
            return length;
        }
        let sides = [0, 0, 0x80, 0x80, 0x80, 0xc0, 0xc0, 0x40][self.random.random_range(0..8)];
        let keyed = if self.random.random_bool(0.3) { 0x20 } else { 0 };
        self.bytes.push(kind | sides | keyed);
        if sides & 0x80 != 0 {
            self.id(client, clock);
        }
        if sides & 0x40 != 0 {
            self.id(client, clock);
        }
        if sides == 0 {
            if self.random.random_bool(0.6) {
                self.number(1);
                self.text(&["t", "m", ""]);
            } else {
                self.number(0);
                self.id(client, clock);
            }
            if keyed != 0 {
                self.text(&["k", "j"]);
            }
        }
        self.content(kind)
    }

    fn content(&mut self, kind: u8) -> u32 {
        match kind {
            1 => {
                let length = self.random.random_range(1..4);
                self.number(length.into());
                return length;
            }
            3 => self.bytes.extend([2, 0xff, 0xfe]),
            4 => {
                let texts = ["a", "bc", "🌍", "x🌍y", "\n"];
                let text = texts[self.random.random_range(0..texts.len())];
                write_var_string(&mut self.bytes, text);
                return text.encode_utf16().count() as u32;
            }
            5 => self.text(&["{}", "1", "[[]]"]),
            6 => {
                self.text(&["b", "i"]);
                self.text(&["true", "null", "{\"a\":1}"]);
            }
            7 => {
                let type_ref = [0, 1, 2, 3, 4, 6][self.random.random_range(0..6)];
                self.number(type_ref);
                if type_ref == 3 {
                    self.text(&["p", ""]);
                }
            }
            _ => {
                let count = self.random.random_range(1..4);
                self.bytes.push(count);
                for _ in 0..count {
                    let value: &[u8] =
                        [&[126][..], &[120], &[125, 7], &[117, 1, 127]][self.random.random_range(0..4)];
                    self.bytes.extend(value);
                }
                return count.into();
            }
        }
        1
    }

    fn deletions(&mut self) {
        let clients: Vec<u64> = (1..=CLIENTS).filter(|_| self.random.random_bool(0.2)).collect();
        self.number(clients.len() as u64);
        for client in clients {
            self.number(client);
            self.number(1);
            let end = self.known.next_clock(client) + 1;
            let start = self.random.random_range(0..end);
            self.number(start.into());
            let length = self.random.random_range(1..4);
            self.number(length);
        }
    }
}

#[test]
fn made_up_updates_are_refused_or_harmless() {
    on_a_small_stack(|| {
        let (mut admitted, mut offered) = (0, 0);
        for seed in seeds(300) {
            let mut random = StdRng::seed_from_u64(seed);
            let mut server = Server::new();
            for _ in 0..60 {
                let author = Author { random: &mut random, known: &server.known, bytes: Vec::new() };
                let update = author.update();
                offered += 1;
                if server.offer(&update).is_ok() {
                    admitted += 1;
                    server.check();
                }
            }
            check_reload(&server);
            check_shown(&server);
        }
        assert!(admitted * 20 > offered, "too few are admitted to try much: {admitted} of {offered}");
    });
}
