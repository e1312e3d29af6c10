//! The smallest edit from one text to another that still reads like one.
//!
//! Words are compared, and within the words that differ what is the same at both ends: so `wrld` becomes `world` by
//! one letter, and a sentence that was replaced is not put together from letters that both happen to have. Nothing
//! is cut within what is one character to a reader.

use std::ops::Range;
use std::time::Instant;

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};
use unicode_segmentation::UnicodeSegmentation;

/// A part of the old text and what takes its place, in bytes. One of them may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    pub old: Range<usize>,
    pub new: Range<usize>,
}

/// What must be replaced, in order; nothing touches what comes after it.
///
/// `until`: how long to look for the smallest way. From then on what is left is replaced as one.
pub fn between(old: &str, new: &str, until: Option<Instant>) -> Vec<Hunk> {
    let (start, end) = common_ends(old, new);
    let middle = Hunk { old: start..old.len() - end, new: start..new.len() - end };
    if middle.old.is_empty() && middle.new.is_empty() {
        return Vec::new();
    }
    let hunks = if middle.old.is_empty() || middle.new.is_empty() {
        vec![middle]
    } else {
        by_words(old, new, &middle, until)
    };
    let trimmed = hunks.into_iter().map(|hunk| trim(old, new, hunk));
    let some = trimmed.filter(|hunk| !(hunk.old.is_empty() && hunk.new.is_empty()));
    some.flat_map(|hunk| by_additions(old, new, &hunk).unwrap_or_else(|| vec![hunk])).collect()
}

/// The parts of a hunk where one text only has more than the other: what both have need not be replaced.
fn by_additions(old: &str, new: &str, hunk: &Hunk) -> Option<Vec<Hunk>> {
    /// Longer ones are no words.
    const BYTES_MAX: usize = 256;
    let (old_bytes, new_bytes) = (hunk.old.len(), hunk.new.len());
    if old_bytes == 0 || new_bytes == 0 || old_bytes.max(new_bytes) > BYTES_MAX {
        return None;
    }
    if old_bytes > new_bytes {
        let mirrored = Hunk { old: hunk.new.clone(), new: hunk.old.clone() };
        let parts = by_additions(new, old, &mirrored)?;
        return Some(parts.into_iter().map(|part| Hunk { old: part.new, new: part.old }).collect());
    }
    let mut wanted = old[hunk.old.clone()].graphemes(true).peekable();
    let mut at = hunk.old.start;
    let mut parts: Vec<Hunk> = Vec::new();
    for (offset, character) in new[hunk.new.clone()].grapheme_indices(true) {
        if wanted.next_if_eq(&character).is_some() {
            at += character.len();
            continue;
        }
        let start = hunk.new.start + offset;
        match parts.last_mut() {
            Some(last) if last.new.end == start => last.new.end += character.len(),
            _ => parts.push(Hunk { old: at..at, new: start..start + character.len() }),
        }
    }
    wanted.peek().is_none().then_some(parts)
}

fn by_words(old: &str, new: &str, middle: &Hunk, until: Option<Instant>) -> Vec<Hunk> {
    let old_words = words(old, middle.old.clone());
    let new_words = words(new, middle.new.clone());
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old_words.words, &new_words.words, until);
    let mut hunks: Vec<Hunk> = Vec::new();
    for op in ops {
        if matches!(op, DiffOp::Equal { .. }) {
            continue;
        }
        let (old, new) = (old_words.bytes(op.old_range()), new_words.bytes(op.new_range()));
        match hunks.last_mut() {
            Some(last) if last.old.end == old.start && last.new.end == new.start => {
                last.old.end = old.end;
                last.new.end = new.end;
            }
            _ => hunks.push(Hunk { old, new }),
        }
    }
    hunks
}

/// A part of a text in words, spaces, punctuation.
struct Words<'a> {
    words: Vec<&'a str>,
    /// Where each begins in the text, and at last where the part ends.
    starts: Vec<usize>,
}

fn words(text: &str, part: Range<usize>) -> Words<'_> {
    let mut starts = Vec::new();
    let mut words = Vec::new();
    for (offset, word) in text[part.clone()].split_word_bound_indices() {
        starts.push(part.start + offset);
        words.push(word);
    }
    starts.push(part.end);
    Words { words, starts }
}

impl Words<'_> {
    fn bytes(&self, words: Range<usize>) -> Range<usize> {
        self.starts[words.start]..self.starts[words.end]
    }
}

/// How much is the same at both ends, in bytes: quickly found, and less than there is where a cut might not do.
fn common_ends(old: &str, new: &str) -> (usize, usize) {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    let mut start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    while start > 0 && !(may_cut(old, start) && may_cut(new, start)) {
        start -= 1;
    }
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let mut end =
        old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    while end > 0 && !(may_cut(old, old.len() - end) && may_cut(new, new.len() - end)) {
        end -= 1;
    }
    (start, end)
}

/// Whether what is on both sides of this byte is ASCII, and so a character of its own.
fn may_cut(text: &[u8], at: usize) -> bool {
    let is_plain = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii);
    let before = at.checked_sub(1).and_then(|before| text.get(before));
    let after = text.get(at);
    is_plain(before) && is_plain(after) && (before, after) != (Some(&b'\r'), Some(&b'\n'))
}

/// Takes off a hunk what is the same at both its ends, character by character as a reader sees them.
fn trim(old: &str, new: &str, hunk: Hunk) -> Hunk {
    let (mut old_part, mut new_part) = (&old[hunk.old.clone()], &new[hunk.new.clone()]);
    let same = |(old, new): &(&str, &str)| old == new;
    let length = |(character, _): (&str, &str)| character.len();
    let start: usize =
        old_part.graphemes(true).zip(new_part.graphemes(true)).take_while(same).map(length).sum();
    (old_part, new_part) = (&old_part[start..], &new_part[start..]);
    let end: usize =
        old_part.graphemes(true).rev().zip(new_part.graphemes(true).rev()).take_while(same).map(length).sum();
    Hunk { old: hunk.old.start + start..hunk.old.end - end, new: hunk.new.start + start..hunk.new.end - end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits<'a>(old: &'a str, new: &'a str) -> Vec<(&'a str, &'a str)> {
        between(old, new, None).into_iter().map(|hunk| (&old[hunk.old], &new[hunk.new])).collect()
    }

    #[test]
    fn the_same_text_needs_nothing() {
        assert_eq!(edits("same", "same"), []);
        assert_eq!(edits("", ""), []);
    }

    #[test]
    fn a_letter_is_an_edit_of_one_letter() {
        assert_eq!(edits("hello wrld", "hello world"), [("", "o")]);
        assert_eq!(edits("hello world", "hello, world"), [("", ",")]);
        assert_eq!(edits("aaa", "aaaa"), [("", "a")]);
        assert_eq!(edits("abc", ""), [("abc", "")]);
    }

    #[test]
    fn letters_added_in_several_places_of_a_word_leave_the_others_alone() {
        assert_eq!(edits("a abcd b", "a xabYcdz b"), [("", "x"), ("", "Y"), ("", "z")]);
        assert_eq!(edits("xabYcdz", "abcd"), [("x", ""), ("Y", ""), ("z", "")]);
        assert_eq!(edits("form", "from"), [("or", "ro")]);
    }

    #[test]
    fn edits_far_apart_are_several() {
        assert_eq!(
            edits("The quick fox jumps over a dog", "A quick fox jumped over a lazy dog"),
            [("The", "A"), ("s", "ed"), ("", " lazy")]
        );
    }

    #[test]
    fn nothing_is_cut_within_a_character() {
        assert_eq!(edits("x😀y", "x😁y"), [("😀", "😁")]);
        assert_eq!(edits("cafe", "cafe\u{301}"), [("e", "e\u{301}")]);
        assert_eq!(edits("👩‍👩‍👧 go", "👩‍👩‍👦 go"), [("👩‍👩‍👧", "👩‍👩‍👦")]);
        assert_eq!(edits("a\r\nb", "a\rb"), [("\r\n", "\r")]);
        assert_eq!(edits("世界", "世の界"), [("", "の")]);
    }

    #[test]
    fn out_of_time_the_rest_is_replaced_and_the_text_is_right() {
        let numbers = |step: usize| (0..20_000).map(|n| format!("{} ", n * step)).collect::<String>();
        let (old, new) = (numbers(3), numbers(7));
        let mut text = old.clone();
        for hunk in between(&old, &new, Some(Instant::now())).into_iter().rev() {
            text.replace_range(hunk.old, &new[hunk.new]);
        }
        assert_eq!(text, new);
    }
}
