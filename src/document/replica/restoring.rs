//! An earlier content brought back as a new edit, so that nobody's copy of the document is orphaned.
//!
//! Each root is compared with what it was, and what differs is changed, in one transaction: entries of maps one by one,
//! lists and XML but for what is the same at both ends, texts by the smallest edit where they are plain. Others' edits
//! that are under way merge with it like with any edit.

use std::collections::VecDeque;

use bytes::Bytes;
use yrs::branch::{Branch, BranchPtr};
use yrs::types::Delta;
use yrs::{
    Any, In, Map, MapRef, Out, ReadTxn, Text, TextRef, Transact, TransactionMut, WriteTxn, XmlElementPrelim,
    XmlElementRef, XmlFragment, XmlTextPrelim,
};

use super::super::handle::DocumentError;
use super::super::json::{Kind, Node, Passage, Piece, Run, utf16_length};
use super::super::json_patch::{self, Container, Misfit};
use super::patching::{Editor, Place, delta};
use super::shape::Reader;
use super::{Allowance, ChangeError, Changed, Replica, begin, deletions_of};
use crate::event::Origin;

/// What a document held, root by root, cut loose from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Content(Vec<(String, Held)>);

/// What one root holds.
#[derive(Debug, Clone, PartialEq)]
enum Held {
    Text(Passage),
    /// A shared map or array.
    Container(Container, Node),
    Xml(Vec<Xml>),
}

#[derive(Debug, Clone, PartialEq)]
enum Xml {
    Element { tag: String, attributes: Vec<(String, Any)>, children: Vec<Xml> },
    Text(Passage),
}

const UNREADABLE: DocumentError = DocumentError::WrongRoot {
    detail: "a root's content does not tell what it is, or has formats in too great a number, and cannot be restored",
};

impl Replica {
    /// What the document holds.
    ///
    /// # Errors
    /// `WrongRoot`: some of it could not be brought back.
    pub(in super::super) fn content(&self, is_patient: &dyn Fn() -> bool) -> Result<Content, DocumentError> {
        let transaction = self.doc.transact();
        let mut names: Vec<String> = transaction.root_refs().map(|(name, _)| name.to_owned()).collect();
        names.sort_unstable();
        let reader = Reader::new(&transaction, &self.formats, true);
        let mut roots = Vec::new();
        for name in names {
            let Some(root) = reader.root(&name) else { continue };
            let held = match (root.kind, root.content) {
                (Kind::Text, Node::Text(passage)) => Held::Text(passage),
                (Kind::Map, node) => Held::Container(Container::Map, node),
                (Kind::Array, node) => Held::Container(Container::Array, node),
                (Kind::Xml, _) => {
                    let text = transaction.get_text(name.as_str()).ok_or(UNREADABLE)?;
                    Held::Xml(read_children(&reader, &transaction, text.as_ref(), is_patient)?)
                }
                _ => return Err(UNREADABLE),
            };
            roots.push((name, held));
        }
        Ok(Content(roots))
    }

    /// Makes the document hold `wanted`, whole or not at all. It is counted out before a transaction opens.
    pub(super) fn restore(
        &mut self,
        wanted: &Content,
        origin: &Origin,
        allowance: &Allowance<'_>,
    ) -> Result<Changed, ChangeError> {
        let current = self.content(allowance.is_patient)?;
        let mut plans = Vec::new();
        for (name, held) in &current.0 {
            let goal = match wanted.0.iter().find(|(other, _)| other == name) {
                Some((_, goal)) => goal.clone(),
                None => held.emptied(),
            };
            plans.extend(self.plan_root(name, held.clone(), goal, allowance)?);
        }
        let is_new = |name: &String| !current.0.iter().any(|(other, _)| other == name);
        for (name, goal) in wanted.0.iter().filter(|(name, _)| is_new(name)) {
            plans.extend(self.plan_root(name, goal.emptied(), goal.clone(), allowance)?);
        }
        if plans.is_empty() {
            return Ok(Changed::Nothing);
        }
        let (update, derived) = {
            let mut transaction = begin(&self.doc, origin)?;
            for (name, plan) in plans {
                transaction = carry_out(transaction, &name, plan, allowance)?;
            }
            (Bytes::from(transaction.encode_update_v1()), deletions_of(&transaction))
        };
        self.settle(&update, &derived)?;
        Ok(Changed::Update(update))
    }

    /// What is to be done to a root; `None`: nothing.
    fn plan_root(
        &mut self,
        name: &str,
        current: Held,
        goal: Held,
        allowance: &Allowance<'_>,
    ) -> Result<Option<(String, RootPlan)>, DocumentError> {
        if current == goal {
            return Ok(None);
        }
        let wrong = |detail| DocumentError::WrongRoot { detail };
        let (plan, added_bytes) = match (current, goal) {
            (Held::Text(current), Held::Text(goal)) => {
                let plan = TextPlan::between(current, goal);
                let added_bytes = Passage::new(plan.inserted.clone()).weight();
                (RootPlan::Text(plan), added_bytes)
            }
            (Held::Container(container, current), Held::Container(other, goal)) if container == other => {
                let until = allowance.difference_until;
                let plan = json_patch::plan_to(current, goal, until).map_err(|misfit| match misfit {
                    Misfit::Fault { .. } => {
                        wrong("the earlier content is too large or too deep to be restored")
                    }
                    Misfit::TooCostly => wrong("comparing with the earlier content takes too long"),
                })?;
                if plan.has_sealed() {
                    return Err(wrong("XML that lies in a map or a list cannot be restored"));
                }
                let added_bytes = plan.added_bytes;
                (RootPlan::Container(container, plan), added_bytes)
            }
            (Held::Xml(current), Held::Xml(goal)) => {
                let start = current.iter().zip(&goal).take_while(|(one, other)| one == other).count();
                let at_end = current[start..].iter().rev().zip(goal[start..].iter().rev());
                let kept_end = at_end.take_while(|(one, other)| one == other).count();
                let deleted = current.len() - kept_end - start;
                let inserted = goal[start..goal.len() - kept_end].to_vec();
                let added_bytes = inserted.iter().map(Xml::weight).sum();
                (RootPlan::Xml { start, deleted, inserted }, added_bytes)
            }
            _ => return Err(wrong("a root is of another type than it was, and cannot be restored")),
        };
        self.check_size(added_bytes, allowance.bytes_max)?;
        Ok(Some((name.to_owned(), plan)))
    }
}

impl Held {
    /// A root of the same type that holds nothing.
    fn emptied(&self) -> Self {
        match self {
            Self::Text(_) => Self::Text(Passage::default()),
            Self::Container(Container::Map, _) => {
                Self::Container(Container::Map, Node::Map { entries: Default::default(), shared: true })
            }
            Self::Container(Container::Array, _) => {
                Self::Container(Container::Array, Node::Array { items: Vec::new(), shared: true })
            }
            Self::Xml(_) => Self::Xml(Vec::new()),
        }
    }
}

/// What is to be done to one root.
enum RootPlan {
    Text(TextPlan),
    Container(Container, json_patch::Plan),
    Xml { start: usize, deleted: usize, inserted: Vec<Xml> },
}

/// One part of a text, in UTF-16 code units and embeds, that is replaced by another.
#[derive(Debug, PartialEq)]
struct TextPlan {
    position: u32,
    deleted: u32,
    inserted: Vec<Run>,
}

impl TextPlan {
    /// What lies between the beginning and the end that both have, formats included.
    fn between(current: Passage, goal: Passage) -> Self {
        let (mut current, mut goal) = (VecDeque::from(current.runs()), VecDeque::from(goal.runs()));
        let mut position = 0;
        while let (Some(one), Some(other)) = (current.front(), goal.front())
            && one == other
        {
            position += unit_length(one);
            current.pop_front();
            goal.pop_front();
        }
        if let (Some(one), Some(other)) = (current.front_mut(), goal.front_mut())
            && let Some((one, other)) = alike(one, other)
        {
            let same = one.chars().zip(other.chars()).take_while(|(one, other)| one == other);
            let bytes = same.map(|(character, _)| character.len_utf8()).sum();
            position += utf16_length(&one[..bytes]);
            one.drain(..bytes);
            other.drain(..bytes);
        }
        while let (Some(one), Some(other)) = (current.back(), goal.back())
            && one == other
        {
            current.pop_back();
            goal.pop_back();
        }
        if let (Some(one), Some(other)) = (current.back_mut(), goal.back_mut())
            && let Some((one, other)) = alike(one, other)
        {
            let same = one.chars().rev().zip(other.chars().rev()).take_while(|(one, other)| one == other);
            let bytes: usize = same.map(|(character, _)| character.len_utf8()).sum();
            one.truncate(one.len() - bytes);
            other.truncate(other.len() - bytes);
        }
        let is_left = |run: &Run| unit_length(run) > 0;
        Self {
            position,
            deleted: current.iter().map(unit_length).sum(),
            inserted: goal.into_iter().filter(is_left).collect(),
        }
    }
}

/// The strings of two runs that are formatted alike.
fn alike<'a>(one: &'a mut Run, other: &'a mut Run) -> Option<(&'a mut String, &'a mut String)> {
    match (one, other) {
        (Run { piece: Piece::Text(one), marks }, Run { piece: Piece::Text(other), marks: theirs })
            if marks == theirs =>
        {
            Some((one, other))
        }
        _ => None,
    }
}

fn unit_length(run: &Run) -> u32 {
    match &run.piece {
        Piece::Text(text) => utf16_length(text),
        Piece::Embed(_) => 1,
    }
}

const TOO_LONG: DocumentError =
    DocumentError::WrongRoot { detail: "reading the content takes too long, and it cannot be restored" };

fn read_children<T: ReadTxn>(
    reader: &Reader<'_, T>,
    transaction: &T,
    parent: &Branch,
    is_patient: &dyn Fn() -> bool,
) -> Result<Vec<Xml>, DocumentError> {
    if reader.has_string(parent) {
        return Err(UNREADABLE);
    }
    let read = |child| {
        if !is_patient() {
            return Err(TOO_LONG);
        }
        match child {
            Out::YXmlElement(element) => read_element(reader, transaction, &element, is_patient),
            Out::YXmlText(text) => {
                let branch: &Branch = text.as_ref();
                let passage = reader.passage(&TextRef::from(BranchPtr::from(branch)));
                passage.map(Xml::Text).ok_or(UNREADABLE)
            }
            _ => Err(UNREADABLE),
        }
    };
    reader.values(parent).into_iter().map(read).collect()
}

fn read_element<T: ReadTxn>(
    reader: &Reader<'_, T>,
    transaction: &T,
    element: &XmlElementRef,
    is_patient: &dyn Fn() -> bool,
) -> Result<Xml, DocumentError> {
    let branch: &Branch = element.as_ref();
    let map = MapRef::from(BranchPtr::from(branch));
    let mut keys: Vec<String> = map.keys(transaction).map(str::to_owned).collect();
    keys.sort_unstable();
    let mut attributes = Vec::new();
    for key in keys {
        match map.get(transaction, &key) {
            Some(Out::Any(value)) => attributes.push((key, value)),
            None => {}
            Some(_) => return Err(UNREADABLE),
        }
    }
    let tag = element.try_tag().ok_or(UNREADABLE)?.to_string();
    Ok(Xml::Element { tag, attributes, children: read_children(reader, transaction, branch, is_patient)? })
}

impl Xml {
    /// About how many bytes it takes, encoded.
    fn weight(&self) -> usize {
        match self {
            Self::Element { tag, attributes, children } => {
                let attributes =
                    attributes.iter().map(|(name, value)| 24 + name.len() + value.to_string().len());
                24 + tag.len() + attributes.sum::<usize>() + children.iter().map(Self::weight).sum::<usize>()
            }
            Self::Text(passage) => 24 + passage.weight(),
        }
    }
}

fn carry_out<'a>(
    mut transaction: TransactionMut<'a>,
    name: &str,
    plan: RootPlan,
    allowance: &Allowance<'_>,
) -> Result<TransactionMut<'a>, ChangeError> {
    match plan {
        RootPlan::Text(plan) => {
            let text = match transaction.get_text(name) {
                Some(text) => text,
                None => transaction.get_or_insert_text(name),
            };
            replace(&mut transaction, &text, plan);
            Ok(transaction)
        }
        RootPlan::Container(container, plan) => {
            let root = Place::root(&mut transaction, name, container);
            let mut editor = Editor { transaction, root, is_patient: allowance.is_patient };
            for step in plan.steps {
                editor.take(step)?;
            }
            Ok(editor.transaction)
        }
        RootPlan::Xml { start, deleted, inserted } => {
            let root = match transaction.get_xml_fragment(name) {
                Some(root) => root,
                None => transaction.get_or_insert_xml_fragment(name),
            };
            let narrow = |count: usize| u32::try_from(count).expect("no document has so many elements");
            if deleted > 0 {
                root.remove_range(&mut transaction, narrow(start), narrow(deleted));
            }
            for (offset, node) in inserted.into_iter().enumerate() {
                build(&mut transaction, &root, narrow(start + offset), node, allowance.is_patient)?;
            }
            Ok(transaction)
        }
    }
}

fn replace(transaction: &mut TransactionMut<'_>, text: &TextRef, plan: TextPlan) {
    let mut changes: Vec<Delta<In>> = Vec::new();
    if plan.position > 0 {
        changes.push(Delta::Retain(plan.position, None));
    }
    if plan.deleted > 0 {
        changes.push(Delta::Deleted(plan.deleted));
    }
    changes.extend(delta(Passage::new(plan.inserted)));
    text.apply_delta(transaction, changes);
}

/// Makes XML anew. Recurses as deep as it nests, which is bounded where updates are let in.
fn build(
    transaction: &mut TransactionMut<'_>,
    parent: &impl XmlFragment,
    index: u32,
    node: Xml,
    is_patient: &dyn Fn() -> bool,
) -> Result<(), ChangeError> {
    if !is_patient() {
        return Err(ChangeError::TooCostly);
    }
    match node {
        Xml::Element { tag, attributes, children } => {
            let element = parent.insert(transaction, index, XmlElementPrelim::empty(tag));
            let branch: &Branch = element.as_ref();
            let map = MapRef::from(BranchPtr::from(branch));
            for (name, value) in attributes {
                map.insert(transaction, name, value);
            }
            (0..)
                .zip(children)
                .try_for_each(|(index, child)| build(transaction, &element, index, child, is_patient))
        }
        Xml::Text(passage) => {
            let text = parent.insert(transaction, index, XmlTextPrelim::new(""));
            text.apply_delta(transaction, delta(passage));
            Ok(())
        }
    }
}
