//! The protocol buffers wire format, as far as etcd's files use it: the fields of one message, in order.
//!
//! Must never trust a length or recurse, because every message comes from a file that may be hostile. Groups are
//! refused.

use std::fmt;

/// The fields of one encoded message.
#[derive(Debug, Clone)]
pub struct MessageFields<'a> {
    rest: &'a [u8],
}

/// The value of a field, by its wire type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Wire type 0: integers and booleans.
    Varint(u64),
    /// Wire type 2: strings, bytes and messages.
    Bytes(&'a [u8]),
    /// Wire types 1 and 5, which the messages that are read here do not use.
    Fixed,
}

/// The error of a message that cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed protocol buffers message")
    }
}

impl std::error::Error for Malformed {}

impl<'a> MessageFields<'a> {
    /// Returns the fields of `message`. The first malformed field ends the iteration with an error.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn field(&mut self) -> Result<(u64, FieldValue<'a>), Malformed> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => FieldValue::Varint(self.varint()?),
            1 => self.take(8).map(|_| FieldValue::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                FieldValue::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| FieldValue::Fixed)?,
            _ => return Err(Malformed),
        };
        match tag >> 3 {
            0 => Err(Malformed),
            number => Ok((number, value)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte, rest @ ..] = self.rest else { return Err(Malformed) };
            self.rest = rest;
            let digit = u64::from(byte & 0x7f);
            // Only one bit of the tenth byte fits into 64 bits.
            if shift == 63 && digit > 1 {
                return Err(Malformed);
            }
            value |= digit << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

impl<'a> Iterator for MessageFields<'a> {
    type Item = Result<(u64, FieldValue<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> FieldValue<'a> {
    /// Returns the integer of a varint field.
    ///
    /// # Errors
    /// Fails if the field has another wire type.
    pub fn integer(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed),
        }
    }

    /// Returns the content of a length-delimited field.
    ///
    /// # Errors
    /// Fails if the field has another wire type.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Encodes a varint.
    pub(in super::super) fn varint(mut value: u64) -> Vec<u8> {
        let mut encoded = Vec::new();
        while value >= 0x80 {
            encoded.push(value as u8 | 0x80);
            value >>= 7;
        }
        encoded.push(value as u8);
        encoded
    }

    /// Encodes an integer field.
    pub(in super::super) fn integer(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    /// Encodes a length-delimited field.
    pub(in super::super) fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
    }

    #[test]
    fn decodes_encoded_fields() {
        let message =
            [integer(1, 150), bytes(2, b"testing"), vec![0x1d, 0, 0, 0, 0], integer(9, u64::MAX)].concat();
        let fields: Vec<_> = MessageFields::new(&message).map(Result::unwrap).collect();
        let expected = [
            (1, FieldValue::Varint(150)),
            (2, FieldValue::Bytes(b"testing")),
            (3, FieldValue::Fixed),
            (9, FieldValue::Varint(u64::MAX)),
        ];
        assert_eq!(fields, expected);
        assert_eq!(varint(300), [0xac, 2]);
    }

    #[test]
    fn a_malformed_message_ends_the_iteration() {
        let cases: [&[u8]; 8] = [
            &[0x08],                                                          // no value
            &[0x80; 11],                                                      // a varint without end
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], // more than 64 bits
            &[0x0a, 5, 1],                                                    // longer than the message
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x0b],          // a group
            &[0x00, 0],       // field 0
            &[0x09, 0, 0, 0], // half of a fixed64
        ];
        for case in cases {
            assert_eq!(MessageFields::new(case).collect::<Vec<_>>(), [Err(Malformed)], "{case:x?}");
        }
    }
}
