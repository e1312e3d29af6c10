//! Edits of a text by those who have no CRDT library: what they may ask for, and what it comes down to.
//!
//! Pure. An edit is checked and counted out here against a copy of the text (`Content`), and becomes steps that the
//! CRDT library is given one after the other: it is never handed a position that it could stumble over.
//!
//! An embed (an image, a mention, a nested type) counts as one in every unit, as it does for Yjs.

pub(super) mod difference;

use std::ops::Range;
use std::time::Instant;

use serde_json::{Map, Value};

/// What positions and lengths are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// As JavaScript and Yjs do.
    #[default]
    Utf16,
    /// Unicode scalar values, as Python does.
    Char,
    /// Of UTF-8.
    Byte,
}

/// Where something is done. Whole numbers as they were given: a negative one is a position that no text has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    At(i64),
    End,
}

/// One of several edits that are made in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Insert { at: Place, text: String },
    Delete { at: Place, length: i64 },
}

/// Names of formats with their values; null takes one away.
pub type Attributes = Map<String, Value>;

/// One part of a delta, as Quill and Yjs have them.
#[derive(Debug, Clone, PartialEq)]
pub enum DeltaOp {
    Retain { length: i64, attributes: Attributes },
    Insert { text: String, attributes: Attributes },
    Embed { value: Value, attributes: Attributes },
    Delete { length: i64 },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    Ops(Vec<Op>),
    Delta(Vec<DeltaOp>),
    /// Whatever leads to this text, and as little as possible.
    Replace(String),
}

/// An edit of one root, and what it is counted in.
#[derive(Debug, Clone, PartialEq)]
pub struct TextChange {
    pub root: String,
    pub unit: Unit,
    pub edit: Edit,
}

impl TextChange {
    /// How much it brings, in bytes, roughly.
    pub(super) fn bytes(&self) -> usize {
        match &self.edit {
            Edit::Replace(text) => text.len(),
            Edit::Ops(ops) => ops
                .iter()
                .map(|op| match op {
                    Op::Insert { text, .. } => text.len() + 16,
                    Op::Delete { .. } => 16,
                })
                .sum(),
            // A format is long to make even where it is short to say.
            Edit::Delta(delta) => delta.len() * 64,
        }
    }
}

/// What the CRDT library is to do. Positions and lengths in UTF-16, in the text as it is when their turn comes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// `None`: formatted as what it follows.
    Insert {
        at: u32,
        text: String,
        attributes: Option<Attributes>,
    },
    Embed {
        at: u32,
        value: Value,
        attributes: Attributes,
    },
    Delete {
        at: u32,
        length: u32,
    },
    Format {
        at: u32,
        length: u32,
        attributes: Attributes,
    },
}

impl Step {
    /// How much longer the document becomes by it, in bytes, about.
    pub(super) fn added_bytes(&self) -> usize {
        let json = |attributes: &Attributes| {
            attributes.iter().map(|(name, value)| 2 * (name.len() + value.to_string().len())).sum::<usize>()
        };
        match self {
            Self::Insert { text, attributes, .. } => text.len() + attributes.as_ref().map_or(0, json),
            Self::Embed { value, attributes, .. } => value.to_string().len() + json(attributes),
            Self::Format { attributes, .. } => json(attributes),
            Self::Delete { .. } => 0,
        }
    }
}

/// Why an edit cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// `length`: of the text when the part of the edit that failed had its turn. Both in the edit's unit.
    InvalidPosition { position: i64, length: u64 },
    /// The caller's patience ended.
    TooCostly,
}

/// Stands for an embed in the copy of a text: one unit in every way of counting.
const EMBED: char = '\u{1a}';

/// A copy of a text, with its lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    text: String,
    /// Where in `text` an `EMBED` is one, ascending.
    embeds: Vec<usize>,
    utf16: usize,
    chars: usize,
}

impl Content {
    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
        self.utf16 += utf16_length(text);
        self.chars += char_length(text);
    }

    pub(super) fn push_embed(&mut self) {
        self.embeds.push(self.text.len());
        self.text.push(EMBED);
        self.utf16 += 1;
        self.chars += 1;
    }

    fn push_part(&mut self, other: &Self, part: Range<usize>) {
        let first = other.embeds.partition_point(|embed| *embed < part.start);
        let moved = other.embeds[first..].iter().take_while(|embed| **embed < part.end);
        self.embeds.extend(moved.map(|embed| embed - part.start + self.text.len()));
        self.push_text(&other.text[part]);
    }

    pub(super) fn length(&self, unit: Unit) -> u64 {
        let length = match unit {
            Unit::Utf16 => self.utf16,
            Unit::Char => self.chars,
            Unit::Byte => self.text.len(),
        };
        length as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The byte that lies `count` units after byte `from`. `None`: past the end, before the start, or in a character.
    fn offset(&self, from: usize, count: i64, unit: Unit) -> Option<usize> {
        let count = usize::try_from(count).ok()?;
        let rest = &self.text[from..];
        // Where all characters are ASCII every unit is a byte.
        if unit == Unit::Byte || self.utf16 == self.text.len() {
            return rest.is_char_boundary(count).then_some(from + count);
        }
        let mut units = 0;
        for (offset, character) in rest.char_indices() {
            if units >= count {
                return (units == count).then_some(from + offset);
            }
            units += if unit == Unit::Char { 1 } else { character.len_utf16() };
        }
        (units == count).then_some(self.text.len())
    }

    /// Where in UTF-16 a byte is.
    fn utf16_at(&self, offset: usize) -> usize {
        if offset == self.text.len() {
            self.utf16
        } else if self.utf16 == self.text.len() {
            offset
        } else {
            utf16_length(&self.text[..offset])
        }
    }

    fn replace(&mut self, part: Range<usize>, with: &str) {
        let old = &self.text[part.clone()];
        self.utf16 = self.utf16 + utf16_length(with) - utf16_length(old);
        self.chars = self.chars + char_length(with) - char_length(old);
        let first = self.embeds.partition_point(|embed| *embed < part.start);
        let last = self.embeds.partition_point(|embed| *embed < part.end);
        self.embeds.drain(first..last);
        for embed in &mut self.embeds[first..] {
            *embed = *embed + with.len() - part.len();
        }
        self.text.replace_range(part, with);
    }

    /// Counts an edit out. This becomes the text afterwards; after an error it is nothing any more.
    ///
    /// `is_patient`: asked now and then whether it may go on. `difference_until`: how long the smallest way to a new
    /// text may be looked for; a short way does then.
    pub(super) fn plan(
        &mut self,
        edit: &Edit,
        unit: Unit,
        is_patient: &dyn Fn() -> bool,
        difference_until: Option<Instant>,
    ) -> Result<Vec<Step>, Misfit> {
        match edit {
            Edit::Ops(ops) => {
                let mut steps = Vec::with_capacity(ops.len());
                for op in ops {
                    if !is_patient() {
                        return Err(Misfit::TooCostly);
                    }
                    steps.extend(self.op(op, unit)?);
                }
                Ok(steps)
            }
            Edit::Delta(delta) => self.delta(delta, unit, is_patient),
            Edit::Replace(text) => Ok(self.become_text(text, difference_until)),
        }
    }

    fn op(&mut self, op: &Op, unit: Unit) -> Result<Option<Step>, Misfit> {
        let length = self.length(unit);
        let invalid = |position| Misfit::InvalidPosition { position, length };
        let place = |at: &Place| match at {
            Place::End => Ok(self.text.len()),
            Place::At(position) => self.offset(0, *position, unit).ok_or(invalid(*position)),
        };
        match op {
            Op::Insert { at, text } => {
                let offset = place(at)?;
                if text.is_empty() {
                    return Ok(None);
                }
                let at = narrow(self.utf16_at(offset));
                self.replace(offset..offset, text);
                Ok(Some(Step::Insert { at, text: text.clone(), attributes: None }))
            }
            Op::Delete { at, length: deleted } => {
                let start = place(at)?;
                let position = match at {
                    Place::At(position) => *position,
                    Place::End => i64::try_from(length).unwrap_or(i64::MAX),
                };
                let end =
                    self.offset(start, *deleted, unit).ok_or(invalid(position.saturating_add(*deleted)))?;
                if start == end {
                    return Ok(None);
                }
                let at = narrow(self.utf16_at(start));
                let length = narrow(utf16_length(&self.text[start..end]));
                self.replace(start..end, "");
                Ok(Some(Step::Delete { at, length }))
            }
        }
    }

    /// One pass over the text: what was passed is put together anew.
    fn delta(
        &mut self,
        delta: &[DeltaOp],
        unit: Unit,
        is_patient: &dyn Fn() -> bool,
    ) -> Result<Vec<Step>, Misfit> {
        let mut steps = Vec::new();
        let mut passed = Self::default();
        let mut cursor = 0;
        // What was passed or deleted of the old text, in `unit`.
        let mut consumed = 0;
        for op in delta {
            if !is_patient() {
                return Err(Misfit::TooCostly);
            }
            let at = narrow(passed.utf16);
            let mut consume = |count: i64| {
                let length = passed.length(unit) + self.length(unit) - consumed;
                let position = i64::try_from(passed.length(unit)).unwrap_or(i64::MAX).saturating_add(count);
                let invalid = Misfit::InvalidPosition { position, length };
                let end = self.offset(cursor, count, unit).ok_or(invalid)?;
                consumed += count.unsigned_abs();
                let part = cursor..end;
                cursor = end;
                let length = narrow(utf16_length(&self.text[part.clone()]));
                Ok((part, length))
            };
            match op {
                DeltaOp::Retain { length, attributes } => {
                    let (part, length) = consume(*length)?;
                    if !attributes.is_empty() && length > 0 {
                        steps.push(Step::Format { at, length, attributes: attributes.clone() });
                    }
                    passed.push_part(self, part);
                }
                DeltaOp::Delete { length } => {
                    let (_, length) = consume(*length)?;
                    if length > 0 {
                        steps.push(Step::Delete { at, length });
                    }
                }
                DeltaOp::Insert { text, attributes } => {
                    if !text.is_empty() {
                        let attributes = Some(attributes.clone());
                        steps.push(Step::Insert { at, text: text.clone(), attributes });
                        passed.push_text(text);
                    }
                }
                DeltaOp::Embed { value, attributes } => {
                    let (value, attributes) = (value.clone(), attributes.clone());
                    steps.push(Step::Embed { at, value, attributes });
                    passed.push_embed();
                }
            }
        }
        passed.push_part(self, cursor..self.text.len());
        *self = passed;
        Ok(steps)
    }

    /// The smallest edit that leads to `new`. Embeds stay: whoever replaces a text is not shown them.
    ///
    /// From the end to the beginning, so that no step moves what another is about.
    fn become_text(&mut self, new: &str, difference_until: Option<Instant>) -> Vec<Step> {
        let shown = self.without_embeds();
        let hunks = difference::between(shown.as_deref().unwrap_or(&self.text), new, difference_until);
        let mut parts: Vec<(Range<usize>, &str)> = Vec::with_capacity(hunks.len());
        for hunk in &hunks {
            let mut inserted = &new[hunk.new.clone()];
            for part in self.around_embeds(hunk.old.clone()) {
                parts.push((part, std::mem::take(&mut inserted)));
            }
        }
        let mut steps = Vec::with_capacity(2 * parts.len());
        let mut counted = 0;
        let mut utf16 = 0;
        for (part, inserted) in &parts {
            utf16 += utf16_length(&self.text[counted..part.start]);
            let at = narrow(utf16);
            // In this order, so that in the reverse one the deletion comes first.
            if !inserted.is_empty() {
                steps.push(Step::Insert { at, text: (*inserted).to_owned(), attributes: None });
            }
            if !part.is_empty() {
                let length = utf16_length(&self.text[part.clone()]);
                steps.push(Step::Delete { at, length: narrow(length) });
                utf16 += length;
            }
            counted = part.end;
        }
        steps.reverse();
        if self.embeds.is_empty() {
            *self = Self::default();
            self.push_text(new);
        } else {
            for (part, inserted) in parts.into_iter().rev() {
                self.replace(part, inserted);
            }
        }
        steps
    }

    /// The text as it is shown, if that is another.
    fn without_embeds(&self) -> Option<String> {
        if self.embeds.is_empty() {
            return None;
        }
        let mut shown = String::with_capacity(self.text.len());
        let mut start = 0;
        for embed in &self.embeds {
            shown.push_str(&self.text[start..*embed]);
            start = embed + EMBED.len_utf8();
        }
        shown.push_str(&self.text[start..]);
        Some(shown)
    }

    /// A part of the text as it is shown, as the parts between embeds that it is here. At least one.
    fn around_embeds(&self, shown: Range<usize>) -> Vec<Range<usize>> {
        let mut parts = Vec::with_capacity(1);
        // An embed's place in the text as it is shown.
        let places = self.embeds.iter().enumerate().map(|(before, embed)| embed - before);
        let before = places.clone().take_while(|place| *place <= shown.start).count();
        let mut start = shown.start;
        let mut shift = before;
        for place in places.skip(before).take_while(|place| *place < shown.end) {
            if place > start {
                parts.push(start + shift..place + shift);
            }
            start = place;
            shift += 1;
        }
        if parts.is_empty() || shown.end > start {
            parts.push(start + shift..shown.end + shift);
        }
        parts
    }
}

/// Texts of documents have some 64 MiB at the most.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("no document is so large")
}

fn utf16_length(text: &str) -> usize {
    // Characters that take four bytes in UTF-8 take two units, all others one.
    text.bytes().map(|byte| usize::from(byte & 0xc0 != 0x80) + usize::from(byte >= 0xf0)).sum()
}

fn char_length(text: &str) -> usize {
    text.bytes().filter(|byte| byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests;
