//! `kill -9` in the middle of the work, again and again: what was acknowledged or seen is there afterwards.
//!
//! `PROMPTGRIMOIRE_KILL_CYCLES` sets how often the server is killed; `PROMPTGRIMOIRE_SEED` repeats a run's choices.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::journal::Journal;
use crate::support::{Client, Frame, Peer, Process, Stream, base64};

/// How many kills one data directory has to survive before a new one takes its turn.
const KILLS_PER_DIRECTORY: u64 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_or_seen_survives_kills_under_load() {
    survives(cycles(20), &Load { documents: 3, writers: 8, keep_updates: "10000" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_many_documents_share_survives_kills() {
    survives(cycles(5), &Load { documents: 40, writers: 40, keep_updates: "10000" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_while_snapshots_are_written_and_logs_trimmed_lose_nothing() {
    survives(cycles(5), &Load { documents: 2, writers: 8, keep_updates: "8" }).await;
}

struct Load {
    documents: usize,
    writers: usize,
    /// How much of each log is kept. A snapshot is written after a quarter of it.
    keep_updates: &'static str,
}

fn cycles(default: u64) -> u64 {
    number("PROMPTGRIMOIRE_KILL_CYCLES").map_or(default, |cycles| (cycles * default).div_ceil(20))
}

fn number(variable: &str) -> Option<u64> {
    let number = std::env::var(variable).ok()?;
    Some(number.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

async fn survives(cycles: u64, load: &Load) {
    let seed = number("PROMPTGRIMOIRE_SEED").unwrap_or_else(rand::random);
    println!("PROMPTGRIMOIRE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut told = 0;
    let mut left = cycles;
    while left > 0 {
        let kills = left.min(KILLS_PER_DIRECTORY);
        told += survives_in_one_directory(kills, load, &mut random).await;
        left -= kills;
    }
    println!("{cycles} kills, {told} updates acknowledged or seen");
    assert!(told > 0, "the server was never let work");
}

/// Returns how many updates were acknowledged or seen.
async fn survives_in_one_directory(kills: u64, load: &Load, random: &mut StdRng) -> usize {
    let variables = [("PROMPTGRIMOIRE__HISTORY__KEEP_UPDATES", load.keep_updates)];
    let mut process = Process::start_with(&variables).await;
    let mut journal = Journal::default();
    let mut writers: Vec<Writer> = (0..load.writers)
        .map(|index| Writer::new(index, format!("document-{}", index % load.documents), random.random()))
        .collect();
    for _ in 0..kills {
        let reading: Vec<_> = (0..load.documents)
            .map(|index| tokio::spawn(read(process.client.clone(), format!("document-{index}"))))
            .collect();
        let writing: Vec<_> =
            writers.drain(..).map(|writer| tokio::spawn(writer.write(process.client.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(5..=500))).await;
        process.kill().await;
        for writing in writing {
            let (writer, acknowledged) = writing.await.expect("the writer saw nothing wrong");
            for (update, answer) in acknowledged {
                journal.acknowledged(&writer.document, &update, &answer);
            }
            writers.push(writer);
        }
        for (index, reading) in reading.into_iter().enumerate() {
            for frame in reading.await.expect("the reader saw nothing wrong") {
                journal.saw(&format!("document-{index}"), &frame);
            }
        }
        process = process.restart().await;
        journal.check(&process.client).await;
    }
    for writer in &mut writers {
        if let Some(update) = writer.unacknowledged.take() {
            let answer = process.client.update(&writer.document, &writer.client_id, &update).await;
            journal.acknowledged(&writer.document, &update, &answer.expect_json(200));
        }
    }
    journal.check(&process.client).await;
    for index in 0..load.documents {
        let document = format!("document-{index}");
        let mut expected = Peer::new();
        writers.iter().filter(|writer| writer.document == document).for_each(|writer| {
            expected.apply(&writer.peer.whole());
        });
        assert_eq!(process.client.text(&document).await, expected.text(), "what was written, and no more");
    }
    journal.count()
}

/// Writes into a document, one update after the other.
struct Writer {
    document: String,
    client_id: String,
    peer: Peer,
    random: StdRng,
    /// Sent, and never answered: it is sent again.
    unacknowledged: Option<Vec<u8>>,
    written: u64,
}

impl Writer {
    fn new(index: usize, document: String, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let client_id = format!("writer-{index}");
        Self { document, client_id, peer: Peer::new(), random, unacknowledged: None, written: 0 }
    }

    /// Writes until the server is gone. Returns what was acknowledged.
    async fn write(mut self, client: Client) -> (Self, Vec<(Vec<u8>, Value)>) {
        let mut acknowledged = Vec::new();
        loop {
            let update = self.unacknowledged.take().unwrap_or_else(|| self.edit());
            match post(&client, &self.document, &self.client_id, &update).await {
                Some(answer) => acknowledged.push((update, answer)),
                None => {
                    self.unacknowledged = Some(update);
                    return (self, acknowledged);
                }
            }
        }
    }

    fn edit(&mut self) -> Vec<u8> {
        let length = self.peer.length();
        if length > 20 && self.random.random_bool(0.25) {
            let at = self.random.random_range(0..length - 4);
            return self.peer.delete(at, self.random.random_range(1..=4));
        }
        self.written += 1;
        let word = format!("{}/{} ", self.client_id, self.written);
        self.peer.insert(self.random.random_range(0..=length), &word)
    }
}

/// The answer to an update; `None` if the server was gone before it was whole.
async fn post(client: &Client, document: &str, client_id: &str, update: &[u8]) -> Option<Value> {
    let body = json!({ "update": base64(update), "client_id": client_id });
    let request = client.request(Method::POST, &format!("/docs/{document}/updates")).json(&body);
    let response = request.send().await.ok()?;
    let status = response.status();
    let body = response.bytes().await.ok()?;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    Some(serde_json::from_slice(&body).expect("the body is JSON"))
}

/// Everything that came on a document's stream until the server was gone.
async fn read(client: Client, document: String) -> Vec<Frame> {
    let request = client.request(Method::GET, &format!("/docs/{document}/events?client_id=reader"));
    let Ok(response) = request.send().await else { return Vec::new() };
    assert_eq!(response.status(), 200, "the stream is accepted");
    Stream::new(response).rest().await
}
