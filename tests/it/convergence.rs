//! Editors whose requests are delayed, lost, repeated and put out of order, and whose streams break: in the end all
//! have the same document.
//!
//! `PROMPTGRIMOIRE_SEEDS` sets how many seeds are tried. What happens is decided by the seed alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use yrs::types::Attrs;
use yrs::types::ToJson;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{
    Any, Array, Doc, GetString, Map, OffsetKind, Options, ReadTxn, StateVector, Text, Transact, Update,
};

use crate::support::{Answer, Client, Frame, Server, Stream, base64, bytes_of};

const SEEDS: u64 = 240;
/// How many seeds are tried at the same time, on one server.
const AT_ONCE: u64 = 4;
const STEPS: u32 = 40;
/// How often everybody may still have something for the others when all is delivered. Twice is usual: editors that
/// clean up formats make deletions of what they are sent.
const ROUNDS_MAX: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editors_behind_a_bad_network_end_with_the_same_document() {
    let server = Server::start().await;
    let seeds = std::env::var("PROMPTGRIMOIRE_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("PROMPTGRIMOIRE_SEEDS is a number"));
    let happened = Arc::new(Happened::default());
    let trying: Vec<_> = (0..AT_ONCE)
        .map(|first| {
            let (client, happened) = (server.client.clone(), happened.clone());
            tokio::spawn(async move {
                for seed in (first..seeds).step_by(AT_ONCE as usize) {
                    Room::new(seed, client.clone(), happened.clone()).run().await;
                }
            })
        })
        .collect();
    for trying in trying {
        trying.await.expect("all documents are the same");
    }
    println!("{seeds} seeds: {happened:?}");
    happened.check();
}

/// How often something happened that must happen for the test to be one.
#[derive(Debug, Default)]
struct Happened {
    gaps: AtomicU64,
    repeats: AtomicU64,
    lost: AtomicU64,
    resumed: AtomicU64,
    healed: AtomicU64,
}

impl Happened {
    fn check(&self) {
        for count in [&self.gaps, &self.repeats, &self.lost, &self.resumed, &self.healed] {
            assert!(count.load(Ordering::Relaxed) > 0, "{self:?}");
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Some editors of one document, and what is on its way between them and the server.
struct Room {
    seed: u64,
    document: String,
    client: Client,
    random: StdRng,
    editors: Vec<Editor>,
    /// Who sent it, and what: in no order.
    on_the_way: Vec<(usize, Vec<u8>)>,
    /// The last sequence that the server has told anybody.
    head: u64,
    happened: Arc<Happened>,
}

impl Room {
    fn new(seed: u64, client: Client, happened: Arc<Happened>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let editors = (0..random.random_range(2..=4))
            // Numbers small and large: their order decides who comes first where two insert at one place.
            .map(|index| {
                Editor::new(index, (random.random::<u64>() >> random.random_range(13..60)) * 4 + index)
            })
            .collect();
        let document = format!("seed-{seed}");
        Self { seed, document, client, random, editors, on_the_way: Vec::new(), head: 0, happened }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            let who = self.random.random_range(0..self.editors.len());
            match self.random.random_range(0..10) {
                0..=3 => self.edit(who),
                4..=6 => self.deliver().await,
                7 => self.read_some(who).await,
                8 => self.editors[who].stream = None,
                _ => {
                    self.connect(who).await;
                }
            }
        }
        self.settle().await;
        self.compare().await;
    }

    fn edit(&mut self, who: usize) {
        let update = self.editors[who].edit(&mut self.random);
        match self.random.random_range(0..10) {
            // Whoever types while disconnected may never have sent it: the state vector will tell.
            0 => count(&self.happened.lost),
            1 => {
                self.on_the_way.push((who, update.clone()));
                self.on_the_way.push((who, update));
            }
            _ => self.on_the_way.push((who, update)),
        }
    }

    /// Something that is on its way arrives, and its answer perhaps does not.
    async fn deliver(&mut self) {
        if self.on_the_way.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.on_the_way.len());
        let (who, update) = self.on_the_way.swap_remove(index);
        let answer = self.client.update(&self.document, &self.editors[who].name, &update).await;
        if self.random.random_bool(0.15) {
            // Without an answer it is sent again.
            self.on_the_way.push((who, update));
        } else if answer.status == 409 {
            count(&self.happened.gaps);
            let state_vector = bytes_of(&answer.expect_problem(409, "missing_updates")["state_vector"]);
            self.push(who, &state_vector).await;
        } else {
            self.accepted(&answer);
        }
    }

    /// Sends what the holder of a state vector lacks, which always builds on what it has. Whether that was news.
    async fn push(&mut self, who: usize, state_vector: &[u8]) -> bool {
        let difference = self.editors[who].difference(state_vector);
        let answer = self.client.update(&self.document, &self.editors[who].name, &difference).await;
        self.accepted(&answer)
    }

    fn accepted(&mut self, answer: &Answer) -> bool {
        let body = answer.expect_json(200);
        self.head = self.head.max(body["seq"].as_u64().expect("a sequence"));
        if body["changed"] == false {
            count(&self.happened.repeats);
        }
        body["changed"] == true
    }

    /// Opens a stream, perhaps where the last one broke off, and sends what the server turns out to lack. Whether
    /// that was news.
    async fn connect(&mut self, who: usize) -> bool {
        let editor = &mut self.editors[who];
        let mut path = format!("/docs/{}/events?client_id={}", self.document, editor.name);
        let how = self.random.random_range(0..3);
        if how == 0 && !editor.last_event_id.is_empty() {
            path = format!("{path}&since={}", editor.last_event_id);
        } else if how != 2 {
            let state_vector = base64(&editor.state_vector()).replace('/', "%2F");
            path = format!("{path}&sv={state_vector}");
        }
        let mut stream = self.client.stream(&path).await;
        let sync = stream.sync().await;
        let data = sync.json();
        if data["resumed"] == true {
            count(&self.happened.resumed);
        }
        editor.apply(&bytes_of(&data["update"]));
        editor.cursor = sync.seq();
        editor.last_event_id = sync.id.unwrap_or_default();
        editor.stream = Some(stream);
        self.head = self.head.max(editor.cursor);
        let state_vector = bytes_of(&data["state_vector"]);
        let healed = self.editors[who].lacks(&state_vector) && self.push(who, &state_vector).await;
        if healed {
            count(&self.happened.healed);
        }
        healed
    }

    /// Reads part of what must come on a stream.
    async fn read_some(&mut self, who: usize) {
        let editor = &mut self.editors[who];
        if editor.stream.is_some() && editor.cursor < self.head {
            let until = self.random.random_range(editor.cursor + 1..=self.head);
            editor.read_until(until).await;
        }
    }

    /// Delivers what is left, until nobody has anything for anybody.
    async fn settle(&mut self) {
        while !self.on_the_way.is_empty() {
            self.deliver().await;
        }
        for _ in 0..ROUNDS_MAX {
            let mut news = false;
            for who in 0..self.editors.len() {
                news |= self.connect(who).await;
                news |= self.push(who, &[0]).await;
            }
            for editor in &mut self.editors {
                editor.read_until(self.head).await;
            }
            if !news {
                return;
            }
        }
        panic!("seed {}: after {ROUNDS_MAX} rounds there is still something to say", self.seed);
    }

    async fn compare(self) {
        let seed = self.seed;
        let answer = self.client.get(&format!("/docs/{}/state", self.document)).await.expect_json(200);
        assert_eq!(answer["seq"], self.head, "seed {seed}");
        let server = Editor::plain(99);
        server.apply(&bytes_of(&answer["update"]));
        let state_vector =
            StateVector::decode_v1(&bytes_of(&answer["state_vector"])).expect("a state vector");
        for editor in &self.editors {
            let name = &editor.name;
            assert_eq!(editor.contents(), server.contents(), "seed {seed}, {name}");
            let transaction = editor.doc.transact();
            assert_eq!(transaction.state_vector(), state_vector, "seed {seed}, {name}");
            let (theirs, ours) = (transaction.snapshot(), server.doc.transact().snapshot());
            assert_eq!(theirs.delete_set, ours.delete_set, "seed {seed}, {name}");
        }
        assert_eq!(self.client.text(&self.document).await, server.contents()["text"], "seed {seed}");
        let log = self.client.log(&self.document).await;
        let replayed = Editor::plain(98);
        log.iter().for_each(|entry| replayed.apply(&bytes_of(&entry["update"])));
        assert_eq!(replayed.contents(), server.contents(), "seed {seed}, the log");
    }
}

/// One copy of the document, which somebody edits.
struct Editor {
    name: String,
    doc: Doc,
    stream: Option<Stream>,
    cursor: u64,
    last_event_id: String,
}

impl Editor {
    fn new(index: u64, number: u64) -> Self {
        Self::with_options(index, Options::with_client_id(yrs::block::ClientID::new(number)))
    }

    /// One that deletes nothing by itself: editors delete marks that have become needless.
    fn plain(index: u64) -> Self {
        Self::with_options(index, Options { cleanup_formatting: false, skip_gc: true, ..Options::default() })
    }

    fn with_options(index: u64, options: Options) -> Self {
        let doc = Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..options });
        for root in ["text", "rich"] {
            doc.get_or_insert_text(root);
        }
        doc.get_or_insert_map("map");
        doc.get_or_insert_array("list");
        Self { name: format!("editor-{index}"), doc, stream: None, cursor: 0, last_event_id: String::new() }
    }

    fn edit(&mut self, random: &mut StdRng) -> Vec<u8> {
        let (text, rich) = (self.doc.get_or_insert_text("text"), self.doc.get_or_insert_text("rich"));
        let (map, list) = (self.doc.get_or_insert_map("map"), self.doc.get_or_insert_array("list"));
        let mut transaction = self.doc.transact_mut();
        for _ in 0..random.random_range(1..=3) {
            let word = ["a", "bc ", "\n", "é", "世界", "grimoire"][random.random_range(0..6)];
            let kind = random.random_range(0..12);
            let root = if kind < 6 { &text } else { &rich };
            let length = root.len(&transaction);
            let at = random.random_range(0..=length);
            let some = random.random_range(0..=(length - at).min(6));
            match kind {
                0..=3 | 6 => root.insert(&mut transaction, at, word),
                4 | 5 | 7 => root.remove_range(&mut transaction, at, some),
                8 => {
                    let value = if random.random() { Any::from(true) } else { Any::Null };
                    let mark = ["bold", "italic"][random.random_range(0..2)];
                    root.format(&mut transaction, at, some, Attrs::from([(mark.into(), value)]));
                }
                9 => {
                    map.insert(&mut transaction, ["a", "b"][random.random_range(0..2)], word);
                }
                10 => {
                    map.remove(&mut transaction, ["a", "b"][random.random_range(0..2)]);
                }
                _ => {
                    let length = list.len(&transaction);
                    let at = random.random_range(0..=length);
                    if at < length && random.random() {
                        list.remove(&mut transaction, at);
                    } else {
                        list.insert(&mut transaction, at, word);
                    }
                }
            }
        }
        transaction.encode_update_v1()
    }

    fn apply(&self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("the server sends updates only");
        let mut transaction = self.doc.transact_mut();
        transaction.apply_update(update).expect("the server sends updates that can be merged");
        assert!(!transaction.has_missing_updates(), "the server sends nothing before what it builds on");
    }

    /// Reads the open stream up to the event of a sequence, which must follow without a hole.
    async fn read_until(&mut self, seq: u64) {
        let mut stream = self.stream.take().expect("the stream is open");
        while self.cursor < seq {
            let (first, last) = match stream.next().await {
                Frame::Id(id) => {
                    let (_, seq) = id.split_once('.').expect("the id of a document");
                    let seq = seq.parse().expect("a sequence");
                    (seq, seq)
                }
                Frame::Event(event) if event.name == "update" => {
                    let data = event.json();
                    assert_ne!(data["origin"], self.name.as_str(), "nobody hears an echo");
                    self.apply(&bytes_of(&data["update"]));
                    (data["from"].as_u64().unwrap_or(event.seq()), event.seq())
                }
                other => panic!("{other:?} is nothing that moves a reader"),
            };
            assert_eq!(first, self.cursor + 1, "no hole in the stream, and nothing twice");
            self.cursor = last;
        }
        self.last_event_id.clone_from(&stream.last_event_id);
        self.stream = Some(stream);
    }

    fn state_vector(&self) -> Vec<u8> {
        self.doc.transact().state_vector().encode_v1()
    }

    /// Whether the holder of a state vector lacks something written here.
    fn lacks(&self, state_vector: &[u8]) -> bool {
        let theirs = StateVector::decode_v1(state_vector).expect("a state vector");
        self.doc.transact().state_vector().iter().any(|(client, clock)| theirs.get(client) < *clock)
    }

    fn difference(&self, state_vector: &[u8]) -> Vec<u8> {
        let state_vector = StateVector::decode_v1(state_vector).expect("a state vector");
        self.doc.transact().encode_diff_v1(&state_vector)
    }

    /// All that can be seen of the document.
    fn contents(&self) -> BTreeMap<&'static str, String> {
        let (text, rich) = (self.doc.get_or_insert_text("text"), self.doc.get_or_insert_text("rich"));
        let (map, list) = (self.doc.get_or_insert_map("map"), self.doc.get_or_insert_array("list"));
        let transaction = self.doc.transact();
        // Needless marks may cut a run into several.
        let mut runs: Vec<(String, BTreeMap<String, String>)> = Vec::new();
        for chunk in rich.diff(&transaction, yrs::types::text::YChange::identity) {
            let marks = chunk.attributes.unwrap_or_default();
            let marks = marks.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let text = chunk.insert.to_string(&transaction);
            match runs.last_mut() {
                Some((before, same)) if *same == marks => before.push_str(&text),
                _ => runs.push((text, marks)),
            }
        }
        let entries: BTreeMap<String, String> = map
            .iter(&transaction)
            .map(|(key, value)| (key.to_owned(), value.to_string(&transaction)))
            .collect();
        BTreeMap::from([
            ("text", text.get_string(&transaction)),
            ("rich", format!("{runs:?}")),
            ("map", format!("{entries:?}")),
            ("list", format!("{:?}", list.to_json(&transaction))),
        ])
    }
}
