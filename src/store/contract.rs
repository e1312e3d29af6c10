//! What every store must do: one suite, run on each.

use bytes::Bytes;
use futures_util::future::join_all;

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::{Naming, PageLimit, Receipt, Retention, Snapshot, Store, StoreError, Strikes, Version};
use crate::auth::revocations::{Revocation, Revoked};
use crate::event::{Event, Origin, Timestamp};
use crate::ids::{DocumentId, Epoch, Sequence};

macro_rules! on_every_store {
    ($($behaviour:ident,)*) => {
        mod memory {
            use super::*;
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&MemoryStore::new()).await;
            })*
        }

        mod sqlite {
            use super::*;
            $(#[tokio::test]
            async fn $behaviour() {
                let directory = tempfile::tempdir().expect("there is room for a directory");
                let store = SqliteStore::open(directory.path()).expect("an empty directory becomes a store");
                super::$behaviour(&store).await;
                store.close().await;
            })*
        }
    };
}

on_every_store! {
    a_document_never_written_is_none,
    what_was_appended_is_loaded,
    every_field_of_an_event_is_kept,
    appends_follow_one_another,
    an_append_of_many_events_is_one,
    an_append_after_a_wrong_head_has_moved_and_leaves_no_trace,
    an_append_under_another_epoch_has_moved,
    an_append_to_no_document_must_begin_at_one,
    an_append_with_a_gap_in_it_is_refused,
    a_log_is_read_in_pages,
    a_page_holds_one_event_at_the_least,
    a_log_read_from_its_head_is_empty,
    a_snapshot_shortens_the_tail,
    an_old_snapshot_changes_nothing,
    a_snapshot_after_the_head_or_of_another_epoch_has_moved,
    the_first_snapshot_trims_nothing,
    the_log_is_trimmed_up_to_the_snapshot_before_the_newest,
    retention_by_count_keeps_the_last_updates,
    retention_by_age_keeps_what_is_young,
    a_trimmed_part_of_the_log_is_compacted_away,
    every_kept_sequence_can_be_rebuilt,
    storage_stays_bounded_while_a_document_is_compacted_again_and_again,
    what_was_revoked_is_kept_and_forgotten_in_time,
    what_is_stored_is_counted,
    a_deleted_document_is_gone_and_can_begin_anew,
    deleting_nothing_says_so,
    a_summary_counts_bytes_and_knows_times,
    documents_are_listed_in_order_by_prefix_and_page_by_page,
    many_documents_are_appended_to_at_once,
    of_two_appends_after_one_head_one_has_moved,
    a_version_keeps_its_point_of_the_history_reachable,
    a_name_is_given_once_and_can_be_taken_away,
    a_document_has_so_many_versions_at_the_most,
    a_freeze_is_noted_until_it_is_lifted,
    an_archive_written_into_another_store_is_the_same_document,
    an_archive_replaces_nothing,
    what_is_noted_of_a_document_goes_with_it,
    a_closed_store_is_unavailable,
    a_receipt_is_kept_with_the_events_that_it_tells_of,
    a_receipt_is_kept_without_events_and_without_a_document,
    a_receipt_belongs_to_one_document_user_and_key,
    an_append_that_is_refused_leaves_no_receipt,
    the_receipts_of_a_deleted_document_are_forgotten,
    a_document_with_one_strike_too_many_is_quarantined_until_it_is_released,
    strikes_that_are_old_count_no_more,
    strikes_go_with_their_document,
}

fn document(name: &str) -> DocumentId {
    name.parse().expect("the tests use valid names")
}

fn epoch() -> Epoch {
    Epoch::from_entropy(7)
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number)
}

/// An event whose content tells its sequence, made at `number` seconds.
fn event(number: u64) -> Event {
    Event {
        sequence: sequence(number),
        origin: Origin::Anonymous,
        user: None,
        time: Timestamp::from_milliseconds(number.cast_signed() * 1000),
        update: Bytes::from(format!("update {number}")),
    }
}

fn events(numbers: std::ops::RangeInclusive<u64>) -> Vec<Event> {
    numbers.map(event).collect()
}

fn snapshot(number: u64) -> Snapshot {
    Snapshot { sequence: sequence(number), update: Bytes::from(format!("snapshot {number}")) }
}

const PAGE: PageLimit = PageLimit { events_max: 1000, bytes_max: 1 << 20 };

fn keep_updates(keep_updates: u64) -> Retention {
    Retention { keep_updates, keep_since: Timestamp::from_milliseconds(0) }
}

fn keep_all() -> Retention {
    keep_updates(u64::MAX)
}

async fn written(store: &dyn Store, name: &str, head: u64) -> DocumentId {
    let document = document(name);
    store.append(&document, epoch(), events(1..=head)).await.expect("the document is new");
    document
}

async fn a_document_never_written_is_none(store: &dyn Store) {
    let document = document("nothing");
    assert_eq!(store.load(&document).await.unwrap(), None);
    assert_eq!(store.summary(&document).await.unwrap(), None);
    assert_eq!(store.log(&document, Sequence::ZERO, PAGE).await.unwrap(), None);
    assert_eq!(store.snapshot_at(&document, sequence(1)).await.unwrap(), None);
}

async fn what_was_appended_is_loaded(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    let stored = store.load(&document).await.unwrap().expect("it was written");
    assert_eq!(stored.summary.epoch, epoch());
    assert_eq!(stored.summary.head, sequence(3));
    assert_eq!(stored.summary.oldest, sequence(1));
    assert_eq!(stored.snapshot, None);
    assert_eq!(stored.tail, events(1..=3));
}

async fn every_field_of_an_event_is_kept(store: &dyn Store) {
    let document = document("Room-7.a_b~c:d@e");
    let full = Event {
        origin: Origin::Client("tab-1".parse().unwrap()),
        user: Some("Zoë 🌍\n".into()),
        time: Timestamp::from_milliseconds(1_700_000_000_123),
        update: Bytes::from_static(&[0, 1, 255, 0]),
        ..event(1)
    };
    let bare = Event { user: Some(String::new()), update: Bytes::new(), ..event(2) };
    store.append(&document, epoch(), vec![full.clone(), bare.clone()]).await.unwrap();
    assert_eq!(store.load(&document).await.unwrap().unwrap().tail, [full, bare]);
}

async fn appends_follow_one_another(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    for number in 2..=20 {
        store.append(&document, epoch(), vec![event(number)]).await.unwrap();
    }
    assert_eq!(store.load(&document).await.unwrap().unwrap().tail, events(1..=20));
}

async fn an_append_of_many_events_is_one(store: &dyn Store) {
    let document = written(store, "a", 500).await;
    store.append(&document, epoch(), events(501..=1200)).await.unwrap();
    assert_eq!(store.load(&document).await.unwrap().unwrap().tail, events(1..=1200));
}

async fn an_append_after_a_wrong_head_has_moved_and_leaves_no_trace(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    let before = store.load(&document).await.unwrap();
    for numbers in [3..=5, 1..=1, 5..=5] {
        let refused = store.append(&document, epoch(), events(numbers)).await;
        assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    }
    assert_eq!(store.load(&document).await.unwrap(), before);
}

async fn an_append_under_another_epoch_has_moved(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    let refused = store.append(&document, Epoch::from_entropy(8), events(4..=4)).await;
    assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    assert_eq!(store.summary(&document).await.unwrap().unwrap().head, sequence(3));
}

async fn an_append_to_no_document_must_begin_at_one(store: &dyn Store) {
    let refused = store.append(&document("a"), epoch(), events(2..=2)).await;
    assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    assert_eq!(store.load(&document("a")).await.unwrap(), None);
}

async fn an_append_with_a_gap_in_it_is_refused(store: &dyn Store) {
    for wrong in [vec![], vec![event(1), event(3)], vec![event(1), event(1)]] {
        assert!(store.append(&document("a"), epoch(), wrong).await.is_err());
    }
    assert_eq!(store.load(&document("a")).await.unwrap(), None);
}

async fn a_log_is_read_in_pages(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    let page = PageLimit { events_max: 4, ..PAGE };
    let mut after = Sequence::ZERO;
    let mut read = Vec::new();
    loop {
        let page = store.log(&document, after, page).await.unwrap().expect("it was written");
        assert_eq!((page.epoch, page.head), (epoch(), sequence(10)));
        assert!(page.events.len() <= 4);
        let Some(last) = page.events.last() else { break };
        after = last.sequence;
        read.extend(page.events);
    }
    assert_eq!(read, events(1..=10));
    let two = PageLimit { bytes_max: "update 1update 2".len(), ..PAGE };
    let page = store.log(&document, Sequence::ZERO, two).await.unwrap().unwrap();
    assert_eq!(page.events, events(1..=2));
}

async fn a_page_holds_one_event_at_the_least(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    for limit in [PageLimit { bytes_max: 0, ..PAGE }, PageLimit { events_max: 0, ..PAGE }] {
        let page = store.log(&document, sequence(1), limit).await.unwrap().unwrap();
        assert_eq!(page.events, events(2..=2));
    }
}

async fn a_log_read_from_its_head_is_empty(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    for after in [3, 4, u64::MAX] {
        let page = store.log(&document, sequence(after), PAGE).await.unwrap().unwrap();
        assert_eq!((page.events.len(), page.head), (0, sequence(3)));
    }
}

async fn a_snapshot_shortens_the_tail(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    let oldest = store.compact(&document, epoch(), snapshot(7), keep_all()).await.unwrap();
    assert_eq!(oldest, sequence(1));
    let stored = store.load(&document).await.unwrap().unwrap();
    assert_eq!(stored.snapshot, Some(snapshot(7)));
    assert_eq!(stored.tail, events(8..=10));
    store.append(&document, epoch(), events(11..=12)).await.unwrap();
    assert_eq!(store.load(&document).await.unwrap().unwrap().tail, events(8..=12));
}

async fn an_old_snapshot_changes_nothing(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    store.compact(&document, epoch(), snapshot(7), keep_all()).await.unwrap();
    let before = store.load(&document).await.unwrap();
    let other = Bytes::from_static(b"other");
    for number in [0, 3, 7] {
        let old = Snapshot { sequence: sequence(number), update: other.clone() };
        let oldest = store.compact(&document, epoch(), old, keep_updates(0)).await.unwrap();
        assert_eq!(oldest, sequence(1));
    }
    assert_eq!(store.load(&document).await.unwrap(), before);
}

async fn a_snapshot_after_the_head_or_of_another_epoch_has_moved(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    let after_head = store.compact(&document, epoch(), snapshot(11), keep_all()).await;
    assert!(matches!(after_head, Err(StoreError::Moved { .. })), "{after_head:?}");
    let other_epoch = store.compact(&document, Epoch::from_entropy(8), snapshot(5), keep_all()).await;
    assert!(matches!(other_epoch, Err(StoreError::Moved { .. })), "{other_epoch:?}");
    let nothing = store.compact(&self::document("nothing"), epoch(), snapshot(1), keep_all()).await;
    assert!(matches!(nothing, Err(StoreError::Moved { .. })), "{nothing:?}");
    assert_eq!(store.load(&document).await.unwrap().unwrap().snapshot, None);
}

async fn the_first_snapshot_trims_nothing(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    let oldest = store.compact(&document, epoch(), snapshot(10), keep_updates(0)).await.unwrap();
    assert_eq!(oldest, sequence(1));
    assert_eq!(store.log(&document, Sequence::ZERO, PAGE).await.unwrap().unwrap().events, events(1..=10));
}

async fn the_log_is_trimmed_up_to_the_snapshot_before_the_newest(store: &dyn Store) {
    let document = written(store, "a", 30).await;
    for number in [10, 20, 30] {
        store.compact(&document, epoch(), snapshot(number), keep_updates(0)).await.unwrap();
    }
    let stored = store.load(&document).await.unwrap().unwrap();
    assert_eq!(stored.snapshot, Some(snapshot(30)));
    assert_eq!(stored.summary.oldest, sequence(21));
    assert_eq!(stored.tail, []);
    assert_eq!(store.snapshot_at(&document, sequence(29)).await.unwrap(), Some(snapshot(20)));
}

async fn retention_by_count_keeps_the_last_updates(store: &dyn Store) {
    let document = written(store, "a", 30).await;
    let mut oldest = Vec::new();
    for number in [10, 20, 30] {
        oldest.push(store.compact(&document, epoch(), snapshot(number), keep_updates(12)).await.unwrap());
    }
    // The last twelve begin at 19, so the snapshot at 10 is the last before which all may go.
    assert_eq!(oldest, [sequence(1), sequence(11), sequence(11)]);
    let rest = store.log(&document, sequence(10), PAGE).await.unwrap().unwrap();
    assert_eq!(rest.events, events(11..=30));
}

async fn retention_by_age_keeps_what_is_young(store: &dyn Store) {
    let document = written(store, "a", 30).await;
    let since =
        |seconds: i64| Retention { keep_since: Timestamp::from_milliseconds(seconds * 1000), ..keep_all() };
    store.compact(&document, epoch(), snapshot(10), keep_all()).await.unwrap();
    store.compact(&document, epoch(), snapshot(20), since(10)).await.unwrap();
    assert_eq!(store.summary(&document).await.unwrap().unwrap().oldest, sequence(1));
    let oldest = store.compact(&document, epoch(), snapshot(25), since(11)).await.unwrap();
    assert_eq!(oldest, sequence(11));
    // What is too old goes even where the count would keep it, and the other way round.
    let both = Retention { keep_updates: 1, keep_since: Timestamp::from_milliseconds(0) };
    let oldest = store.compact(&document, epoch(), snapshot(30), both).await.unwrap();
    assert_eq!(oldest, sequence(26));
}

async fn a_trimmed_part_of_the_log_is_compacted_away(store: &dyn Store) {
    let document = written(store, "a", 30).await;
    for number in [10, 20] {
        store.compact(&document, epoch(), snapshot(number), keep_updates(0)).await.unwrap();
    }
    for after in [0, 9] {
        let gone = store.log(&document, sequence(after), PAGE).await;
        assert!(matches!(gone, Err(StoreError::Compacted { oldest }) if oldest == sequence(11)), "{gone:?}");
        let gone = store.snapshot_at(&document, sequence(after)).await;
        assert!(matches!(gone, Err(StoreError::Compacted { oldest }) if oldest == sequence(11)), "{gone:?}");
    }
    assert_eq!(store.log(&document, sequence(10), PAGE).await.unwrap().unwrap().events, events(11..=30));
    assert_eq!(store.snapshot_at(&document, sequence(10)).await.unwrap(), Some(snapshot(10)));
}

async fn every_kept_sequence_can_be_rebuilt(store: &dyn Store) {
    let document = written(store, "a", 200).await;
    for number in (10..=200).step_by(10) {
        store.compact(&document, epoch(), snapshot(number), keep_updates(77)).await.unwrap();
        let oldest = store.summary(&document).await.unwrap().unwrap().oldest;
        for at in oldest.get().saturating_sub(1)..=200 {
            let start = store.snapshot_at(&document, sequence(at)).await.unwrap();
            let after = start.map_or(Sequence::ZERO, |snapshot| snapshot.sequence);
            assert!(after <= sequence(at));
            let page = store.log(&document, after, PAGE).await.unwrap().unwrap();
            assert_eq!(
                page.events.first().map(|event| event.sequence),
                (after < sequence(200)).then(|| after.next())
            );
        }
    }
}

async fn storage_stays_bounded_while_a_document_is_compacted_again_and_again(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    let mut log_max = 0;
    for round in 1..=60_u64 {
        store.append(&document, epoch(), events(round * 10 - 8..=round * 10 + 1)).await.unwrap();
        let oldest = store.compact(&document, epoch(), snapshot(round * 10), keep_updates(40)).await.unwrap();
        log_max = log_max.max(sequence(round * 10 + 1).since(oldest) + 1);
    }
    // The forty that are wanted, and what lies between them and the snapshot before.
    assert!(log_max <= 90, "{log_max} updates were kept");
}

async fn a_deleted_document_is_gone_and_can_begin_anew(store: &dyn Store) {
    let document = written(store, "a", 10).await;
    store.compact(&document, epoch(), snapshot(5), keep_all()).await.unwrap();
    assert!(store.delete(&document).await.unwrap());
    a_document_never_written_is_none_named(store, &document).await;

    let other_life = Epoch::from_entropy(9);
    let late = store.append(&document, epoch(), events(11..=11)).await;
    assert!(matches!(late, Err(StoreError::Moved { .. })), "{late:?}");
    store.append(&document, other_life, events(1..=2)).await.unwrap();
    let stored = store.load(&document).await.unwrap().unwrap();
    assert_eq!((stored.summary.epoch, stored.snapshot), (other_life, None));
    assert_eq!(stored.tail, events(1..=2));
}

async fn a_document_never_written_is_none_named(store: &dyn Store, document: &DocumentId) {
    assert_eq!(store.load(document).await.unwrap(), None);
    assert_eq!(store.summary(document).await.unwrap(), None);
    assert_eq!(store.list("", None, 10).await.unwrap(), []);
}

async fn deleting_nothing_says_so(store: &dyn Store) {
    assert!(!store.delete(&document("nothing")).await.unwrap());
    let document = written(store, "a", 1).await;
    assert!(store.delete(&document).await.unwrap());
    assert!(!store.delete(&document).await.unwrap());
}

async fn a_summary_counts_bytes_and_knows_times(store: &dyn Store) {
    let document = written(store, "a", 3).await;
    let log_bytes = 3 * "update 1".len() as u64;
    let summary = store.summary(&document).await.unwrap().unwrap();
    assert_eq!(summary.document, document);
    assert_eq!(summary.bytes, log_bytes);
    assert_eq!(summary.created_at, event(1).time);
    assert_eq!(summary.updated_at, event(3).time);
    for number in [1, 2] {
        store.compact(&document, epoch(), snapshot(number), keep_updates(0)).await.unwrap();
    }
    // The snapshots at 1 and 2, and the updates 2 and 3.
    let bytes = 2 * "snapshot 1".len() as u64 + 2 * "update 1".len() as u64;
    assert_eq!(store.summary(&document).await.unwrap().unwrap().bytes, bytes);
    assert_eq!(store.load(&document).await.unwrap().unwrap().summary.bytes, bytes);
}

async fn documents_are_listed_in_order_by_prefix_and_page_by_page(store: &dyn Store) {
    for name in ["b-2", "a", "b-10", "B-1", "b", "c", "b~"] {
        written(store, name, 1).await;
    }
    let names = async |prefix: &str, after: Option<&str>, limit| {
        let listed = store.list(prefix, after, limit).await.unwrap();
        listed.into_iter().map(|summary| summary.document.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("", None, 100).await, ["B-1", "a", "b", "b-10", "b-2", "b~", "c"]);
    assert_eq!(names("b", None, 100).await, ["b", "b-10", "b-2", "b~"]);
    assert_eq!(names("b", None, 2).await, ["b", "b-10"]);
    assert_eq!(names("b", Some("b-10"), 2).await, ["b-2", "b~"]);
    assert_eq!(names("b", Some("b~"), 2).await, [""; 0]);
    assert_eq!(names("b", Some("a"), 1).await, ["b"]);
    assert_eq!(names("b", Some("c"), 1).await, [""; 0]);
    assert_eq!(names("", Some("b-1"), 1).await, ["b-10"]);
    assert_eq!(names("x", None, 1).await, [""; 0]);
    assert_eq!(names("", None, 0).await, [""; 0]);
    assert_eq!(names("%", None, 10).await, [""; 0]);
    let one = &store.list("a", None, 1).await.unwrap()[0];
    assert_eq!(Some(one), store.summary(&document("a")).await.unwrap().as_ref());
}

async fn many_documents_are_appended_to_at_once(store: &dyn Store) {
    let write = async |name: String| {
        let document = document(&name);
        for number in 1..=20 {
            store.append(&document, epoch(), vec![event(number)]).await.unwrap();
        }
    };
    join_all((0..100).map(|index| write(format!("d{index}")))).await;
    for index in 0..100 {
        let stored = store.load(&document(&format!("d{index}"))).await.unwrap().unwrap();
        assert_eq!(stored.tail, events(1..=20));
    }
    assert_eq!(store.list("d", None, 1000).await.unwrap().len(), 100);
}

async fn of_two_appends_after_one_head_one_has_moved(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    let other = written(store, "b", 1).await;
    let racers = (0..10).map(|_| store.append(&document, epoch(), events(2..=3)));
    let (results, beside) = tokio::join!(join_all(racers), store.append(&other, epoch(), events(2..=2)));
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(StoreError::Moved { .. }))));
    beside.expect("another document's failure is not its own");
    assert_eq!(store.load(&document).await.unwrap().unwrap().tail, events(1..=3));
}

async fn a_closed_store_is_unavailable(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    store.check_writable().await.unwrap();
    store.close().await;
    store.close().await;
    let unavailable = |error| assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    unavailable(store.load(&document).await.unwrap_err());
    unavailable(store.append(&document, epoch(), events(2..=2)).await.unwrap_err());
    unavailable(store.log(&document, Sequence::ZERO, PAGE).await.unwrap_err());
    unavailable(store.snapshot_at(&document, sequence(1)).await.unwrap_err());
    unavailable(store.compact(&document, epoch(), snapshot(1), keep_all()).await.unwrap_err());
    unavailable(store.delete(&document).await.unwrap_err());
    unavailable(store.summary(&document).await.unwrap_err());
    unavailable(store.list("", None, 1).await.unwrap_err());
    unavailable(store.check_writable().await.unwrap_err());
}

fn version(name: &str, number: u64) -> Version {
    let created_at = Timestamp::from_milliseconds(1_700_000_000_000);
    Version { name: name.parse().expect("the tests use valid names"), sequence: sequence(number), created_at }
}

async fn a_version_keeps_its_point_of_the_history_reachable(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    for number in 2..=20 {
        store.append(&document, epoch(), vec![event(number)]).await.unwrap();
    }
    let added = store.add_version(&document, epoch(), version("draft", 7), snapshot(7), 10).await.unwrap();
    assert_eq!(added, Naming::Added);
    for number in [10, 12, 14, 16, 18, 20] {
        store.compact(&document, epoch(), snapshot(number), keep_updates(1)).await.unwrap();
    }
    let gone = store.snapshot_at(&document, sequence(8)).await;
    assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{gone:?}");
    assert_eq!(store.snapshot_at(&document, sequence(7)).await.unwrap(), Some(snapshot(7)));
    assert_eq!(store.versions(&document).await.unwrap(), Some(vec![version("draft", 7)]));
    assert_eq!(store.load(&document).await.unwrap().unwrap().snapshot, Some(snapshot(20)));

    assert!(store.remove_version(&document, &version("draft", 7).name).await.unwrap());
    store.append(&document, epoch(), vec![event(21)]).await.unwrap();
    store.compact(&document, epoch(), snapshot(21), keep_updates(1)).await.unwrap();
    let gone = store.snapshot_at(&document, sequence(7)).await;
    assert!(matches!(gone, Err(StoreError::Compacted { .. })), "{gone:?}");
}

async fn a_name_is_given_once_and_can_be_taken_away(store: &dyn Store) {
    let document = written(store, "a", 5).await;
    let (first, second) = (version("draft", 3), version("draft", 5));
    let add = async |version: &Version| {
        let snapshot = snapshot(version.sequence.get());
        store.add_version(&document, epoch(), version.clone(), snapshot, 10).await
    };
    assert_eq!(add(&first).await.unwrap(), Naming::Added);
    assert_eq!(add(&second).await.unwrap(), Naming::Taken(first.clone()));
    assert!(store.remove_version(&document, &first.name).await.unwrap());
    assert!(!store.remove_version(&document, &first.name).await.unwrap());
    assert_eq!(add(&second).await.unwrap(), Naming::Added);
    assert_eq!(add(&version("early", 1)).await.unwrap(), Naming::Added);
    assert_eq!(store.versions(&document).await.unwrap(), Some(vec![version("early", 1), second]));

    assert!(matches!(add(&version("late", 6)).await, Err(StoreError::Moved { .. })));
    let other_life = store.add_version(&document, Epoch::from_entropy(8), first, snapshot(3), 10).await;
    assert!(matches!(other_life, Err(StoreError::Moved { .. })));
    assert_eq!(store.versions(&self::document("b")).await.unwrap(), None);
}

async fn a_document_has_so_many_versions_at_the_most(store: &dyn Store) {
    let document = written(store, "a", 5).await;
    for number in 1..=3 {
        let added = store
            .add_version(&document, epoch(), version(&number.to_string(), number), snapshot(number), 2)
            .await;
        assert_eq!(added.unwrap(), if number <= 2 { Naming::Added } else { Naming::Full });
    }
}

async fn a_freeze_is_noted_until_it_is_lifted(store: &dyn Store) {
    let document = written(store, "a", 5).await;
    let since = Some(Timestamp::from_milliseconds(1_700_000_000_000));
    store.set_frozen(&document, epoch(), since).await.unwrap();
    assert_eq!(store.load(&document).await.unwrap().unwrap().summary.frozen_at, since);
    assert_eq!(store.list("", None, 10).await.unwrap()[0].frozen_at, since);
    store.set_frozen(&document, epoch(), None).await.unwrap();
    assert_eq!(store.summary(&document).await.unwrap().unwrap().frozen_at, None);
    let other_life = store.set_frozen(&document, Epoch::from_entropy(8), since).await;
    assert!(matches!(other_life, Err(StoreError::Moved { .. })));
}

async fn an_archive_written_into_another_store_is_the_same_document(store: &dyn Store) {
    let other = MemoryStore::new();
    let document = written(&other, "a", 20).await;
    other.add_version(&document, epoch(), version("draft", 3), snapshot(3), 10).await.unwrap();
    for number in [10, 12, 14, 16] {
        other.compact(&document, epoch(), snapshot(number), keep_updates(5)).await.unwrap();
    }
    other.set_frozen(&document, epoch(), Some(Timestamp::from_milliseconds(9000))).await.unwrap();
    let archive = other.archive(&document).await.unwrap().expect("it was written");
    assert_eq!(archive.check(), Ok(()));

    assert!(store.unarchive(archive.clone()).await.unwrap());
    assert_eq!(store.archive(&document).await.unwrap(), Some(archive));
    assert_eq!(store.load(&document).await.unwrap(), other.load(&document).await.unwrap());
    store.append(&document, epoch(), vec![event(21)]).await.expect("its life goes on");
    assert_eq!(store.archive(&self::document("b")).await.unwrap(), None);
}

async fn an_archive_replaces_nothing(store: &dyn Store) {
    let document = written(store, "a", 5).await;
    let mut archive = store.archive(&document).await.unwrap().expect("it was written");
    archive.summary.epoch = Epoch::from_entropy(8);
    assert!(!store.unarchive(archive).await.unwrap());
    assert_eq!(store.summary(&document).await.unwrap().unwrap().epoch, epoch());
}

async fn what_is_noted_of_a_document_goes_with_it(store: &dyn Store) {
    let document = written(store, "a", 5).await;
    store.add_version(&document, epoch(), version("draft", 3), snapshot(3), 10).await.unwrap();
    store.set_frozen(&document, epoch(), Some(Timestamp::from_milliseconds(9000))).await.unwrap();
    assert!(store.delete(&document).await.unwrap());
    let document = written(store, "a", 5).await;
    assert_eq!(store.versions(&document).await.unwrap(), Some(Vec::new()));
    assert_eq!(store.summary(&document).await.unwrap().unwrap().frozen_at, None);
}

fn receipt(key: &str) -> Receipt {
    Receipt {
        user: None,
        key: key.into(),
        digest: [7; 32],
        answer: Bytes::from_static(b"an answer"),
        time: Timestamp::from_milliseconds(1000),
    }
}

async fn a_receipt_is_kept_with_the_events_that_it_tells_of(store: &dyn Store) {
    let document = document("a");
    store.record(&document, Some(epoch()), events(1..=2), vec![receipt("one")]).await.unwrap();
    let later = Receipt { answer: Bytes::from_static(b"another"), ..receipt("two") };
    store.record(&document, Some(epoch()), events(3..=3), vec![later.clone()]).await.unwrap();
    assert_eq!(store.receipt(&document, None, "one").await.unwrap(), Some(receipt("one")));
    assert_eq!(store.receipt(&document, None, "two").await.unwrap(), Some(later));
    assert_eq!(store.summary(&document).await.unwrap().unwrap().head, sequence(3));
}

async fn a_receipt_is_kept_without_events_and_without_a_document(store: &dyn Store) {
    let document = document("a");
    store.record(&document, None, Vec::new(), vec![receipt("one")]).await.unwrap();
    assert_eq!(store.receipt(&document, None, "one").await.unwrap(), Some(receipt("one")));
    assert_eq!(store.summary(&document).await.unwrap(), None);
    assert!(store.record(&document, None, events(1..=1), Vec::new()).await.is_err());
    assert!(store.record(&document, Some(epoch()), Vec::new(), Vec::new()).await.is_err());
}

async fn a_receipt_belongs_to_one_document_user_and_key(store: &dyn Store) {
    let (one, other) = (document("a"), document("b"));
    let of_ada = Receipt { user: Some("ada".into()), digest: [8; 32], ..receipt("key") };
    store.record(&one, Some(epoch()), events(1..=1), vec![receipt("key"), of_ada.clone()]).await.unwrap();
    assert_eq!(store.receipt(&one, None, "key").await.unwrap(), Some(receipt("key")));
    assert_eq!(store.receipt(&one, Some("ada"), "key").await.unwrap(), Some(of_ada));
    assert_eq!(store.receipt(&one, Some(""), "key").await.unwrap(), None);
    assert_eq!(store.receipt(&one, None, "Key").await.unwrap(), None);
    assert_eq!(store.receipt(&other, None, "key").await.unwrap(), None);
}

async fn what_was_revoked_is_kept_and_forgotten_in_time(store: &dyn Store) {
    let revocation = |name: &str, at| Revocation {
        revoked: Revoked::User(name.into()),
        at: Timestamp::from_milliseconds(at),
    };
    let of_document =
        Revocation { revoked: Revoked::Document(document("a")), at: Timestamp::from_milliseconds(1500) };
    for kept in [revocation("ada", 1000), of_document.clone(), revocation("ada", 2000)] {
        store.add_revocation(kept, None).await.unwrap();
    }
    let mut all = store.revocations().await.unwrap();
    all.sort_by_key(|revocation| revocation.at);
    assert_eq!(all, [of_document, revocation("ada", 2000)]);
    let since = Some(Timestamp::from_milliseconds(2000));
    store.add_revocation(revocation("bob", 3000), since).await.unwrap();
    let mut all = store.revocations().await.unwrap();
    all.sort_by_key(|revocation| revocation.at);
    assert_eq!(all, [revocation("ada", 2000), revocation("bob", 3000)]);
}

async fn what_is_stored_is_counted(store: &dyn Store) {
    assert_eq!(store.size().await.unwrap().documents, 0);
    written(store, "a", 5).await;
    let document = written(store, "b", 5).await;
    let stored = store.size().await.unwrap();
    assert!(stored.documents == 2 && stored.bytes > 0, "{stored:?}");
    store.delete(&document).await.unwrap();
    assert_eq!(store.size().await.unwrap().documents, 1);
}

async fn an_append_that_is_refused_leaves_no_receipt(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    let refused = store.record(&document, Some(epoch()), events(3..=3), vec![receipt("one")]).await;
    assert!(matches!(refused, Err(StoreError::Moved { .. })), "{refused:?}");
    assert_eq!(store.receipt(&document, None, "one").await.unwrap(), None);
}

async fn the_receipts_of_a_deleted_document_are_forgotten(store: &dyn Store) {
    let document = document("a");
    store.record(&document, Some(epoch()), events(1..=1), vec![receipt("one")]).await.unwrap();
    assert!(store.delete(&document).await.unwrap());
    assert_eq!(store.receipt(&document, None, "one").await.unwrap(), None);
}

async fn a_document_with_one_strike_too_many_is_quarantined_until_it_is_released(store: &dyn Store) {
    let (struck, other) = (written(store, "a", 5).await, written(store, "b", 5).await);
    let at = Timestamp::from_milliseconds;
    assert_eq!(store.add_strike(&document("none"), "it hangs", at(0)).await.unwrap(), None);
    let first = store.add_strike(&struck, "it hangs", at(1000)).await.unwrap().expect("it was written");
    assert_eq!((first.count, first.quarantined_at), (1, None));
    assert_eq!(store.quarantined().await.unwrap(), []);
    let second = store.add_strike(&struck, "it died", at(2000)).await.unwrap().expect("it was written");
    assert_eq!((second.count, second.reason.as_str()), (2, "it died"));
    assert_eq!((second.last_at, second.quarantined_at), (at(2000), Some(at(2000))));
    let third = store.add_strike(&struck, "it died again", at(3000)).await.unwrap().expect("it was written");
    assert_eq!((third.count, third.quarantined_at), (3, Some(at(2000))), "since the first time");
    store.add_strike(&other, "it hangs", at(3000)).await.unwrap();
    assert_eq!(store.quarantined().await.unwrap(), [third]);
    // The store itself refuses nothing.
    store.append(&struck, epoch(), events(6..=6)).await.unwrap();
    assert_eq!(store.archive(&struck).await.unwrap().expect("it was written").log.len(), 6);

    assert!(store.clear_strikes(&struck).await.unwrap());
    assert!(!store.clear_strikes(&struck).await.unwrap());
    assert_eq!(store.quarantined().await.unwrap(), []);
    let anew = store.add_strike(&struck, "it hangs", at(4000)).await.unwrap().expect("it was written");
    assert_eq!((anew.count, anew.quarantined_at), (1, None));
    assert_eq!(store.damaged().await.unwrap(), []);
}

async fn strikes_that_are_old_count_no_more(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    let lifetime = i64::try_from(Strikes::LIFETIME.as_millis()).unwrap();
    for at in [1000, 1000 + lifetime] {
        let at = Timestamp::from_milliseconds(at);
        let strikes = store.add_strike(&document, "it hangs", at).await.unwrap().expect("it was written");
        assert_eq!((strikes.count, strikes.quarantined_at), (1, None));
    }
    let at = Timestamp::from_milliseconds(1000 + 2 * lifetime - 1);
    let strikes = store.add_strike(&document, "it hangs", at).await.unwrap().expect("it was written");
    assert_eq!((strikes.count, strikes.quarantined_at), (2, Some(at)));
    // What is quarantined stays so, however long it takes.
    let at = Timestamp::from_milliseconds(1000 + 9 * lifetime);
    let strikes = store.add_strike(&document, "it hangs", at).await.unwrap().expect("it was written");
    assert_eq!(strikes.count, 3);
}

async fn strikes_go_with_their_document(store: &dyn Store) {
    let document = written(store, "a", 1).await;
    for at in [1, 2] {
        store.add_strike(&document, "it hangs", Timestamp::from_milliseconds(at)).await.unwrap();
    }
    assert!(store.delete(&document).await.unwrap());
    assert_eq!(store.quarantined().await.unwrap(), []);
    let document = written(store, "a", 1).await;
    let at = Timestamp::from_milliseconds(3);
    let anew = store.add_strike(&document, "it hangs", at).await.unwrap().expect("it was written");
    assert_eq!(anew.count, 1);
}
