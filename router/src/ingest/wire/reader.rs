//! A cursor over MessagePack bytes. Borrows texts and byte strings; never allocates, never recurses, and believes no length
//! that the remaining bytes cannot hold.

use super::error::WireError;
use rmp::Marker;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A value whose type decides what it means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    /// Any integer; negative ones as two's complement.
    Integer(u64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// So many values follow.
    Array(usize),
    /// So many keys and values follow.
    Map(usize),
    /// A boolean, float or extension: already skipped.
    Other,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<usize, WireError> {
        self.byte().map(usize::from)
    }

    fn u16(&mut self) -> Result<usize, WireError> {
        self.number().map(|bytes| u16::from_be_bytes(bytes).into())
    }

    fn u32(&mut self) -> Result<usize, WireError> {
        self.number().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    /// A count of values, each of which takes at least `least_bytes`.
    fn counted(&self, count: usize, least_bytes: usize) -> Result<usize, WireError> {
        if count.saturating_mul(least_bytes) > self.rest.len() { Err(WireError::Truncated) } else { Ok(count) }
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, WireError> {
        let bytes = self.take(length)?;
        Ok(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text))
    }

    /// The next value; of an array or map, its length.
    pub(super) fn value(&mut self) -> Result<Value<'a>, WireError> {
        let signed = |value: i64| Value::Integer(value as u64);
        Ok(match Marker::from_u8(self.byte()?) {
            Marker::Null => Value::Nil,
            Marker::FixPos(value) => Value::Integer(value.into()),
            Marker::FixNeg(value) => signed(value.into()),
            Marker::U8 => Value::Integer(self.byte()?.into()),
            Marker::U16 => Value::Integer(u16::from_be_bytes(self.number()?).into()),
            Marker::U32 => Value::Integer(u32::from_be_bytes(self.number()?).into()),
            Marker::U64 => Value::Integer(u64::from_be_bytes(self.number()?)),
            Marker::I8 => signed(i8::from_be_bytes(self.number()?).into()),
            Marker::I16 => signed(i16::from_be_bytes(self.number()?).into()),
            Marker::I32 => signed(i32::from_be_bytes(self.number()?).into()),
            Marker::I64 => signed(i64::from_be_bytes(self.number()?)),
            Marker::FixStr(length) => self.text(length.into())?,
            Marker::Str8 => self.u8().and_then(|length| self.text(length))?,
            Marker::Str16 => self.u16().and_then(|length| self.text(length))?,
            Marker::Str32 => self.u32().and_then(|length| self.text(length))?,
            Marker::Bin8 => Value::Bytes(self.u8().and_then(|length| self.take(length))?),
            Marker::Bin16 => Value::Bytes(self.u16().and_then(|length| self.take(length))?),
            Marker::Bin32 => Value::Bytes(self.u32().and_then(|length| self.take(length))?),
            Marker::FixArray(count) => Value::Array(self.counted(count.into(), 1)?),
            Marker::Array16 => Value::Array(self.u16().and_then(|count| self.counted(count, 1))?),
            Marker::Array32 => Value::Array(self.u32().and_then(|count| self.counted(count, 1))?),
            Marker::FixMap(count) => Value::Map(self.counted(count.into(), 2)?),
            Marker::Map16 => Value::Map(self.u16().and_then(|count| self.counted(count, 2))?),
            Marker::Map32 => Value::Map(self.u32().and_then(|count| self.counted(count, 2))?),
            other => {
                self.skip_other(other)?;
                Value::Other
            }
        })
    }

    fn skip_other(&mut self, marker: Marker) -> Result<(), WireError> {
        let length = match marker {
            Marker::True | Marker::False => 0,
            Marker::F32 => 4,
            Marker::F64 => 8,
            Marker::FixExt1 => 2,
            Marker::FixExt2 => 3,
            Marker::FixExt4 => 5,
            Marker::FixExt8 => 9,
            Marker::FixExt16 => 17,
            Marker::Ext8 => self.u8()? + 1,
            Marker::Ext16 => self.u16()? + 1,
            Marker::Ext32 => self.u32()? + 1,
            reserved => return Err(WireError::Unexpected { what: "a value", found: reserved.to_u8() }),
        };
        self.take(length).map(drop)
    }

    /// Passes over one value with all that is in it.
    pub(super) fn skip(&mut self) -> Result<(), WireError> {
        self.skip_all(1)
    }

    /// Passes over so many values.
    pub(super) fn skip_all(&mut self, count: usize) -> Result<(), WireError> {
        let mut waiting = count as u64;
        while waiting > 0 {
            waiting -= 1;
            waiting += match self.value()? {
                Value::Array(count) => count as u64,
                Value::Map(count) => 2 * count as u64,
                _ => 0,
            };
        }
        Ok(())
    }

    /// The bytes of the next value, which is passed over.
    pub(super) fn raw(&mut self) -> Result<&'a [u8], WireError> {
        let before = self.rest;
        self.skip()?;
        Ok(&before[..before.len() - self.rest.len()])
    }

    fn unexpected(&self, what: &'static str) -> WireError {
        self.rest.first().map_or(WireError::Truncated, |found| WireError::Unexpected { what, found: *found })
    }

    /// The length of an array; `None` for nil.
    pub(super) fn array(&mut self, what: &'static str) -> Result<Option<usize>, WireError> {
        let error = self.unexpected(what);
        match self.value()? {
            Value::Array(count) => Ok(Some(count)),
            Value::Nil => Ok(None),
            _ => Err(error),
        }
    }

    /// An unsigned integer of at most `T`; `None` for nil.
    pub(super) fn integer<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<Option<T>, WireError> {
        let error = self.unexpected(what);
        match self.value()? {
            Value::Integer(value) => T::try_from(value).map(Some).map_err(|_| WireError::OutOfRange { what }),
            Value::Nil => Ok(None),
            _ => Err(error),
        }
    }

    /// A text; anything else is passed over as if there were none.
    pub(super) fn text_or_none(&mut self) -> Result<Option<&'a str>, WireError> {
        let mut look = *self;
        let value = look.value()?;
        self.skip()?;
        Ok(if let Value::Text(text) = value { Some(text) } else { None })
    }

    /// A time in seconds: a float, or an integer.
    pub(super) fn seconds(&mut self) -> Result<f64, WireError> {
        let mut look = *self;
        if Marker::from_u8(look.byte()?) == Marker::F64 {
            *self = look;
            return self.number().map(f64::from_be_bytes);
        }
        match self.value()? {
            Value::Integer(seconds) => Ok(seconds as f64),
            _ => Ok(0.0),
        }
    }

    /// Appends an array of tokens as 4 bytes each, little-endian, and says how many they are. TensorRT-LLM may write them as
    /// decimal texts.
    pub(super) fn tokens(&mut self, bytes: &mut Vec<u8>) -> Result<usize, WireError> {
        let Some(count) = self.array("token_ids")? else { return Ok(0) };
        let start = bytes.len();
        bytes.resize(start + count * 4, 0);
        // A cursor of its own stays in a register, which makes this loop twice as fast.
        let mut rest = self.rest;
        for place in bytes[start..].chunks_exact_mut(4) {
            let token = match *rest {
                [0xcd, high, low, ref after @ ..] => {
                    rest = after;
                    u32::from(u16::from_be_bytes([high, low]))
                }
                [0xce, a, b, c, d, ref after @ ..] => {
                    rest = after;
                    u32::from_be_bytes([a, b, c, d])
                }
                [value @ 0..=0x7f, ref after @ ..] => {
                    rest = after;
                    value.into()
                }
                _ => {
                    self.rest = rest;
                    let token = self.rare_token()?;
                    rest = self.rest;
                    token
                }
            };
            place.copy_from_slice(&token.to_le_bytes());
        }
        self.rest = rest;
        Ok(count)
    }

    #[cold]
    #[inline(never)]
    fn rare_token(&mut self) -> Result<u32, WireError> {
        let error = self.unexpected("a token");
        let out_of_range = WireError::OutOfRange { what: "a token" };
        match self.value()? {
            Value::Integer(value) => u32::try_from(value).map_err(|_| out_of_range),
            Value::Text(text) => text.parse().map_err(|_| out_of_range),
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_lengths_are_not_believed() {
        for claim in [[0xdd, 0x80, 0, 0, 0], [0xdf, 0x80, 0, 0, 0], [0xc6, 0xff, 0xff, 0xff, 0xff], [0xdb, 0x7f, 0, 0, 0]] {
            assert_eq!(Reader::new(&claim).value(), Err(WireError::Truncated));
        }
        assert_eq!(Reader::new(&[0xdd, 0x80, 0, 0, 0]).tokens(&mut Vec::new()), Err(WireError::Truncated));
    }

    #[test]
    fn tokens_of_every_width_and_as_text_become_four_bytes() {
        let mut bytes = Vec::new();
        let array = [0x97, 5, 0xcc, 200, 0xcd, 1, 0, 0xce, 0, 1, 0, 0, 0xd1, 0, 9, 0xa2, b'4', b'2', 0xcf, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(Reader::new(&array).tokens(&mut bytes), Ok(7));
        let tokens: Vec<u32> = bytes.chunks_exact(4).map(|token| u32::from_le_bytes(token.try_into().unwrap())).collect();
        assert_eq!(tokens, [5, 200, 256, 65536, 9, 42, 7]);
    }

    #[test]
    fn a_token_that_is_none_is_refused() {
        assert_eq!(Reader::new(&[0x91, 0xff]).tokens(&mut Vec::new()), Err(WireError::OutOfRange { what: "a token" }));
        assert_eq!(Reader::new(&[0x91, 0xc3]).tokens(&mut Vec::new()), Err(WireError::Unexpected { what: "a token", found: 0xc3 }));
    }

    #[test]
    fn nested_values_are_passed_over_without_recursion() {
        let mut deep = vec![0x91; 100_000];
        deep.push(0xc0);
        deep.push(7);
        let mut reader = Reader::new(&deep);
        reader.skip().unwrap();
        assert_eq!(reader.value(), Ok(Value::Integer(7)));
    }
}
