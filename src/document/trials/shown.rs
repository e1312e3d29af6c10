//! Documents of any shape, shown as JSON and patched.

use serde_json::{Value, json};

use super::*;
use crate::document::handle::{Change, DocumentError};
use crate::document::json::Kind;
use crate::document::json_patch::JsonPatch;
use crate::document::lib0::{write_var_string, write_varuint};
use crate::document::replica::{Allowance, ChangeError, Changed, Replica};
use crate::event::Origin;

/// Checks that the document can be shown and that its maps and arrays can be patched: nothing may panic or hang, a
/// patch does what it says or is refused, and what it leaves is a document that can be written and read again.
pub(super) fn check_shown(server: &Server) {
    let state = server.state();
    let mut replica =
        Replica::open(1 << 40, Some(&state), std::iter::empty()).expect("the state can be loaded");
    let shown = replica.roots(None);
    for root in &shown {
        assert_eq!(replica.roots(Some(&root.name)), std::slice::from_ref(root));
        for operations in patches(&root.value) {
            let mut expected = root.value.clone();
            let parsed: json_patch::Patch = serde_json::from_value(operations.clone()).expect("well formed");
            let fits = json_patch::patch(&mut expected, &parsed).is_ok();
            let mut patched =
                Replica::open(1 << 40, Some(&state), std::iter::empty()).expect("it was loaded before");
            match patch(&mut patched, &root.name, &operations) {
                Ok(changed) => {
                    assert!(fits && matches!(root.kind, Kind::Map | Kind::Array), "{root:?} {operations}");
                    let after = patched.roots(Some(&root.name)).pop();
                    // An array that is left with XML alone, or with embeds alone, can't be told from these.
                    if after.as_ref().is_none_or(|after| after.kind == root.kind) {
                        let after = after.map_or_else(|| emptied(&root.value), |root| root.value);
                        assert_eq!(after, expected, "{operations} on {}", hex(&state));
                    }
                    if let Changed::Update(update) = changed {
                        let follower = Replica::open(1 << 40, Some(&state), std::iter::once(&update[..]));
                        let follower = follower.expect("whoever has the state can take the patch");
                        assert_eq!(
                            follower.roots(None),
                            patched.roots(None),
                            "{operations} on {}",
                            hex(&state)
                        );
                    }
                }
                Err(ChangeError::Refused(DocumentError::WrongRoot { .. } | DocumentError::Patch { .. })) => {
                    assert_eq!(patched.whole(), replica.whole())
                }
                Err(other) => panic!("{other:?}: {operations} on {}", hex(&state)),
            }
        }
    }
    // A root that is not there, and one that may be there and hold nothing.
    for name in ["new", "t", "m", ""] {
        let operations = json!([{"op": "add", "path": "/new", "value": [1, {"a": "🌍"}]}]);
        match patch(&mut replica, name, &operations) {
            Ok(_) | Err(ChangeError::Refused(_)) => {}
            Err(other) => panic!("{other:?}: {operations} on {}", hex(&state)),
        }
    }
}

fn patch(replica: &mut Replica, root: &str, operations: &Value) -> Result<Changed, ChangeError> {
    let operations = operations.as_array().expect("a list").clone();
    let patch = JsonPatch::parse(root.into(), None, operations).expect("the operations are well formed");
    let allowance = Allowance { bytes_max: usize::MAX, is_patient: &|| true, difference_until: None };
    replica.change(&Change::Patch(patch.into()), &Origin::Anonymous, &allowance)
}

/// What is shown of a root that has become empty.
fn emptied(value: &Value) -> Value {
    if value.is_array() { json!([]) } else { json!({}) }
}

/// Patches of whatever is in the value, each by itself.
fn patches(value: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    collect(value, &mut String::new(), &mut pointers);
    let new = json!({"n": ["🌍", {"deep": null}]});
    let mut patches = vec![
        json!([{"op": "add", "path": "/new", "value": new}]),
        json!([{"op": "add", "path": "/-", "value": new}]),
        json!([{"op": "add", "path": "/0", "value": "x"}]),
        json!([{"op": "replace", "path": "", "value": {"k": "🌍x", "new": [1]}}]),
        json!([{"op": "replace", "path": "", "value": ["🌍x", [1], 2, 3]}]),
        json!([{"op": "replace", "path": "", "value": emptied(value)}]),
    ];
    for pointer in pointers {
        patches.push(json!([{"op": "remove", "path": pointer}]));
        patches.push(json!([{"op": "replace", "path": pointer, "value": "a🌍b"}]));
        patches.push(json!([{"op": "replace", "path": pointer, "value": new}]));
        patches
            .push(json!([{"op": "copy", "from": pointer, "path": "/-"}, {"op": "remove", "path": pointer}]));
        patches.push(json!([
            {"op": "move", "from": pointer, "path": "/moved"},
            {"op": "replace", "path": "/moved", "value": "x"},
        ]));
    }
    patches
}

fn collect(value: &Value, pointer: &mut String, pointers: &mut Vec<String>) {
    let length = pointer.len();
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(values) => {
            values.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (token, value) in children {
        pointer.push('/');
        pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
        pointers.push(pointer.clone());
        collect(value, pointer, pointers);
        pointer.truncate(length);
    }
}

#[test]
fn long_names_of_formats_do_not_fill_the_memory() {
    const FORMATS: u64 = 10;
    const EMBEDS: u64 = 30_000;
    let mut update = vec![1];
    write_varuint(&mut update, 1 + FORMATS + EMBEDS);
    // A text in the root `x`, and in it the formats, all of which are open when the embeds follow.
    update.extend([1, 0, 7, 1, 1, b'x', 6]);
    for number in 0..FORMATS + EMBEDS {
        let kind = if number < FORMATS { 6 } else { 5 };
        if number == 0 {
            update.extend([kind, 0, 1, 0]);
        } else {
            update.extend([kind | 0x80, 1]);
            write_varuint(&mut update, number);
        }
        if number < FORMATS {
            write_var_string(&mut update, &format!("{number}{}", "x".repeat(50_000)));
        }
        write_var_string(&mut update, "1");
    }
    update.push(0);
    let replica = Replica::open(1 << 40, None, std::iter::once(&update[..])).expect("it is a legal update");
    let shown = replica.roots(None);
    assert_eq!(shown[0].kind, Kind::Xml);
    let length = shown[0].value.as_str().expect("XML is a string").len();
    assert!((EMBEDS as usize..32 << 20).contains(&length), "{length}");
}
