//! What somebody may do: levels, and the patterns of document ids that they are given for.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::ids::DocumentId;

/// What somebody may do with a document. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
    Admin,
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

impl std::str::FromStr for Access {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        match raw {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "admin" => Ok(Self::Admin),
            _ => Err(format!("`{raw}` is none of read, write, admin")),
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Read {}
    impl Sealed for super::Write {}
    impl Sealed for super::Admin {}
}

/// An `Access` as a type: what a handler was not granted it cannot even name.
pub trait Level: sealed::Sealed + Send + Sync + 'static {
    const ACCESS: Access;
}

/// The levels that include writing.
pub trait MayWrite: Level {}

#[derive(Debug, Clone, Copy)]
pub enum Read {}
#[derive(Debug, Clone, Copy)]
pub enum Write {}
#[derive(Debug, Clone, Copy)]
pub enum Admin {}

impl Level for Read {
    const ACCESS: Access = Access::Read;
}
impl Level for Write {
    const ACCESS: Access = Access::Write;
}
impl Level for Admin {
    const ACCESS: Access = Access::Admin;
}
impl MayWrite for Write {}
impl MayWrite for Admin {}

/// Document ids, as a token names them: `*` matches any run of characters, everything else itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    pub fn new(raw: &str) -> Self {
        Self(raw.into())
    }

    /// Takes time in proportion to both lengths at the most, however many stars there are.
    fn matches(&self, id: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = id.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // What stands between two stars may be taken where it is found first: what follows has the most room then.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// Whether it surely matches every id that begins with `prefix`.
    fn covers(&self, prefix: &str) -> bool {
        self.0.strip_suffix('*').is_some_and(|head| !head.contains('*') && prefix.starts_with(head))
    }
}

/// What a token gives: patterns, and the access to the documents that they match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights(Vec<(Pattern, Access)>);

impl Rights {
    /// The strongest access of a pattern that matches; `None`: none does.
    pub fn on(&self, document: &DocumentId) -> Option<Access> {
        self.strongest(|pattern| pattern.matches(document.as_str()))
    }

    /// The strongest access to all documents whose ids begin with `prefix`, those included that do not exist yet.
    pub fn on_all(&self, prefix: &str) -> Option<Access> {
        self.strongest(|pattern| pattern.covers(prefix))
    }

    fn strongest(&self, counts: impl Fn(&Pattern) -> bool) -> Option<Access> {
        self.0.iter().filter(|(pattern, _)| counts(pattern)).map(|(_, access)| *access).max()
    }
}

impl FromIterator<(Pattern, Access)> for Rights {
    fn from_iter<I: IntoIterator<Item = (Pattern, Access)>>(rights: I) -> Self {
        Self(rights.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Rights {
    /// A pattern given twice is refused: what the two say would depend on who reads them.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Rights;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of patterns and read, write or admin")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rights, A::Error> {
                let mut rights: Vec<(Pattern, Access)> = Vec::new();
                while let Some((pattern, access)) = map.next_entry::<String, Access>()? {
                    let pattern = Pattern::new(&pattern);
                    if rights.iter().any(|(given, _)| *given == pattern) {
                        return Err(serde::de::Error::custom("a pattern is given twice"));
                    }
                    rights.push((pattern, access));
                }
                Ok(Rights(rights))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        Pattern::new(pattern).matches(id)
    }

    #[test]
    fn a_star_matches_any_run_of_characters_and_nothing_else_does() {
        for (pattern, id) in [
            ("*", "a"),
            ("a", "a"),
            ("ws-*", "ws-17"),
            ("ws-*", "ws-"),
            ("*-notes", "lecture-3-notes"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "abc"),
            ("a*a", "aa"),
            ("*b*", "abc"),
        ] {
            assert!(matches(pattern, id), "{pattern} matches {id}");
        }
        for (pattern, id) in [
            ("", "a"),
            ("a", "A"),
            ("a", "ab"),
            ("ws-*", "xws-1"),
            ("*-notes", "notes"),
            ("a*b*c", "a-c-b"),
            ("a*a", "a"),
            ("ab*bc", "abc"),
            ("a?", "ab"),
            (".*", "a"),
            ("[a-z]", "b"),
        ] {
            assert!(!matches(pattern, id), "{pattern} does not match {id}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "a*".repeat(1000) + "b";
        assert!(!matches(&pattern, &"a".repeat(128)));
    }

    #[test]
    fn the_strongest_match_counts() {
        let rights: Rights =
            serde_json::from_str(r#"{"lecture-*":"read","lecture-7":"write","*":"read"}"#).expect("rights");
        let on = |id: &str| rights.on(&id.parse().expect("an id"));
        assert_eq!(on("lecture-7"), Some(Access::Write));
        assert_eq!(on("lecture-8"), Some(Access::Read));
        assert_eq!(Rights::default().on(&"a".parse().expect("an id")), None);
    }

    #[test]
    fn a_pattern_covers_a_prefix_only_if_it_matches_all_that_begins_so() {
        let covers = |pattern: &str, prefix: &str| Pattern::new(pattern).covers(prefix);
        assert!(covers("*", "") && covers("ws-*", "ws-") && covers("ws-*", "ws-1"));
        assert!(!covers("ws-*", "ws") && !covers("ws-1", "ws-1") && !covers("*-1*", "a-1"));
    }

    #[test]
    fn rights_that_can_be_read_in_two_ways_are_refused() {
        for raw in [r#"{"a":"read","a":"admin"}"#, r#"{"a":"owner"}"#, r#"{"a":1}"#, r#"["a"]"#, r#""a""#] {
            assert!(serde_json::from_str::<Rights>(raw).is_err(), "{raw}");
        }
    }
}
