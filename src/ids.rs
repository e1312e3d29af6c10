//! The names that travel on the wire, each parsed once at the edge.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

/// Longest document id, in bytes (the alphabet is ASCII).
pub const DOCUMENT_ID_BYTES_MAX: usize = 128;
/// Longest client id, in bytes (the alphabet is ASCII).
pub const CLIENT_ID_BYTES_MAX: usize = 64;

/// Why a text is no document id or client id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to {bytes_max} characters of A-Z a-z 0-9 . _ ~ : @ - and begins with a letter or digit")]
pub struct InvalidId {
    bytes_max: usize,
}

/// `[A-Za-z0-9][A-Za-z0-9._~:@-]*`: safe in a path, in a log line and in an event stream.
fn check_name(raw: &str, bytes_max: usize) -> Result<Arc<str>, InvalidId> {
    let follows = |byte: &u8| byte.is_ascii_alphanumeric() || b"._~:@-".contains(byte);
    let bytes = raw.as_bytes();
    let valid = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= bytes_max
        && bytes.iter().all(follows);
    if valid { Ok(raw.into()) } else { Err(InvalidId { bytes_max }) }
}

/// Names one document. Case matters. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DocumentId(Arc<str>);

/// Names one open tab, script or agent; chosen by the client itself. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ClientId(Arc<str>);

macro_rules! name {
    ($name:ident, $bytes_max:expr) => {
        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(raw: &str) -> Result<Self, InvalidId> {
                check_name(raw, $bytes_max).map(Self)
            }
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}
name!(DocumentId, DOCUMENT_ID_BYTES_MAX);
name!(ClientId, CLIENT_ID_BYTES_MAX);

/// Longest name of a version, in characters.
pub const VERSION_NAME_CHARACTERS_MAX: usize = 100;

/// Why a text is no name of a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a version's name is 1 to {VERSION_NAME_CHARACTERS_MAX} characters, none of them a control character, without white \
     space at its ends"
)]
pub struct InvalidVersionName;

/// Names a point of a document's history, in the words of whoever named it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VersionName(Arc<str>);

impl FromStr for VersionName {
    type Err = InvalidVersionName;

    fn from_str(raw: &str) -> Result<Self, InvalidVersionName> {
        let length = raw.chars().count();
        let valid = (1..=VERSION_NAME_CHARACTERS_MAX).contains(&length)
            && raw.trim() == raw
            && !raw.chars().any(char::is_control);
        if valid { Ok(Self(raw.into())) } else { Err(InvalidVersionName) }
    }
}

impl VersionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Names one life of a document: drawn when it is first written.
///
/// Eight characters of `a-z0-9`, 41 bits: only the lives of one document must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; Epoch::LENGTH]);

impl Epoch {
    const LENGTH: usize = 8;
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

    /// `entropy`: 64 random bits.
    pub fn from_entropy(mut entropy: u64) -> Self {
        let base = Self::ALPHABET.len() as u64;
        Self(std::array::from_fn(|_| {
            let character = Self::ALPHABET[(entropy % base) as usize];
            entropy /= base;
            character
        }))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an epoch is made of ASCII characters only")
    }
}

impl FromStr for Epoch {
    type Err = InvalidId;

    fn from_str(raw: &str) -> Result<Self, InvalidId> {
        let invalid = InvalidId { bytes_max: Self::LENGTH };
        let bytes: [u8; Self::LENGTH] = raw.as_bytes().try_into().map_err(|_| invalid.clone())?;
        if bytes.iter().all(|byte| Self::ALPHABET.contains(byte)) { Ok(Self(bytes)) } else { Err(invalid) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Counts a document's accepted updates: 1, 2, 3 … without a gap, in the order of commit.
/// Zero stands before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Sequence(u64);

impl Sequence {
    pub const ZERO: Self = Self(0);

    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// How many updates lie after `earlier`, up to and including this one.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The sequence `count` updates before this one, zero at the least.
    pub const fn minus(self, count: u64) -> Self {
        Self(self.0.saturating_sub(count))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_id_takes_the_whole_alphabet_and_keeps_case() {
        let id: DocumentId = "Room-7.a_b~c:d@e".parse().expect("every character is allowed");
        assert_eq!(id.as_str(), "Room-7.a_b~c:d@e");
        assert_ne!(id, "room-7.a_b~c:d@e".parse().expect("lower case is another document"));
    }

    #[test]
    fn ids_that_could_leave_their_place_are_refused() {
        for raw in ["", ".", "..", "-a", "a/b", "a b", "a\nb", "a\r", "a\0", "é", "a%41", "_x"] {
            assert!(raw.parse::<DocumentId>().is_err(), "{raw:?} as a document id");
            assert!(raw.parse::<ClientId>().is_err(), "{raw:?} as a client id");
        }
    }

    #[test]
    fn ids_have_a_longest_length() {
        assert!("a".repeat(128).parse::<DocumentId>().is_ok());
        assert!("a".repeat(129).parse::<DocumentId>().is_err());
        assert!("a".repeat(64).parse::<ClientId>().is_ok());
        assert!("a".repeat(65).parse::<ClientId>().is_err());
    }

    #[test]
    fn an_epoch_reads_back_as_written() {
        let epoch = Epoch::from_entropy(0x0123_4567_89ab_cdef);
        assert_eq!(epoch.as_str().parse(), Ok(epoch));
        assert_ne!(epoch, Epoch::from_entropy(1));
        assert!("K3F9X2AB".parse::<Epoch>().is_err());
    }
}
