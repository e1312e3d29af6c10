//! Honest people who write while others attack: with an account and without one, from the network next door.
//!
//! `PROMPTGRIMOIRE_SOAK_SECONDS` sets for how long, and `PROMPTGRIMOIRE_SOAK_IDS` how many made-up documents are asked
//! for. How long the honest waited is printed, and not judged: that is the machine's affair.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use promptgrimoire::auth::access::Access;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::floods::{END_HEADERS, END_STREAM, HEADERS, PREFACE, RESET, SETTINGS, frame, request};
use crate::hostile::{BOMBS, REFUSED, damage, deep_at_once, from_hex, genuine};
use crate::support::tokens::{SECRET, Token};
use crate::support::{Ack, Client, Frame, Peer, Process, Raw, base64, until, within_deadline};

/// Where attackers come from. It is not where the honest are: an address has limits of its own.
const NEXT_DOOR: [u8; 4] = [127, 0, 0, 66];
/// An honest person types this often.
const KEYSTROKE: Duration = Duration::from_millis(50);
/// What the honest have: the last two write in one document.
const HONEST: [&str; 5] = ["honest-1", "honest-2", "honest-3", "honest-shared", "honest-shared"];
/// When everybody is gone, the server may have this much more memory than before they came: twice as much, and what
/// the honest have written meanwhile.
const MEMORY_FACTOR: u64 = 2;
/// `limits.max_streams_per_user`, as it comes.
const STREAMS_OF_USER_MAX: u64 = 100;
/// How long tokens are good: for longer than anybody soaks.
const LIFE: Duration = Duration::from_secs(3600);

fn from_environment(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

async fn start(more: &[(&str, &str)]) -> Process {
    let mut variables = vec![
        ("PROMPTGRIMOIRE__AUTH__MODE", "jwt"),
        ("PROMPTGRIMOIRE__AUTH__ALGORITHM", "HS256"),
        ("PROMPTGRIMOIRE__AUTH__KEY", SECRET),
        ("PROMPTGRIMOIRE__DOCUMENTS__IDLE_SECONDS", "1"),
        // Everything that is said of an attack would be more than the attack.
        ("PROMPTGRIMOIRE__LOG__LEVEL", "info"),
    ];
    variables.extend(more);
    Process::start_with(&variables).await
}

/// The memory that a process has, in KiB.
fn memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

async fn memory_returns(process: &Process, before: u64) {
    let least = Mutex::new(u64::MAX);
    let returned = until("return of the memory", async || {
        let now = memory_kib(process.id());
        let mut least = least.lock().expect("no panic");
        *least = now.min(*least);
        (now < before * MEMORY_FACTOR).then_some(now)
    });
    let now = returned.await;
    println!("memory: {before} KiB before, {now} KiB after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_people_lose_nothing_while_others_attack() {
    // Attackers have this thread for themselves, and the honest have others.
    tokio::task::LocalSet::new().run_until(attack_the_honest()).await;
}

async fn attack_the_honest() {
    let attack = Duration::from_secs(from_environment("PROMPTGRIMOIRE_SOAK_SECONDS", 4));
    let mut process = start(&[]).await;
    let typists = Typists::sit_down(&process).await;

    let calm = typists.type_during(tokio::time::sleep(attack / 4)).await;
    let before = memory_kib(process.id());
    let (stop, mut attacks) = (CancellationToken::new(), JoinSet::new());
    begin(&process, &stop, &mut attacks).await;
    let attacked = typists.type_during(tokio::time::sleep(attack)).await;
    let peak = memory_kib(process.id());
    stop.cancel();
    let mut tally = BTreeMap::new();
    while let Some(done) = within_deadline("end of an attack", attacks.join_next()).await {
        let (what, answers) = done.expect("an attack fails by being refused");
        tally.insert(what, answers);
    }
    println!("at the end of the attack: {peak} KiB of memory");
    for (what, answers) in &tally {
        println!("{what}: {answers:?}");
        assert!(answers.values().sum::<u64>() > 0, "{what} has happened");
    }
    expect_refusals(&tally);
    print_ratio("acks", &calm.acks, &attacked.acks);
    print_ratio("arrivals", &calm.arrivals, &attacked.arrivals);

    typists.check_that_all_is_there(&process).await;
    memory_returns(&process, before).await;
    process.terminate();
    assert!(process.ended().await.success());
    let log = process.logged();
    assert!(!log.contains("panicked"), "{log}");
}

fn print_ratio(what: &str, calm: &Histogram<u64>, attacked: &Histogram<u64>) {
    for quantile in [0.5, 0.99] {
        let of = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64 / 1000.0;
        let (calm, attacked) = (of(calm), of(attacked));
        let ratio = attacked / calm;
        println!(
            "{what}, p{}: {calm:.2} ms calm, {attacked:.2} ms under attack, {ratio:.2} times",
            quantile * 100.0
        );
    }
    println!("{what}: {} calm, {} under attack", calm.len(), attacked.len());
}

/// How long the honest waited, in microseconds.
struct Times {
    acks: Histogram<u64>,
    /// From the begin of a post to its event on a stream of the same document.
    arrivals: Histogram<u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000, 3).expect("three digits can be kept")
}

/// When something of a document happened, by its sequence.
type Moments = Arc<Mutex<HashMap<(&'static str, u64), Instant>>>;

struct Typist {
    document: &'static str,
    client: Client,
    client_id: String,
    peer: Peer,
    stream: crate::support::Stream,
    /// The last sequence that the stream has told.
    seq: u64,
}

struct Typists {
    at_work: tokio::sync::Mutex<Vec<Typist>>,
    reader: Client,
}

impl Typists {
    async fn sit_down(process: &Process) -> Self {
        let mut at_work = Vec::new();
        for (number, document) in HONEST.into_iter().enumerate() {
            let token = Token::of(&format!("honest-{number}"), &[("honest-*", Access::Write)]).lasting(LIFE);
            let client = process.client.with_token(&token.signed());
            let client_id = format!("tab-{number}");
            let mut stream = client.events(document, &client_id).await;
            stream.sync().await;
            at_work.push(Typist { document, client, client_id, peer: Peer::new(), stream, seq: 0 });
        }
        let token = Token::of("reader", &[("honest-*", Access::Read)]).lasting(LIFE).signed();
        Self { at_work: at_work.into(), reader: process.client.with_token(&token) }
    }

    /// Everybody types until `end`; somebody else reads all of it.
    async fn type_during(&self, end: impl Future<Output = ()>) -> Times {
        let stop = CancellationToken::new();
        let (sent, arrived): (Moments, Moments) = Default::default();
        let mut readers = JoinSet::new();
        for document in HONEST {
            let mut stream = self.reader.events(document, "reader").await;
            stream.sync().await;
            let arrived = arrived.clone();
            readers.spawn(async move {
                while let Some(frame) = stream.frame().await {
                    if let Frame::Event(event) = frame {
                        let mut arrived = arrived.lock().expect("no panic");
                        arrived.entry((document, event.seq())).or_insert_with(Instant::now);
                    }
                }
            });
        }
        let mut typing = JoinSet::new();
        let mut at_work = self.at_work.lock().await;
        for typist in at_work.drain(..) {
            typing.spawn(typist.type_until(stop.clone(), sent.clone()));
        }
        end.await;
        stop.cancel();
        let mut times = Times { acks: histogram(), arrivals: histogram() };
        while let Some(done) = within_deadline("end of the typing", typing.join_next()).await {
            let (typist, acks) = done.expect("the honest are not refused");
            times.acks.add(acks).expect("the histograms are alike");
            at_work.push(typist);
        }
        let sent = std::mem::take(&mut *sent.lock().expect("no panic"));
        let all_arrived = async || {
            let arrived = arrived.lock().expect("no panic");
            sent.keys().all(|update| arrived.contains_key(update)).then_some(())
        };
        until("arrival of the last update", all_arrived).await;
        readers.shutdown().await;
        for (update, arrived) in arrived.lock().expect("no panic").iter() {
            if let Some(sent) = sent.get(update) {
                let took = arrived.saturating_duration_since(*sent);
                times.arrivals.saturating_record(took.as_micros() as u64);
            }
        }
        times
    }

    /// What was acknowledged is there, and everybody has it.
    async fn check_that_all_is_there(&self, process: &Process) {
        let mut at_work = self.at_work.lock().await;
        for typist in at_work.iter_mut() {
            let document = typist.document;
            let token = Token::of("judge", &[("*", Access::Read)]).signed();
            let judge = process.client.with_token(&token);
            let state = judge.get(&format!("/docs/{document}/state")).await.expect_json(200);
            let head = state["seq"].as_u64().expect("a sequence");
            typist.read_up_to(head).await;
            assert_eq!(judge.text(document).await, typist.peer.text(), "{document}");
            let replica = Peer::from_update(&judge.state(document).await);
            assert_eq!(replica.text(), typist.peer.text(), "{document}");
            assert_eq!(replica.clocks(), typist.peer.clocks(), "{document}");
        }
    }
}

impl Typist {
    /// # Panics
    /// If a write is refused.
    async fn type_until(mut self, stop: CancellationToken, sent: Moments) -> (Self, Histogram<u64>) {
        let mut acks = histogram();
        let mut keystrokes = tokio::time::interval(KEYSTROKE);
        keystrokes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            tokio::select! {
                _ = keystrokes.tick() => {
                    // Now and then a word goes: the document has tombstones, and stays small.
                    let length = self.peer.length();
                    let update = if length > 2000 { self.peer.delete(0, 500) } else { self.peer.insert(length / 2, "word ") };
                    let begun = Instant::now();
                    let answer = self.client.update(self.document, &self.client_id, &update).await;
                    acks.saturating_record(begun.elapsed().as_micros() as u64);
                    let answer = answer.expect_json(200);
                    // What the other one has deleted too, just before, changes nothing.
                    if answer["changed"] == true {
                        let seq = answer["seq"].as_u64().expect("a sequence");
                        sent.lock().expect("no panic").insert((self.document, seq), begun);
                    }
                }
                frame = self.stream.next() => self.take(&frame),
            }
        }
        (self, acks)
    }

    fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Event(event) => {
                assert_eq!(event.name, "update");
                self.peer.apply(&event.update());
                self.seq = event.seq();
            }
            Frame::Id(id) => {
                self.seq = id.rsplit_once('.').and_then(|(_, seq)| seq.parse().ok()).expect("a sequence");
            }
            Frame::Comment(_) | Frame::Retry(_) => {}
        }
    }

    async fn read_up_to(&mut self, head: u64) {
        while self.seq < head {
            let frame = self.stream.next().await;
            self.take(&frame);
        }
    }
}

/// What an attack was answered: how often each status came; 0 stands for a connection that the server closed.
type Answers = BTreeMap<u16, u64>;

/// The attack, as those see it who make it.
#[derive(Clone)]
struct Attacker {
    client: Client,
    token: String,
    address: std::net::SocketAddr,
    stop: CancellationToken,
}

impl Attacker {
    /// Sends without a word about how it went but the status.
    async fn send(&self, request: RequestBuilder) -> u16 {
        match self.stop.run_until_cancelled(request.send()).await {
            Some(Ok(response)) => {
                let status = response.status().as_u16();
                let _ = self.stop.run_until_cancelled(response.bytes()).await;
                status
            }
            Some(Err(_)) | None => 0,
        }
    }

    fn post(&self, document: &str, update: &[u8]) -> RequestBuilder {
        let body = json!({ "update": base64(update), "client_id": "attacker" });
        self.client.request(Method::POST, &format!("/docs/{document}/updates")).json(&body)
    }

    /// Asks again and again, until the attack is over.
    async fn repeat(self, mut attack: impl AsyncFnMut(&Self) -> u16) -> Answers {
        let mut answers = Answers::new();
        while !self.stop.is_cancelled() {
            let status = attack(&self).await;
            if !self.stop.is_cancelled() || answers.is_empty() {
                *answers.entry(status).or_default() += 1;
            }
            // One that is refused before it asked anything would spin.
            tokio::task::yield_now().await;
        }
        answers
    }

    async fn socket(&self) -> Raw {
        Raw::connect_from(NEXT_DOOR, self.address).await
    }
}

/// Lets everybody loose.
async fn begin(process: &Process, stop: &CancellationToken, attacks: &mut JoinSet<(&'static str, Answers)>) {
    let root = Token::of("root", &[("*", Access::Admin)]).signed();
    let revoked = process.client.with_token(&root).post("/admin/revoke", &json!({ "sub": "expelled" })).await;
    assert_eq!(revoked.status, 204);
    let attacker = |user: &str, rights: &[(&str, Access)]| {
        // One that was issued before is revoked, whatever the second.
        let issued = std::time::SystemTime::now() - Duration::from_secs(5);
        let token = Token::of(user, rights).lasting(LIFE).issued(issued).signed();
        let client = process.client.with_token_from(NEXT_DOOR, &token);
        Attacker { client, token, address: process.address, stop: stop.clone() }
    };
    let insider = || attacker("insider", &[("honest-shared", Access::Write), ("theirs-*", Access::Write)]);

    for seed in 0..2 {
        let attack = malformed_updates(insider(), seed);
        attacks.spawn_local(async { ("malformed updates of the shared document", attack.await) });
    }
    let attack = damaged_updates(insider());
    attacks.spawn_local(async { ("damaged updates of their own documents", attack.await) });
    for _ in 0..4 {
        let flood = attacker("flood", &[("theirs-*", Access::Write)]);
        let mut peer = Peer::new();
        let attack = flood.repeat(async move |attacker| {
            attacker.send(attacker.post("theirs-flood", &peer.push("x"))).await
        });
        attacks.spawn_local(async { ("flood of updates", attack.await) });
    }
    let attack = unknown_documents(attacker("curious", &[("theirs-*", Access::Read)]));
    attacks.spawn_local(async { ("documents that are made up", attack.await) });
    let attack = hoard_streams(attacker("hoarder", &[("theirs-*", Access::Read)]));
    attacks.spawn_local(async { ("hoarded streams", attack.await) });
    let attack = bad_tokens(attacker("forger", &[("*", Access::Admin)]));
    attacks.spawn_local(async { ("bad tokens", attack.await) });
    let expelled = attacker("expelled", &[("*", Access::Admin)]);
    let attack = expelled.repeat(async |attacker| {
        attacker.send(attacker.client.request(Method::GET, "/docs/honest-1/state")).await
    });
    attacks.spawn_local(async { ("revoked tokens", attack.await) });
    let attack = lying_lengths(insider());
    attacks.spawn_local(async { ("lengths that lie", attack.await) });
    for part in ["headers", "bodies"] {
        let attack = drip(insider(), part);
        attacks.spawn_local(async move {
            (if part == "headers" { "slow headers" } else { "slow bodies" }, attack.await)
        });
    }
    let attack = rapid_resets(insider());
    attacks.spawn_local(async { ("requests taken back", attack.await) });
}

async fn malformed_updates(attacker: Attacker, seed: u64) -> Answers {
    let mut random = StdRng::seed_from_u64(seed);
    attacker
        .repeat(async |attacker| {
            let update = match random.random_range(0..3) {
                0 => from_hex(REFUSED[random.random_range(0..REFUSED.len())].0),
                1 => BOMBS[random.random_range(0..BOMBS.len())].to_vec(),
                _ => deep_at_once(200),
            };
            attacker.send(attacker.post("honest-shared", &update)).await
        })
        .await
}

/// Some of these are genuine enough to be taken.
async fn damaged_updates(attacker: Attacker) -> Answers {
    let mut random = StdRng::seed_from_u64(7);
    attacker
        .repeat(async |attacker| {
            let genuine = genuine(&mut random);
            let update = &genuine[random.random_range(0..genuine.len())];
            attacker.send(attacker.post("theirs-damaged", &damage(update, &mut random))).await
        })
        .await
}

async fn unknown_documents(attacker: Attacker) -> Answers {
    let mut random = StdRng::seed_from_u64(8);
    attacker
        .repeat(async |attacker| {
            let number = random.random::<u64>();
            let request = |method, path: String| attacker.client.request(method, &path);
            let request = match number % 4 {
                0 => request(Method::GET, format!("/docs/theirs-{number:x}/state")),
                1 => request(Method::GET, format!("/docs/honest-{number:x}/text")),
                2 => request(Method::DELETE, format!("/docs/theirs-{number:x}")),
                _ => attacker.post(&format!("theirs-{number:x}"), &Peer::new().push("x")),
            };
            attacker.send(request).await
        })
        .await
}

/// Opens streams of documents that are made up, and reads none of them.
async fn hoard_streams(attacker: Attacker) -> Answers {
    let mut held = Vec::new();
    let mut number = 0;
    attacker
        .repeat(async |attacker| {
            number += 1;
            let path = format!("/docs/theirs-{number}/events?client_id=hoarder-{number}");
            let opening = attacker.client.request(Method::GET, &path).send();
            match attacker.stop.run_until_cancelled(opening).await {
                Some(Ok(response)) => {
                    let status = response.status().as_u16();
                    if status == 200 {
                        held.push(response);
                    }
                    status
                }
                Some(Err(_)) | None => 0,
            }
        })
        .await
}

async fn bad_tokens(attacker: Attacker) -> Answers {
    let mut random = StdRng::seed_from_u64(9);
    attacker
        .repeat(async |attacker| {
            let mut token: Vec<char> = attacker.token.chars().collect();
            let at = random.random_range(0..token.len());
            // The last bits of the last character say nothing.
            token[at] = if token[at] == 'A' || token[at] == '.' { 'Q' } else { 'A' };
            token.push('A');
            let request = attacker.client.request(Method::GET, "/docs/honest-1/state");
            attacker.send(request.bearer_auth(token.into_iter().collect::<String>())).await
        })
        .await
}

/// The status in front of what a socket has received.
fn status_of(received: &[u8]) -> u16 {
    let status =
        received.strip_prefix(b"HTTP/1.1 ").and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok());
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

async fn lying_lengths(attacker: Attacker) -> Answers {
    let mut number = 0;
    attacker
        .repeat(async |attacker| {
            number += 1;
            let token = &attacker.token;
            let head = format!(
                "POST /docs/theirs-lies/updates HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n"
            );
            let lie = match number % 4 {
                0 => "content-length: 99999999999\r\n\r\n{".to_owned(),
                1 => "content-length: 5\r\n\r\n{\"update\":\"AAA=\"}".to_owned(),
                2 => "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_owned(),
                _ => format!("content-length: {}\r\n\r\n{}", 3 << 20, "x".repeat(3 << 20)),
            };
            let mut socket = attacker.socket().await;
            let _ = socket.try_send(head + &lie).await;
            let received = attacker.stop.run_until_cancelled(socket.closed()).await;
            status_of(&received.unwrap_or_default())
        })
        .await
}

/// Fifty requests that never end, of which a byte comes now and then; whichever is closed is begun again.
async fn drip(attacker: Attacker, part: &'static str) -> Answers {
    let begin = match part {
        "headers" => "POST /docs/theirs-slow/updates HTTP/1.1\r\nhost: a\r\nx-slow: ".to_owned(),
        _ => format!(
            "POST /docs/theirs-slow/updates HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-length: 100000\r\n\r\n{{\"update\":\"",
            attacker.token
        ),
    };
    let mut sockets: Vec<Raw> = Vec::new();
    let mut drops = tokio::time::interval(Duration::from_millis(100));
    attacker
        .repeat(async |attacker| {
            drops.tick().await;
            let mut closed = 0;
            let mut kept = Vec::new();
            for mut socket in sockets.drain(..) {
                if socket.try_send("A").await.is_ok() {
                    kept.push(socket);
                } else {
                    closed = 408;
                }
            }
            sockets = kept;
            while sockets.len() < 50 && !attacker.stop.is_cancelled() {
                let mut socket = attacker.socket().await;
                if socket.try_send(&begin).await.is_ok() {
                    sockets.push(socket);
                }
            }
            closed
        })
        .await
}

/// CVE-2023-44487.
async fn rapid_resets(attacker: Attacker) -> Answers {
    let mut piece = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let block = request("GET", "/docs/honest-shared/state");
    for number in 0..1000 {
        let stream = number * 2 + 1;
        piece.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
        piece.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    attacker
        .repeat(async |attacker| {
            let mut socket = attacker.socket().await;
            let _ = socket.try_send(&piece).await;
            let _ = socket.socket.shutdown().await;
            attacker.stop.run_until_cancelled(socket.closed()).await;
            0
        })
        .await
}

/// No attack got what it was after.
fn expect_refusals(tally: &BTreeMap<&'static str, Answers>) {
    let only = |what: &str, allowed: &[u16]| {
        let answers = &tally[what];
        assert!(answers.keys().all(|status| allowed.contains(status)), "{what}: {answers:?}");
    };
    only("malformed updates of the shared document", &[0, 409, 422, 429, 503]);
    only("damaged updates of their own documents", &[0, 200, 409, 422, 429, 503]);
    // What was refused is not sent again, and what comes after builds on it.
    only("flood of updates", &[0, 200, 409, 429, 503]);
    only("documents that are made up", &[0, 403, 404, 429, 503]);
    only("hoarded streams", &[0, 200, 429, 503]);
    let held = tally["hoarded streams"].get(&200);
    assert!(held.is_some_and(|held| *held <= STREAMS_OF_USER_MAX), "{held:?} streams are held");
    only("bad tokens", &[0, 401, 429, 503]);
    only("revoked tokens", &[0, 401, 429, 503]);
    only("lengths that lie", &[0, 400, 413, 429, 503]);
}

/// A scan for names: each request has another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_are_made_up_by_the_ten_thousand_leave_nothing_behind() {
    let count = from_environment("PROMPTGRIMOIRE_SOAK_IDS", 20_000);
    // All of them are to get as far as they can.
    let process = start(&[("PROMPTGRIMOIRE__RATES__REQUESTS_PER_ADDRESS", "0")]).await;
    let token = Token::of("curious", &[("theirs-*", Access::Read)]).lasting(LIFE).signed();
    let root = process.client.with_token(&Token::of("root", &[("*", Access::Admin)]).lasting(LIFE).signed());
    let written = Ack::changed(&root.update("kept", "tab-1", &Peer::new().push("x")).await);
    let scan = async |from: u64, to: u64| {
        for start in (from..to).step_by(200) {
            let mut raw = Raw::connect(process.address).await;
            let numbers = start..(start + 200).min(to);
            let asked: String = numbers
                .clone()
                .map(|number| {
                    // One that may be read if there is one, and one that may not.
                    let pattern = if number % 2 == 0 { "theirs" } else { "hidden" };
                    let what = ["state", "text", "updates", "clients"][number as usize / 2 % 4];
                    format!(
                        "GET /docs/{pattern}-{number}/{what} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n"
                    )
                })
                .collect();
            raw.send(asked).await;
            for number in numbers {
                let status = raw.answer().await.status;
                let allowed: &[u16] = if number % 2 == 0 { &[404, 200] } else { &[403] };
                assert!(allowed.contains(&status), "{number}: {status}");
            }
        }
    };
    // What anything takes that is done for the first time.
    scan(0, count / 10).await;
    let before = memory_kib(process.id());
    scan(count / 10, count).await;
    println!("{count} documents asked for, {} KiB of memory at once", memory_kib(process.id()));
    memory_returns(&process, before).await;
    let all = root.get("/docs").await.expect_json(200);
    assert_eq!(all["documents"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all["documents"][0]["seq"], written.seq);
}
