//! The lib0 encoding that Yjs is written in: variable-length integers, strings, buffers and `Any`.
//!
//! The reader stands between the network and the CRDT, so it is stricter than lib0: only the
//! shortest form of a number counts, and no length is believed before the bytes are there.
//!
//! Format: <https://github.com/dmonad/lib0/blob/main/encoding.js>

/// Largest integer that JavaScript holds exactly, and with it the largest number on the wire.
pub const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// How deep `Any` values may nest. Everything that walks one recurses, on a stack of 2 MiB.
pub const ANY_NESTING_MAX: usize = 32;

/// Bytes that are not what the format asks for at this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {reason}")]
pub struct Malformed {
    /// Where the offending value begins.
    pub offset: usize,
    pub reason: &'static str,
}

/// Reads lib0 values off the front of a slice. No method allocates.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The bytes that are left.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// The complaint that the value which began at `offset` deserves.
    #[cold]
    pub fn malformed(offset: usize, reason: &'static str) -> Malformed {
        Malformed { offset, reason }
    }

    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), Malformed> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(Self::malformed(self.offset, "trailing bytes")),
        }
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let Some(&byte) = self.bytes.get(self.offset) else {
            return Err(Self::malformed(self.offset, "the bytes end too early"));
        };
        self.offset += 1;
        Ok(byte)
    }

    #[inline]
    pub fn exactly(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        if length > self.remaining() {
            return Err(Self::malformed(self.offset, "a length is larger than the bytes that remain"));
        }
        let taken = &self.bytes[self.offset..self.offset + length];
        self.offset += length;
        Ok(taken)
    }

    /// An unsigned integer of at most `SAFE_INTEGER_MAX`, in its shortest form.
    #[inline]
    pub fn varuint(&mut self) -> Result<u64, Malformed> {
        match self.bytes.get(self.offset) {
            Some(&byte) if byte < 0x80 => {
                self.offset += 1;
                Ok(byte.into())
            }
            _ => {
                let start = self.offset;
                self.varuint_tail(start, 0, 0)
            }
        }
    }

    /// Groups of seven bits, lowest first, onto `number` from bit `shift` upwards.
    fn varuint_tail(&mut self, start: usize, mut number: u64, mut shift: u32) -> Result<u64, Malformed> {
        loop {
            let byte = self.byte()?;
            // Nine groups of seven bits cannot overflow, and 2^53 − 1 needs no more than eight.
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                let reason = match number {
                    _ if byte == 0 && shift > 7 => "a number is not in its shortest form",
                    SAFE_INTEGER_MAX.. if number > SAFE_INTEGER_MAX => "a number is above 2^53-1",
                    _ => return Ok(number),
                };
                return Err(Self::malformed(start, reason));
            }
            if shift >= 56 {
                return Err(Self::malformed(start, "a number is above 2^53-1"));
            }
        }
    }

    /// A `varuint` of at most `limit`; `reason` says what was too large.
    #[inline]
    pub fn varuint_up_to(&mut self, limit: u32, reason: &'static str) -> Result<u32, Malformed> {
        let start = self.offset;
        match u32::try_from(self.varuint()?) {
            Ok(number) if number <= limit => Ok(number),
            _ => Err(Self::malformed(start, reason)),
        }
    }

    /// How many things follow, each of at least `bytes_min` bytes: what cannot fit is refused here,
    /// so that the answer may be used as a capacity.
    #[inline]
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, Malformed> {
        let start = self.offset;
        let count = self.varuint()? as usize;
        if count > self.remaining() / bytes_min {
            return Err(Self::malformed(start, "a count is larger than the bytes that remain"));
        }
        Ok(count)
    }

    #[inline]
    pub fn var_buffer(&mut self) -> Result<&'a [u8], Malformed> {
        let start = self.offset;
        let length = self.varuint()? as usize;
        if length > self.remaining() {
            return Err(Self::malformed(start, "a length is larger than the bytes that remain"));
        }
        self.exactly(length)
    }

    #[inline]
    pub fn var_string(&mut self) -> Result<&'a str, Malformed> {
        let start = self.offset;
        let buffer = self.var_buffer()?;
        std::str::from_utf8(buffer).map_err(|_| Self::malformed(start, "a string is not UTF-8"))
    }

    /// A signed integer: the first byte holds a sign and six bits. Negative zero has a form of its own.
    /// The absolute value is at most `SAFE_INTEGER_MAX`.
    fn skip_varint(&mut self) -> Result<(), Malformed> {
        let start = self.offset;
        let first = self.byte()?;
        if first >= 0x80 {
            self.varuint_tail(start, u64::from(first & 0x3f), 6)?;
        }
        Ok(())
    }

    /// Steps over one `Any`: any value of JSON, `undefined`, a big integer or a buffer.
    pub fn skip_any(&mut self) -> Result<(), Malformed> {
        self.skip_any_within(ANY_NESTING_MAX)
    }

    /// `nesting`: how many more containers may open.
    fn skip_any_within(&mut self, nesting: usize) -> Result<(), Malformed> {
        let start = self.offset;
        match self.byte()? {
            // undefined, null, true, false
            127 | 126 | 121 | 120 => Ok(()),
            125 => self.skip_varint(),
            // float32, float64, bigint
            124 => self.exactly(4).map(drop),
            123 | 122 => self.exactly(8).map(drop),
            119 => self.var_string().map(drop),
            118 | 117 if nesting == 0 => Err(Self::malformed(start, "values nest too deep")),
            118 => {
                // An entry has a key, which may be empty, and a value.
                for _ in 0..self.count(2)? {
                    self.var_string()?;
                    self.skip_any_within(nesting - 1)?;
                }
                Ok(())
            }
            117 => {
                for _ in 0..self.count(1)? {
                    self.skip_any_within(nesting - 1)?;
                }
                Ok(())
            }
            116 => self.var_buffer().map(drop),
            _ => Err(Self::malformed(start, "a value of an unknown kind")),
        }
    }
}

/// Appends a number in its shortest form.
pub fn write_varuint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Appends a length and the bytes.
pub fn write_var_buffer(bytes: &mut Vec<u8>, buffer: &[u8]) {
    write_varuint(bytes, buffer.len() as u64);
    bytes.extend_from_slice(buffer);
}

/// Appends a length in bytes and the text in UTF-8.
pub fn write_var_string(bytes: &mut Vec<u8>, text: &str) {
    write_var_buffer(bytes, text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason<T: std::fmt::Debug>(read: Result<T, Malformed>) -> &'static str {
        read.expect_err("these bytes are malformed").reason
    }

    #[test]
    fn numbers_survive_a_round_trip_up_to_the_largest_safe_integer() {
        for number in
            [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), SAFE_INTEGER_MAX - 1, SAFE_INTEGER_MAX]
        {
            let mut bytes = Vec::new();
            write_varuint(&mut bytes, number);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varuint(), Ok(number));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_number_has_one_form_and_a_limit() {
        assert_eq!(reason(Reader::new(&[0x80, 0]).varuint()), "a number is not in its shortest form");
        assert_eq!(reason(Reader::new(&[0xff, 0x80, 0]).varuint()), "a number is not in its shortest form");
        let mut above = Vec::new();
        write_varuint(&mut above, SAFE_INTEGER_MAX + 1);
        assert_eq!(reason(Reader::new(&above).varuint()), "a number is above 2^53-1");
        assert_eq!(reason(Reader::new(&[0xff; 20]).varuint()), "a number is above 2^53-1");
        assert_eq!(reason(Reader::new(&[0x80]).varuint()), "the bytes end too early");
    }

    #[test]
    fn no_length_is_believed_before_the_bytes_are_there() {
        assert!(Reader::new(&[5, 1, 2]).var_buffer().is_err());
        assert!(Reader::new(&[5, 1, 2]).count(1).is_err());
        assert!(Reader::new(&[2, 1, 2]).count(2).is_err());
        assert_eq!(Reader::new(&[2, 1, 2]).count(1), Ok(2));
        assert_eq!(Reader::new(&[0]).count(4), Ok(0));
    }

    #[test]
    fn a_string_is_utf_8() {
        assert_eq!(Reader::new(&[4, 0xf0, 0x9f, 0x98, 0x80]).var_string(), Ok("😀"));
        assert_eq!(reason(Reader::new(&[2, 0xed, 0xa0]).var_string()), "a string is not UTF-8");
    }

    #[test]
    fn every_kind_of_any_is_stepped_over_to_its_last_byte() {
        let any: [&[u8]; 14] = [
            &[127],
            &[126],
            &[121],
            &[120],
            &[125, 0x3f],
            &[125, 0x40],
            &[125, 0xff, 0x7f],
            &[124, 0, 0, 0, 0],
            &[123, 1, 2, 3, 4, 5, 6, 7, 8],
            &[122, 1, 2, 3, 4, 5, 6, 7, 8],
            &[119, 1, b'a'],
            &[118, 2, 0, 126, 1, b'k', 117, 0],
            &[117, 2, 126, 117, 1, 120],
            &[116, 2, 0xff, 0xff],
        ];
        for bytes in any {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.skip_any().and(reader.finish()), Ok(()), "{bytes:?}");
            for end in 0..bytes.len() {
                assert!(Reader::new(&bytes[..end]).skip_any().is_err(), "{:?}", &bytes[..end]);
            }
        }
        assert!(Reader::new(&[115]).skip_any().is_err());
        assert!(Reader::new(&[125, 0x80, 0]).skip_any().is_err());
    }

    #[test]
    fn any_nests_only_so_deep() {
        let nested = |depth| [[117, 1].repeat(depth), vec![126]].concat();
        assert_eq!(Reader::new(&nested(ANY_NESTING_MAX)).skip_any(), Ok(()));
        for depth in [ANY_NESTING_MAX + 1, 1_000_000] {
            assert_eq!(reason(Reader::new(&nested(depth)).skip_any()), "values nest too deep");
        }
    }
}
