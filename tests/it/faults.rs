//! The real server on a disk that is full, broken, torn or damaged, or somebody else's already.

use promptgrimoire::event::{Event, Origin, Timestamp};
use promptgrimoire::ids::{Epoch, Sequence};
use promptgrimoire::store::Store;
use promptgrimoire::store::sqlite::SqliteStore;
use reqwest::Method;
use rusqlite::Connection;
use serde_json::json;

use crate::support::awareness::{awareness, states_of};
use crate::support::faulty_disk::{Fault, FaultyDisk};
use crate::support::journal::Journal;
use crate::support::process::run_to_its_end;
use crate::support::{Answer, Client, Frame, Peer, Process, Stream, base64, until};

const WRITER: &str = "writer";
/// How often the disk fails and works again in one test.
const ROUNDS: u32 = 3;

#[tokio::test]
async fn on_a_full_disk_writes_are_refused_and_all_else_goes_on() {
    survives(Fault::Full).await;
}

#[tokio::test]
async fn on_a_disk_that_fails_to_write_nothing_is_acknowledged_and_all_else_goes_on() {
    survives(Fault::BrokenWrites).await;
}

#[tokio::test]
async fn on_a_disk_that_fails_to_sync_nothing_is_acknowledged_and_all_else_goes_on() {
    survives(Fault::BrokenSyncs).await;
}

async fn survives(fault: Fault) {
    let (disk, mut process) = start_on_faulty_disk().await;
    let client = process.client.clone();
    let mut journal = Journal::default();
    let mut peer = Peer::new();
    write(&client, &mut journal, &mut peer, 10).await;
    let mut reader = Reader::open(&client).await;

    for round in 1..=ROUNDS {
        let acknowledged = head(&client).await;
        disk.set(fault);
        let update = peer.push("refused at first ");
        for _ in 0..3 {
            let refused = client.update("a", WRITER, &update).await;
            check_unavailable(&refused);
            // A document that is not there yet, too.
            check_unavailable(&client.update("new", WRITER, &Peer::new().push("new")).await);
        }
        check_unavailable(&client.get("/readyz").await);
        assert_eq!(client.get("/healthz").await.status, 200);
        // Whether what was refused is in the log is not known before the disk works. What was there is.
        assert!(client.text("a").await.starts_with("word 0 "));
        assert_eq!(client.get("/docs/a/state").await.status, 200);
        assert_eq!(client.get("/docs/a/updates").await.status, 200);
        assert_eq!(client.get("/docs").await.status, 200);
        client.events("a", "another").await.sync().await;
        reader.hears(&client, round).await;
        assert_eq!(reader.cursor, acknowledged, "what was refused was told to nobody");

        disk.heal();
        // No restart.
        let answer = until("write after the disk works", async || {
            let answer = client.update("a", WRITER, &update).await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        journal.acknowledged("a", &update, &answer.expect_json(200));
        until("readiness after the disk works", async || {
            (client.get("/readyz").await.status == 200).then_some(())
        })
        .await;
        write(&client, &mut journal, &mut peer, 5).await;
        assert_eq!(client.text("a").await, peer.text());
        journal.check(&client).await;
    }
    reader.read_to(head(&client).await, &mut journal).await;
    assert_eq!(reader.peer.text(), peer.text(), "the open stream has everything, and nothing else");

    process.kill().await;
    let process = process.restart().await;
    journal.check(&process.client).await;
    assert_eq!(process.client.text("a").await, peer.text());
}

#[tokio::test]
async fn a_process_that_dies_in_the_middle_of_a_write_loses_nothing_acknowledged() {
    let (disk, mut process) = start_on_faulty_disk().await;
    let mut journal = Journal::default();
    let mut peer = Peer::new();
    let mut unacknowledged: Option<Vec<u8>> = None;
    for round in 0..12_u32 {
        disk.set(Fault::TornWrite(round * 5 + 1));
        loop {
            let update = unacknowledged.take().unwrap_or_else(|| peer.push("word "));
            let body = json!({ "update": base64(&update), "client_id": WRITER });
            let request = process.client.request(Method::POST, "/docs/a/updates").json(&body);
            let answered = match request.send().await {
                Ok(response) if response.status() == 200 => response.bytes().await.ok(),
                Ok(response) => panic!("{response:?}"),
                Err(_) => None,
            };
            match answered {
                Some(body) => {
                    let answer = serde_json::from_slice(&body).expect("the body is JSON");
                    journal.acknowledged("a", &update, &answer);
                }
                None => {
                    unacknowledged = Some(update);
                    break;
                }
            }
        }
        assert!(!process.ended().await.success(), "the write killed it");
        disk.heal();
        process = process.restart().await;
        journal.check(&process.client).await;
    }
    assert!(journal.count() > 0, "some writes were acknowledged");
    let update = unacknowledged.expect("the last one was cut off");
    let answer = process.client.update("a", WRITER, &update).await;
    journal.acknowledged("a", &update, &answer.expect_json(200));
    journal.check(&process.client).await;
    assert_eq!(process.client.text("a").await, peer.text());
}

#[tokio::test]
async fn a_damaged_row_takes_its_own_document_out_of_service_and_no_other() {
    let mut process = Process::start().await;
    for document in ["damaged", "whole"] {
        let mut peer = Peer::new();
        for _ in 0..3 {
            process.client.write(document, WRITER, &peer.push("word ")).await;
        }
    }
    process.terminate();
    assert!(process.ended().await.success());
    let database =
        Connection::open(process.data_directory().join("store.sqlite")).expect("the database opens");
    let changed = database.execute(
        "UPDATE log SET content = CAST(x'00' || substr(content, 2) AS BLOB)
         WHERE sequence = 2 AND document = (SELECT id FROM documents WHERE name = 'damaged')",
        [],
    );
    assert_eq!(changed.expect("the row can be altered"), 1);
    drop(database);

    let process = process.restart().await;
    check_out_of_service(&process.client, "damaged").await;
    check_in_service(&process.client, "whole").await;
    assert_eq!(process.client.get("/readyz").await.status, 200);
    // Its end is the operator's to decide.
    assert_eq!(process.client.delete("/docs/damaged").await.status, 204);
    process.client.write("damaged", WRITER, &Peer::new().push("anew")).await;
    assert_eq!(process.client.text("damaged").await, "anew");
}

#[tokio::test]
async fn a_poisonous_update_in_the_log_takes_its_own_document_out_of_service_and_no_other() {
    /// What must never be loaded: some crash or hang the CRDT library, some build on what is not there.
    const POISONS: [&str; 8] = [
        "010101000201016100013100",
        "0101000200ffffffff0f00",
        "010302feffffff0f0001a3020103010203000100",
        "02020309220100000001000001010309000100",
        "03020304000102010002000000020307640305030000008103070100000000",
        "80c2d72f",
        "0101010584000401780000",
        "ff",
    ];
    let mut process = Process::start().await;
    let mut epochs = Vec::new();
    for number in 0..POISONS.len() {
        let answer =
            process.client.update(&format!("poisoned-{number}"), WRITER, &Peer::new().push("word ")).await;
        let epoch: Epoch =
            answer.expect_json(200)["epoch"].as_str().expect("an epoch").parse().expect("an epoch");
        epochs.push(epoch);
    }
    process.client.write("whole", WRITER, &Peer::new().push("word word word ")).await;
    process.terminate();
    assert!(process.ended().await.success());
    // Written by the store itself: the rows are whole, and what is in them is not.
    let store = SqliteStore::open(&process.data_directory()).expect("the store opens");
    for (number, (poison, epoch)) in POISONS.iter().zip(epochs).enumerate() {
        let digits = |at| u8::from_str_radix(&poison[at..at + 2], 16).expect("the examples are hexadecimal");
        let event = Event {
            sequence: Sequence::new(2),
            origin: Origin::Anonymous,
            user: None,
            time: Timestamp::from_milliseconds(1_700_000_000_000),
            update: (0..poison.len()).step_by(2).map(digits).collect::<Vec<u8>>().into(),
        };
        let document = format!("poisoned-{number}").parse().expect("a valid name");
        store.append(&document, epoch, vec![event]).await.expect("the store takes any bytes");
    }
    store.close().await;

    let process = process.restart().await;
    for _ in 0..2 {
        for number in 0..POISONS.len() {
            check_out_of_service(&process.client, &format!("poisoned-{number}")).await;
        }
        check_in_service(&process.client, "whole").await;
    }
    assert_eq!(process.client.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_data_directory_in_use_is_left_alone() {
    let process = Process::start().await;
    process.client.write("a", WRITER, &Peer::new().push("kept")).await;
    let data = process.data_directory();
    let url = format!("sqlite:{}", data.display());
    let variables = [("PROMPTGRIMOIRE_PORT", "0"), ("PROMPTGRIMOIRE__STORE__URL", url.as_str())];
    let nothing: [&str; 0] = [];
    let output = run_to_its_end(data.parent().expect("it lies in another"), nothing, &variables).await;
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "it never says that it listens");
    let errors = String::from_utf8(output.stderr).expect("the message is UTF-8");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    assert!(errors.contains(&data.display().to_string()), "{errors}");
    assert!(errors.contains(&process.id().to_string()), "{errors}");
    assert_eq!(process.client.text("a").await, "kept");
    process.client.write("a", WRITER, &Peer::new().push("!")).await;
}

async fn start_on_faulty_disk() -> (FaultyDisk, Process) {
    // The library is preloaded into this one process, which has its documents in a directory of this name.
    let disk = FaultyDisk::new("/data/".as_ref());
    let environment = disk.environment();
    let environment =
        environment.iter().map(|(name, value)| (*name, value.to_str().expect("paths are UTF-8")));
    let variables: Vec<(&str, &str)> = environment.collect();
    let process = Process::start_with(&variables).await;
    (disk, process)
}

async fn write(client: &Client, journal: &mut Journal, peer: &mut Peer, count: usize) {
    for number in 0..count {
        let update = peer.push(&format!("word {number} "));
        let answer = client.update("a", WRITER, &update).await;
        journal.acknowledged("a", &update, &answer.expect_json(200));
    }
}

async fn head(client: &Client) -> u64 {
    client.get("/docs/a").await.expect_json(200)["seq"].as_u64().expect("a sequence")
}

fn check_unavailable(answer: &Answer) {
    answer.expect_problem(503, "unavailable");
    let after = answer.header("retry-after").expect("it says when to try again");
    assert!(after.parse::<u64>().is_ok_and(|seconds| seconds > 0), "{after}");
}

async fn check_out_of_service(client: &Client, document: &str) {
    for path in ["state", "text", "events"] {
        check_unavailable(&client.get(&format!("/docs/{document}/{path}")).await);
    }
    check_unavailable(&client.update(document, WRITER, &Peer::new().push("more")).await);
}

/// A document that holds `word` three times can still be read and written.
async fn check_in_service(client: &Client, document: &str) {
    assert!(client.text(document).await.contains("word word word "));
    let ack = client.write(document, WRITER, &Peer::new().push("!")).await;
    assert_eq!(client.events(document, "reader").await.sync().await.seq(), ack.seq);
}

/// A stream that is open all the time, with what came on it.
struct Reader {
    stream: Stream,
    peer: Peer,
    cursor: u64,
    read: Vec<Frame>,
}

impl Reader {
    async fn open(client: &Client) -> Self {
        let mut stream = client.events("a", "reader").await;
        let sync = stream.sync().await;
        let peer = Peer::from_update(&sync.update());
        Self { stream, peer, cursor: sync.seq(), read: vec![Frame::Event(sync)] }
    }

    /// Waits for a signal that is sent now, and so for all that was sent before. No disk is needed for it.
    async fn hears(&mut self, client: &Client, clock: u32) {
        let signal = base64(&awareness(7, clock, &json!({ "here": true })));
        let body = json!({ "client_id": "signaller", "update": signal });
        assert_eq!(client.post("/docs/a/awareness", &body).await.status, 204);
        loop {
            let frame = self.stream.next().await;
            if let Frame::Event(event) = &frame
                && event.name == "awareness"
                && states_of(&event.update()).iter().any(|(_, at, _)| *at == clock)
            {
                return;
            }
            self.take(frame);
        }
    }

    async fn read_to(&mut self, seq: u64, journal: &mut Journal) {
        while self.cursor < seq {
            let frame = self.stream.next().await;
            self.take(frame);
        }
        self.read.iter().for_each(|frame| journal.saw("a", frame));
    }

    fn take(&mut self, frame: Frame) {
        let Frame::Event(event) = &frame else { panic!("{frame:?} is no event") };
        // A signal that nobody renews runs out.
        if event.name == "awareness" {
            return;
        }
        assert_eq!(event.name, "update");
        let first = event.json()["from"].as_u64().unwrap_or(event.seq());
        assert_eq!(first, self.cursor + 1, "no hole in the stream, and nothing twice");
        self.peer.apply(&event.update());
        self.cursor = event.seq();
        self.read.push(frame);
    }
}
