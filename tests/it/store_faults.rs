//! The embedded store on a disk that is full, broken or torn from under it.
//!
//! Each test runs itself again in a process whose disk fails when told to.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use promptgrimoire::event::{Event, Origin, Timestamp};
use promptgrimoire::ids::{DocumentId, Epoch, Sequence};
use promptgrimoire::store::sqlite::SqliteStore;
use promptgrimoire::store::{Retention, Snapshot, Store, StoreError};

use crate::support::faulty_disk::{Fault, FaultyDisk};

/// Where the inner process has its store.
const DIRECTORY: &str = "STORE_FAULTS_DIRECTORY";

fn document() -> DocumentId {
    "a".parse().expect("a valid name")
}

fn epoch() -> Epoch {
    Epoch::from_entropy(7)
}

fn event(number: u64, update_bytes: usize) -> Event {
    Event {
        sequence: Sequence::new(number),
        origin: Origin::Anonymous,
        user: None,
        time: Timestamp::from_milliseconds(1_700_000_000_000),
        update: Bytes::from(vec![number as u8; update_bytes]),
    }
}

/// Runs the test `name` of this file again, on `disk`.
fn run_again(name: &str, disk: &FaultyDisk, directory: &Path) -> Output {
    let test = format!("store_faults::{name}");
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program)
        .args([&test, "--exact", "--nocapture", "--test-threads", "1"])
        .envs(disk.environment())
        .env(DIRECTORY, directory)
        .output()
        .expect("this program can be started")
}

/// In the outer process: runs the test `name` again and wants it to succeed. In the inner: its disk and directory.
fn inner(name: &str, disk: impl FnOnce(&Path) -> FaultyDisk) -> Option<(FaultyDisk, PathBuf)> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let disk = FaultyDisk::of_this_process().expect("the outer process gave one");
        return Some((disk, directory.into()));
    }
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let output = run_again(name, &disk(directory.path()), directory.path());
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    None
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().expect("threads can be started").block_on(work);
}

/// Appends after what is there, and says which sequence that was.
async fn append(store: &SqliteStore) -> Result<u64, StoreError> {
    let stored = store.load(&document()).await.expect("reads go on");
    let number = stored.map_or(1, |stored| stored.summary.head.get() + 1);
    store.append(&document(), epoch(), vec![event(number, 100)]).await.map(|()| number)
}

async fn survives(disk: FaultyDisk, directory: &Path, fault: Fault) {
    let store = SqliteStore::open(directory).expect("the disk still works");
    let mut acknowledged = 0;
    for _round in 0..3 {
        for _ in 0..20 {
            acknowledged = append(&store).await.expect("the disk works");
        }
        disk.set(fault);
        for _ in 0..10 {
            let refused = append(&store).await;
            assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        }
        let snapshot = Snapshot { sequence: Sequence::new(acknowledged), update: Bytes::from_static(b"all") };
        let retention = Retention { keep_updates: 1, keep_since: Timestamp::from_milliseconds(0) };
        let refused = store.compact(&document(), epoch(), snapshot, retention).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        let refused = store.delete(&document()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        let refused = store.check_writable().await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        assert_eq!(store.list("", None, 10).await.expect("reads go on").len(), 1);
        disk.heal();
        // No restart, and no waiting.
        store.check_writable().await.expect("the disk works again");
    }
    store.close().await;
    let store = SqliteStore::open(directory).expect("the disk works");
    let stored = store.load(&document()).await.expect("it reads back").expect("it was written");
    assert!(stored.summary.head.get() >= acknowledged);
    store.close().await;
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    if let Some((disk, directory)) = inner("a_full_disk_refuses_writes_until_there_is_room", FaultyDisk::new)
    {
        block_on(survives(disk, &directory, Fault::Full));
    }
}

#[test]
fn failing_writes_are_never_acknowledged() {
    if let Some((disk, directory)) = inner("failing_writes_are_never_acknowledged", FaultyDisk::new) {
        block_on(survives(disk, &directory, Fault::BrokenWrites));
    }
}

#[test]
fn a_failed_sync_is_never_acknowledged() {
    if let Some((disk, directory)) = inner("a_failed_sync_is_never_acknowledged", FaultyDisk::new) {
        block_on(survives(disk, &directory, Fault::BrokenSyncs));
    }
}

#[test]
fn a_database_that_cannot_grow_costs_nothing_while_its_write_ahead_log_can() {
    let disk = |directory: &Path| FaultyDisk::with_file(&directory.join("store.sqlite"));
    let name = "a_database_that_cannot_grow_costs_nothing_while_its_write_ahead_log_can";
    let Some((disk, directory)) = inner(name, disk) else { return };
    block_on(async {
        let store = SqliteStore::open(&directory).expect("the disk still works");
        let append = async |number| store.append(&document(), epoch(), vec![event(number, 1 << 20)]).await;
        append(1).await.expect("the disk works");
        disk.set(Fault::Full);
        // Past where the write-ahead log is copied, with room for it alone.
        for number in 2..=50 {
            append(number).await.expect("the write-ahead log has room");
        }
        disk.heal();
        for number in 51..=60 {
            append(number).await.expect("the disk works again");
        }
        store.close().await;
        let wal = directory.join("store.sqlite-wal");
        assert!(std::fs::metadata(wal).map_or(0, |wal| wal.len()) == 0, "the log is copied in the end");
        let store = SqliteStore::open(&directory).expect("the disk works");
        let stored = store.load(&document()).await.expect("it reads back").expect("it was written");
        assert_eq!(stored.tail.len(), 60);
        store.close().await;
    });
}

#[test]
fn a_process_that_dies_in_the_middle_of_a_write_loses_nothing_acknowledged() {
    const NAME: &str = "a_process_that_dies_in_the_middle_of_a_write_loses_nothing_acknowledged";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        block_on(async {
            let store = SqliteStore::open(Path::new(&directory)).expect("it can be opened");
            for _ in 0..200 {
                let number = append(&store).await.expect("the disk works, or kills");
                println!("acknowledged {number}");
                std::io::stdout().flush().expect("the outer process listens");
            }
        });
        return;
    }
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let disk = FaultyDisk::new(directory.path());
    let mut acknowledged = 0;
    for write in 1..=40 {
        disk.set(Fault::TornWrite(write * 3));
        let output = run_again(NAME, &disk, directory.path());
        assert!(!output.status.success(), "write {write} kills");
        let said = String::from_utf8_lossy(&output.stdout);
        let numbers = said
            .split("acknowledged ")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        acknowledged = numbers.max().unwrap_or(acknowledged).max(acknowledged);
        if acknowledged == 0 {
            continue;
        }
        block_on(async {
            let store = SqliteStore::open(directory.path()).expect("no repair is needed");
            let stored = store.load(&document()).await.expect("it reads back").expect("it was written");
            let head = stored.summary.head.get();
            assert!(head >= acknowledged, "{acknowledged} was acknowledged, and {head} is there");
            for (event, number) in stored.tail.iter().zip(1..) {
                assert_eq!(*event, self::event(number, 100));
            }
            assert_eq!(stored.tail.len() as u64, head);
            store.close().await;
        });
    }
    assert!(acknowledged > 0);
}
