//! How fast the embedded store is: run with
//! `cargo test --release --lib store::sqlite::measure -- --ignored --nocapture --test-threads 1`.

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;

use super::SqliteStore;
use crate::event::{Event, Origin, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::store::{Retention, Snapshot, Store};

/// An update as a keystroke makes it.
fn event(number: u64) -> Event {
    Event {
        sequence: Sequence::new(number),
        origin: Origin::Client("tab-3f9a0c".parse().expect("a valid name")),
        user: Some("u12345".into()),
        time: Timestamp::from_milliseconds(1_700_000_000_000 + number.cast_signed() * 37),
        update: Bytes::from_static(&[0x5a; 32]),
    }
}

fn document(index: usize) -> DocumentId {
    format!("lecture-{:07}", index * 7919 % 1_000_003).parse().expect("a valid name")
}

/// Time that the writer's thread has had a processor, by the kernel's own count.
fn writer_cpu() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("this is Linux");
    let nanoseconds: u64 = tasks
        .flatten()
        .filter(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "store-writer\n")
        })
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

/// Each of `appenders` appends one update at a time, to a document of its own or all in turn to one.
async fn measure_appends(appenders: usize, rounds: u64, prepared: usize) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    let epoch = Epoch::from_entropy(7);
    // Other documents, so that the tables are not tiny.
    let prepare =
        async |index| store.append(&document(index), epoch, vec![event(1)]).await.expect("there is room");
    for chunk in (0..prepared.max(appenders)).collect::<Vec<_>>().chunks(512) {
        join_all(chunk.iter().map(|index| prepare(*index))).await;
    }
    let (started, cpu) = (Instant::now(), writer_cpu());
    let append = async |index| {
        let document = document(index);
        for number in 2..=rounds + 1 {
            store.append(&document, epoch, vec![event(number)]).await.expect("there is room");
        }
    };
    join_all((0..appenders).map(append)).await;
    let (elapsed, cpu) = (started.elapsed(), writer_cpu() - cpu);
    let count = appenders as u64 * rounds;
    let per_append = cpu.as_secs_f64() * 1e6 / count as f64;
    let per_second = count as f64 / elapsed.as_secs_f64();
    println!(
        "{appenders} appenders, {prepared} documents: {per_second:.0} appends/s, {per_append:.2} us of the writer each"
    );
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn appends_to_documents_of_their_own() {
    measure_appends(1, 500, 10_000).await;
    measure_appends(16, 500, 10_000).await;
    measure_appends(256, 400, 256).await;
    measure_appends(256, 400, 10_000).await;
    measure_appends(1024, 100, 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn appends_to_one_document() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    let epoch = Epoch::from_entropy(7);
    let (started, cpu) = (Instant::now(), writer_cpu());
    const ROUNDS: u64 = 400;
    for round in 0..ROUNDS {
        let document = document(0);
        let append = async |number| store.append(&document, epoch, vec![event(number)]).await;
        // Sixteen times sixteen: so few futures are polled in their order, and each follows the one before.
        let first = round * 256 + 1;
        let sixteen = |first| join_all((first..first + 16).map(append));
        for result in join_all((0..16).map(|part| sixteen(first + part * 16))).await.concat() {
            result.expect("there is room");
        }
    }
    let (elapsed, cpu) = (started.elapsed(), writer_cpu() - cpu);
    let count = (ROUNDS * 256) as f64;
    println!(
        "one document, 256 at once: {:.0} appends/s, {:.2} us of the writer each",
        count / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count
    );
    store.close().await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn opening_and_compacting() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    let epoch = Epoch::from_entropy(7);
    let documents = 100_000;
    for chunk in (0..documents).map(document).collect::<Vec<_>>().chunks(1024) {
        join_all(chunk.iter().map(|document| store.append(document, epoch, vec![event(1)]))).await;
    }
    let large: DocumentId = "large".parse().expect("a valid name");
    for round in 0..100 {
        let events = (round * 100 + 1..=round * 100 + 100).map(event).collect();
        store.append(&large, epoch, events).await.expect("there is room");
    }
    let retention = Retention { keep_updates: 1000, keep_since: Timestamp::from_milliseconds(0) };
    for number in [5000, 10_000] {
        let snapshot = Snapshot { sequence: Sequence::new(number), update: Bytes::from(vec![1; 1 << 20]) };
        let started = Instant::now();
        store.compact(&large, epoch, snapshot, retention).await.expect("it lies in the log");
        println!("a snapshot of 1 MiB at {number}: {:?}", started.elapsed());
    }
    store.close().await;
    for _ in 0..2 {
        let started = Instant::now();
        let store = SqliteStore::open(directory.path()).expect("it was closed");
        println!("opened {documents} documents in {:?}", started.elapsed());
        let started = Instant::now();
        store.load(&large).await.expect("it reads back");
        println!("loaded 1 MiB in {:?}", started.elapsed());
        store.close().await;
    }
}
