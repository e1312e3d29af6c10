use serde_json::json;

use super::super::json::Passage;
use super::*;

fn patch(operations: Value) -> JsonPatch {
    let Value::Array(operations) = operations else { panic!("a list of operations") };
    JsonPatch::parse("m".into(), None, operations).expect("the operations are well formed")
}

fn planned(root: Value, operations: Value) -> Result<Plan, Misfit> {
    plan(Node::from_json(root), patch(operations).operations(), &|| true, None)
}

fn steps(root: Value, operations: Value) -> Vec<Step> {
    planned(root, operations).expect("the patch fits").steps
}

fn fault(root: Value, operations: Value) -> (usize, Fault) {
    match planned(root, operations).expect_err("the patch does not fit") {
        Misfit::Fault { index, fault } => (index, fault),
        Misfit::TooCostly => panic!("patience was endless"),
    }
}

fn key(key: &str) -> Token {
    Token::Key(key.into())
}

#[test]
fn one_element_replaced_is_one_element() {
    let steps = steps(json!({"l": [1, 2, 3]}), json!([{"op": "replace", "path": "/l", "value": [1, 5, 3]}]));
    let value = Node::from_json(json!(5));
    assert_eq!(steps, [Step::Put { at: vec![key("l")], token: Token::Index(1), value }]);
}

#[test]
fn a_list_of_another_length_keeps_its_ends() {
    let steps = steps(json!([1, 2, 3, 4]), json!([{"op": "replace", "path": "", "value": [1, 7, 8, 9, 4]}]));
    let values = [7, 8, 9].map(|number| Node::from_json(json!(number))).to_vec();
    let delete = Step::Delete { at: vec![], index: 1, count: 2 };
    assert_eq!(steps, [delete, Step::Insert { at: vec![], index: 1, values }]);
}

#[test]
fn what_is_there_already_needs_no_step() {
    let root = json!({"a": {"b": [1, {"c": 2}]}, "d": "x"});
    for operations in [
        json!([{"op": "add", "path": "", "value": root}]),
        json!([{"op": "replace", "path": "/a", "value": {"b": [1, {"c": 2.0}]}}]),
        json!([{"op": "move", "from": "/a", "path": "/a"}]),
        json!([{"op": "test", "path": "/a/b/1/c", "value": 2}]),
        json!([]),
    ] {
        assert_eq!(steps(root.clone(), operations.clone()), [], "{operations}");
    }
}

#[test]
fn a_text_stays_a_text() {
    let text = Node::Text(Passage::plain("Hello".into()));
    let root = Node::Map { entries: [("t".to_owned(), text)].into(), shared: true };
    let operations = patch(json!([{"op": "replace", "path": "/t", "value": "Hallo"}]));
    let steps = plan(root, operations.operations(), &|| true, None).expect("it fits").steps;
    let splice = |deleted, inserted: &str| Step::Splice {
        at: vec![key("t")],
        splice: Splice { position: 1, deleted, inserted: inserted.into() },
    };
    assert_eq!(steps, [splice(1, ""), splice(0, "a")]);
}

#[test]
fn what_is_inside_a_stored_value_is_stored_with_it() {
    let stored = Node::from_json(json!({"a": [1, 2]})).into_stored();
    let root = Node::Array { items: vec![stored], shared: true };
    let operations = patch(json!([
        {"op": "add", "path": "/0/a/-", "value": {"new": []}},
        {"op": "remove", "path": "/0/a/0"},
        {"op": "replace", "path": "/0/a/0", "value": "two"},
    ]));
    let steps = plan(root, operations.operations(), &|| true, None).expect("it fits").steps;
    let value = Node::from_json(json!({"a": ["two", {"new": []}]})).into_stored();
    assert_eq!(steps, [Step::Put { at: vec![], token: Token::Index(0), value }]);
}

#[test]
fn an_operation_that_does_not_fit_is_named() {
    let root = json!({"a": [1], "s": "text"});
    let fine = json!({"op": "test", "path": "/a/0", "value": 1});
    for operation in [
        json!({"op": "remove", "path": "/b"}),
        json!({"op": "replace", "path": "/b", "value": 1}),
        json!({"op": "add", "path": "/b/c", "value": 1}),
        json!({"op": "add", "path": "/a/2", "value": 1}),
        json!({"op": "add", "path": "/a/01", "value": 1}),
        json!({"op": "add", "path": "/a/+1", "value": 1}),
        json!({"op": "add", "path": "/a/", "value": 1}),
        json!({"op": "add", "path": "/a/99999999999999999999", "value": 1}),
        json!({"op": "replace", "path": "/a/-", "value": 1}),
        json!({"op": "remove", "path": "/a/-"}),
        json!({"op": "remove", "path": ""}),
        json!({"op": "add", "path": "/s/0", "value": 1}),
        json!({"op": "move", "from": "/a", "path": "/a/0"}),
        json!({"op": "move", "from": "", "path": "/a"}),
        json!({"op": "move", "from": "/x", "path": "/x"}),
        json!({"op": "copy", "from": "/x", "path": "/y"}),
        json!({"op": "test", "path": "/x", "value": null}),
    ] {
        let (index, fault) = fault(root.clone(), json!([fine, operation]));
        assert_eq!(index, 1);
        assert!(matches!(fault, Fault::InvalidPointer(_)), "{operation}: {fault:?}");
    }
    let test = json!([fine, fine, {"op": "test", "path": "/a", "value": [2]}]);
    assert_eq!(fault(root.clone(), test), (2, Fault::TestFailed));
    let scalar = json!([{"op": "add", "path": "", "value": 1}]);
    assert!(matches!(fault(root.clone(), scalar), (0, Fault::WrongType(_))));
    let list = json!([{"op": "replace", "path": "", "value": []}]);
    assert!(matches!(fault(root, list), (0, Fault::WrongType(_))));
}

#[test]
fn a_malformed_operation_is_named() {
    let good = json!({"op": "remove", "path": "/a", "ignored": 1});
    for operation in [
        json!(1),
        json!({}),
        json!({"op": "increment", "path": "/a"}),
        json!({"op": "add", "path": "/a"}),
        json!({"op": "add", "path": "a", "value": 1}),
        json!({"op": "add", "path": "/~2", "value": 1}),
        json!({"op": "move", "path": "/a"}),
        json!({"op": "add", "path": 1, "value": 1}),
    ] {
        let parsed = JsonPatch::parse("m".into(), None, vec![good.clone(), operation.clone()]);
        assert_eq!(parsed.map_err(|malformed| malformed.index), Err(1), "{operation}");
    }
}

#[test]
fn an_empty_root_becomes_what_the_first_operation_takes_it_for() {
    for (container, operations) in [
        (Container::Map, json!([])),
        (Container::Map, json!([{"op": "add", "path": "/a", "value": []}])),
        (Container::Map, json!([{"op": "add", "path": "/01", "value": []}])),
        (Container::Map, json!([{"op": "add", "path": "", "value": {}}])),
        (Container::Array, json!([{"op": "add", "path": "", "value": []}])),
        (Container::Array, json!([{"op": "add", "path": "/-", "value": 1}])),
        (Container::Array, json!([{"op": "add", "path": "/0", "value": 1}])),
        (
            Container::Array,
            json!([{"op": "test", "path": "", "value": {}}, {"op": "add", "path": "/0", "value": 1}]),
        ),
    ] {
        assert_eq!(patch(operations.clone()).container_of_empty(), container, "{operations}");
    }
}

#[test]
fn copies_of_copies_end_at_a_limit() {
    let operations: Vec<Value> =
        (0..64).map(|number| json!({"op": "copy", "from": "", "path": format!("/{number}")})).collect();
    let (index, fault) = fault(json!({"a": "x".repeat(100)}), Value::Array(operations));
    assert_eq!(fault, Fault::TooLarge);
    assert!(index > 10 && index < 32, "{index}");
}

#[test]
fn nesting_ends_at_a_limit() {
    // As often as it takes, since a body nests 127 deep at the most.
    let deep = (0..90).fold(json!([]), |inner, _| json!([inner]));
    let path = |depth: usize| "/0".repeat(depth);
    let add = |depth: usize| json!({"op": "add", "path": path(depth), "value": deep});
    let fits = json!([add(1), add(92), {"op": "add", "path": path(183), "value": [[[]]]}]);
    assert!(planned(json!([]), fits).is_ok());
    let (index, too_deep) = fault(json!([]), json!([add(1), add(92), add(183)]));
    assert_eq!((index, too_deep), (2, Fault::TooDeep));

    let stored = (0..30).fold(json!([]), |inner, _| json!([inner]));
    let root = Node::Array { items: vec![Node::from_json(stored).into_stored()], shared: true };
    let grow = |value| patch(json!([{"op": "add", "path": path(32), "value": value}]));
    assert!(plan(root.clone(), grow(json!([])).operations(), &|| true, None).is_ok());
    let refused = plan(root, grow(json!([[]])).operations(), &|| true, None).expect_err("33 levels");
    assert_eq!(refused, Misfit::Fault { index: 0, fault: Fault::TooDeep });
}
