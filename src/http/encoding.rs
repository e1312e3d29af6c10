//! Base64 as the contract takes it: strict, so that nothing a caller wrote is passed on as it was.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const fn engine(alphabet: &Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_encode_padding(true).with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

/// With padding and without: a text that has some must have all of it.
const PADDED: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireCanonical);
const UNPADDED: GeneralPurpose = engine(&STANDARD, DecodePaddingMode::RequireNone);
const URL_PADDED: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireCanonical);
const URL_UNPADDED: GeneralPurpose = engine(&URL_SAFE, DecodePaddingMode::RequireNone);

pub fn encode_base64(bytes: &[u8]) -> String {
    PADDED.encode(bytes)
}

/// Appends the encoding to `out`.
pub fn encode_base64_into(bytes: &[u8], out: &mut String) {
    PADDED.encode_string(bytes, out);
}

/// Decodes the standard alphabet; padding may be left out.
///
/// # Errors
/// White space, another alphabet, part of the padding, bits that no byte holds.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.ends_with('=') { PADDED.decode(text) } else { UNPADDED.decode(text) }
}

/// Decodes either alphabet, as in a query string; padding may be left out.
///
/// # Errors
/// As `decode_base64`, and both alphabets in one text.
pub fn decode_base64_in_query(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    match (text.contains(['-', '_']), text.ends_with('=')) {
        (false, _) => decode_base64(text),
        (true, true) => URL_PADDED.decode(text),
        (true, false) => URL_UNPADDED.decode(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_may_be_left_out_but_not_in_part() {
        assert_eq!(decode_base64("AAA="), Ok(vec![0, 0]));
        assert_eq!(decode_base64("AAA"), Ok(vec![0, 0]));
        assert_eq!(decode_base64("AA=="), Ok(vec![0]));
        assert!(decode_base64("AA=").is_err());
        assert!(decode_base64("AAA==").is_err());
    }

    #[test]
    fn white_space_trailing_bits_and_foreign_characters_are_refused() {
        for text in ["AA A=", "AAA=\n", "\tAAA=", "AAB=", "AB==", "A", "-_-_", "AAA=AAA=", "é"] {
            assert!(decode_base64(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_query_takes_the_url_alphabet_too_but_not_a_mixture() {
        assert_eq!(decode_base64_in_query("-_-_"), Ok(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(decode_base64_in_query("+/+/"), Ok(vec![0xfb, 0xff, 0xbf]));
        assert!(decode_base64_in_query("-/+_").is_err());
    }
}
