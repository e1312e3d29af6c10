//! What becomes of a store whose files were altered, cut or replaced.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;

use super::{OpenError, SqliteStore};
use crate::auth::revocations::{Revocation, Revoked};
use crate::event::{Event, Origin, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence};
use crate::store::{PageLimit, Retention, Snapshot, Store, StoreError, Stored};

fn document(name: &str) -> DocumentId {
    name.parse().expect("the tests use valid names")
}

fn epoch() -> Epoch {
    Epoch::from_entropy(7)
}

fn event(number: u64) -> Event {
    Event {
        sequence: Sequence::new(number),
        origin: Origin::Client("tab-1".parse().expect("a valid name")),
        user: Some("Ada".into()),
        time: Timestamp::from_milliseconds(1_700_000_000_000 + number.cast_signed()),
        update: Bytes::from(format!("update {number}").repeat(3)),
    }
}

fn snapshot(number: u64) -> Snapshot {
    Snapshot { sequence: Sequence::new(number), update: Bytes::from(format!("snapshot {number}").repeat(5)) }
}

const LIMIT: PageLimit = PageLimit { events_max: 1000, bytes_max: 1 << 20 };
/// The head of each document of the sample.
const HEAD: u64 = 20;
/// What a journaled sample has in the logs; the rest is in the journal.
const SETTLED: u64 = 17;
const DOCUMENTS: [&str; 4] = ["apple", "banana", "cherry", "date"];
/// A document whose contents fill pages of their own.
const LARGE: &str = "large";

/// What each document of the sample is, if it is served at all.
type Written = BTreeMap<DocumentId, Stored>;

/// Writes a small store and closes it. Returns what is in it.
async fn write_sample(directory: &Path) -> Written {
    let store = SqliteStore::open(directory).expect("an empty directory becomes a store");
    let written = fill(&store, HEAD).await;
    store.close().await;
    written
}

/// Writes the same store, as a process leaves it that is killed with the last events of each document in the journal.
async fn write_journaled_sample(directory: &Path) -> Written {
    let living = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(living.path()).expect("an empty directory becomes a store");
    let mut written = fill(&store, SETTLED).await;
    for number in SETTLED + 1..=HEAD {
        for document in written.keys() {
            store.append(document, epoch(), vec![event(number)]).await.expect("there is room");
        }
    }
    for (document, written) in &mut written {
        *written = store.load(document).await.expect("it reads back").expect("it is there");
        assert_eq!(written.summary.head, Sequence::new(HEAD));
    }
    let database = living.path().join("store.sqlite");
    let connection = Connection::open(&database).expect("it was written");
    let journaled: u64 =
        connection.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).expect("it is there");
    assert_eq!(journaled, (HEAD - SETTLED) * written.len() as u64);
    let checkpoint = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    assert_eq!(checkpoint, Ok(0), "the log is copied into the database whole");
    fs::copy(&database, directory.join("store.sqlite")).expect("there is room");
    store.close().await;
    written
}

/// Writes logs, snapshots, a trimmed log, a large document.
async fn fill(store: &SqliteStore, head: u64) -> Written {
    let retention = Retention { keep_updates: 8, keep_since: Timestamp::from_milliseconds(0) };
    let mut written = Written::new();
    for (index, name) in DOCUMENTS.into_iter().chain([LARGE]).enumerate() {
        let document = document(name);
        let mut events: Vec<_> = (1..=head).map(event).collect();
        if name == LARGE {
            events[head as usize - 1].update = Bytes::from(vec![7; 9000]);
        }
        store.append(&document, epoch(), events).await.expect("there is room");
        for number in (1..=index.min(3) as u64).map(|round| round * 6).filter(|number| *number <= head) {
            store.compact(&document, epoch(), snapshot(number), retention).await.expect("it lies in the log");
        }
        let stored = store.load(&document).await.expect("it reads back").expect("it is there");
        written.insert(document, stored);
    }
    written
}

/// Whether `found` is the document that was written; perhaps from an earlier snapshot and a longer log.
fn is_as_written(found: &Stored, written: &Stored) -> bool {
    let all_of_it = |stored: &Stored| {
        let after = stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence.get());
        let mut numbers = stored.tail.iter().map(|event| event.sequence.get());
        let dense = (after + 1..=HEAD).all(|number| numbers.next() == Some(number));
        dense && stored.tail.len() as u64 == HEAD - after
    };
    let snapshot_as_written = match (&found.snapshot, &written.snapshot) {
        (Some(found), Some(written)) => {
            found.sequence <= written.sequence && *found == snapshot(found.sequence.get())
        }
        (None, _) => written.summary.oldest == Sequence::new(1),
        (Some(_), None) => false,
    };
    let tail_as_written = found
        .tail
        .iter()
        .all(|event| written.tail.contains(event) || *event == self::event(event.sequence.get()));
    found.summary == written.summary && all_of_it(found) && snapshot_as_written && tail_as_written
}

/// How a store with damage behaved.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    not_opened: usize,
    out_of_service: usize,
    served: usize,
}

/// Opens a store and looks at every document of the sample.
///
/// Panics if any is served with other bytes than were written, or is said not to exist.
async fn examine(directory: &Path, written: &Written, what: &str) -> Tally {
    let mut tally = Tally::default();
    let store = match SqliteStore::open(directory) {
        Ok(store) => store,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n') && line.contains(&*directory.to_string_lossy()), "{what}: {line}");
            return Tally { not_opened: 1, ..tally };
        }
    };
    for (document, written) in written {
        match store.load(document).await {
            Ok(Some(found)) => {
                assert!(is_as_written(&found, written), "{what}: `{document}` is served altered: {found:#?}");
                tally.served += 1;
                // A page of the log may lie outside of what was loaded.
                let oldest = found.summary.oldest;
                match store.log(document, oldest.minus(1), LIMIT).await {
                    Ok(Some(page)) => assert!(
                        page.events.len() as u64 == HEAD + 1 - oldest.get()
                            && page.events.iter().all(|event| written.tail.contains(event)
                                || *event == self::event(event.sequence.get())),
                        "{what}: the log of `{document}` is served altered"
                    ),
                    Ok(None) => panic!("{what}: `{document}` was loaded, and has no log"),
                    Err(_) => tally.out_of_service += 1,
                }
            }
            Ok(None) => panic!("{what}: `{document}` was written, and is said not to exist"),
            Err(StoreError::Corrupt { .. }) => tally.out_of_service += 1,
            Err(other) => panic!("{what}: `{document}` is no affair of this document alone: {other}"),
        }
    }
    // What is written now must not reach what other documents hold.
    let next = vec![event(1)];
    let fresh = store.append(&document("fresh"), epoch(), next.clone()).await;
    if fresh.is_ok()
        && let Ok(found) = store.load(&document("fresh")).await
    {
        assert_eq!(found.map(|stored| stored.tail), Some(next), "{what}: a new document");
    }
    for (document, written) in written {
        match store.load(document).await {
            Ok(Some(found)) => assert!(is_as_written(&found, written), "{what}: `{document}` after a write"),
            Ok(None) => panic!("{what}: `{document}` is said not to exist after a write"),
            Err(_) => {}
        }
    }
    store.close().await;
    tally
}

/// How many altered stores a test looks at.
fn seeds(default: usize) -> usize {
    std::env::var("PROMPTGRIMOIRE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

async fn flip_bytes(positions: impl Fn(usize) -> Vec<usize>, mut altered: impl FnMut(u8) -> u8) {
    let original = tempfile::tempdir().expect("there is room for a directory");
    let written = write_sample(original.path()).await;
    flip_bytes_of(original.path(), &written, &positions, &mut altered).await;
    let original = tempfile::tempdir().expect("there is room for a directory");
    let written = write_journaled_sample(original.path()).await;
    flip_bytes_of(original.path(), &written, &positions, &mut altered).await;
}

async fn flip_bytes_of(
    original: &Path,
    written: &Written,
    positions: &impl Fn(usize) -> Vec<usize>,
    altered: &mut impl FnMut(u8) -> u8,
) {
    let bytes = fs::read(original.join("store.sqlite")).expect("it was written");
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let mut total = Tally::default();
    for position in positions(bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[position] = altered(damaged[position]);
        fs::remove_dir_all(directory.path()).expect("it is ours");
        fs::create_dir(directory.path()).expect("it was just removed");
        fs::write(directory.path().join("store.sqlite"), &damaged).expect("there is room");
        let what = format!("byte {position}: {} -> {}", bytes[position], damaged[position]);
        let tally = examine(directory.path(), written, &what).await;
        total.not_opened += tally.not_opened;
        total.out_of_service += tally.out_of_service;
        total.served += tally.served;
    }
    println!("{} bytes: {total:?}", bytes.len());
    assert!(total.served > 0);
}

#[tokio::test]
async fn a_flipped_byte_is_never_served_nor_taken_for_absence() {
    let mut random = StdRng::seed_from_u64(1);
    let mut flip = StdRng::seed_from_u64(2);
    let chosen: Vec<usize> = (0..seeds(300)).map(|_| random.random_range(0..usize::MAX)).collect();
    flip_bytes(
        |length| chosen.iter().map(|number| number % length).collect(),
        |byte| byte ^ flip.random_range(1..=255_u8),
    )
    .await;
}

/// The first page tells where everything is: each of its bytes, for a start.
#[tokio::test]
async fn a_flipped_byte_of_the_header_is_never_served_nor_taken_for_absence() {
    flip_bytes(|_| (0..100).collect(), |byte| byte ^ 1).await;
    flip_bytes(|_| (0..100).collect(), |byte| byte ^ 0xff).await;
}

#[tokio::test]
#[ignore = "minutes: every byte of the file, three ways"]
async fn every_flipped_byte_is_never_served_nor_taken_for_absence() {
    for mask in [1, 0x80, 0xff] {
        flip_bytes(|length| (0..length).collect(), |byte| byte ^ mask).await;
    }
}

#[tokio::test]
async fn a_file_that_was_cut_is_never_served_nor_taken_for_absence() {
    let original = tempfile::tempdir().expect("there is room for a directory");
    let written = write_sample(original.path()).await;
    let bytes = fs::read(original.path().join("store.sqlite")).expect("it was written");
    for length in (0..bytes.len()).step_by(1024) {
        fs::write(original.path().join("store.sqlite"), &bytes[..length]).expect("there is room");
        let _ = fs::remove_file(original.path().join("store.sqlite-wal"));
        let _ = fs::remove_file(original.path().join("store.sqlite-shm"));
        examine(original.path(), &written, &format!("cut to {length}")).await;
    }
}

#[tokio::test]
async fn a_lost_database_is_not_an_empty_store() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    write_sample(directory.path()).await;
    fs::remove_file(directory.path().join("store.sqlite")).expect("it was written");
    let refused = SqliteStore::open(directory.path()).expect_err("its documents are lost").to_string();
    assert!(refused.contains("store.sqlite"), "{refused}");
}

/// Alters a sample by SQL and returns what `load` says of `banana`, and whether all others are well.
async fn altered(sql: &str) -> (SqliteStore, tempfile::TempDir, Result<Option<Stored>, StoreError>) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let written = write_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("others are well");
    for (document, written) in &written {
        if document.as_str() != "banana" {
            let found = store.load(document).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!(found.as_ref(), Some(written), "{sql}");
        }
    }
    let banana = store.load(&document("banana")).await;
    (store, directory, banana)
}

/// `banana` has the id 2, a log from 1 to 20 and a snapshot at 6.
const ALTERATIONS: [&str; 21] = [
    "DELETE FROM log WHERE document = 2 AND sequence = 20",
    "DELETE FROM log WHERE document = 2 AND sequence > 10",
    "DELETE FROM log WHERE document = 2 AND sequence = 12",
    "DELETE FROM log WHERE document = 2 AND sequence = 7",
    "DELETE FROM log WHERE document = 2",
    "DELETE FROM documents WHERE name = 'banana'",
    "DELETE FROM documents WHERE name = 'banana'; DELETE FROM log WHERE document = 2",
    "UPDATE documents SET head = 19 WHERE id = 2",
    "UPDATE documents SET head = 21 WHERE id = 2",
    "UPDATE documents SET epoch = 'aaaaaaaa' WHERE id = 2",
    "UPDATE documents SET name = 'bandana' WHERE id = 2",
    "UPDATE documents SET id = 77 WHERE id = 2",
    "UPDATE documents SET checksum = 0 WHERE id = 2",
    "UPDATE documents SET updated_at = updated_at + 1 WHERE id = 2",
    "UPDATE log SET content = X'00' WHERE document = 2 AND sequence = 15",
    "UPDATE log SET user = 'Eve' WHERE document = 2 AND sequence = 15",
    "UPDATE log SET origin = NULL WHERE document = 2 AND sequence = 15",
    "UPDATE log SET time = time + 1 WHERE document = 2 AND sequence = 15",
    "DELETE FROM log WHERE document = 2 AND sequence = 15; UPDATE log SET sequence = 15 WHERE document = 2 AND sequence = 1",
    "DELETE FROM log WHERE document = 2 AND sequence = 15; \
     INSERT INTO log SELECT 2, sequence, time, origin, user, checksum, content FROM log WHERE document = 1 AND sequence = 15",
    "INSERT INTO log SELECT 2, 21, time, origin, user, checksum, content FROM log WHERE document = 2 AND sequence = 15",
];

#[tokio::test]
async fn rows_removed_or_altered_put_one_document_out_of_service_and_it_can_be_deleted() {
    for sql in ALTERATIONS {
        let (store, directory, banana) = altered(sql).await;
        assert!(matches!(banana, Err(StoreError::Corrupt { .. })), "{sql}: {banana:?}");
        let banana = document("banana");

        assert!(store.delete(&banana).await.unwrap_or_else(|error| panic!("{sql}: {error}")), "{sql}");
        assert_eq!(store.load(&banana).await.expect("it was deleted"), None, "{sql}");
        store.append(&banana, Epoch::from_entropy(9), vec![event(1)]).await.expect("it can begin anew");
        store.close().await;
        let store = SqliteStore::open(directory.path()).expect("it was closed");
        let anew = store.load(&banana).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(anew.expect("it was written").tail, [event(1)], "{sql}");
        store.close().await;
    }
}

/// Alters a journaled sample by SQL, opens it and returns what `load` says of each of its documents.
async fn altered_journal(sql: &str) -> BTreeMap<String, Result<(), StoreError>> {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let written = write_journaled_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    drop(connection);
    let mut found = BTreeMap::new();
    for round in ["opened", "opened again"] {
        let store = SqliteStore::open(directory.path()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        for (document, written) in &written {
            let loaded = store.load(document).await;
            if let Ok(loaded) = &loaded {
                assert_eq!(loaded.as_ref(), Some(written), "{sql}: {document}, {round}");
            }
            found.insert(document.to_string(), loaded.map(|_| ()));
        }
        store.close().await;
    }
    found
}

/// The first batch of the sample's journal is `apple`'s.
#[tokio::test]
async fn a_table_of_the_journal_makes_up_for_what_the_other_lost() {
    for sql in [
        "DELETE FROM journal_index WHERE id = 1",
        "DELETE FROM journal_index",
        "UPDATE journal_index SET content = X'0102' WHERE id = 1",
        "UPDATE journal_index SET id = 9999 WHERE id = 1",
    ] {
        let found = altered_journal(sql).await;
        assert!(found.values().all(Result::is_ok), "{sql}: {found:?}");
    }
}

#[tokio::test]
async fn an_event_lost_from_the_journal_puts_its_document_out_of_service() {
    for sql in [
        "DELETE FROM journal WHERE id = 1",
        "UPDATE journal SET content = X'' WHERE id = 1",
        "UPDATE journal SET content = zeroblob(length(content)) WHERE id = 1",
        "UPDATE journal SET content = (SELECT content FROM journal WHERE id = 2) WHERE id = 1",
    ] {
        let found = altered_journal(sql).await;
        for (document, loaded) in found {
            let damaged = matches!(loaded, Err(StoreError::Corrupt { .. }));
            assert_eq!(damaged, document == "apple", "{sql}: {document}: {loaded:?}");
        }
    }
}

#[tokio::test]
async fn a_journal_that_does_not_say_whose_its_events_are_is_not_opened() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    write_journaled_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    let both = "DELETE FROM journal_index WHERE id = 1; UPDATE journal SET content = X'01' WHERE id = 1";
    connection.execute_batch(both).expect("it is not locked");
    drop(connection);
    let refused = SqliteStore::open(directory.path()).expect_err("an event is lost").to_string();
    assert!(refused.contains("batch 1 of the journal"), "{refused}");
}

#[tokio::test]
async fn events_that_their_log_does_not_take_stay_in_the_journal() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let written = write_journaled_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection
        .execute_batch("UPDATE documents SET checksum = 0 WHERE name = 'banana'")
        .expect("it is not locked");
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("others are well");
    for (document, written) in &written {
        match store.load(document).await {
            Err(StoreError::Corrupt { .. }) => assert_eq!(document.as_str(), "banana"),
            loaded => assert_eq!(loaded.expect("it is well").as_ref(), Some(written)),
        }
    }
    store.append(&document("apple"), epoch(), vec![event(HEAD + 1)]).await.expect("it is well");
    assert!(store.delete(&document("banana")).await.expect("a damaged document can be deleted"));
    store.close().await;
    let store = SqliteStore::open(directory.path()).expect("it was closed");
    assert_eq!(store.load(&document("banana")).await.expect("it was deleted"), None);
    assert_eq!(store.summary(&document("apple")).await.unwrap().unwrap().head, Sequence::new(HEAD + 1));
}

#[tokio::test]
async fn a_store_of_an_older_version_is_taken_over() {
    const TO_VERSION_2: &str = "DROP TABLE revocations; DROP TABLE strikes; PRAGMA user_version = 2";
    const TO_VERSION_1: &str = "DROP TABLE revocations; DROP TABLE strikes; DROP TABLE journal; DROP TABLE journal_index; \
        DROP TABLE versions; DROP TABLE freezes; DROP TABLE receipts; PRAGMA user_version = 1";
    for to_older in [TO_VERSION_2, TO_VERSION_1] {
        an_older_store_is_taken_over(to_older).await;
    }
}

async fn an_older_store_is_taken_over(to_older: &str) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let written = write_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection.execute_batch(to_older).expect("it is not locked");
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("an older store is brought up to date");
    for (document, written) in &written {
        store.append(document, epoch(), vec![event(HEAD + 1)]).await.expect("there is room");
        let found = store.load(document).await.expect("it reads back").expect("it is there");
        assert_eq!(found.tail.len(), written.tail.len() + 1);
    }
    store.close().await;
    SqliteStore::open(directory.path()).expect("it is of this version now");
}

#[tokio::test]
async fn a_revocation_that_was_altered_is_not_passed_over() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    let revocation =
        Revocation { revoked: Revoked::User("ada".into()), at: Timestamp::from_milliseconds(1000) };
    store.add_revocation(revocation, None).await.expect("there is room");
    store.close().await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection.execute_batch("UPDATE revocations SET name = 'eve'").expect("it is not locked");
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("documents are well");
    let read = store.revocations().await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
}

#[tokio::test]
async fn a_damaged_document_is_left_out_of_lists_and_takes_no_updates() {
    let (store, _directory, _) = altered("UPDATE documents SET head = 19 WHERE id = 2").await;
    let names: Vec<_> = store.list("", None, 3).await.expect("others are well").into_iter().collect();
    let names: Vec<_> = names.iter().map(|summary| summary.document.as_str()).collect();
    assert_eq!(names, ["apple", "cherry", "date"]);
    let refused = store.append(&document("banana"), epoch(), vec![event(20)]).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    let damaged = store.damaged().await.expect("it is known since the store was opened");
    assert!(matches!(&damaged[..], [(id, _)] if *id == document("banana")), "{damaged:?}");
    store.delete(&document("banana")).await.expect("a damaged document can be deleted");
    assert_eq!(store.damaged().await.expect("the store is open"), []);
}

#[tokio::test]
async fn rows_that_vanish_while_the_store_is_open_are_missed_too() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    write_sample(directory.path()).await;
    let store = SqliteStore::open(directory.path()).expect("it was closed");
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection.execute_batch("DELETE FROM documents WHERE name = 'banana'").expect("it is not locked");
    let missing = store.load(&document("banana")).await;
    assert!(matches!(missing, Err(StoreError::Corrupt { .. })), "{missing:?}");
    let refused = store.append(&document("banana"), epoch(), vec![event(1)]).await;
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_append_that_meets_a_row_where_none_should_be_fails_alone() {
    let stray = "INSERT INTO log SELECT 2, 21, time, origin, user, checksum, content FROM log \
                 WHERE document = 2 AND sequence = 20";
    let (store, _directory, _) = altered(stray).await;
    let (apple, banana) = (document("apple"), document("banana"));
    let (damaged, sound) = tokio::join!(
        store.append(&banana, epoch(), vec![event(21)]),
        store.append(&apple, epoch(), vec![event(21)]),
    );
    assert!(matches!(damaged, Err(StoreError::Corrupt { .. })), "{damaged:?}");
    sound.expect("it shares a transaction with the other, and not its fate");
    assert_eq!(store.summary(&apple).await.unwrap().unwrap().head, Sequence::new(21));
}

#[tokio::test]
async fn a_damaged_newest_snapshot_is_replaced_by_the_one_before_and_a_longer_log() {
    let (store, _directory, _) =
        altered("UPDATE snapshots SET content = X'00' WHERE document = 2 AND sequence = 6").await;
    let banana = store.load(&document("banana")).await.expect("the log is whole").expect("it is there");
    assert_eq!((banana.snapshot, banana.tail.len()), (None, 20));

    let retention = Retention { keep_updates: 1, keep_since: Timestamp::from_milliseconds(0) };
    let again = store.compact(&document("banana"), epoch(), snapshot(6), retention).await;
    assert_eq!(again.expect("the damaged one is replaced"), Sequence::new(1));
    let banana = store.load(&document("banana")).await.unwrap().unwrap();
    assert_eq!((banana.snapshot, banana.tail.len()), (Some(snapshot(6)), 14));
}

#[tokio::test]
async fn the_log_is_not_trimmed_up_to_a_snapshot_that_does_not_read_back() {
    let (store, _directory, _) =
        altered("UPDATE snapshots SET content = X'00' WHERE document = 2 AND sequence = 6").await;
    let retention = Retention { keep_updates: 1, keep_since: Timestamp::from_milliseconds(0) };
    let oldest = store.compact(&document("banana"), epoch(), snapshot(12), retention).await.unwrap();
    assert_eq!(oldest, Sequence::new(1));
    let oldest = store.compact(&document("banana"), epoch(), snapshot(18), retention).await.unwrap();
    assert_eq!(oldest, Sequence::new(13));
}

#[tokio::test]
async fn a_directory_serves_one_store_at_a_time() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let first = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    let line = match SqliteStore::open(directory.path()) {
        Err(error @ OpenError::InUse { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(line.contains(&*directory.path().to_string_lossy()), "{line}");
    assert!(line.contains(&std::process::id().to_string()), "{line}");
    first.check_writable().await.expect("the first is unharmed");
    first.close().await;
    SqliteStore::open(directory.path()).expect("a closed store lets go of its directory");
}

#[tokio::test]
async fn a_store_dropped_without_close_keeps_what_it_answered_and_lets_go() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
    store.append(&document("a"), epoch(), vec![event(1)]).await.unwrap();
    drop(store);
    let store = loop {
        match SqliteStore::open(directory.path()) {
            Ok(store) => break store,
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(store.load(&document("a")).await.unwrap().unwrap().tail, [event(1)]);
}

#[tokio::test]
async fn what_is_no_store_of_this_version_is_refused_with_one_clear_line() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    write_sample(directory.path()).await;
    let path = directory.path().join("store.sqlite");
    let refused = || SqliteStore::open(directory.path()).expect_err("it is no store").to_string();

    let connection = Connection::open(&path).expect("it was written");
    connection.execute_batch("PRAGMA user_version = 99").expect("it is not locked");
    drop(connection);
    assert!(refused().contains("version 99"), "{}", refused());
    let connection = Connection::open(&path).expect("it was written");
    connection.execute_batch("PRAGMA user_version = 3; DROP TABLE snapshots").expect("it is not locked");
    drop(connection);
    assert!(refused().contains("`snapshots`"), "{}", refused());

    fs::write(&path, "this is no database, however long it may be; ".repeat(100)).expect("there is room");
    assert!(refused().contains("store.sqlite"), "{}", refused());

    fs::remove_file(&path).expect("it was written");
    let connection = Connection::open(&path).expect("there is room");
    connection.execute_batch("CREATE TABLE theirs (x)").expect("there is room");
    drop(connection);
    assert!(refused().contains("another program"), "{}", refused());

    let line = SqliteStore::open(&path).expect_err("a file is no directory").to_string();
    assert!(!line.contains('\n') && line.contains("store.sqlite"), "{line}");
}

#[tokio::test]
async fn a_quarantine_outlives_the_store_and_one_that_was_altered_is_passed_over() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    write_sample(directory.path()).await;
    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    connection
        .execute_batch("DROP TABLE revocations; DROP TABLE strikes; PRAGMA user_version = 2")
        .expect("it is not locked");
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("an older store is brought up to date");
    for name in ["apple", "banana"] {
        for at in [1, 2] {
            let at = Timestamp::from_milliseconds(at);
            store.add_strike(&document(name), "it hangs", at).await.expect("there is room");
        }
    }
    let before = store.quarantined().await.expect("they were noted");
    assert_eq!(before.len(), 2);
    store.close().await;

    let connection = Connection::open(directory.path().join("store.sqlite")).expect("it was written");
    let altered = "UPDATE strikes SET count = 0 WHERE document = 'banana'";
    connection.execute_batch(altered).expect("it is not locked");
    drop(connection);
    let store = SqliteStore::open(directory.path()).expect("it was closed");
    assert_eq!(store.quarantined().await.expect("one is well"), before[..1]);
    let at = Timestamp::from_milliseconds(3);
    let anew = store.add_strike(&document("banana"), "it hangs", at).await.expect("it is written anew");
    assert_eq!(anew.map(|strikes| strikes.count), Some(1));
    store.close().await;
}
