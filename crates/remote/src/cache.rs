//! Blocks of files that were received, those of all files together.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 64 << 10;

/// Bytes that are kept.
const KEPT: u64 = 64 << 20;

/// A block of a file.
pub(crate) type Key = (u64, u64);

/// What is known of a block.
pub(crate) enum Block {
    /// It was requested.
    Pending,
    /// It is here.
    Ready(Bytes),
}

/// The blocks, of which those that were used last are kept.
#[derive(Default)]
pub(crate) struct Cache {
    blocks: HashMap<Key, (Block, u64)>,
    /// The blocks that are here by the time of their last use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: u64,
}

impl Cache {
    /// Returns a block, and marks it as used.
    pub(crate) fn get(&mut self, key: Key) -> Option<&Block> {
        self.clock += 1;
        let (block, used) = self.blocks.get_mut(&key)?;
        if let Block::Ready(_) = block {
            self.order.remove(used);
            *used = self.clock;
            self.order.insert(self.clock, key);
        }
        Some(block)
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        self.blocks.contains_key(&key)
    }

    pub(crate) fn expect(&mut self, key: Key) {
        self.blocks.entry(key).or_insert((Block::Pending, 0));
    }

    pub(crate) fn insert(&mut self, key: Key, bytes: Bytes) {
        self.forget(key);
        self.clock += 1;
        self.bytes += bytes.len() as u64;
        self.blocks.insert(key, (Block::Ready(bytes), self.clock));
        self.order.insert(self.clock, key);
        while self.bytes > KEPT {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((Block::Ready(bytes), _)) = self.blocks.remove(&oldest) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }

    /// Removes a block that did not arrive, or is replaced.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some((Block::Ready(bytes), used)) = self.blocks.remove(&key) {
            self.bytes -= bytes.len() as u64;
            self.order.remove(&used);
        }
    }

    /// Removes all blocks of a file that are here.
    pub(crate) fn forget_file(&mut self, file: u64) {
        let keys: Vec<Key> = self.blocks.keys().filter(|(of, _)| *of == file).copied().collect();
        keys.into_iter().for_each(|key| self.forget(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_used_last() {
        let mut cache = Cache::default();
        let block = Bytes::from(vec![0; BLOCK as usize]);
        let most = KEPT / BLOCK;
        for number in 0..most {
            cache.insert((1, number), block.clone());
        }
        assert!(cache.get((1, 0)).is_some());
        cache.insert((2, 0), block.clone());
        assert!(cache.has((1, 0)) && !cache.has((1, 1)) && cache.has((2, 0)));
        cache.forget_file(1);
        assert_eq!((cache.bytes, cache.blocks.len(), cache.order.len()), (BLOCK, 1, 1));
    }
}
