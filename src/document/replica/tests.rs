use yrs::{ReadTxn, Transact};

use super::*;

const ROOM: usize = 1 << 20;

fn change(replica: &mut Replica, update: &[u8]) -> Result<Changed, ChangeError> {
    replica.change(&Change::Update(Bytes::copy_from_slice(update)), &Origin::Anonymous, ROOM, &|| true)
}

/// Two Yjs clients that write into the middle of each other's text, block by block.
fn interwoven(blocks: u32) -> (Doc, String) {
    let docs = [1, 2].map(|number| {
        Doc::with_options(Options {
            offset_kind: OffsetKind::Utf16,
            ..Options::with_client_id(yrs::block::ClientID::new(number))
        })
    });
    for number in 0..blocks {
        let [writer, reader] = if number % 2 == 0 { [&docs[0], &docs[1]] } else { [&docs[1], &docs[0]] };
        let text = writer.get_or_insert_text("text");
        let update = {
            let mut transaction = writer.transact_mut();
            text.insert(&mut transaction, number / 2, "ab");
            if number % 7 == 0 {
                text.remove_range(&mut transaction, number / 3, 1);
            }
            transaction.encode_update_v1()
        };
        let update = Update::decode_v1(&update).expect("yrs reads what it writes");
        reader.transact_mut().apply_update(update).expect("the peers are in step");
    }
    let text = docs[0].get_or_insert_text("text").get_string(&docs[0].transact());
    let [doc, _] = docs;
    (doc, text)
}

#[test]
fn a_large_update_in_portions_is_the_same_as_whole() {
    let (doc, text) = interwoven(1500);
    let state = doc.transact().encode_diff_v1(&StateVector::default());
    let mut replica = Replica::new();
    assert!(matches!(change(&mut replica, &state), Ok(Changed::Update(_))));
    assert_eq!(replica.text("text"), text);
    assert!(matches!(change(&mut replica, &state), Ok(Changed::Nothing)), "all of it is known");
    let whole = replica.whole();
    assert!(Replica::verify(&whole, &replica.state_vector()), "it loads as it was");
}

#[test]
fn a_merge_is_given_up_when_patience_ends() {
    let (doc, _) = interwoven(1500);
    let state = Bytes::from(doc.transact().encode_diff_v1(&StateVector::default()));
    let asked = std::cell::Cell::new(0);
    let is_patient = || {
        asked.set(asked.get() + 1);
        asked.get() < 3
    };
    let given_up = Replica::new().change(&Change::Update(state), &Origin::Anonymous, ROOM, &is_patient);
    assert!(matches!(given_up, Err(ChangeError::TooCostly)), "{given_up:?}");
    assert_eq!(asked.get(), 3, "it stopped where it was told to");
}

#[test]
fn a_large_update_that_overlaps_what_is_known_adds_the_rest() {
    let (doc, _) = interwoven(1000);
    let half = doc.transact().encode_diff_v1(&StateVector::default());
    let mut replica = Replica::new();
    change(&mut replica, &half).expect("genuine");
    let text = doc.get_or_insert_text("text");
    for number in 0..200 {
        text.insert(&mut doc.transact_mut(), number * 3, "x");
    }
    let state = doc.transact().encode_diff_v1(&StateVector::default());
    change(&mut replica, &state).expect("genuine");
    assert_eq!(replica.text("text"), text.get_string(&doc.transact()));
}

#[test]
fn the_smallest_splice_stands_between_characters() {
    let splice = |position, deleted, inserted| Some(Splice { position, deleted, inserted });
    assert_eq!(Splice::between("same", "same"), None);
    assert_eq!(Splice::between("aaa", "aaaa"), splice(3, 0, "a"));
    assert_eq!(Splice::between("x😀y", "x😁y"), splice(1, 2, "😁"));
    assert_eq!(Splice::between("hello world", "hello, world"), splice(5, 0, ","));
    assert_eq!(Splice::between("abc", ""), splice(0, 3, ""));
}
