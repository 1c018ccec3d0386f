use std::collections::HashMap;

use serde::Serialize;
use serde_pickle::SerOptions;

use crate::error::{Error, Result};
use crate::pickle::op;

/// Items per SETITEMS, as in CPython's pickler. Keeps the stack of whoever reads the file short.
const BATCH: usize = 1000;

/// Writes a protocol 2 pickle: the protocol that every PyTorch and every WebUI reads.
///
/// Memoises as CPython does: every string, global, tuple, dict and call result is put into the memo, containers
/// before they are filled; strings and globals that occur again are fetched from it. Scanners judge files that
/// memoise otherwise as forged.
#[derive(Debug)]
pub struct Encoder {
    out: Vec<u8>,
    memo: u32,
    strings: HashMap<String, u32>,
    globals: HashMap<(&'static str, &'static str), u32>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder { out: vec![op::PROTO, 2], memo: 0, strings: HashMap::new(), globals: HashMap::new() }
    }
}

impl Encoder {
    /// An encoder that has written the protocol.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the pickle: the value on the stack is its value.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(op::STOP);
        self.out
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.out.push(if value { op::NEWTRUE } else { op::NEWFALSE });
    }

    /// An integer that is not negative, in CPython's shortest form.
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
            // Two's complement in as few bytes as keep the sign bit clear.
            let bytes = 8 - value.leading_zeros() as usize / 8 + usize::from(value.leading_zeros().is_multiple_of(8));
            let mut long = value.to_le_bytes().to_vec();
            long.push(0);
            long.truncate(bytes);
            self.out.extend([op::LONG1, bytes as u8]);
            self.out.extend(long);
        }
    }

    /// A string. Longer than 4 GiB is an error.
    pub fn str(&mut self, text: &str) -> Result<()> {
        if let Some(&index) = self.strings.get(text) {
            self.get(index);
            return Ok(());
        }
        let length = u32::try_from(text.len()).map_err(|_| Error::limit("a string of more than 4 GiB"))?;
        self.out.push(op::BINUNICODE);
        self.out.extend(length.to_le_bytes());
        self.out.extend(text.as_bytes());
        let index = self.put();
        self.strings.insert(text.to_owned(), index);
        Ok(())
    }

    /// A global name.
    pub fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(&index) = self.globals.get(&(module, name)) {
            self.get(index);
            return;
        }
        self.out.push(op::GLOBAL);
        self.out.extend(format!("{module}\n{name}\n").as_bytes());
        let index = self.put();
        self.globals.insert((module, name), index);
    }

    /// A tuple of integers.
    pub fn int_tuple(&mut self, values: &[u64]) {
        self.tuple(values.len(), |encoder| {
            for &value in values {
                encoder.int(value);
            }
            Ok(())
        })
        .unwrap_or_default();
    }

    /// A tuple of the `count` values that `items` writes.
    pub fn tuple(&mut self, count: usize, items: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let end = match count {
            0 => {
                // CPython does not memoise the empty tuple.
                self.out.push(op::EMPTY_TUPLE);
                return Ok(());
            }
            1 => op::TUPLE1,
            2 => op::TUPLE2,
            3 => op::TUPLE3,
            _ => {
                self.out.push(op::MARK);
                op::TUPLE
            }
        };
        items(self)?;
        self.out.push(end);
        self.put();
        Ok(())
    }

    /// Calls the callable below the arguments tuple on the stack.
    pub fn reduce(&mut self) {
        self.out.push(op::REDUCE);
        self.put();
    }

    /// Turns the value on the stack into a reference to something outside the pickle.
    pub fn persistent(&mut self) {
        self.out.push(op::BINPERSID);
    }

    /// A dict of `items`, each written as key and value by `entry`.
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

    /// A plain value, as serde_pickle writes it: its body needs no memo, so it can stand anywhere.
    pub fn plain(&mut self, value: &impl Serialize) -> Result<()> {
        let pickle = serde_pickle::to_vec(value, SerOptions::new().proto_v2())
            .map_err(|error| Error::unsupported(format!("a metadata value cannot be pickled: {error}")))?;
        match pickle.as_slice() {
            [op::PROTO, 2, body @ .., op::STOP] => {
                self.out.extend(body);
                Ok(())
            }
            _ => Err(Error::unsupported("a metadata value cannot be pickled")),
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

    fn put(&mut self) -> u32 {
        let index = self.memo;
        if let Ok(index) = u8::try_from(index) {
            self.out.extend([op::BINPUT, index]);
        } else {
            self.out.push(op::LONG_BINPUT);
            self.out.extend(index.to_le_bytes());
        }
        self.memo += 1;
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::{Node, parse};

    #[test]
    fn integers_of_every_length_come_back() {
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
    fn dicts_are_filled_in_batches() {
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
    fn equal_strings_are_written_once() {
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
