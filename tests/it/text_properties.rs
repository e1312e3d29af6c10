//! Edits of a text over HTTP, also of an earlier state of it, among editors with a CRDT library: against a model.
//!
//! Every character is typed only once, so that what became of each can be told. `PROMPTGRIMOIRE_SEEDS` sets how many
//! seeds are tried. What happens is decided by the seed alone.

use std::collections::{BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Peer, Server, bytes_of};

const SEEDS: u64 = 60;
const STEPS: u32 = 40;
const UNITS: [&str; 3] = ["utf16", "char", "byte"];

#[tokio::test]
async fn nothing_that_was_typed_and_not_deleted_is_lost() {
    let server = Server::start().await;
    let seeds = std::env::var("PROMPTGRIMOIRE_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("PROMPTGRIMOIRE_SEEDS is a number"));
    let mut rebased = 0;
    for seed in 0..seeds {
        rebased += Room::new(seed, server.client.clone()).run().await;
    }
    assert!(rebased > seeds, "edits of earlier texts are what this is about: {rebased}");
}

struct Editor {
    name: &'static str,
    peer: Peer,
    /// Edits on their way, in order.
    unsent: VecDeque<Vec<u8>>,
}

struct Room {
    seed: u64,
    document: String,
    client: Client,
    random: StdRng,
    editors: Vec<Editor>,
    /// The text at every sequence.
    history: Vec<String>,
    typed: BTreeSet<char>,
    deleted: BTreeSet<char>,
    /// Whether a text was ever given whole: then a word may have been replaced, and its letters typed again.
    was_put: bool,
    rebased: u64,
}

impl Room {
    fn new(seed: u64, client: Client) -> Self {
        let editor = |name| Editor { name, peer: Peer::new(), unsent: VecDeque::new() };
        Self {
            seed,
            document: format!("seed-{seed}"),
            client,
            random: StdRng::seed_from_u64(seed),
            editors: vec![editor("tab-1"), editor("tab-2")],
            history: vec![String::new()],
            typed: BTreeSet::new(),
            deleted: BTreeSet::new(),
            was_put: false,
            rebased: 0,
        }
    }

    async fn run(mut self) -> u64 {
        for _ in 0..STEPS {
            match self.random.random_range(0..10) {
                0..=2 => self.type_somewhere(),
                3..=4 => self.deliver().await,
                5 => self.catch_up().await,
                6..=7 => self.patch().await,
                _ if self.seed.is_multiple_of(2) => self.put().await,
                _ => self.patch().await,
            }
        }
        self.compare().await;
        self.rebased
    }

    /// Some characters that nobody has typed yet: of one, two, three and four bytes, and such as combine.
    fn fresh(&mut self) -> String {
        let number = u32::try_from(self.typed.len()).expect("a few");
        let fresh = (number..number + self.random.random_range(1..=4)).map(|number| {
            let first = [0x4e00, 0x300, 0x1f400, 0x100, 0x10400, 0x61][(number % 6) as usize];
            let code = if first == 0x61 && number >= 6 * 26 { 0x3400 + number } else { first + number / 6 };
            char::from_u32(code).expect("these are all characters")
        });
        let fresh: String = fresh.collect();
        self.typed.extend(fresh.chars());
        fresh
    }

    /// A part of a text: from one character on, so many.
    fn part(&mut self, text: &str) -> (usize, usize) {
        let length = text.chars().count();
        let at = self.random.random_range(0..=length);
        (at, self.random.random_range(0..=(length - at).min(4)))
    }

    fn type_somewhere(&mut self) {
        let who = self.random.random_range(0..self.editors.len());
        let text = self.editors[who].peer.text();
        let (at, length) = self.part(&text);
        let utf16 = |text: &str| u32::try_from(text.encode_utf16().count()).expect("short");
        let before = utf16(&head(&text, at));
        let update = if self.random.random_bool(0.3) {
            let part: String = text.chars().skip(at).take(length).collect();
            self.deleted.extend(part.chars());
            self.editors[who].peer.delete(before, utf16(&part))
        } else {
            let fresh = self.fresh();
            self.editors[who].peer.insert(before, &fresh)
        };
        self.editors[who].unsent.push_back(update);
    }

    async fn deliver(&mut self) {
        let who = self.random.random_range(0..self.editors.len());
        let editor = &mut self.editors[who];
        let Some(update) = editor.unsent.pop_front() else { return };
        let answer = self.client.update(&self.document, editor.name, &update).await.expect_json(200);
        self.happened(&answer).await;
    }

    async fn catch_up(&mut self) {
        if self.history.len() > 1 {
            let who = self.random.random_range(0..self.editors.len());
            let state = self.client.state(&self.document).await;
            self.editors[who].peer.apply(&state);
        }
    }

    /// Notes the text that an accepted write has led to.
    async fn happened(&mut self, answer: &Value) {
        if answer["changed"] == true {
            assert_eq!(answer["seq"], self.history.len(), "seed {}", self.seed);
            self.history.push(self.client.text(&self.document).await);
        }
    }

    /// A sequence to edit at, and whether it is the head.
    fn base(&mut self) -> (usize, bool) {
        let head = self.history.len() - 1;
        if self.random.random_bool(0.4) { (head, true) } else { (self.random.random_range(0..=head), false) }
    }

    async fn patch(&mut self) {
        let (base, is_plain) = self.base();
        let unit = UNITS[self.random.random_range(0..3)];
        let mut text = self.history[base].clone();
        let mut ops = Vec::new();
        for _ in 0..self.random.random_range(1..=3) {
            let (at, length) = self.part(&text);
            let before = head(&text, at);
            let part: String = text.chars().skip(at).take(length).collect();
            let position = units(&before, unit);
            if self.random.random_bool(0.4) {
                ops.push(json!({ "delete": units(&part, unit), "at": position }));
                text.replace_range(before.len()..before.len() + part.len(), "");
                self.deleted.extend(part.chars());
            } else {
                let fresh = self.fresh();
                ops.push(json!({ "insert": fresh, "at": position }));
                text.insert_str(before.len(), &fresh);
            }
        }
        let mut body = json!({ "client_id": "agent", "unit": unit, "ops": ops });
        if !is_plain {
            body["base"] = json!(base);
        }
        let path = format!("/docs/{}/text", self.document);
        let answer = self.client.send(self.client.request(Method::PATCH, &path).json(&body)).await;
        self.edited(base, is_plain, unit, &text, &answer.expect_json(200)).await;
    }

    async fn put(&mut self) {
        let (base, is_plain) = self.base();
        let unit = UNITS[self.random.random_range(0..3)];
        let mut text = self.history[base].clone();
        for _ in 0..self.random.random_range(1..=3) {
            let (at, length) = self.part(&text);
            let before = head(&text, at);
            let part: String = text.chars().skip(at).take(length).collect();
            let fresh = if self.random.random_bool(0.7) { self.fresh() } else { String::new() };
            text.replace_range(before.len()..before.len() + part.len(), &fresh);
            self.deleted.extend(part.chars());
        }
        self.was_put = true;
        let base_parameter = if is_plain { String::new() } else { format!("&base={base}") };
        let path = format!("/docs/{}/text?client_id=agent&unit={unit}{base_parameter}", self.document);
        let request = self.client.request(Method::PUT, &path).header("content-type", "text/plain");
        let answer = self.client.send(request.body(text.clone())).await;
        self.edited(base, is_plain, unit, &text, &answer.expect_json(200)).await;
    }

    /// `wanted`: what the edit makes of the text at its base.
    async fn edited(&mut self, base: usize, is_plain: bool, unit: &str, wanted: &str, answer: &Value) {
        let seed = self.seed;
        let was_head = base == self.history.len() - 1;
        self.happened(answer).await;
        let now = self.history.last().expect("it begins with one");
        assert_eq!(answer["length"], units(now, unit), "seed {seed}");
        if was_head {
            assert_eq!(now, wanted, "seed {seed}: without concurrency it is a splice");
        } else {
            assert!(!is_plain);
            self.rebased += 1;
        }
    }

    async fn compare(&mut self) {
        let seed = self.seed;
        for who in 0..self.editors.len() {
            while let Some(update) = self.editors[who].unsent.pop_front() {
                let name = self.editors[who].name;
                let answer = self.client.update(&self.document, name, &update).await.expect_json(200);
                self.happened(&answer).await;
            }
        }
        if self.history.len() == 1 {
            return;
        }
        let text = self.client.text(&self.document).await;
        let state = self.client.state(&self.document).await;
        for editor in &mut self.editors {
            editor.peer.apply(&state);
            assert_eq!(editor.peer.text(), text, "seed {seed}, {}", editor.name);
        }
        let mut replayed = Peer::new();
        for (entry, text) in self.client.log(&self.document).await.iter().zip(&self.history[1..]) {
            replayed.apply(&bytes_of(&entry["update"]));
            assert_eq!(replayed.text(), *text, "seed {seed}, the log at {}", entry["seq"]);
        }
        let there: BTreeSet<char> = text.chars().collect();
        let kept: BTreeSet<char> = self.typed.difference(&self.deleted).copied().collect();
        let lost: Vec<_> = kept.difference(&there).collect();
        assert!(lost.is_empty(), "seed {seed} lost {lost:?}");
        if !self.was_put {
            assert_eq!(there, kept, "seed {seed}: what was deleted is gone");
            assert_eq!(text.chars().count(), there.len(), "seed {seed}: nothing is there twice");
        }
    }
}

/// The first so many characters.
fn head(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

fn units(text: &str, unit: &str) -> usize {
    match unit {
        "utf16" => text.encode_utf16().count(),
        "char" => text.chars().count(),
        _ => text.len(),
    }
}
