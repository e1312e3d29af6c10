//! What the roots of a document hold, read without asking for a type.
//!
//! A root has no type in an update: each client calls it what it likes. Asking the CRDT library for the wrong one
//! does harm, and so do some right ones where somebody wrote on purpose what no type holds. So:
//!
//! - a string is read from anything, and comes first: it tells a text;
//! - elements are read only where there is no string, since with an emoji among them the library never ends;
//! - keys are asked for one by one: its iterator recurses over those that hold nothing;
//! - formats are read only where they are few, since the library copies all that are open for each piece of a text.
//!
//! What is not read for one of these reasons is shown as null, or without its formats.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use yrs::branch::{Branch, BranchPtr};
use yrs::types::Attrs;
use yrs::types::text::YChange;
use yrs::{Any, Array, ArrayRef, GetString, Map, MapRef, Out, ReadTxn, Text, TextRef, Transact};

use super::super::format::Outline;
use super::super::json::{Kind, Node, Passage, Piece, Run, Shown, any_to_json, scalar_bytes, utf16_length};
use super::Replica;

/// How many formats may at worst be copied when a text is read piece by piece.
const FORMAT_COPIES_MAX: usize = 4_000_000;
/// How many bytes the formats in XML may take: each piece of a text is written between the tags of all that are open.
const TAGS_BYTES_MAX: usize = 16 << 20;
/// Names of formats that are told apart. Editors have some twenty; those that name each comment, thousands.
const FORMAT_NAMES_MAX: usize = 10_000;

/// How much formatting a document has, at the most: what was overwritten counts too.
#[derive(Debug, Default)]
pub(super) struct Formats {
    names: HashSet<Box<str>>,
    marks: usize,
}

impl Formats {
    /// Counts what an update brings.
    pub(super) fn note(&mut self, outline: &Outline<'_>) {
        for name in outline.blocks.iter().filter_map(|block| block.format_name()) {
            self.marks += 1;
            if self.names.len() < FORMAT_NAMES_MAX && !self.names.contains(name) {
                self.names.insert(name.into());
            }
        }
    }

    /// Whether a text with so many embeds can be taken to pieces.
    pub(super) fn allow(&self, embeds: usize) -> bool {
        let open = if self.names.len() < FORMAT_NAMES_MAX { self.names.len() } else { self.marks };
        let pieces = 2 * embeds.saturating_add(self.marks) + 1;
        open.saturating_mul(pieces) <= FORMAT_COPIES_MAX
    }
}

/// A root, and what it holds.
pub(super) struct Root {
    pub(super) kind: Kind,
    pub(super) content: Node,
    rest: Option<Node>,
}

impl Replica {
    /// Every root that holds something, in the order of names; or that one only.
    pub(in super::super) fn roots(&self, only: Option<&str>) -> Vec<Shown> {
        let transaction = self.doc.transact();
        let mut names: Vec<String> = match only {
            Some(name) => vec![name.to_owned()],
            None => transaction.root_refs().map(|(name, _)| name.to_owned()).collect(),
        };
        names.sort_unstable();
        let reader = Reader::new(&transaction, &self.formats, false);
        let shown = names.into_iter().filter_map(|name| {
            let Root { kind, content, rest } = reader.root(&name)?;
            Some(Shown { name, kind, value: content.into_json(), rest: rest.map(Node::into_json) })
        });
        shown.collect()
    }
}

/// Reads content within one transaction. Recurses as deep as types nest (`admission::NESTING_MAX`), and then as values
/// do: that takes a small part of a stack of 2 MiB.
pub(super) struct Reader<'a, T> {
    transaction: &'a T,
    formats: &'a Formats,
    /// Whether texts are read to be edited: with their formats and embeds.
    with_formats: bool,
    /// What is left of `TAGS_BYTES_MAX`.
    tags_bytes: Cell<usize>,
}

impl<'a, T: ReadTxn> Reader<'a, T> {
    pub(super) fn new(transaction: &'a T, formats: &'a Formats, with_formats: bool) -> Self {
        Self { transaction, formats, with_formats, tags_bytes: Cell::new(TAGS_BYTES_MAX) }
    }
}

impl<T: ReadTxn> Reader<'_, T> {
    /// `None`: it holds nothing that is not deleted.
    pub(super) fn root(&self, name: &str) -> Option<Root> {
        let text = self.transaction.get_text(name)?;
        let branch: &Branch = text.as_ref();
        let entries = self.entries(branch);
        let list = self.list(branch);
        let keys = if entries.is_empty() { None } else { Some(Node::Map { entries, shared: true }) };
        match (list, keys) {
            (None, None) => None,
            (Some((kind, content)), None) => Some(Root { kind, content, rest: None }),
            (None, Some(content)) => Some(Root { kind: Kind::Map, content, rest: None }),
            // Text comes before keys, and keys before anything else.
            (Some((_, content @ Node::Text(_))), Some(keys)) => {
                Some(Root { kind: Kind::Undetermined, content, rest: Some(keys) })
            }
            (Some((_, content)), Some(keys)) => {
                Some(Root { kind: Kind::Undetermined, content: keys, rest: Some(content) })
            }
        }
    }

    /// A root's sequence, and what it is by its elements.
    fn list(&self, branch: &Branch) -> Option<(Kind, Node)> {
        let text = TextRef::from(BranchPtr::from(branch));
        if text.len(self.transaction) == 0 {
            return None;
        }
        let string = text.get_string(self.transaction);
        let others = (text.len(self.transaction) as usize).saturating_sub(utf16_length(&string) as usize);
        if !string.is_empty() {
            let is_text = others == 0 || self.embeds(&text, others) == others;
            return Some(match self.text(&text) {
                node if is_text => (Kind::Text, node),
                node => (Kind::Undetermined, node),
            });
        }
        let values = self.values(branch);
        if values.iter().all(is_xml) {
            let mut xml = String::new();
            values.iter().for_each(|value| self.write_xml(value, &mut xml));
            return Some((Kind::Xml, Node::Sealed(Any::String(xml.into()))));
        }
        // A list has no embeds: where there is one, it is a text without a character.
        let embeds = self.embeds(&text, others);
        let types = values.iter().filter(|value| !matches!(value, Out::Any(_))).count();
        if embeds == others && types < embeds {
            return Some((Kind::Text, self.text(&text)));
        }
        let kind = if embeds > types { Kind::Undetermined } else { Kind::Array };
        let items = values.iter().map(|value| self.node(value)).collect();
        Some((kind, Node::Array { items, shared: true }))
    }

    fn node(&self, value: &Out) -> Node {
        match value {
            Out::Any(any) => Node::from_any(any),
            Out::YText(text) => self.text(text),
            Out::YMap(map) => Node::Map { entries: self.entries(map.as_ref()), shared: true },
            Out::YArray(array) if self.has_string(array.as_ref()) => Node::Sealed(Any::Null),
            Out::YArray(array) => {
                let items = self.values(array.as_ref()).iter().map(|value| self.node(value)).collect();
                Node::Array { items, shared: true }
            }
            Out::YXmlElement(_) | Out::YXmlFragment(_) | Out::YXmlText(_) => {
                let mut xml = String::new();
                self.write_xml(value, &mut xml);
                Node::Sealed(Any::String(xml.into()))
            }
            _ => Node::Sealed(Any::Null),
        }
    }

    /// A text with its formats and embeds. `None`: it cannot be read whole.
    pub(super) fn passage(&self, text: &TextRef) -> Option<Passage> {
        match self.text(text) {
            Node::Text(passage) => Some(passage),
            _ => None,
        }
    }

    fn text(&self, text: &TextRef) -> Node {
        let string = text.get_string(self.transaction);
        let length = text.len(self.transaction);
        let others = length.saturating_sub(utf16_length(&string)) as usize;
        if !self.with_formats || (others == 0 && self.formats.marks == 0) {
            return Node::Text(Passage::plain(string));
        }
        let runs = self.runs(text, others);
        // What has no place in a text is counted by the library, and is not among its pieces.
        let is_whole = |runs: &Vec<Run>| {
            let units = runs.iter().map(|run| match &run.piece {
                Piece::Text(text) => utf16_length(text),
                Piece::Embed(_) => 1,
            });
            units.sum::<u32>() == length
        };
        match runs.filter(is_whole) {
            Some(runs) => Node::Text(Passage::new(runs)),
            None => Node::Sealed(Any::String(string.into())),
        }
    }

    /// `None`: it has too many formats, or types in it.
    fn runs(&self, text: &TextRef, embeds: usize) -> Option<Vec<Run>> {
        let run = |(value, attributes): (Out, Option<Box<Attrs>>)| {
            let piece = match value {
                Out::Any(Any::String(text)) => Piece::Text(text.to_string()),
                Out::Any(embed) => Piece::Embed(embed),
                _ => return None,
            };
            Some(Run { piece, marks: attributes.map(|attributes| *attributes).unwrap_or_default() })
        };
        self.pieces(text, embeds)?.into_iter().map(run).collect()
    }

    /// How many embeds and types a text has, as far as that can be told.
    fn embeds(&self, text: &TextRef, others: usize) -> usize {
        let pieces = self.pieces(text, others).unwrap_or_default();
        pieces.iter().filter(|(value, _)| !matches!(value, Out::Any(Any::String(_)))).count()
    }

    /// Strings, embeds and types, with their formats. `None`: it has too many.
    fn pieces(&self, text: &TextRef, embeds: usize) -> Option<Vec<(Out, Option<Box<Attrs>>)>> {
        if !self.formats.allow(embeds) {
            return None;
        }
        let pieces = text.diff(self.transaction, YChange::identity).into_iter();
        Some(pieces.map(|piece| (piece.insert, piece.attributes)).collect())
    }

    pub(super) fn has_string(&self, branch: &Branch) -> bool {
        !TextRef::from(BranchPtr::from(branch)).get_string(self.transaction).is_empty()
    }

    /// The elements of a sequence without strings.
    pub(super) fn values(&self, branch: &Branch) -> Vec<Out> {
        ArrayRef::from(BranchPtr::from(branch)).iter(self.transaction).collect()
    }

    fn entries(&self, branch: &Branch) -> BTreeMap<String, Node> {
        let entries = self.sorted_entries(branch).into_iter();
        entries.map(|(key, value)| (key, self.node(&value))).collect()
    }

    fn sorted_entries(&self, branch: &Branch) -> BTreeMap<String, Out> {
        let map = MapRef::from(BranchPtr::from(branch));
        let keys: Vec<String> = map.keys(self.transaction).map(str::to_owned).collect();
        keys.into_iter().filter_map(|key| map.get(self.transaction, &key).map(|value| (key, value))).collect()
    }

    /// Writes what Yjs' `toString` makes of it. It escapes nothing.
    fn write_xml(&self, value: &Out, xml: &mut String) {
        match value {
            Out::YXmlElement(element) => {
                let name = element.try_tag().map_or_else(String::new, |tag| tag.to_lowercase());
                let branch: &Branch = element.as_ref();
                xml.push('<');
                xml.push_str(&name);
                for (key, value) in self.sorted_entries(branch) {
                    let value = match self.node(&value).into_json() {
                        serde_json::Value::String(text) => text,
                        other => other.to_string(),
                    };
                    write_to(xml, format_args!(" {key}=\"{value}\""));
                }
                xml.push('>');
                self.write_children(branch, xml);
                write_to(xml, format_args!("</{name}>"));
            }
            Out::YXmlFragment(fragment) => self.write_children(fragment.as_ref(), xml),
            Out::YXmlText(text) => self.write_text(text.as_ref(), xml),
            Out::Any(Any::String(text)) => xml.push_str(text),
            other => {
                let _ = write!(xml, "{}", self.node(other).into_json());
            }
        }
    }

    fn write_children(&self, branch: &Branch, xml: &mut String) {
        if self.has_string(branch) {
            xml.push_str(&TextRef::from(BranchPtr::from(branch)).get_string(self.transaction));
        } else {
            self.values(branch).iter().for_each(|value| self.write_xml(value, xml));
        }
    }

    fn write_text(&self, branch: &Branch, xml: &mut String) {
        let text = TextRef::from(BranchPtr::from(branch));
        let string = text.get_string(self.transaction);
        let others = text.len(self.transaction).saturating_sub(utf16_length(&string)) as usize;
        let Some(pieces) = self.pieces(&text, others) else { return xml.push_str(&string) };
        for (value, attributes) in pieces {
            let mut attributes: BTreeMap<_, _> =
                attributes.iter().flat_map(|attributes| attributes.iter()).collect();
            let tags = attributes.iter().map(|(name, value)| 2 * name.len() + 5 + scalar_bytes(value));
            match self.tags_bytes.get().checked_sub(tags.sum()) {
                Some(left) => self.tags_bytes.set(left),
                None => attributes.clear(),
            }
            for (name, value) in &attributes {
                xml.push('<');
                xml.push_str(name);
                if let Any::Map(details) = value {
                    let sorted: BTreeMap<_, _> = details.iter().collect();
                    for (key, value) in sorted {
                        let value = match any_to_json(value) {
                            serde_json::Value::String(text) => text,
                            other => other.to_string(),
                        };
                        write_to(xml, format_args!(" {key}=\"{value}\""));
                    }
                }
                xml.push('>');
            }
            self.write_xml(&value, xml);
            for name in attributes.keys().rev() {
                write_to(xml, format_args!("</{name}>"));
            }
        }
    }
}

fn is_xml(value: &Out) -> bool {
    matches!(value, Out::YXmlElement(_) | Out::YXmlFragment(_) | Out::YXmlText(_))
}

fn write_to(xml: &mut String, arguments: std::fmt::Arguments<'_>) {
    xml.write_fmt(arguments).expect("a string takes everything");
}
