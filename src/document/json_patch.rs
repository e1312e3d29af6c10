//! JSON Patch (RFC 6902) on a map or a list: what may be asked for, and what it comes down to.
//!
//! Pure. The operations are carried out here, on a copy of the root, before any transaction opens, and become steps
//! that the CRDT library is given one after the other: it is never handed a place that is not there. The steps are as
//! small as they can be, so that what others do at the same time lives on: one list element, one key, a few characters
//! of a text. Only a value that is stored whole is always replaced whole.
//!
//! <https://www.rfc-editor.org/rfc/rfc6902>

use std::time::Instant;

use json_patch::PatchOperation;
use json_patch::jsonptr::Pointer;
use serde_json::Value;

use super::admission::NESTING_MAX;
use super::json::{Node, Splice};
use super::lib0::ANY_NESTING_MAX;

/// What one patch may put into a document, in bytes, about: copying what was copied doubles it every time.
pub const ADDED_BYTES_MAX: usize = 8 << 20;

/// What the ways to the places that are changed may take in memory: one place down a deep way costs little, and a
/// hundred thousand of them a gigabyte.
const WAYS_BYTES_MAX: usize = 64 << 20;

/// What an empty root is to become. Nothing tells what it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    Map,
    Array,
}

/// A patch of one root.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPatch {
    pub root: String,
    /// What the root is, as far as the caller says.
    pub container: Option<Container>,
    operations: Vec<PatchOperation>,
}

/// An operation that RFC 6902 does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("operation {index} is no operation of a JSON Patch: {reason}")]
pub struct Malformed {
    pub index: usize,
    pub reason: String,
}

/// What is wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    InvalidPointer(&'static str),
    #[error("the value is another than the one that is tested for")]
    TestFailed,
    #[error("{0}")]
    WrongType(&'static str),
    #[error("types may be nested {NESTING_MAX} deep, and values that are stored whole {ANY_NESTING_MAX}")]
    TooDeep,
    #[error(
        "a patch may add {ADDED_BYTES_MAX} bytes, and change so many places as it takes to describe in 64 MiB"
    )]
    TooLarge,
}

/// Why a patch is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    Fault {
        /// Which operation it was.
        index: usize,
        fault: Fault,
    },
    /// The caller's patience ended.
    TooCostly,
}

impl JsonPatch {
    /// # Errors
    /// `Malformed`.
    pub fn parse(
        root: String,
        container: Option<Container>,
        operations: Vec<Value>,
    ) -> Result<Self, Malformed> {
        let operations = operations.into_iter().enumerate().map(|(index, operation)| {
            serde_json::from_value(operation).map_err(|error| Malformed { index, reason: error.to_string() })
        });
        Ok(Self { root, container, operations: operations.collect::<Result<_, _>>()? })
    }

    pub(super) fn operations(&self) -> &[PatchOperation] {
        &self.operations
    }

    /// What an empty root is to become: what the caller says, or what the first operation takes it for.
    pub(super) fn container_of_empty(&self) -> Container {
        let guess = || {
            let first =
                self.operations.iter().find(|operation| !matches!(operation, PatchOperation::Test(_)));
            let is_array = first.is_some_and(|operation| match (operation.path().first(), operation) {
                (Some(token), _) => token.decoded() == "-" || parse_index(&token.decoded()).is_some(),
                (None, PatchOperation::Add(add)) => add.value.is_array(),
                (None, PatchOperation::Replace(replace)) => replace.value.is_array(),
                (None, _) => false,
            });
            if is_array { Container::Array } else { Container::Map }
        };
        self.container.unwrap_or_else(guess)
    }
}

/// One way further down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Key(String),
    Index(u32),
}

/// What the CRDT library is to do. `at` leads from the root through types to the one that is changed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Sets a key, or replaces an element.
    Put {
        at: Vec<Token>,
        token: Token,
        value: Node,
    },
    Insert {
        at: Vec<Token>,
        index: u32,
        values: Vec<Node>,
    },
    Unset {
        at: Vec<Token>,
        key: String,
    },
    Delete {
        at: Vec<Token>,
        index: u32,
        count: u32,
    },
    Splice {
        at: Vec<Token>,
        splice: Splice,
    },
}

/// A patch, counted out.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// How much longer the document becomes, about.
    pub(super) added_bytes: usize,
    ways_bytes: usize,
    difference_until: Option<Instant>,
}

/// Counts a patch out on a copy of its root, a shared map or array.
///
/// `is_patient`: asked now and then whether it may go on. `difference_until`: how long the smallest edits of texts may
/// be looked for.
///
/// # Errors
/// `Misfit`: nothing is to be done.
pub(super) fn plan(
    root: Node,
    operations: &[PatchOperation],
    is_patient: &dyn Fn() -> bool,
    difference_until: Option<Instant>,
) -> Result<Plan, Misfit> {
    let mut planner = Planner { root, plan: Plan { difference_until, ..Plan::default() } };
    for (index, operation) in operations.iter().enumerate() {
        if !is_patient() {
            return Err(Misfit::TooCostly);
        }
        planner.operate(operation).map_err(|fault| Misfit::Fault { index, fault })?;
    }
    Ok(planner.plan)
}

/// Counts out how a shared map or array becomes another one of the same kind.
///
/// # Errors
/// `Misfit::Fault`: the other is too large or too deep.
pub(super) fn plan_to(
    mut current: Node,
    goal: Node,
    difference_until: Option<Instant>,
) -> Result<Plan, Misfit> {
    let mut plan = Plan { difference_until, ..Plan::default() };
    let turned = plan.turn_into(&mut current, goal, &mut Vec::new());
    turned.map(|()| plan).map_err(|fault| Misfit::Fault { index: 0, fault })
}

const NOT_THERE: Fault = Fault::InvalidPointer("there is nothing at this pointer");
const NO_CONTAINER: Fault = Fault::InvalidPointer("the pointer leads into what is neither object nor list");
const NO_INDEX: Fault = Fault::InvalidPointer("the index is no number within the list");
const UNMOVABLE: Fault = Fault::WrongType("XML can be neither moved nor copied by a patch");
const ROOT_STAYS: Fault =
    Fault::WrongType("a root that is a map can only become an object, and one that is an array a list");

struct Planner {
    root: Node,
    plan: Plan,
}

impl Planner {
    fn operate(&mut self, operation: &PatchOperation) -> Result<(), Fault> {
        match operation {
            PatchOperation::Add(add) => self.add(&add.path, Node::from_json(add.value.clone())),
            PatchOperation::Remove(remove) => self.take(&remove.path).map(drop),
            PatchOperation::Replace(replace) => {
                self.replace(&replace.path, Node::from_json(replace.value.clone()))
            }
            PatchOperation::Move(moved) => {
                if moved.path.starts_with(&moved.from) && moved.path != moved.from {
                    return Err(Fault::InvalidPointer("a value cannot be moved into itself"));
                }
                let path = self.path(&moved.from)?;
                if moved.path == moved.from {
                    return Ok(());
                }
                if !at(&self.root, &path).is_movable() {
                    return Err(UNMOVABLE);
                }
                let value = self.take(&moved.from)?;
                self.add(&moved.path, value)
            }
            PatchOperation::Copy(copy) => {
                let path = self.path(&copy.from)?;
                let value = at(&self.root, &path);
                if !value.is_movable() {
                    return Err(UNMOVABLE);
                }
                // Before it is copied: the copies of copies would fill the memory.
                if self.plan.added_bytes + value.weight() > ADDED_BYTES_MAX {
                    return Err(Fault::TooLarge);
                }
                let value = value.clone();
                self.add(&copy.path, value)
            }
            PatchOperation::Test(test) => {
                let path = self.path(&test.path)?;
                let is_same = at(&self.root, &path).shows_as(&Node::from_json(test.value.clone()));
                if is_same { Ok(()) } else { Err(Fault::TestFailed) }
            }
        }
    }

    /// The way to what is there.
    fn path(&self, pointer: &Pointer) -> Result<Vec<Token>, Fault> {
        let mut path = Vec::with_capacity(pointer.count());
        let mut node = &self.root;
        for token in pointer.tokens() {
            let token = token.decoded();
            node = match node {
                Node::Map { entries, .. } => {
                    path.push(Token::Key(token.clone().into_owned()));
                    entries.get(token.as_ref()).ok_or(NOT_THERE)?
                }
                Node::Array { items, .. } => {
                    let index = parse_index(&token).ok_or(NO_INDEX)?;
                    path.push(Token::Index(index));
                    items.get(index as usize).ok_or(NO_INDEX)?
                }
                _ => return Err(NO_CONTAINER),
            };
        }
        Ok(path)
    }

    fn add(&mut self, pointer: &Pointer, value: Node) -> Result<(), Fault> {
        let Some((parent, last)) = pointer.split_back() else { return self.replace(pointer, value) };
        let mut path = self.path(parent)?;
        let stored = self.stored_on(&path);
        let value = if stored.is_some() { value.into_stored() } else { value };
        match at_mut(&mut self.root, &path) {
            Node::Map { entries, .. } => {
                let key = last.decoded().into_owned();
                match entries.get_mut(&key) {
                    Some(old) if stored.is_none() => {
                        path.push(Token::Key(key));
                        return self.plan.turn_into(old, value, &mut path);
                    }
                    _ => {
                        if stored.is_none() {
                            self.plan.put(path.clone(), Token::Key(key.clone()), &value)?;
                        }
                        entries.insert(key, value);
                    }
                }
            }
            Node::Array { items, .. } => {
                let token = last.decoded();
                let end = narrow(items.len());
                let index = if token == "-" { end } else { parse_index(&token).ok_or(NO_INDEX)? };
                if index > end {
                    return Err(NO_INDEX);
                }
                if stored.is_none() {
                    self.plan.insert(path.clone(), index, vec![value.clone()])?;
                }
                items.insert(index as usize, value);
            }
            _ => return Err(NO_CONTAINER),
        }
        self.store_anew(&path, stored)
    }

    /// Removes, and returns what was there.
    fn take(&mut self, pointer: &Pointer) -> Result<Node, Fault> {
        let path = self.path(pointer)?;
        let Some((last, parent)) = path.split_last() else {
            return Err(Fault::InvalidPointer("a root cannot be removed; replace it by {} or []"));
        };
        let stored = self.stored_on(parent);
        let container = parent.to_vec();
        let (taken, step) = match (at_mut(&mut self.root, parent), last) {
            (Node::Map { entries, .. }, Token::Key(key)) => {
                (entries.remove(key).ok_or(NOT_THERE)?, Step::Unset { at: container, key: key.clone() })
            }
            (Node::Array { items, .. }, Token::Index(index)) => {
                (items.remove(*index as usize), Step::Delete { at: container, index: *index, count: 1 })
            }
            _ => return Err(NO_CONTAINER),
        };
        if stored.is_none() {
            self.plan.push(step)?;
        }
        self.store_anew(parent, stored)?;
        Ok(taken)
    }

    fn replace(&mut self, pointer: &Pointer, value: Node) -> Result<(), Fault> {
        let mut path = self.path(pointer)?;
        if path.is_empty() {
            let fits = matches!(
                (&self.root, &value),
                (Node::Map { .. }, Node::Map { .. }) | (Node::Array { .. }, Node::Array { .. })
            );
            if !fits {
                return Err(ROOT_STAYS);
            }
            return self.plan.turn_into(&mut self.root, value.into_shared(), &mut path);
        }
        let parent = &path[..path.len() - 1];
        let stored = self.stored_on(parent);
        if stored.is_some() {
            let parent = parent.to_vec();
            *at_mut(&mut self.root, &path) = value.into_stored();
            return self.store_anew(&parent, stored);
        }
        self.plan.turn_into(at_mut(&mut self.root, &path), value, &mut path)
    }

    /// How far down the path there is a value that is stored whole: what is below it is part of it.
    fn stored_on(&self, path: &[Token]) -> Option<usize> {
        let mut node = &self.root;
        for (depth, token) in path.iter().enumerate() {
            node = at(node, std::slice::from_ref(token));
            if node.is_stored() {
                return Some(depth + 1);
            }
        }
        None
    }

    /// Puts the value in which something has changed where it was.
    fn store_anew(&mut self, path: &[Token], stored: Option<usize>) -> Result<(), Fault> {
        let Some(depth) = stored else { return Ok(()) };
        let value = at(&self.root, &path[..depth]);
        if value.height() > ANY_NESTING_MAX {
            return Err(Fault::TooDeep);
        }
        let (container, token) = (&path[..depth - 1], &path[depth - 1]);
        // Many operations on one value are one step.
        if let Some(Step::Put { at, token: last, value: earlier }) = self.plan.steps.last_mut()
            && at == container
            && last == token
        {
            self.plan.added_bytes += value.weight().saturating_sub(earlier.weight());
            *earlier = value.clone();
            return if self.plan.added_bytes > ADDED_BYTES_MAX { Err(Fault::TooLarge) } else { Ok(()) };
        }
        self.plan.put(container.to_vec(), token.clone(), value)
    }
}

impl Plan {
    /// Whether any step makes anew what cannot be made anew.
    pub(super) fn has_sealed(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Put { value, .. } => !value.is_movable(),
            Step::Insert { values, .. } => !values.iter().all(Node::is_movable),
            Step::Unset { .. } | Step::Delete { .. } | Step::Splice { .. } => false,
        })
    }

    fn push(&mut self, step: Step) -> Result<(), Fault> {
        let (Step::Put { at, .. }
        | Step::Insert { at, .. }
        | Step::Unset { at, .. }
        | Step::Delete { at, .. }
        | Step::Splice { at, .. }) = &step;
        let bytes = |token: &Token| match token {
            Token::Key(key) => size_of::<Token>() + key.len(),
            Token::Index(_) => size_of::<Token>(),
        };
        self.ways_bytes += at.iter().map(bytes).sum::<usize>();
        self.steps.push(step);
        if self.ways_bytes > WAYS_BYTES_MAX { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn count(&mut self, depth: usize, value: &Node) -> Result<(), Fault> {
        if depth + value.type_height() > usize::from(NESTING_MAX) {
            return Err(Fault::TooDeep);
        }
        self.added_bytes += value.weight();
        if self.added_bytes > ADDED_BYTES_MAX { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn put(&mut self, at: Vec<Token>, token: Token, value: &Node) -> Result<(), Fault> {
        self.count(at.len(), value)?;
        self.push(Step::Put { at, token, value: value.clone() })
    }

    fn insert(&mut self, at: Vec<Token>, index: u32, values: Vec<Node>) -> Result<(), Fault> {
        values.iter().try_for_each(|value| self.count(at.len(), value))?;
        self.push(Step::Insert { at, index, values })
    }

    /// Makes `old` show what `new` does, and keeps of it what it can. `path` leads to it, through types only.
    ///
    /// Recurses no deeper than `new` does.
    fn turn_into(&mut self, old: &mut Node, new: Node, path: &mut Vec<Token>) -> Result<(), Fault> {
        match (old, new) {
            (Node::Map { entries, shared: true }, Node::Map { entries: new, shared: true }) => {
                let gone: Vec<String> =
                    entries.keys().filter(|key| !new.contains_key(*key)).cloned().collect();
                for key in gone {
                    entries.remove(&key);
                    self.push(Step::Unset { at: path.clone(), key })?;
                }
                for (key, value) in new {
                    if let Some(old) = entries.get_mut(&key) {
                        path.push(Token::Key(key));
                        self.turn_into(old, value, path)?;
                        path.pop();
                    } else {
                        self.put(path.clone(), Token::Key(key.clone()), &value)?;
                        entries.insert(key, value);
                    }
                }
                Ok(())
            }
            (Node::Array { items, shared: true }, Node::Array { items: new, shared: true }) => {
                self.turn_items_into(items, new, path)
            }
            (Node::Text(passage), Node::Scalar(yrs::Any::String(text))) => {
                for splice in passage.replace(&text, self.difference_until) {
                    self.added_bytes += splice.inserted.len();
                    self.push(Step::Splice { at: path.clone(), splice })?;
                }
                if self.added_bytes > ADDED_BYTES_MAX { Err(Fault::TooLarge) } else { Ok(()) }
            }
            (old, new) if *old == new => Ok(()),
            (old, new) => {
                let (last, parent) = path.split_last().expect("a root stays what it is");
                self.put(parent.to_vec(), last.clone(), &new)?;
                *old = new;
                Ok(())
            }
        }
    }

    /// Elements at both ends that are the same stay. Between them, as many as before are changed one by one, and a
    /// different number of them is put in their place.
    fn turn_items_into(
        &mut self,
        items: &mut Vec<Node>,
        mut new: Vec<Node>,
        path: &mut Vec<Token>,
    ) -> Result<(), Fault> {
        let same = |pair: &(&Node, &Node)| pair.0.shows_as(pair.1);
        let start = items.iter().zip(&new).take_while(same).count();
        let kept_end = items[start..].iter().rev().zip(new[start..].iter().rev()).take_while(same).count();
        let (end, new_end) = (items.len() - kept_end, new.len() - kept_end);
        if end == new_end {
            for (index, value) in new.drain(start..end).enumerate() {
                path.push(Token::Index(narrow(start + index)));
                self.turn_into(&mut items[start + index], value, path)?;
                path.pop();
            }
            return Ok(());
        }
        if end > start {
            let (index, count) = (narrow(start), narrow(end - start));
            self.push(Step::Delete { at: path.clone(), index, count })?;
        }
        let inserted: Vec<Node> = new.drain(start..new_end).collect();
        if !inserted.is_empty() {
            self.insert(path.clone(), narrow(start), inserted.clone())?;
        }
        items.splice(start..end, inserted);
        Ok(())
    }
}

/// What a path that was found leads to.
fn at<'a>(root: &'a Node, path: &[Token]) -> &'a Node {
    path.iter().fold(root, |node, token| match (node, token) {
        (Node::Map { entries, .. }, Token::Key(key)) => &entries[key],
        (Node::Array { items, .. }, Token::Index(index)) => &items[*index as usize],
        _ => unreachable!("the path was found in this very tree"),
    })
}

fn at_mut<'a>(root: &'a mut Node, path: &[Token]) -> &'a mut Node {
    path.iter().fold(root, |node, token| match (node, token) {
        (Node::Map { entries, .. }, Token::Key(key)) => {
            entries.get_mut(key).expect("the path was found in this very tree")
        }
        (Node::Array { items, .. }, Token::Index(index)) => &mut items[*index as usize],
        _ => unreachable!("the path was found in this very tree"),
    })
}

/// RFC 6901: digits, and no zero in front of others.
fn parse_index(token: &str) -> Option<u32> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (token.len() == 1 || !token.starts_with('0'));
    if canonical { token.parse().ok() } else { None }
}

/// A document of 64 MiB has not so many elements.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("no document is so large")
}

#[cfg(test)]
mod tests;
