//! People writing, key by key: what they typed is what everybody has in the end.
//!
//! The histories are `seph-blog1` and `clownschool` of Joseph Gentle's collection of editing traces (CC BY 4.0,
//! <https://github.com/josephg/editing-traces>), looked for in `PROMPTGRIMOIRE_DATA` and in `../shared/data`. Where
//! they are not there, shorter ones are made up. `PROMPTGRIMOIRE_KEYS` says how many transactions of the first one are
//! typed; `PROMPTGRIMOIRE_WHOLE_HISTORY=1` types all of them, and so does CI.

use std::collections::VecDeque;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, Text, TextRef, Transact, Update};

use crate::support::{Client, Frame, Peer, Process, Stream, bytes_of, within_deadline};

const DOCUMENT: &str = "history";
/// How much of the long history is typed if nothing else is said: what a debug build does in half a minute.
const KEYS: usize = 40_000;
/// Requests that may be on their way: the connection is never idle, and the server still sees one key after the other.
const IN_FLIGHT_MAX: u64 = 512;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_author_types_and_everybody_has_the_same_text() {
    let history = History::read("seph-blog1").unwrap_or_else(History::made_up);
    let (transactions, text) = history.beginning(keys());
    let (mut process, _directory) = start().await;
    let follower = tokio::spawn(follow(process.client.clone()));
    let mut author = Typist::new();
    let mut connection = Pipeline::connect(process.address, "author").await;
    for transaction in &transactions {
        connection.post(&author.type_in(transaction)).await;
    }
    let head = connection.finish().await;
    assert_eq!(author.text(), text);
    assert_eq!(head, transactions.len() as u64, "every transaction is an update of its own");
    stop_following(&process.client).await;
    let followed =
        within_deadline("end of the stream", follower).await.expect("the follower saw nothing wrong");
    assert_eq!(followed, (text.clone(), head));
    process = check_text_over_a_restart(process, &text, head + 1).await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_type_at_the_same_time_end_with_the_same_text() {
    let history = Concurrent::read("clownschool").unwrap_or_else(Concurrent::made_up);
    let (mut process, _directory) = start().await;
    let follower = tokio::spawn(follow(process.client.clone()));
    let needs = history.needs();
    let mut typing = JoinSet::new();
    for agent in 0..history.agents {
        let own: Vec<(Vec<Patch>, Vec<u64>)> = (history.transactions.iter().zip(&needs))
            .filter(|(transaction, _)| transaction.agent == agent)
            .map(|(transaction, needs)| (transaction.patches.clone(), needs.clone()))
            .collect();
        let person = Person::new(agent, history.agents, process.client.clone());
        typing.spawn(person.type_all(own, process.address));
    }
    let mut people = Vec::new();
    let mut head = 0;
    // In the order in which they end: whoever fails would be waited for by the others.
    while let Some(typed) = typing.join_next().await {
        let (person, last) = typed.expect("everybody could type");
        people.push(person);
        head = head.max(last);
    }
    assert_eq!(head, history.transactions.len() as u64, "every transaction is an update of its own");
    for person in people {
        assert_eq!(person.read_to(head).await, history.text);
    }
    stop_following(&process.client).await;
    let followed =
        within_deadline("end of the stream", follower).await.expect("the follower saw nothing wrong");
    assert_eq!(followed, (history.text.clone(), head));
    process = check_text_over_a_restart(process, &history.text, head + 1).await;
    process.kill().await;
}

fn keys() -> usize {
    if let Ok(keys) = std::env::var("PROMPTGRIMOIRE_KEYS") {
        return keys.parse().expect("PROMPTGRIMOIRE_KEYS is a number");
    }
    let whole = std::env::var("PROMPTGRIMOIRE_WHOLE_HISTORY").is_ok_and(|whole| whole == "1");
    if whole || std::env::var_os("CI").is_some() { usize::MAX } else { KEYS }
}

/// The real binary, its documents in memory files where there are such: a hundred thousand commits, one after the
/// other, would test the patience of a disk and nothing else.
async fn start() -> (Process, TempDir) {
    let shared_memory = Path::new("/dev/shm");
    let directory = match TempDir::with_prefix_in("promptgrimoire-", shared_memory) {
        Ok(directory) => directory,
        Err(_) => TempDir::with_prefix("promptgrimoire-").expect("a temporary directory can be made"),
    };
    let url = format!("sqlite:{}", directory.path().join("data").display());
    // Somebody may have nothing to type for a long time, and keeps the connection.
    let patience = ("PROMPTGRIMOIRE__LIMITS__HEADER_SECONDS", "3600");
    let process = Process::start_with(&[("PROMPTGRIMOIRE__STORE__URL", url.as_str()), patience]).await;
    (process, directory)
}

async fn check_text_over_a_restart(mut process: Process, text: &str, head: u64) -> Process {
    check_text(&process.client, text, head).await;
    process.terminate();
    assert!(process.ended().await.success());
    let process = process.restart().await;
    check_text(&process.client, text, head).await;
    process
}

/// The server has the text, and so has whoever comes now.
async fn check_text(client: &Client, text: &str, head: u64) {
    assert_eq!(client.text(DOCUMENT).await, text);
    let sync = client.events(DOCUMENT, "late").await.sync().await;
    assert_eq!(sync.seq(), head);
    assert_eq!(Peer::from_update(&sync.update()).text(), text);
}

/// The last update of all, in another root: followers may stop when they have seen it.
async fn stop_following(client: &Client) {
    let doc = Doc::new();
    let root = doc.get_or_insert_text("end");
    let mut transaction = doc.transact_mut();
    root.push(&mut transaction, ".");
    client.write(DOCUMENT, "last", &transaction.encode_update_v1()).await;
}

/// Reads along from before the first key to the last update. Returns the text and the sequence of its last update.
async fn follow(client: Client) -> (String, u64) {
    let mut stream = client.events(DOCUMENT, "follower").await;
    let sync = stream.sync().await;
    let mut peer = Peer::from_update(&sync.update());
    let mut cursor = sync.seq();
    loop {
        let event = stream.event("update").await;
        let data = event.json();
        let first = data["from"].as_u64().unwrap_or(event.seq());
        assert_eq!(first, cursor + 1, "no hole in the stream");
        peer.apply(&bytes_of(&data["update"]));
        if data["origin"] == "last" {
            return (peer.text(), cursor);
        }
        cursor = event.seq();
    }
}

/// `(position, deleted, inserted)`, counted in characters.
type Patch = (u32, u32, String);

#[derive(Deserialize)]
struct History {
    #[serde(rename = "endContent")]
    text: Option<String>,
    #[serde(rename = "txns")]
    transactions: Vec<Sequential>,
}

#[derive(Deserialize)]
struct Sequential {
    patches: Vec<Patch>,
}

impl History {
    fn read(name: &str) -> Option<Self> {
        Some(serde_json::from_str(&read_data(name)?).expect("the history is in the format of its README"))
    }

    /// Someone who types words, corrects, and jumps about.
    fn made_up() -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let mut length = 0;
        let mut at = 0;
        let transactions = (0..5000).map(|_| {
            if random.random_bool(0.02) {
                at = random.random_range(0..=length);
            }
            let patch = if at > 0 && random.random_bool(0.2) {
                at -= 1;
                length -= 1;
                (at, 1, String::new())
            } else {
                let key = ["a", "e", " ", "\n", "é", "世"][random.random_range(0..6)];
                at += 1;
                length += 1;
                (at - 1, 0, key.to_owned())
            };
            Sequential { patches: vec![patch] }
        });
        Self { text: None, transactions: transactions.collect() }
    }

    /// The first `count` transactions, and the text that they lead to.
    fn beginning(&self, count: usize) -> (Vec<&[Patch]>, String) {
        let transactions: Vec<&[Patch]> =
            self.transactions.iter().take(count).map(|transaction| &transaction.patches[..]).collect();
        let mut text: Vec<char> = Vec::new();
        for (at, deleted, inserted) in transactions.iter().copied().flatten() {
            let (at, deleted) = (*at as usize, *deleted as usize);
            text.splice(at..at + deleted, inserted.chars());
        }
        let text = text.into_iter().collect();
        if let Some(expected) = self.text.as_ref().filter(|_| transactions.len() == self.transactions.len()) {
            assert_eq!(&text, expected, "the history leads where it says");
        }
        (transactions, text)
    }
}

#[derive(Deserialize)]
struct Concurrent {
    #[serde(rename = "endContent")]
    text: String,
    #[serde(rename = "numAgents")]
    agents: usize,
    #[serde(rename = "txns")]
    transactions: Vec<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    /// What the agent had seen: these, and everything that they had seen.
    parents: Vec<usize>,
    agent: usize,
    patches: Vec<Patch>,
}

impl Concurrent {
    fn read(name: &str) -> Option<Self> {
        Some(serde_json::from_str(&read_data(name)?).expect("the history is in the format of its README"))
    }

    /// Two people on two lines of their own, who see each other's keys late.
    fn made_up() -> Self {
        let first = Transaction { parents: vec![], agent: 0, patches: vec![(0, 0, "\n".into())] };
        let mut transactions = vec![first];
        // The last transaction of each, and how many keys of each it had seen.
        let (mut last, mut typed, mut seen) = ([0, 0], [0_u32, 0], [[0_u32, 0], [0, 0]]);
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..1000 {
            let agent = random.random_range(0..2);
            let mut parents = vec![last[agent]];
            if random.random_bool(0.1) && last[1 - agent] != last[agent] {
                parents.push(last[1 - agent]);
                seen[agent][1 - agent] = typed[1 - agent];
                // Whoever sees the other's last key sees what the other had seen.
            }
            // Agent 0 types before the line break, agent 1 after it.
            let at = if agent == 0 { typed[0] } else { seen[1][0] + 1 + typed[1] };
            let key = if agent == 0 { "a" } else { "b" };
            transactions.push(Transaction { parents, agent, patches: vec![(at, 0, key.into())] });
            typed[agent] += 1;
            seen[agent][agent] = typed[agent];
            last[agent] = transactions.len() - 1;
        }
        let text = ["a".repeat(typed[0] as usize), "b".repeat(typed[1] as usize)].join("\n");
        Self { text, agents: 2, transactions }
    }

    /// For each transaction, how many transactions of each agent it builds on.
    fn needs(&self) -> Vec<Vec<u64>> {
        let mut needs: Vec<Vec<u64>> = Vec::with_capacity(self.transactions.len());
        let mut made = vec![0; self.agents];
        for transaction in &self.transactions {
            let mut need = vec![0; self.agents];
            for parent in &transaction.parents {
                let author = self.transactions[*parent].agent;
                for (agent, count) in needs[*parent].iter().enumerate() {
                    need[agent] = need[agent].max(count + u64::from(agent == author));
                }
            }
            assert_eq!(need[transaction.agent], made[transaction.agent], "everybody knows what they did");
            made[transaction.agent] += 1;
            needs.push(need);
        }
        needs
    }
}

fn read_data(name: &str) -> Option<String> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data"));
    let directory = std::env::var_os("PROMPTGRIMOIRE_DATA").map_or_else(beside, PathBuf::from);
    let path = directory.join(format!("{name}.json.gz"));
    let Ok(file) = std::fs::File::open(&path) else {
        println!("{} is not there: a shorter history is made up", path.display());
        return None;
    };
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).expect("the history can be unpacked");
    Some(text)
}

/// Somebody's editor, which yields an update for every transaction.
struct Typist {
    doc: Doc,
    text: TextRef,
}

impl Typist {
    fn new() -> Self {
        let doc = Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::default() });
        let text = doc.get_or_insert_text("text");
        Self { doc, text }
    }

    fn type_in(&mut self, patches: &[Patch]) -> Vec<u8> {
        let mut transaction = self.doc.transact_mut();
        for (at, deleted, inserted) in patches {
            // So that a character is a UTF-16 code unit.
            assert!(inserted.chars().all(|character| character.len_utf16() == 1), "{inserted:?}");
            if *deleted > 0 {
                self.text.remove_range(&mut transaction, *at, *deleted);
            }
            if !inserted.is_empty() {
                self.text.insert(&mut transaction, *at, inserted);
            }
        }
        transaction.encode_update_v1()
    }

    fn apply(&mut self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("an update");
        let mut transaction = self.doc.transact_mut();
        transaction.apply_update(update).expect("it can be merged");
        assert!(!transaction.has_missing_updates(), "nothing comes before what it builds on");
    }

    fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }
}

/// Posts updates one behind the other on one connection, without waiting for each answer.
struct Pipeline {
    sending: OwnedWriteHalf,
    target: String,
    sent: u64,
    answered: watch::Receiver<u64>,
    answers: JoinHandle<u64>,
    stop: watch::Sender<Option<u64>>,
}

impl Pipeline {
    async fn connect(address: SocketAddr, client_id: &str) -> Self {
        let socket =
            within_deadline("connection", TcpStream::connect(address)).await.expect("the server accepts");
        socket.set_nodelay(true).expect("the option can be set");
        let (receiving, sending) = socket.into_split();
        let (answer, answered) = watch::channel(0);
        let (stop, stopped) = watch::channel(None);
        let answers = tokio::spawn(read_answers(receiving, answer, stopped));
        let target = format!("/docs/{DOCUMENT}/updates?client_id={client_id}");
        Self { sending, target, sent: 0, answered, answers, stop }
    }

    async fn post(&mut self, update: &[u8]) {
        let mut request = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
             content-length: {}\r\n\r\n",
            self.target,
            update.len()
        )
        .into_bytes();
        request.extend_from_slice(update);
        let room = self.sent.saturating_sub(IN_FLIGHT_MAX);
        within_deadline("answer", self.answered.wait_for(|answered| *answered >= room))
            .await
            .expect("no answer was wrong");
        self.sending.write_all(&request).await.expect("the server takes requests");
        self.sent += 1;
    }

    /// Waits for the answers that are still to come. Returns the last one's sequence.
    async fn finish(self) -> u64 {
        self.stop.send_replace(Some(self.sent));
        within_deadline("last answer", self.answers).await.expect("no answer was wrong")
    }
}

/// Reads answers, which must all say that something changed, until as many were read as `stopped` says.
async fn read_answers(
    receiving: OwnedReadHalf,
    answer: watch::Sender<u64>,
    mut stopped: watch::Receiver<Option<u64>>,
) -> u64 {
    #[derive(Deserialize)]
    struct Written {
        seq: u64,
        changed: bool,
    }
    let mut receiving = BufReader::new(receiving);
    let (mut count, mut seq) = (0, 0);
    let mut line = String::new();
    loop {
        let mut length = 0;
        let mut is_first = true;
        loop {
            line.clear();
            tokio::select! {
                biased;
                read = receiving.read_line(&mut line) => assert!(read.expect("a line") > 0, "the server hung up"),
                // No byte of an answer was read: there may be none to come.
                stop = stopped.wait_for(|sent| *sent == Some(count)), if is_first => {
                    stop.expect("the other half waits");
                    return seq;
                }
            }
            if is_first {
                assert!(line.starts_with("HTTP/1.1 200 "), "{line:?}");
            } else if line == "\r\n" {
                break;
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            is_first = false;
        }
        let mut body = vec![0; length];
        receiving.read_exact(&mut body).await.expect("the answer is whole");
        let written: Written = serde_json::from_slice(&body).expect("an answer to a write");
        assert!(written.changed && written.seq > seq, "sequence {} after {seq}", written.seq);
        seq = written.seq;
        count += 1;
        answer.send_replace(count);
    }
}

/// One of several who type at the same time. What the others do comes on the event stream only.
struct Person {
    agent: usize,
    client: Client,
    editor: Typist,
    /// How many transactions of each person the editor has.
    has: Vec<u64>,
    stream: Option<Stream>,
    cursor: u64,
    /// Came on the stream, and is not to be seen yet.
    waiting: VecDeque<(usize, Vec<u8>)>,
}

impl Person {
    fn new(agent: usize, agents: usize, client: Client) -> Self {
        let (editor, waiting) = (Typist::new(), VecDeque::new());
        Self { agent, client, editor, has: vec![0; agents], stream: None, cursor: 0, waiting }
    }

    /// Types everything, each time as soon as what it builds on has come. Returns the last sequence as well.
    async fn type_all(mut self, own: Vec<(Vec<Patch>, Vec<u64>)>, address: SocketAddr) -> (Self, u64) {
        let name = format!("agent-{}", self.agent);
        let mut stream = self.client.events(DOCUMENT, &name).await;
        let sync = stream.sync().await;
        // Another one may have begun: what it typed so far is in the log.
        let begun = sync.seq();
        self.stream = Some(stream);
        self.take_from_log(0, begun).await;
        self.cursor = begun;
        let mut connection = Pipeline::connect(address, &name).await;
        for (patches, needs) in own {
            self.see(&needs).await;
            connection.post(&self.editor.type_in(&patches)).await;
            self.has[self.agent] += 1;
        }
        let last = connection.finish().await;
        (self, last)
    }

    /// Brings the editor to exactly what a transaction builds on.
    async fn see(&mut self, needs: &[u64]) {
        loop {
            let mut later = VecDeque::new();
            for (agent, update) in std::mem::take(&mut self.waiting) {
                if self.has[agent] < needs[agent] {
                    self.editor.apply(&update);
                    self.has[agent] += 1;
                } else {
                    later.push_back((agent, update));
                }
            }
            self.waiting = later;
            if self.has == needs {
                return;
            }
            self.receive().await;
        }
    }

    /// Takes one event off the stream.
    async fn receive(&mut self) {
        let stream = self.stream.as_mut().expect("the stream is open");
        match stream.next().await {
            Frame::Id(id) => {
                let (_, seq) = id.split_once('.').expect("an id of a document");
                self.cursor = seq.parse().expect("a sequence");
            }
            Frame::Event(event) => {
                assert_eq!(event.name, "update");
                let data = event.json();
                match data["from"].as_u64() {
                    // Several in one: one by one they are in the log.
                    Some(from) => self.take_from_log(from - 1, event.seq()).await,
                    None => self.keep(&data),
                }
                self.cursor = event.seq();
            }
            other => panic!("{other:?} is nothing that moves a reader"),
        }
    }

    async fn take_from_log(&mut self, after: u64, last: u64) {
        let mut after = after;
        while after < last {
            let page =
                self.client.get(&format!("/docs/{DOCUMENT}/updates?since={after}")).await.expect_json(200);
            for entry in page["updates"].as_array().expect("a list of updates") {
                after = entry["seq"].as_u64().expect("a sequence");
                if after <= last {
                    self.keep(entry);
                }
            }
        }
    }

    fn keep(&mut self, entry: &serde_json::Value) {
        let origin = entry["origin"].as_str().expect("an origin");
        let agent: usize =
            origin.strip_prefix("agent-").and_then(|agent| agent.parse().ok()).expect("an agent");
        if agent != self.agent {
            self.waiting.push_back((agent, bytes_of(&entry["update"])));
        }
    }

    /// The text when everything up to `head` has come.
    async fn read_to(mut self, head: u64) -> String {
        while self.cursor < head {
            self.receive().await;
        }
        for (_, update) in std::mem::take(&mut self.waiting) {
            self.editor.apply(&update);
        }
        self.editor.text()
    }
}
