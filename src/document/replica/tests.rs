use yrs::{Array, GetString, Map, Text, XmlFragment};

use super::super::text::{Attributes, DeltaOp, Edit, Op, Place, TextChange, Unit};
use super::*;

const ROOM: usize = 1 << 20;

const ALLOWANCE: Allowance<'_> = Allowance { bytes_max: ROOM, is_patient: &|| true, difference_until: None };

fn change(replica: &mut Replica, update: &[u8]) -> Result<Changed, ChangeError> {
    replica.change(&Change::Update(Bytes::copy_from_slice(update)), &Origin::Anonymous, &ALLOWANCE)
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
    let mut replica = Replica::new(99);
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
    let allowance = Allowance { is_patient: &is_patient, ..ALLOWANCE };
    let given_up = Replica::new(99).change(&Change::Update(state), &Origin::Anonymous, &allowance);
    assert!(matches!(given_up, Err(ChangeError::TooCostly)), "{given_up:?}");
    assert_eq!(asked.get(), 3, "it stopped where it was told to");
}

#[test]
fn a_large_update_that_overlaps_what_is_known_adds_the_rest() {
    let (doc, _) = interwoven(1000);
    let half = doc.transact().encode_diff_v1(&StateVector::default());
    let mut replica = Replica::new(99);
    change(&mut replica, &half).expect("genuine");
    let text = doc.get_or_insert_text("text");
    for number in 0..200 {
        text.insert(&mut doc.transact_mut(), number * 3, "x");
    }
    let state = doc.transact().encode_diff_v1(&StateVector::default());
    change(&mut replica, &state).expect("genuine");
    assert_eq!(replica.text("text"), text.get_string(&doc.transact()));
}

fn edit(replica: &mut Replica, root: &str, edit: Edit) -> Result<Changed, ChangeError> {
    let change = TextChange { root: root.into(), unit: Unit::Utf16, edit };
    replica.change(&Change::Text(change), &Origin::Anonymous, &ALLOWANCE)
}

fn append(text: &str) -> Edit {
    Edit::Ops(vec![Op::Insert { at: Place::End, text: text.into() }])
}

#[test]
fn edits_are_made_under_one_number_and_load_as_they_were() {
    let mut replica = Replica::new(99);
    for token in ["Hello", " ", "wörld", "😀"] {
        edit(&mut replica, "text", append(token)).expect("there is room");
    }
    edit(&mut replica, "text", Edit::Replace("Hallo wörld!😀".into())).expect("there is room");
    assert_eq!(replica.text("text"), "Hallo wörld!😀");
    let state_vector = format::read_state_vector(&replica.state_vector()).expect("it is one");
    assert_eq!(state_vector.iter().map(|(number, _)| number).collect::<Vec<_>>(), [99]);
    assert!(Replica::verify(&replica.whole(), &replica.state_vector()));
}

#[test]
fn an_edit_that_changes_nothing_makes_no_update() {
    let mut replica = Replica::new(99);
    edit(&mut replica, "text", append("same")).expect("there is room");
    let before = replica.whole();
    for nothing in [Edit::Replace("same".into()), append(""), Edit::Ops(vec![]), Edit::Delta(vec![])] {
        assert!(matches!(edit(&mut replica, "text", nothing), Ok(Changed::Nothing)));
    }
    assert_eq!(replica.whole(), before);
}

#[test]
fn a_delta_formats_and_embeds_as_yjs_reads_it() {
    let attributes = |json: serde_json::Value| json.as_object().expect("an object").clone();
    let bold = || attributes(serde_json::json!({ "bold": true }));
    let mut replica = Replica::new(99);
    let delta = vec![
        DeltaOp::Insert { text: "plain".into(), attributes: Attributes::new() },
        DeltaOp::Insert { text: "bold".into(), attributes: bold() },
        DeltaOp::Embed { value: serde_json::json!({ "image": "a.png" }), attributes: Attributes::new() },
    ];
    edit(&mut replica, "text", Edit::Delta(delta)).expect("there is room");
    assert_eq!(replica.text("text"), "plainbold");
    assert_eq!(replica.text_length("text", Unit::Char).expect("a text"), 10);
    let again = vec![
        DeltaOp::Retain { length: 5, attributes: Attributes::new() },
        DeltaOp::Retain { length: 4, attributes: bold() },
    ];
    assert!(matches!(edit(&mut replica, "text", Edit::Delta(again)), Ok(Changed::Nothing)), "it is bold");
    let clear = attributes(serde_json::json!({ "bold": null }));
    let clear = vec![
        DeltaOp::Retain { length: 5, attributes: Attributes::new() },
        DeltaOp::Retain { length: 4, attributes: clear },
    ];
    assert!(matches!(edit(&mut replica, "text", Edit::Delta(clear)), Ok(Changed::Update(_))));
    edit(&mut replica, "text", Edit::Replace("plain".into())).expect("there is room");
    assert_eq!(replica.text_length("text", Unit::Byte).expect("a text"), 6, "the embed stays");
    assert!(Replica::verify(&replica.whole(), &replica.state_vector()));
}

#[test]
fn only_what_holds_text_or_nothing_is_edited_as_a_text() {
    let doc = Doc::with_client_id(7);
    let (array, map) = (doc.get_or_insert_array("array"), doc.get_or_insert_map("map"));
    let (types, xml) = (doc.get_or_insert_array("types"), doc.get_or_insert_xml_fragment("xml"));
    let emptied = doc.get_or_insert_array("emptied");
    {
        let mut transaction = doc.transact_mut();
        array.push_back(&mut transaction, "text");
        map.insert(&mut transaction, "key", 1);
        types.push_back(&mut transaction, yrs::TextPrelim::new("nested"));
        xml.push_back(&mut transaction, yrs::XmlElementPrelim::empty("p"));
        emptied.push_back(&mut transaction, 1);
        emptied.remove(&mut transaction, 0);
    }
    let mut replica = Replica::new(99);
    change(&mut replica, &doc.transact().encode_diff_v1(&StateVector::default())).expect("genuine");
    let before = replica.whole();
    for root in ["array", "map", "types", "xml"] {
        let refused = edit(&mut replica, root, append("x"));
        let wrong = DocumentError::WrongType { root: root.into() };
        assert!(matches!(refused, Err(ChangeError::Refused(error)) if error == wrong), "{root}");
    }
    assert_eq!(replica.whole(), before);
    edit(&mut replica, "emptied", append("x")).expect("nothing tells what it was");
    assert_eq!(replica.text("emptied"), "x");
}
