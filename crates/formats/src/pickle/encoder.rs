use std::collections::HashMap;

use serde::Serialize;
use serde_pickle::SerOptions;

use crate::error::{Error, Result};
use crate::pickle::op;

/// Items per SETITEMS, as in CPython's pickler. Keeps the stack of readers short.
const BATCH: usize = 1000;

/// Writes a pickle of protocol 2, which every version of PyTorch and WebUI reads.
///
/// Memoizes as CPython does: puts every string, global, tuple, dict and call result into the memo, dicts before they
/// are filled, and fetches strings and globals that occur again. Some scanners report files with a different memo as
/// forged.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    /// The next free index. Values past the last index are not memoized.
    memo: Option<u32>,
    strings: HashMap<String, u32>,
    globals: HashMap<(&'static str, &'static str), u32>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { out: vec![op::PROTO, 2], memo: Some(0), strings: HashMap::new(), globals: HashMap::new() }
    }
}

impl Encoder {
    /// Returns an encoder that has written the protocol only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the pickle and returns its bytes. The value on the stack becomes its root.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(op::STOP);
        self.out
    }

    /// Writes a boolean.
    pub fn bool(&mut self, value: bool) {
        self.out.push(if value { op::NEWTRUE } else { op::NEWFALSE });
    }

    /// Writes a non-negative integer in the shortest form, as CPython does.
    pub fn int(&mut self, value: u64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend([op::BININT1, value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.out.push(op::BININT2);
            self.out.extend(value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(op::BININT);
            self.out.extend(value.to_le_bytes());
        } else {
            // The fewest bytes of two's complement that keep the sign bit clear.
            let bytes = 8 - value.leading_zeros() as usize / 8 + usize::from(value.leading_zeros().is_multiple_of(8));
            let mut long = value.to_le_bytes().to_vec();
            long.push(0);
            long.truncate(bytes);
            self.out.extend([op::LONG1, bytes as u8]);
            self.out.extend(long);
        }
    }

    /// Writes a string. Fails if it is longer than 4 GiB.
    pub fn str(&mut self, text: &str) -> Result<()> {
        if let Some(&index) = self.strings.get(text) {
            self.get(index);
            return Ok(());
        }
        let length = u32::try_from(text.len()).map_err(|_| Error::limit("a string of more than 4 GiB"))?;
        self.out.push(op::BINUNICODE);
        self.out.extend(length.to_le_bytes());
        self.out.extend(text.as_bytes());
        if let Some(index) = self.put() {
            self.strings.insert(text.to_owned(), index);
        }
        Ok(())
    }

    /// Writes a global name.
    pub fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(&index) = self.globals.get(&(module, name)) {
            self.get(index);
            return;
        }
        self.out.push(op::GLOBAL);
        self.out.extend(format!("{module}\n{name}\n").as_bytes());
        if let Some(index) = self.put() {
            self.globals.insert((module, name), index);
        }
    }

    /// Writes a tuple of integers.
    pub fn int_tuple(&mut self, values: &[u64]) {
        if let Some(end) = self.begin_tuple(values.len()) {
            for &value in values {
                self.int(value);
            }
            self.end_tuple(end);
        }
    }

    /// Writes a tuple of `count` values, which `items` must write.
    pub fn tuple(&mut self, count: usize, items: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if let Some(end) = self.begin_tuple(count) {
            items(self)?;
            self.end_tuple(end);
        }
        Ok(())
    }

    /// Returns the opcode to end the tuple with, or `None` if the tuple is empty and written already.
    fn begin_tuple(&mut self, count: usize) -> Option<u8> {
        match count {
            0 => {
                // CPython does not memoize the empty tuple.
                self.out.push(op::EMPTY_TUPLE);
                None
            }
            1 => Some(op::TUPLE1),
            2 => Some(op::TUPLE2),
            3 => Some(op::TUPLE3),
            _ => {
                self.out.push(op::MARK);
                Some(op::TUPLE)
            }
        }
    }

    fn end_tuple(&mut self, end: u8) {
        self.out.push(end);
        self.put();
    }

    /// Writes the call of a callable with an argument tuple, the two values on top of the stack.
    pub fn reduce(&mut self) {
        self.out.push(op::REDUCE);
        self.put();
    }

    /// Makes the value on top of the stack a persistent id.
    pub fn persistent(&mut self) {
        self.out.push(op::BINPERSID);
    }

    /// Writes a dict. `entry` writes the key and the value of each item.
    pub fn dict<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut entry: impl FnMut(&mut Self, T) -> Result<()>,
    ) -> Result<()> {
        self.out.push(op::EMPTY_DICT);
        self.put();
        let mut items = items;
        while items.len() > 0 {
            let batch = items.len().min(BATCH);
            if batch > 1 {
                self.out.push(op::MARK);
            }
            for item in items.by_ref().take(batch) {
                entry(self, item)?;
            }
            self.out.push(if batch > 1 { op::SETITEMS } else { op::SETITEM });
        }
        Ok(())
    }

    /// Writes a list. `entry` writes each item.
    pub fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut entry: impl FnMut(&mut Self, T) -> Result<()>,
    ) -> Result<()> {
        self.out.push(op::EMPTY_LIST);
        self.put();
        let mut items = items;
        while items.len() > 0 {
            self.out.push(op::MARK);
            for item in items.by_ref().take(BATCH) {
                entry(self, item)?;
            }
            self.out.push(op::APPENDS);
        }
        Ok(())
    }

    /// Writes a plain value with serde_pickle. Its output does not use the memo, so it can be inserted anywhere.
    pub fn plain(&mut self, value: &impl Serialize) -> Result<()> {
        let pickle = serde_pickle::to_vec(value, SerOptions::new().proto_v2())
            .map_err(|error| Error::unsupported(format!("a metadata value cannot be pickled: {error}")))?;
        match pickle.as_slice() {
            [op::PROTO, 2, body @ .., op::STOP] => {
                self.out.extend(body);
                Ok(())
            }
            _ => Err(Error::internal("serde_pickle wrote a pickle that is not of protocol 2")),
        }
    }

    fn get(&mut self, index: u32) {
        if let Ok(index) = u8::try_from(index) {
            self.out.extend([op::BINGET, index]);
        } else {
            self.out.push(op::LONG_BINGET);
            self.out.extend(index.to_le_bytes());
        }
    }

    /// Memoizes the value on top of the stack. Returns its index, or `None` if all indices are in use.
    fn put(&mut self) -> Option<u32> {
        let index = self.memo?;
        if let Ok(index) = u8::try_from(index) {
            self.out.extend([op::BINPUT, index]);
        } else {
            self.out.push(op::LONG_BINPUT);
            self.out.extend(index.to_le_bytes());
        }
        self.memo = index.checked_add(1);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::{Node, parse};

    #[test]
    fn integers_of_every_length_round_trip() {
        for value in
            [0, 255, 256, 65535, 65536, 1 << 31, (1 << 31) - 1, 0xffff_ffff, 1 << 39, 1 << 40, 1 << 55, i64::MAX as u64]
        {
            let mut encoder = Encoder::new();
            encoder.int(value);
            let pickle = parse(&encoder.finish()).unwrap();
            assert_eq!(pickle.int(pickle.root()), Some(value as i64), "{value}");
        }
    }

    #[test]
    fn writes_dicts_in_batches() {
        for count in [0_usize, 1, 2, 1000, 1001, 2500] {
            let mut encoder = Encoder::new();
            encoder
                .dict(0..count, |encoder, key| {
                    encoder.str(&key.to_string())?;
                    encoder.int(key as u64);
                    Ok(())
                })
                .unwrap();
            let pickle = parse(&encoder.finish()).unwrap();
            let Node::Dict(pairs) = pickle.node(pickle.root()) else { panic!("not a dict") };
            assert_eq!(pairs.len(), count);
        }
    }

    #[test]
    fn writes_values_without_memo_when_its_indices_are_used_up() {
        let mut encoder = Encoder { memo: Some(u32::MAX), ..Encoder::new() };
        let words = |encoder: &mut Encoder| ["a", "b", "b"].iter().try_for_each(|text| encoder.str(text));
        encoder.tuple(3, words).unwrap();
        assert_eq!(encoder.finish(), b"\x80\x02X\x01\0\0\0ar\xff\xff\xff\xffX\x01\0\0\0bX\x01\0\0\0b\x87.");
    }

    #[test]
    fn writes_equal_strings_once() {
        let mut encoder = Encoder::new();
        encoder
            .tuple(2, |encoder| {
                encoder.str("cpu")?;
                encoder.str("cpu")
            })
            .unwrap();
        assert_eq!(encoder.finish(), b"\x80\x02X\x03\0\0\0cpuq\0h\0\x86q\x01.");
    }
}
