//! Opcodes of single values: numbers, strings, bytes.

use crate::error::{Error, Result};
use crate::limits;
use crate::pickle::machine::PickleMachine;
use crate::pickle::op;
use crate::pickle::text;
use crate::pickle::value::{Content, Node, Text};

impl PickleMachine<'_> {
    pub(super) fn number(&mut self, code: u8) -> Result<()> {
        let node = match code {
            op::BININT => Node::Int(i64::from(i32::from_le_bytes(self.cursor.array()?))),
            op::BININT1 => Node::Int(i64::from(self.cursor.u8()?)),
            op::BININT2 => Node::Int(i64::from(u16::from_le_bytes(self.cursor.array()?))),
            op::INT => self.line_number("an integer", text::int)?,
            op::LONG => self.line_number("an integer", text::long)?,
            op::LONG1 => {
                let count = self.cursor.u8()?;
                text::twos_complement(self.cursor.take(u64::from(count))?)
            }
            op::LONG4 => {
                let count = i32::from_le_bytes(self.cursor.array()?);
                let count = u64::try_from(count).map_err(|_| Error::malformed("an integer of negative length"))?;
                text::twos_complement(self.cursor.take(count)?)
            }
            op::BINFLOAT => Node::Float(f64::from_be_bytes(self.cursor.array()?)),
            _ => self.line_number("a float", text::float)?,
        };
        self.push(node)
    }

    /// A number in text. Python writes plain decimal numbers but reads everything that is a number in Python source
    /// code. A lenient parse accepts the same, so that it does not stop before a payload.
    fn line_number(&mut self, what: &str, read: fn(&[u8]) -> Result<Node>) -> Result<Node> {
        if !self.is_lenient {
            return read(self.cursor.line(limits::INTEGER_DIGITS + 2, what)?);
        }
        let line = self.cursor.line(limits::PICKLE_BYTES as usize, what)?;
        read(line).or_else(|error| if text::is_number_of_python(line) { Ok(Node::Unknown) } else { Err(error) })
    }

    pub(super) fn string(&mut self, code: u8) -> Result<()> {
        let most = limits::PICKLE_BYTES as usize;
        let text = match code {
            op::STRING => unescaped(text::string_repr(self.cursor.line(most, "a string")?)?),
            op::UNICODE => unescaped(text::raw_unicode_escape(self.cursor.line(most, "a string")?)?),
            op::BINSTRING | op::BINUNICODE => self.counted32()?,
            op::BINUNICODE8 => self.counted64()?,
            _ => self.counted8()?,
        };
        // Python 2 strings may contain any bytes.
        let is_unicode = matches!(code, op::BINUNICODE | op::SHORT_BINUNICODE | op::BINUNICODE8);
        if is_unicode && !text::is_utf8_with_surrogates(self.cursor.text(&text)) {
            return Err(Error::malformed("a string is not UTF-8"));
        }
        self.push(Node::Str(text))
    }

    pub(super) fn bytes(&mut self, code: u8) -> Result<()> {
        let text = match code {
            op::BINBYTES => self.counted32()?,
            op::SHORT_BINBYTES => self.counted8()?,
            _ => self.counted64()?,
        };
        self.push(Node::Bytes(text))
    }

    fn counted8(&mut self) -> Result<Text> {
        let count = self.cursor.u8()?;
        self.cursor.span(u64::from(count))
    }

    fn counted32(&mut self) -> Result<Text> {
        let count = self.cursor.u32()?;
        self.cursor.span(u64::from(count))
    }

    fn counted64(&mut self) -> Result<Text> {
        let count = self.cursor.u64()?;
        self.cursor.span(count)
    }
}

fn unescaped(bytes: Box<[u8]>) -> Text {
    Text(Content::Unescaped(bytes))
}
