use serde_json::json;

use super::*;

fn content(text: &str) -> Content {
    let mut content = Content::default();
    content.push_text(text);
    content
}

fn planned(text: &str, unit: Unit, edit: Edit) -> Result<(String, Vec<Step>), Misfit> {
    let mut content = content(text);
    let steps = content.plan(&edit, unit, &|| true, None)?;
    let mut counted = Content::default();
    counted.push_text(&content.text);
    assert_eq!(content, counted, "lengths are kept");
    Ok((content.text, steps))
}

fn insert(at: Place, text: &str) -> Op {
    Op::Insert { at, text: text.into() }
}

fn invalid<T>(position: i64, length: u64) -> Result<T, Misfit> {
    Err(Misfit::InvalidPosition { position, length })
}

#[test]
fn a_position_is_the_same_place_in_every_unit() {
    // An emoji is 2, 1 and 4; the accent of its own is 1, 1 and 2.
    let text = "a😀e\u{301}z";
    for (unit, at, length) in [(Unit::Utf16, 5, 6), (Unit::Char, 4, 5), (Unit::Byte, 8, 9)] {
        let (edited, steps) = planned(text, unit, Edit::Ops(vec![insert(Place::At(at), "|")])).expect("fits");
        assert_eq!(edited, "a😀e\u{301}|z");
        assert_eq!(steps, [Step::Insert { at: 5, text: "|".into(), attributes: None }]);
        assert_eq!(content(text).length(unit), length);
    }
}

#[test]
fn a_position_inside_a_character_or_outside_the_text_is_none() {
    let at = |unit, at| planned("a😀", unit, Edit::Ops(vec![insert(Place::At(at), "|")])).map(|_| ());
    assert_eq!(at(Unit::Utf16, 2), invalid(2, 3));
    assert_eq!(at(Unit::Byte, 3), invalid(3, 5));
    assert_eq!(at(Unit::Char, 3), invalid(3, 2));
    assert_eq!(at(Unit::Char, -1), invalid(-1, 2));
    assert_eq!(at(Unit::Utf16, i64::MAX), invalid(i64::MAX, 3));
    assert_eq!(at(Unit::Utf16, 3), Ok(()));
    let delete = |at, length| planned("a😀", Unit::Utf16, Edit::Ops(vec![Op::Delete { at, length }]));
    assert_eq!(delete(Place::At(1), 1), invalid(2, 3));
    assert_eq!(delete(Place::At(1), 3), invalid(4, 3));
    assert_eq!(delete(Place::At(1), -1), invalid(0, 3));
    assert_eq!(delete(Place::At(1), 2).expect("fits").0, "a");
    assert_eq!(delete(Place::End, 0).expect("fits").1, []);
}

#[test]
fn edits_are_made_in_turn_and_the_length_told_is_that_of_the_moment() {
    let ops = vec![
        insert(Place::At(5), "abc"),
        Op::Delete { at: Place::At(2), length: 3 },
        insert(Place::End, "!"),
    ];
    let (text, steps) = planned("Hello world", Unit::Utf16, Edit::Ops(ops.clone())).expect("fits");
    assert_eq!(text, "Heabc world!");
    assert_eq!(steps.len(), 3);
    let failing = [ops, vec![insert(Place::At(13), "?")]].concat();
    assert_eq!(planned("Hello world", Unit::Utf16, Edit::Ops(failing)), invalid(13, 12));
}

#[test]
fn a_delta_goes_once_over_the_text() {
    let bold = json!({ "bold": true }).as_object().expect("an object").clone();
    let delta = vec![
        DeltaOp::Retain { length: 1, attributes: Attributes::new() },
        DeltaOp::Insert { text: "é".into(), attributes: bold.clone() },
        DeltaOp::Delete { length: 1 },
        DeltaOp::Retain { length: 1, attributes: bold.clone() },
        DeltaOp::Embed { value: json!({ "image": "x" }), attributes: Attributes::new() },
    ];
    let mut content = content("a😀bc");
    let steps = content.plan(&Edit::Delta(delta), Unit::Char, &|| true, None).expect("fits");
    assert_eq!(content.text, "aéb\u{1a}c");
    assert_eq!((content.embeds.clone(), content.length(Unit::Char)), (vec![4], 5));
    let inserted = Step::Insert { at: 1, text: "é".into(), attributes: Some(bold.clone()) };
    let formatted = Step::Format { at: 2, length: 1, attributes: bold };
    let embedded = Step::Embed { at: 3, value: json!({ "image": "x" }), attributes: Attributes::new() };
    assert_eq!(steps, [inserted, Step::Delete { at: 2, length: 2 }, formatted, embedded]);
}

#[test]
fn a_delta_past_the_end_tells_the_length_of_the_moment() {
    let retain = |length| DeltaOp::Retain { length, attributes: Attributes::new() };
    let delta =
        vec![DeltaOp::Insert { text: "xy".into(), attributes: Attributes::new() }, retain(2), retain(2)];
    assert_eq!(planned("abc", Unit::Utf16, Edit::Delta(delta)), invalid(6, 5));
}

#[test]
fn a_new_text_is_reached_from_its_end() {
    let (text, steps) =
        planned("one 😀 three", Unit::Utf16, Edit::Replace("One 😀 four".into())).expect("fits");
    assert_eq!(text, "One 😀 four");
    assert_eq!(
        steps,
        [
            Step::Delete { at: 7, length: 5 },
            Step::Insert { at: 7, text: "four".into(), attributes: None },
            Step::Delete { at: 0, length: 1 },
            Step::Insert { at: 0, text: "O".into(), attributes: None },
        ]
    );
}

#[test]
fn embeds_outlive_a_new_text() {
    let mut content = content("ab");
    content.push_embed();
    content.push_text("cd");
    content.push_embed();
    let steps = content.plan(&Edit::Replace("aXd".into()), Unit::Utf16, &|| true, None).expect("fits");
    assert_eq!(content.text, "aX\u{1a}d\u{1a}");
    assert_eq!(content.embeds, [2, 4]);
    assert_eq!(
        steps,
        [
            Step::Delete { at: 3, length: 1 },
            Step::Delete { at: 1, length: 1 },
            Step::Insert { at: 1, text: "X".into(), attributes: None },
        ]
    );
    content.plan(&Edit::Replace(String::new()), Unit::Utf16, &|| true, None).expect("fits");
    assert_eq!(content.text, "\u{1a}\u{1a}");
}

#[test]
fn an_impatient_caller_gets_nothing() {
    let edit = Edit::Ops(vec![insert(Place::End, "x")]);
    assert_eq!(content("").plan(&edit, Unit::Utf16, &|| false, None), Err(Misfit::TooCostly));
}
