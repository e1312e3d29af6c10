//! What a block holds: measured and checked, never kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{FormatError, Kind};
use crate::document::lib0::{Malformed, Reader};

const DELETED: u8 = 1;
const JSON: u8 = 2;
const BINARY: u8 = 3;
const STRING: u8 = 4;
const EMBED: u8 = 5;
pub(super) const FORMAT: u8 = 6;
const TYPE: u8 = 7;
const ANY: u8 = 8;
const SUBDOCUMENT: u8 = 9;

/// Steps over the content of kind `content` and answers with its kind and its length in clocks.
///
/// `block_start`: where to point if there is no such kind.
pub(super) fn read(
    reader: &mut Reader<'_>,
    content: u8,
    block_start: usize,
) -> Result<(Kind, u64), FormatError> {
    match content {
        DELETED => Ok((Kind::Deleted, reader.varuint()?)),
        BINARY => {
            reader.var_buffer()?;
            Ok((Kind::Value, 1))
        }
        STRING => Ok((Kind::Value, utf16_length(reader.var_string()?))),
        EMBED => {
            read_json(reader)?;
            Ok((Kind::Value, 1))
        }
        FORMAT => {
            reader.var_string()?;
            read_json(reader)?;
            Ok((Kind::Value, 1))
        }
        TYPE => {
            read_type(reader)?;
            Ok((Kind::Type, 1))
        }
        ANY => {
            let count = reader.count(1)?;
            for _ in 0..count {
                reader.skip_any()?;
            }
            Ok((Kind::Value, count as u64))
        }
        JSON => Err(FormatError::Unsupported { content: "the JSON content of old Yjs versions" }),
        SUBDOCUMENT => Err(FormatError::Unsupported { content: "sub-documents" }),
        _ => Err(Reader::malformed(block_start, "a block of an unknown kind").into()),
    }
}

/// Steps over what tells a nested type's kind.
fn read_type(reader: &mut Reader<'_>) -> Result<(), FormatError> {
    let start = reader.offset();
    match reader.varuint()? {
        // Array, map, text, XML fragment, XML text.
        0 | 1 | 2 | 4 | 6 => Ok(()),
        // An XML element has its node name.
        3 => Ok(reader.var_string().map(drop)?),
        // Yjs writes a hook's name and yrs doesn't read it: it would take the name for the next block.
        5 => Err(FormatError::Unsupported { content: "XML hooks" }),
        7 => Err(FormatError::Unsupported { content: "weak links" }),
        _ => Err(Reader::malformed(start, "a type of an unknown kind").into()),
    }
}

/// Length as JavaScript counts it. Bytes that begin a character count one, and those that begin a character
/// of four bytes, a surrogate pair, count one more.
fn utf16_length(text: &str) -> u64 {
    text.bytes().map(|byte| u64::from(byte & 0xc0 != 0x80) + u64::from(byte >= 0xf0)).sum()
}

/// Steps over a string that holds JSON.
fn read_json(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    let start = reader.offset();
    let text = reader.var_string()?;
    // Most marks are one of these.
    if matches!(text, "true" | "false" | "null") {
        return Ok(());
    }
    serde_json::from_str::<Checked>(text)
        .map(drop)
        .map_err(|_| Reader::malformed(start, "an embedded value is not JSON"))
}

/// JSON that the CRDT library can read back, taken apart and dropped at once.
///
/// `serde::de::IgnoredAny` would let pass what the library then stumbles over: escaped lone surrogates, numbers
/// beyond a double's range, and integers between 2^63 and 2^64, which it has no room for. serde_json itself allows
/// 127 levels.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Check)
    }
}

struct Check;

impl<'de> Visitor<'de> for Check {
    type Value = Checked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON with integers below 2^63")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Checked, E> {
        match i64::try_from(number) {
            Ok(_) => Ok(Checked),
            Err(_) => Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Checked, A::Error> {
        while elements.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Checked, A::Error> {
        while entries.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(Checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::lib0::write_var_string;

    fn json(text: &str) -> Result<(), Malformed> {
        let mut bytes = Vec::new();
        write_var_string(&mut bytes, text);
        read_json(&mut Reader::new(&bytes))
    }

    #[test]
    fn strings_are_measured_as_javascript_measures_them() {
        for text in ["", "abc", "é", "世界", "🌍", "a🌍é世\u{0}\u{ffff}\u{10ffff}"] {
            assert_eq!(utf16_length(text), text.encode_utf16().count() as u64, "{text:?}");
        }
    }

    #[test]
    fn embedded_values_are_json_that_the_library_reads_too() {
        let nested = |depth| ["[".repeat(depth), "]".repeat(depth)].concat();
        let texts = [
            r#""""#,
            r#"{"a":[1,-2.5e3,true,null,"é\u00e9\n",{}]}"#,
            r#"{"":{"a":1,"a":2}}"#,
            " 1 ",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-9223372036854775809",
            "1e308",
            "1e309",
            "1e-400",
            "-0",
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            "undefined",
            "NaN",
            "{1:2}",
            "{\"a\"}",
            "1 2",
            "\"\u{1}\"",
            "",
            "nul",
            &nested(127),
            &nested(128),
            &nested(100_000),
        ];
        for text in texts {
            assert_eq!(json(text).is_ok(), yrs::Any::from_json(text).is_ok(), "{:.80}", text);
        }
        assert_eq!(json(&nested(127)), Ok(()));
    }
}
