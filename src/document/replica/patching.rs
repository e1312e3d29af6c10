//! Patches of maps and arrays, given to the CRDT library in one transaction.

use bytes::Bytes;
use yrs::block::Prelim;
use yrs::types::{Attrs, Delta};
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, In, Map, MapPrelim, MapRef, Out, ReadTxn, Text, TextPrelim, TextRef,
    Transact, TransactionMut, WriteTxn,
};

use super::super::format::{self, DeleteSet};
use super::super::handle::DocumentError;
use super::super::json::{Kind, Node, Passage, Piece, Splice};
use super::super::json_patch::{self, Container, JsonPatch, Misfit, Step, Token};
use super::shape::Reader;
use super::{Allowance, ChangeError, Changed, Replica, begin, deletions_of};
use crate::event::Origin;

impl Replica {
    /// Carries out a patch, whole or not at all. It is counted out to its end before a transaction opens.
    pub(super) fn patch(
        &mut self,
        patch: &JsonPatch,
        origin: &Origin,
        allowance: &Allowance<'_>,
    ) -> Result<Changed, ChangeError> {
        let is_patient = allowance.is_patient;
        let (container, root) = self.patchable(patch)?;
        let plan = json_patch::plan(root, patch.operations(), is_patient, allowance.difference_until)
            .map_err(|misfit| match misfit {
                Misfit::Fault { index, fault } => ChangeError::Refused(DocumentError::Patch { index, fault }),
                Misfit::TooCostly => {
                    // Nothing has been touched yet.
                    let reason = "the patch takes too long to count out".into();
                    ChangeError::Refused(DocumentError::Invalid { reason })
                }
            })?;
        self.check_size(plan.added_bytes, allowance.bytes_max)?;
        if plan.steps.is_empty() {
            return Ok(Changed::Nothing);
        }
        let (update, derived) = {
            let mut transaction = begin(&self.doc, origin)?;
            let root = Place::root(&mut transaction, &patch.root, container);
            let mut editor = Editor { transaction, root, is_patient };
            for step in plan.steps {
                editor.take(step)?;
            }
            let transaction = &editor.transaction;
            (Bytes::from(transaction.encode_update_v1()), deletions_of(transaction))
        };
        self.settle(&update, &derived)?;
        Ok(Changed::Update(update))
    }

    /// The root as it is, if it is one that a patch is for.
    fn patchable(&self, patch: &JsonPatch) -> Result<(Container, Node), DocumentError> {
        let transaction = self.doc.transact();
        let reader = Reader::new(&transaction, &self.formats, true);
        let wrong = |detail| Err(DocumentError::WrongRoot { detail });
        let (container, content) = match reader.root(&patch.root) {
            None => {
                let container = patch.container_of_empty();
                let content = match container {
                    Container::Map => Node::Map { entries: Default::default(), shared: true },
                    Container::Array => Node::Array { items: Vec::new(), shared: true },
                };
                (container, content)
            }
            Some(root) => match root.kind {
                Kind::Map => (Container::Map, root.content),
                Kind::Array => (Container::Array, root.content),
                Kind::Text => return wrong("the root is a text: edit it as text"),
                Kind::Xml => return wrong("the root is XML, which a JSON Patch cannot edit"),
                Kind::Undetermined => {
                    return wrong("the root's content does not tell whether it is a map or an array");
                }
            },
        };
        match patch.container {
            Some(expected) if expected != container => wrong("the root is of another type than `type` says"),
            _ => Ok((container, content)),
        }
    }

    /// Records an update that the library has just made of our own changes.
    ///
    /// # Errors
    /// `Broken`: the replica knows more than `known`.
    pub(super) fn settle(&mut self, update: &[u8], derived: &DeleteSet) -> Result<(), ChangeError> {
        let broken = |reason: String| ChangeError::Broken { reason };
        let outline = format::read_update(update).map_err(|error| broken(error.to_string()))?;
        self.content = None;
        self.formats.note(&outline);
        let admission = self.known.admit(&outline).map_err(|refusal| broken(refusal.to_string()))?;
        self.known.record(admission, &outline.deletions, derived);
        self.encoded_bytes += update.len();
        Ok(())
    }
}

/// A type that is there.
#[derive(Clone)]
pub(super) enum Place {
    Map(MapRef),
    Array(ArrayRef),
    Text(TextRef),
}

impl Place {
    /// A root that exists is taken for what its content is, whatever it was asked for as before.
    pub(super) fn root(transaction: &mut TransactionMut<'_>, name: &str, container: Container) -> Self {
        match container {
            Container::Map => match transaction.get_map(name) {
                Some(map) => Self::Map(map),
                None => Self::Map(transaction.get_or_insert_map(name)),
            },
            Container::Array => match transaction.get_array(name) {
                Some(array) => Self::Array(array),
                None => Self::Array(transaction.get_or_insert_array(name)),
            },
        }
    }
}

/// Where new content goes.
enum Spot<'a> {
    Entry(&'a MapRef, String),
    Element(&'a ArrayRef, u32),
}

pub(super) struct Editor<'a, 'p> {
    pub(super) transaction: TransactionMut<'a>,
    pub(super) root: Place,
    pub(super) is_patient: &'p dyn Fn() -> bool,
}

fn broken(reason: &str) -> ChangeError {
    ChangeError::Broken { reason: reason.into() }
}

impl Editor<'_, '_> {
    pub(super) fn take(&mut self, step: Step) -> Result<(), ChangeError> {
        match step {
            Step::Put { at, token, value } => match (self.find(&at)?, token) {
                (Place::Map(map), Token::Key(key)) => self.build(&Spot::Entry(&map, key), value),
                (Place::Array(array), Token::Index(index)) => {
                    array.remove_range(&mut self.transaction, index, 1);
                    self.build(&Spot::Element(&array, index), value)
                }
                _ => Err(broken("a step puts a value into something of another type")),
            },
            Step::Insert { at, index, values } => match self.find(&at)? {
                Place::Array(array) => self.extend(&array, index, values),
                _ => Err(broken("a step inserts into something that is no array")),
            },
            Step::Unset { at, key } => match self.find(&at)? {
                Place::Map(map) => {
                    map.remove(&mut self.transaction, &key);
                    Ok(())
                }
                _ => Err(broken("a step removes a key of something that is no map")),
            },
            Step::Delete { at, index, count } => match self.find(&at)? {
                Place::Array(array) => {
                    array.remove_range(&mut self.transaction, index, count);
                    Ok(())
                }
                _ => Err(broken("a step removes elements of something that is no array")),
            },
            Step::Splice { at, splice: Splice { position, deleted, inserted } } => match self.find(&at)? {
                Place::Text(text) => {
                    if deleted > 0 {
                        text.remove_range(&mut self.transaction, position, deleted);
                    }
                    text.insert(&mut self.transaction, position, &inserted);
                    Ok(())
                }
                _ => Err(broken("a step edits something that is no text")),
            },
        }
    }

    fn find(&self, path: &[Token]) -> Result<Place, ChangeError> {
        if !(self.is_patient)() {
            return Err(ChangeError::TooCostly);
        }
        let mut place = self.root.clone();
        for token in path {
            let value = match (&place, token) {
                (Place::Map(map), Token::Key(key)) => map.get(&self.transaction, key),
                (Place::Array(array), Token::Index(index)) => array.get(&self.transaction, *index),
                _ => None,
            };
            place = match value {
                Some(Out::YMap(map)) => Place::Map(map),
                Some(Out::YArray(array)) => Place::Array(array),
                Some(Out::YText(text)) => Place::Text(text),
                _ => return Err(broken("a step leads to what is not there")),
            };
        }
        Ok(place)
    }

    fn put<V: Prelim>(&mut self, spot: &Spot<'_>, value: V) -> V::Return {
        match spot {
            Spot::Entry(map, key) => map.insert(&mut self.transaction, key.as_str(), value),
            Spot::Element(array, index) => array.insert(&mut self.transaction, *index, value),
        }
    }

    /// Makes new content. Recurses as deep as it nests.
    fn build(&mut self, spot: &Spot<'_>, node: Node) -> Result<(), ChangeError> {
        if !(self.is_patient)() {
            return Err(ChangeError::TooCostly);
        }
        match node {
            Node::Map { entries, shared: true } => {
                let map = self.put(spot, MapPrelim::default());
                entries.into_iter().try_for_each(|(key, node)| self.build(&Spot::Entry(&map, key), node))
            }
            Node::Array { items, shared: true } => {
                let array = self.put(spot, ArrayPrelim::default());
                self.extend(&array, 0, items)
            }
            Node::Text(passage) => {
                let text = self.put(spot, TextPrelim::new(""));
                text.apply_delta(&mut self.transaction, delta(passage));
                Ok(())
            }
            Node::Sealed(_) => Err(broken("a step makes anew what cannot be made anew")),
            whole => {
                self.put(spot, In::Any(whole.to_any()));
                Ok(())
            }
        }
    }

    /// Inserts elements. Neighbours that are values become one block.
    fn extend(&mut self, array: &ArrayRef, mut index: u32, nodes: Vec<Node>) -> Result<(), ChangeError> {
        let mut values: Vec<Any> = Vec::new();
        for node in nodes {
            if node.type_height() == 0 && node.is_movable() {
                values.push(node.to_any());
                continue;
            }
            index += self.insert_values(array, index, std::mem::take(&mut values));
            self.build(&Spot::Element(array, index), node)?;
            index += 1;
        }
        self.insert_values(array, index, values);
        Ok(())
    }

    fn insert_values(&mut self, array: &ArrayRef, index: u32, values: Vec<Any>) -> u32 {
        let count = values.len() as u32;
        if count > 0 {
            array.insert_range(&mut self.transaction, index, values);
        }
        count
    }
}

pub(super) fn delta(passage: Passage) -> Vec<Delta<In>> {
    let inserted = passage.runs().into_iter().map(|run| {
        let value = match run.piece {
            Piece::Text(text) => Any::String(text.into()),
            Piece::Embed(value) => value,
        };
        let marks: Attrs = run.marks;
        Delta::Inserted(In::Any(value), if marks.is_empty() { None } else { Some(Box::new(marks)) })
    });
    inserted.collect()
}
