//! A document's content as JSON, and the tree that stands between the two.
//!
//! Pure. The CRDT library is asked by `replica` alone; of its own this knows `Any`, the value that is stored whole.
//!
//! What JSON cannot say is shown as JavaScript's `JSON.stringify` would, as far as that is possible: NaN and the
//! infinities are null, minus zero is zero. Undefined is null too, so that a key that exists is seen; bytes are their
//! base64; a whole number is written without a fraction however it was stored. Keys come sorted, so that the same
//! content is always the same answer.

mod passage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value};
use yrs::{Any, Number};

pub(super) use passage::{Passage, Piece, Run, Splice, utf16_length};

/// What a root is, as far as its content tells. It has no type of its own in an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Text,
    Map,
    Array,
    Xml,
    /// It holds both a sequence and keys, or in its sequence what no one type holds.
    Undetermined,
}

/// A root as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub name: String,
    pub kind: Kind,
    pub value: Value,
    /// What an undetermined root holds beside its `value`: keys beside a text, a sequence beside keys.
    pub rest: Option<Value>,
}

/// Content of a document, as deep as JSON can point into it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Map {
        entries: BTreeMap<String, Node>,
        /// Whether others' edits of it merge with ours. If not, it is one value, stored whole.
        shared: bool,
    },
    Array {
        items: Vec<Node>,
        shared: bool,
    },
    Text(Passage),
    /// Null, a truth value, a number, a string, bytes.
    Scalar(Any),
    /// Shown, and neither to be pointed into nor to be moved: XML, and what no Yjs client writes.
    Sealed(Any),
}

impl Node {
    /// New content: objects and lists of it become types of their own, so that they merge.
    ///
    /// Recurses as deep as the value, which `serde_json` limits to 127.
    pub(super) fn from_json(value: Value) -> Self {
        match value {
            Value::Object(object) => {
                let entries = object.into_iter().map(|(key, value)| (key, Self::from_json(value))).collect();
                Self::Map { entries, shared: true }
            }
            Value::Array(values) => {
                Self::Array { items: values.into_iter().map(Self::from_json).collect(), shared: true }
            }
            Value::Null => Self::Scalar(Any::Null),
            Value::Bool(bool) => Self::Scalar(Any::Bool(bool)),
            Value::String(text) => Self::Scalar(Any::String(text.into())),
            Value::Number(number) => Self::Scalar(Any::Number(match number.as_i64() {
                Some(whole) => Number::Int(whole),
                None => Number::try_i64(number.as_f64().unwrap_or(f64::NAN)),
            })),
        }
    }

    /// A value that is stored whole.
    pub(super) fn from_any(any: &Any) -> Self {
        match any {
            Any::Map(map) => {
                let entries = map.iter().map(|(key, value)| (key.clone(), Self::from_any(value))).collect();
                Self::Map { entries, shared: false }
            }
            Any::Array(values) => {
                Self::Array { items: values.iter().map(Self::from_any).collect(), shared: false }
            }
            scalar => Self::Scalar(scalar.clone()),
        }
    }

    /// As one value that is stored whole.
    pub(super) fn to_any(&self) -> Any {
        match self {
            Self::Map { entries, .. } => {
                let map: HashMap<String, Any> =
                    entries.iter().map(|(key, node)| (key.clone(), node.to_any())).collect();
                Any::Map(Arc::new(map))
            }
            Self::Array { items, .. } => Any::Array(items.iter().map(Self::to_any).collect()),
            Self::Text(passage) => Any::String(passage.text().into()),
            Self::Scalar(any) | Self::Sealed(any) => any.clone(),
        }
    }

    pub(super) fn into_json(self) -> Value {
        match self {
            Self::Map { entries, .. } => {
                let object: Map<String, Value> =
                    entries.into_iter().map(|(key, node)| (key, node.into_json())).collect();
                Value::Object(object)
            }
            Self::Array { items, .. } => items.into_iter().map(Self::into_json).collect(),
            Self::Text(passage) => Value::String(passage.text()),
            Self::Scalar(any) | Self::Sealed(any) => any_to_json(&any),
        }
    }

    /// Whether both are the same in JSON, where 1 and 1.0 are the same, and the order of keys is none.
    pub(super) fn shows_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Map { entries: mine, .. }, Self::Map { entries: theirs, .. }) => {
                mine.len() == theirs.len()
                    && mine
                        .iter()
                        .zip(theirs)
                        .all(|((key, node), (other_key, other))| key == other_key && node.shows_as(other))
            }
            (Self::Array { items: mine, .. }, Self::Array { items: theirs, .. }) => {
                mine.len() == theirs.len()
                    && mine.iter().zip(theirs).all(|(node, other)| node.shows_as(other))
            }
            (Self::Map { .. } | Self::Array { .. }, _) | (_, Self::Map { .. } | Self::Array { .. }) => false,
            _ => self.shown_scalar() == other.shown_scalar(),
        }
    }

    fn shown_scalar(&self) -> Value {
        match self {
            Self::Text(passage) => Value::String(passage.text()),
            Self::Scalar(any) | Self::Sealed(any) => any_to_json(any),
            Self::Map { .. } | Self::Array { .. } => Value::Null,
        }
    }

    /// With everything in it as one value that is stored whole.
    pub(super) fn into_stored(self) -> Self {
        match self {
            stored @ (Self::Map { shared: false, .. } | Self::Array { shared: false, .. }) => stored,
            node => Self::from_any(&node.to_any()),
        }
    }

    /// As a type of its own; what is in it stays as it is.
    pub(super) fn into_shared(self) -> Self {
        match self {
            Self::Map { entries, .. } => Self::Map { entries, shared: true },
            Self::Array { items, .. } => Self::Array { items, shared: true },
            other => other,
        }
    }

    pub(super) fn is_stored(&self) -> bool {
        matches!(self, Self::Map { shared: false, .. } | Self::Array { shared: false, .. })
    }

    /// Whether all of it can be made anew elsewhere.
    pub(super) fn is_movable(&self) -> bool {
        match self {
            Self::Map { entries, .. } => entries.values().all(Self::is_movable),
            Self::Array { items, .. } => items.iter().all(Self::is_movable),
            Self::Text(_) | Self::Scalar(_) => true,
            Self::Sealed(_) => false,
        }
    }

    /// How deep types nest in it, itself counted; a value that is stored whole is no type.
    pub(super) fn type_height(&self) -> usize {
        match self {
            Self::Map { entries, shared: true } => {
                1 + entries.values().map(Self::type_height).max().unwrap_or(0)
            }
            Self::Array { items, shared: true } => 1 + items.iter().map(Self::type_height).max().unwrap_or(0),
            Self::Text(_) => 1,
            _ => 0,
        }
    }

    /// How deep objects and lists nest in it, itself counted.
    pub(super) fn height(&self) -> usize {
        match self {
            Self::Map { entries, .. } => 1 + entries.values().map(Self::height).max().unwrap_or(0),
            Self::Array { items, .. } => 1 + items.iter().map(Self::height).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// How many bytes it adds to a document, about.
    pub(super) fn weight(&self) -> usize {
        /// A block's head: what it is, where it goes.
        const BLOCK_BYTES: usize = 12;
        match self {
            Self::Map { entries, .. } => {
                let entries = entries.iter().map(|(key, node)| key.len() + node.weight());
                BLOCK_BYTES + entries.sum::<usize>()
            }
            Self::Array { items, .. } => BLOCK_BYTES + items.iter().map(Self::weight).sum::<usize>(),
            Self::Text(passage) => BLOCK_BYTES + passage.weight(),
            Self::Scalar(any) | Self::Sealed(any) => BLOCK_BYTES + scalar_bytes(any),
        }
    }
}

pub(super) fn scalar_bytes(any: &Any) -> usize {
    match any {
        Any::String(text) => text.len(),
        Any::Buffer(bytes) => bytes.len(),
        Any::Array(values) => values.iter().map(scalar_bytes).sum::<usize>() + 2,
        Any::Map(map) => map.iter().map(|(key, value)| key.len() + scalar_bytes(value)).sum::<usize>() + 2,
        _ => 8,
    }
}

/// Recurses as deep as the value: 32 levels in a document's values, 127 in what is embedded in its texts.
pub(super) fn any_to_json(any: &Any) -> Value {
    match any {
        Any::Null | Any::Undefined => Value::Null,
        Any::Bool(bool) => Value::Bool(*bool),
        Any::Number(Number::Int(whole)) => Value::from(*whole),
        Any::Number(Number::Float(float)) => match Number::try_i64(*float) {
            Number::Int(whole) => Value::from(whole),
            // Not finite: no number in JSON, and `from` makes null of it.
            Number::Float(float) => Value::from(float),
        },
        Any::String(text) => Value::String(text.to_string()),
        Any::Buffer(bytes) => Value::String(STANDARD.encode(bytes)),
        Any::Array(values) => values.iter().map(any_to_json).collect(),
        Any::Map(map) => {
            let sorted: BTreeMap<&String, &Any> = map.iter().collect();
            Value::Object(sorted.into_iter().map(|(key, value)| (key.clone(), any_to_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_json_cannot_say_is_shown_all_the_same() {
        for (any, shown) in [
            (Any::Undefined, json!(null)),
            (Any::from(f64::NAN), json!(null)),
            (Any::from(f64::NEG_INFINITY), json!(null)),
            (Any::Number(Number::Float(-0.0)), json!(0)),
            (Any::Number(Number::Float(2.0)), json!(2)),
            (Any::Number(Number::Float(2.5)), json!(2.5)),
            (Any::Number(Number::Float(1e300)), json!(1e300)),
            (Any::Number(Number::Int(9_007_199_254_740_993)), json!(9_007_199_254_740_993_i64)),
            (Any::Buffer([0, 255].into()), json!("AP8=")),
        ] {
            assert_eq!(any_to_json(&any), shown, "{any:?}");
            assert_eq!(Node::from_any(&any).into_json(), shown, "{any:?}");
        }
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let value =
            json!({"b": [1, -2.5, "x", null, true, [], {}], "a": {"": 18_446_744_073_709_551_615_u64}});
        let node = Node::from_json(value.clone());
        assert_eq!(node.type_height(), 3);
        let shown = node.clone().into_json();
        assert_eq!(shown["b"], value["b"]);
        assert_eq!(shown["a"][""], json!(18_446_744_073_709_551_615_f64), "no integer of Yjs is so large");
        let stored = node.clone().into_stored();
        assert_eq!((stored.type_height(), stored.height()), (0, 3));
        assert!(stored.shows_as(&node) && node.shows_as(&stored));
        assert_eq!(stored.into_json(), shown);
    }

    #[test]
    fn numbers_are_compared_by_what_they_are_worth() {
        let one = Node::from_json(json!(1));
        assert!(one.shows_as(&Node::from_json(json!(1.0))));
        assert!(!one.shows_as(&Node::from_json(json!(true))));
        assert!(!one.shows_as(&Node::from_json(json!("1"))));
        assert!(!Node::from_json(json!({})).shows_as(&Node::from_json(json!([]))));
        assert!(!Node::from_json(json!(null)).shows_as(&Node::from_json(json!({}))));
    }
}
