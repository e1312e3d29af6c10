//! A text with its formats and embeds, as far as an edit of it as a string needs them.

use std::ops::Range;
use std::time::Instant;

use yrs::Any;
use yrs::types::Attrs;

use super::super::text::difference::{self, Hunk};
use super::scalar_bytes;

/// The formats of a run.
pub(in super::super) type Marks = Attrs;

#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Piece {
    Text(String),
    /// An image, a mention: one unit of the text that its string does not show.
    Embed(Any),
}

/// A stretch of a text that is formatted alike.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Run {
    pub(in super::super) piece: Piece,
    pub(in super::super) marks: Marks,
}

/// One change of a text. Positions and lengths in UTF-16 code units, embeds counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Splice {
    pub(in super::super) position: u32,
    pub(in super::super) deleted: u32,
    pub(in super::super) inserted: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(in super::super) struct Passage {
    runs: Vec<Run>,
}

impl Passage {
    pub(in super::super) fn plain(text: String) -> Self {
        // An empty text has no run, however it is read.
        if text.is_empty() {
            return Self::default();
        }
        Self::new(vec![Run { piece: Piece::Text(text), marks: Marks::default() }])
    }

    pub(in super::super) fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    pub(in super::super) fn runs(self) -> Vec<Run> {
        self.runs
    }

    /// Without formats and embeds.
    pub(in super::super) fn text(&self) -> String {
        let texts = self.runs.iter().filter_map(|run| match &run.piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Embed(_) => None,
        });
        texts.collect()
    }

    pub(in super::super) fn weight(&self) -> usize {
        let weight = |run: &Run| {
            let marks = run.marks.iter().map(|(name, value)| 2 * (24 + name.len() + scalar_bytes(value)));
            let piece = match &run.piece {
                Piece::Text(text) => text.len(),
                Piece::Embed(value) => 12 + scalar_bytes(value),
            };
            piece + marks.sum::<usize>()
        };
        self.runs.iter().map(weight).sum()
    }

    /// Becomes another text by the smallest edit that leads there. Embeds stay, as they are no part of the string.
    ///
    /// The changes are to be made in their order: from the end to the beginning, so that none moves another's place.
    /// `until`: how long the smallest edit may be looked for.
    pub(in super::super) fn replace(&mut self, new: &str, until: Option<Instant>) -> Vec<Splice> {
        let hunks = difference::between(&self.text(), new, until).into_iter().rev();
        hunks.flat_map(|Hunk { old, new: part }| self.splice(old, &new[part])).collect()
    }

    /// Replaces a part of the string, given in bytes.
    fn splice(&mut self, part: Range<usize>, inserted: &str) -> Vec<Splice> {
        let Range { start, end } = part;
        let mut splices = Vec::new();
        let mut runs = Vec::with_capacity(self.runs.len() + 1);
        let mut insertion = if start == 0 { Some(0) } else { None };
        if start == 0 && !inserted.is_empty() {
            runs.push(Run { piece: Piece::Text(inserted.to_owned()), marks: Marks::default() });
        }
        // Where the run begins: in the string, and in the text as the CRDT counts.
        let (mut offset, mut position) = (0, 0);
        for run in self.runs.drain(..) {
            let Piece::Text(text) = &run.piece else {
                position += 1;
                runs.push(run);
                continue;
            };
            let run_end = offset + text.len();
            let cut = |at: usize| at.clamp(offset, run_end) - offset;
            let (before, deleted, after) =
                (&text[..cut(start)], &text[cut(start)..cut(end)], &text[cut(end)..]);
            if !deleted.is_empty() {
                splices.push(Splice {
                    position: position + utf16_length(before),
                    deleted: utf16_length(deleted),
                    inserted: String::new(),
                });
            }
            let mut rest = before.to_owned();
            if insertion.is_none() && start <= run_end {
                insertion = Some(position + utf16_length(before));
                rest.push_str(inserted);
            }
            rest.push_str(after);
            offset = run_end;
            position += utf16_length(text);
            if !rest.is_empty() {
                runs.push(Run { piece: Piece::Text(rest), marks: run.marks });
            }
        }
        self.runs = runs;
        splices.reverse();
        if !inserted.is_empty() {
            let position = insertion.expect("the start lies within one of the runs");
            splices.push(Splice { position, deleted: 0, inserted: inserted.to_owned() });
        }
        splices
    }
}

pub(in super::super) fn utf16_length(text: &str) -> u32 {
    text.chars().map(|character| character.len_utf16() as u32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splice(position: u32, deleted: u32, inserted: &str) -> Splice {
        Splice { position, deleted, inserted: inserted.to_owned() }
    }

    #[test]
    fn a_replacement_is_as_small_as_one_can_be() {
        for (old, new, splices) in [
            ("", "", vec![]),
            ("abc", "abc", vec![]),
            ("", "abc", vec![splice(0, 0, "abc")]),
            ("abc", "", vec![splice(0, 3, "")]),
            ("abcd", "abxd", vec![splice(2, 1, ""), splice(2, 0, "x")]),
            ("🌍a🌍", "🌍b🌍", vec![splice(2, 1, ""), splice(2, 0, "b")]),
            ("🌍", "🌎", vec![splice(0, 2, ""), splice(0, 0, "🌎")]),
            ("aa", "aaa", vec![splice(2, 0, "a")]),
            ("one two", "1 two 3", vec![splice(7, 0, " 3"), splice(0, 3, ""), splice(0, 0, "1")]),
        ] {
            let mut passage = Passage::plain(old.to_owned());
            assert_eq!(passage.replace(new, None), splices, "{old:?} to {new:?}");
            assert_eq!(passage.text(), new);
        }
    }

    #[test]
    fn embeds_are_stepped_around_and_formats_continue() {
        let bold = Marks::from([("bold".into(), Any::Bool(true))]);
        let embed = || Run { piece: Piece::Embed(Any::Null), marks: Marks::default() };
        let text = |text: &str, marks: &Marks| Run { piece: Piece::Text(text.into()), marks: marks.clone() };
        let plain = Marks::default();
        let mut passage = Passage::new(vec![embed(), text("ab", &bold), embed(), text("cd", &plain)]);
        assert_eq!(passage.text(), "abcd");
        assert_eq!(passage.replace("aXd", None), [splice(4, 1, ""), splice(2, 1, ""), splice(2, 0, "X")]);
        assert_eq!(passage.runs(), [embed(), text("aX", &bold), embed(), text("d", &plain)]);
    }
}
