//! Bytes that no Yjs client writes: refused without a trace, and nobody else notices.
//!
//! `PROMPTGRIMOIRE_SEEDS` sets how many seeds the random ones come from.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::{Doc, Map, ReadTxn, Text, Transact, Update};

use crate::support::{Answer, Client, Peer, Process, Server, base64, bytes_of};

/// Updates that have crashed, hung or bloated CRDT libraries, or that would write over others' content.
pub const REFUSED: [(&str, &str); 10] = [
    ("010101000201016100013100", "the JSON content of old Yjs versions"),
    ("0101000200ffffffff0f00", "a length past the end of clocks"),
    ("010101ffffffff0f000100", "a clock past the end of clocks"),
    ("010302feffffff0f0001a3020103010203000100", "a clock that runs over the end"),
    ("010203ffffffff0f0601016d0169046e756c6c000200", "a clock past the end, in a format mark"),
    ("010201ffffffff0f00800100010101010000", "a clock past the end, in front of a reference"),
    ("02010305030100000103000601010000047472756500", "one client twice"),
    ("02020309220100000001000001010309000100", "sub-documents"),
    ("03020304000102010002000000020307640305030000008103070100000000", "blocks of length 0"),
    ("80c2d72f", "more clients than bytes"),
];
const REFUSED_STATE_VECTOR: &str = "80c6868f01";
/// Root text `t` with one emoji: genuine, and it has hung libraries that took the root for a list.
const EMOJI: &str = "010102000401017404f09f988000";

/// What is in a few bytes, and would take gigabytes to believe.
pub const BOMBS: [&[u8]; 8] = [
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[1, 0xff, 0xff, 0xff, 0xff, 0x07, 1, 0],
    &[1, 1, 1, 0, 4, 1, 1, b't', 0xff, 0xff, 0xff, 0xff, 0x07, b'a', 0],
    &[1, 1, 1, 0, 8, 1, 1, b't', 0xff, 0xff, 0xff, 0xff, 0x07, 126, 0],
    &[1, 1, 1, 0, 8, 1, 1, b't', 1, 117, 0xff, 0xff, 0xff, 0x7f, 126, 0],
    &[1, 1, 1, 0, 8, 1, 1, b't', 1, 118, 0xff, 0xff, 0xff, 0x7f, 126, 0],
    &[0, 0xff, 0xff, 0xff, 0xff, 0x07],
    &[0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x07, 0, 1],
];
/// The server, with everything that it does meanwhile, may take this much more memory than before.
const MEMORY_KIB_MAX: u64 = 48 << 10;

#[tokio::test]
async fn what_no_client_writes_is_refused_and_leaves_no_trace() {
    let server = Server::start().await;
    let victim = Victim::prepare(&server.client, "victim").await;
    let mut stream = server.client.events("victim", "reader").await;
    stream.sync().await;
    for (hex, what) in REFUSED {
        let update = from_hex(hex);
        for document in ["victim", "never-written"] {
            let answers = [
                server.client.anonymous_update(document, &update).await,
                server.client.post_bytes(&format!("/docs/{document}/updates"), update.clone()).await,
            ];
            for answer in answers {
                let problem = refused(&answer).unwrap_or_else(|| panic!("{what}: {}", answer.text()));
                assert_eq!(problem["status"], 422, "{what}: {problem}");
            }
        }
        victim.check_unharmed(&server.client).await;
    }
    server.client.get("/docs/never-written/state").await.expect_problem(404, "not_found");
    let after = server.client.write("victim", "tab-1", &Peer::new().insert(0, "!")).await;
    let event = stream.event("update").await;
    assert_eq!(event.id, Some(after.id()), "nothing of it was on the stream");
}

#[tokio::test]
async fn a_state_vector_that_no_client_writes_is_refused_wherever_one_is_taken() {
    let server = Server::start().await;
    let victim = Victim::prepare(&server.client, "victim").await;
    let bytes = from_hex(REFUSED_STATE_VECTOR);
    let encoded = base64(&bytes);
    for path in ["/docs/victim/state", "/docs/victim/events"] {
        let answer = server.client.get(&format!("{path}?sv={encoded}")).await;
        answer.expect_problem(400, "invalid_state_vector");
    }
    let answer = server.client.post("/docs/victim/state", &json!({ "sv": encoded })).await;
    answer.expect_problem(400, "invalid_state_vector");
    let answer = server.client.post_bytes("/docs/victim/state", bytes).await;
    answer.expect_problem(400, "invalid_state_vector");
    victim.check_unharmed(&server.client).await;
}

#[tokio::test]
async fn a_lone_emoji_is_taken_and_nothing_hangs_afterwards() {
    let server = Server::start().await;
    let update = from_hex(EMOJI);
    let mut stream = server.client.events("emoji", "reader").await;
    stream.sync().await;
    server.client.write("emoji", "tab-1", &update).await;
    assert_eq!(stream.event("update").await.update(), update);
    let whole = server.client.state("emoji").await;
    Update::decode_v1(&whole).expect("an update");
    let text = server.client.get("/docs/emoji/text?root=t").await;
    assert_eq!((text.status, text.text().as_str()), (200, "😀"));
    assert_eq!(server.client.text("emoji").await, "");
    assert_eq!(server.client.update("emoji", "tab-1", &update).await.expect_json(200)["changed"], false);
    // Whatever this answers, it does.
    let json = server.client.get("/docs/emoji/json").await;
    if json.status == 200 {
        assert_eq!(json.expect_json(200)["t"], "😀");
    }
}

#[tokio::test]
async fn bombs_take_no_memory_and_end_no_process() {
    let process = Process::start().await;
    let victim = Victim::prepare(&process.client, "victim").await;
    let before = peak_memory_kib(process.id());
    for bomb in BOMBS {
        for document in ["victim", "never-written"] {
            let answer = process.client.anonymous_update(document, bomb).await;
            assert!(refused(&answer).is_some(), "{bomb:?}: {}", answer.text());
        }
        let answer = process.client.post("/docs/victim/state", &json!({ "sv": base64(bomb) })).await;
        answer.expect_problem(400, "invalid_state_vector");
    }
    let deep = deep_at_once(100_000);
    let answer = process.client.post_bytes("/docs/victim/updates", deep).await;
    assert!(refused(&answer).is_some(), "{}", answer.text());
    let nested = "[".repeat(500_000);
    let answer = process.client.post_as("/docs/victim/updates", "application/json", nested).await;
    answer.expect_problem(400, "invalid_json");
    victim.check_unharmed(&process.client).await;
    let grown = peak_memory_kib(process.id()) - before;
    assert!(grown < MEMORY_KIB_MAX, "{grown} KiB more than before");
}

#[tokio::test]
async fn values_nest_to_a_depth_that_everybody_can_read() {
    let server = Server::start().await;
    let any = |depth: usize| {
        let block = [vec![8, 1, 1, b'l', 1], [117, 1].repeat(depth), vec![126]].concat();
        [&[1, 1, 1, 0][..], &block, &[0]].concat()
    };
    server.client.write("fits", "tab-1", &any(31)).await;
    Update::decode_v1(&server.client.state("fits").await).expect("an update");
    for depth in [64, 1000, 100_000] {
        let answer = server.client.anonymous_update("too-deep", &any(depth)).await;
        answer.expect_problem(422, "invalid_update");
    }
    server.client.get("/docs/too-deep/state").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn types_that_nest_across_updates_are_refused_before_they_are_too_deep_to_read() {
    let server = Server::start().await;
    let mut accepted = 0;
    for clock in 0..400 {
        let answer = server.client.update("deep", "tab-1", &nested_list(clock)).await;
        match answer.status {
            200 => accepted += 1,
            // The first one too deep; those inside of it build on what is not there.
            _ => assert!(refused(&answer).is_some(), "{}", answer.text()),
        }
    }
    assert!((64..400).contains(&accepted), "{accepted} levels were accepted");
    let whole = server.client.state("deep").await;
    Update::decode_v1(&whole).expect("an update");
    assert_eq!(server.client.get("/docs/deep/text?root=l").await.status, 200);
    server.client.get("/docs/deep/json").await;
    server.client.events("deep", "reader").await.sync().await;
    // The outermost type goes, and all that is in it.
    server.client.write("deep", "tab-1", &[0, 1, 1, 1, 0, 1]).await;
    Update::decode_v1(&server.client.state("deep").await).expect("an update");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_updates_are_refused_or_harmless_and_others_go_on() {
    let server = Server::start().await;
    let bystander = Victim::prepare(&server.client, "bystander").await;
    let seeds = std::env::var("PROMPTGRIMOIRE_SEEDS").ok();
    let seeds = seeds.map_or(200, |seeds| seeds.parse().expect("PROMPTGRIMOIRE_SEEDS is a number"));
    let (mut refusals, mut accepted) = (0, 0);
    for seed in 0..seeds {
        let document = format!("damaged-{seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut head = 0;
        for update in genuine(&mut random) {
            for _ in 0..8 {
                let damaged = damage(&update, &mut random);
                let answer = server.client.anonymous_update(&document, &damaged).await;
                if refused(&answer).is_some() {
                    refusals += 1;
                } else {
                    accepted += 1;
                }
                head = check_head(&answer, head, seed);
            }
            // Damage that passed may have taken its place.
            let answer = server.client.anonymous_update(&document, &update).await;
            refused(&answer);
            head = check_head(&answer, head, seed);
        }
        check_document(&server.client, &document, head).await;
        bystander.check_unharmed(&server.client).await;
    }
    println!("{refusals} refused, {accepted} accepted");
    assert!(refusals > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_people_write_on_while_others_attack_their_document() {
    let server = Server::start().await;
    let mut stream = server.client.events("shared", "reader").await;
    stream.sync().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let attacks: Vec<_> = (0..4)
        .map(|seed| {
            let (client, stop) = (server.client.clone(), stop.clone());
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                let mut refusals = 0;
                // One round at the least.
                loop {
                    let attack = match random.random_range(0..3) {
                        0 => from_hex(REFUSED[random.random_range(0..REFUSED.len())].0),
                        1 => BOMBS[random.random_range(0..BOMBS.len())].to_vec(),
                        _ => deep_at_once(200),
                    };
                    let answer = client.update("shared", "attacker", &attack).await;
                    assert!(refused(&answer).is_some(), "{}", answer.text());
                    refusals += 1;
                    if stop.is_cancelled() {
                        return refusals;
                    }
                }
            })
        })
        .collect();
    let (mut writer, mut reader) = (Peer::new(), Peer::new());
    for seq in 1..=60 {
        let at = writer.length() / 2;
        let ack = server.client.write("shared", "writer", &writer.insert(at, "honest ")).await;
        assert_eq!(ack.seq, seq, "nothing of the attacks is in the log");
        let event = stream.event("update").await;
        assert_eq!(event.id, Some(ack.id()), "nothing of the attacks is on the stream");
        reader.apply(&event.update());
    }
    stop.cancel();
    for attack in attacks {
        assert!(attack.await.expect("every attack was refused") > 0);
    }
    assert_eq!(reader.text(), writer.text());
    assert_eq!(server.client.text("shared").await, writer.text());
}

/// A document that somebody wrote, and that must stay as it is.
struct Victim {
    document: &'static str,
    text: String,
    state: Value,
    updates: usize,
}

impl Victim {
    async fn prepare(client: &Client, document: &'static str) -> Self {
        let mut peer = Peer::new();
        client.write(document, "tab-1", &peer.insert(0, "An honest text. 😀")).await;
        client.write(document, "tab-1", &peer.embolden(3, 6)).await;
        client.write(document, "tab-1", &peer.delete(0, 3)).await;
        let state = client.get(&format!("/docs/{document}/state")).await.expect_json(200);
        Self { document, text: peer.text(), state, updates: 3 }
    }

    async fn check_unharmed(&self, client: &Client) {
        let document = self.document;
        assert_eq!(client.text(document).await, self.text);
        assert_eq!(client.get(&format!("/docs/{document}/state")).await.expect_json(200), self.state);
        assert_eq!(client.log(document).await.len(), self.updates);
    }
}

/// The problem, if an update was refused as one. `None`: it was accepted.
///
/// # Panics
/// If it was answered in any other way.
fn refused(answer: &Answer) -> Option<Value> {
    if answer.status == 200 {
        return None;
    }
    let problem: Value = serde_json::from_slice(&answer.body).expect("the body is JSON");
    let code = problem["code"].as_str().expect("a code").to_owned();
    match (answer.status, code.as_str()) {
        (422, "invalid_update" | "unsupported_content") | (409, "missing_updates") | (413, "too_large") => {}
        _ => panic!("{problem}"),
    }
    Some(answer.expect_problem(answer.status, &code))
}

/// A change has the next sequence, and anything else changes nothing. Returns the head.
fn check_head(answer: &Answer, head: u64, seed: u64) -> u64 {
    if answer.status != 200 {
        return head;
    }
    let body = answer.expect_json(200);
    let expected = if body["changed"] == true { head + 1 } else { head };
    assert_eq!(body["seq"], expected, "seed {seed}");
    expected
}

/// The document can be read in every way, and its log leads to it.
async fn check_document(client: &Client, document: &str, head: u64) {
    if head == 0 {
        client.get(&format!("/docs/{document}/state")).await.expect_problem(404, "not_found");
        return;
    }
    let state = client.get(&format!("/docs/{document}/state")).await.expect_json(200);
    assert_eq!(state["seq"], head);
    let log = client.log(document).await;
    assert_eq!(log.len() as u64, head);
    let replayed = Doc::with_options(yrs::Options { skip_gc: true, ..yrs::Options::default() });
    for entry in &log {
        let update = Update::decode_v1(&bytes_of(&entry["update"])).expect("an update");
        let mut transaction = replayed.transact_mut();
        transaction.apply_update(update).expect("it can be merged");
        assert!(!transaction.has_missing_updates(), "every prefix of the log is a document");
    }
    let whole = bytes_of(&state["update"]);
    let loaded = Doc::with_options(yrs::Options { skip_gc: true, ..yrs::Options::default() });
    loaded
        .transact_mut()
        .apply_update(Update::decode_v1(&whole).expect("an update"))
        .expect("it can be merged");
    let (loaded, replayed) = (loaded.transact(), replayed.transact());
    assert_eq!(loaded.state_vector(), replayed.state_vector());
    assert_eq!(client.get(&format!("/docs/{document}/text")).await.status, 200);
    let sync = client.events(document, "reader").await.sync().await;
    assert_eq!(sync.seq(), head);
}

/// Updates as two honest editors of one document write them.
pub fn genuine(random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut updates = Vec::new();
    let docs = [Doc::new(), Doc::new()];
    for _ in 0..6 {
        let who = random.random_range(0..2);
        let doc = &docs[who];
        let (text, map) = (doc.get_or_insert_text("text"), doc.get_or_insert_map("map"));
        let mut transaction = doc.transact_mut();
        let length = text.len(&transaction);
        match random.random_range(0..5) {
            0 if length > 0 => text.remove_range(&mut transaction, 0, 1),
            1 => {
                map.insert(&mut transaction, "key", "value");
            }
            2 => {
                map.insert(&mut transaction, "nested", yrs::MapPrelim::from([("a", 1)]));
            }
            _ => text.insert(&mut transaction, length, "honest"),
        }
        let update = transaction.encode_update_v1();
        drop(transaction);
        let decoded = Update::decode_v1(&update).expect("an update");
        docs[1 - who].transact_mut().apply_update(decoded).expect("it can be merged");
        updates.push(update);
    }
    updates
}

/// Random bytes, a flipped bit, a cut, or some of each.
pub fn damage(update: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut damaged = update.to_vec();
    match random.random_range(0..4) {
        0 => {
            let length = random.random_range(0..60);
            return (0..length)
                .map(|_| random.random_range(0..if length % 2 == 0 { 12 } else { 255 }))
                .collect();
        }
        1 => damaged.truncate(random.random_range(0..update.len())),
        2 => {
            let at = random.random_range(0..=update.len());
            damaged.splice(at..at, update[at.min(4)..].iter().copied());
        }
        _ => {}
    }
    for _ in 0..random.random_range(1..4) {
        if !damaged.is_empty() {
            let at = random.random_range(0..damaged.len());
            damaged[at] ^= 1 << random.random_range(0..8);
        }
    }
    damaged
}

/// An update that puts a list into the list of the one before; the first into the root `l`.
fn nested_list(clock: u32) -> Vec<u8> {
    [&[1, 1, 1][..], &varuint(clock), &list_block(clock), &[0]].concat()
}

/// As many lists in each other, in one update.
pub fn deep_at_once(levels: u32) -> Vec<u8> {
    let mut update = [&[1][..], &varuint(levels), &[1, 0]].concat();
    (0..levels).for_each(|clock| update.extend(list_block(clock)));
    update.push(0);
    // Even where the depth is allowed, this is not: it deletes what nobody has.
    let end = update.len() - 1;
    update.splice(end.., [1, 2, 1, 0, 1]);
    update
}

fn list_block(clock: u32) -> Vec<u8> {
    match clock {
        0 => vec![7, 1, 1, b'l', 0],
        _ => [&[7, 0, 1][..], &varuint(clock - 1), &[0]].concat(),
    }
}

/// A number as Yjs writes it: seven bits to a byte, the lowest first.
fn varuint(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

pub fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("the examples are hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The most memory that a process has had.
fn peak_memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
