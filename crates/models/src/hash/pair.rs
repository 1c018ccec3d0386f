//! The sha256 of two ranges that are read at the same time.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
use super::sha_ni;

/// Bytes of a block of sha256.
const BLOCK: usize = 64;

/// The state of a sha256 before the first block (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Computes two sha256 in turns. Where the processor has SHA instructions, this takes far less time than one after the other.
#[derive(Debug, Default)]
pub(super) struct Pair {
    first: Lane,
    second: Lane,
}

/// One of the two.
#[derive(Debug)]
struct Lane {
    state: [u32; 8],
    /// The bytes of a block that is not complete.
    begun: Vec<u8>,
    bytes: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Lane { state: INITIAL, begun: Vec::with_capacity(BLOCK), bytes: 0 }
    }
}

impl Pair {
    /// Whether a pair takes less time than two threads with one sha256 each.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn is_faster() -> bool {
        sha_ni::is_available()
    }

    /// Whether a pair takes less time than two threads with one sha256 each. Without vector instructions, it does not.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn is_faster() -> bool {
        false
    }

    /// Adds bytes to each.
    pub(super) fn add(&mut self, first: &[u8], second: &[u8]) {
        let (firsts, first_rest) = self.first.complete(first);
        let (seconds, second_rest) = self.second.complete(second);
        let together = firsts.len().min(seconds.len());
        let ((a, firsts), (b, seconds)) = (firsts.split_at(together), seconds.split_at(together));
        compress([&mut self.first.state, &mut self.second.state], [a, b]);
        compress256(&mut self.first.state, firsts);
        compress256(&mut self.second.state, seconds);
        self.first.begun.extend_from_slice(first_rest);
        self.second.begun.extend_from_slice(second_rest);
    }

    /// Returns both.
    pub(super) fn finish(self) -> [[u8; 32]; 2] {
        [self.first.finish(), self.second.finish()]
    }
}

impl Lane {
    /// Completes the block that was begun, and splits the bytes after it into whole blocks and a rest.
    fn complete<'b>(&mut self, mut bytes: &'b [u8]) -> (&'b [[u8; BLOCK]], &'b [u8]) {
        self.bytes += bytes.len() as u64;
        if !self.begun.is_empty() {
            let (head, rest) = bytes.split_at((BLOCK - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(head);
            bytes = rest;
            let (whole, _) = self.begun.as_chunks();
            compress256(&mut self.state, whole);
            if !whole.is_empty() {
                self.begun.clear();
            }
        }
        bytes.as_chunks()
    }

    fn finish(mut self) -> [u8; 32] {
        self.begun.push(0x80);
        let whole = (self.begun.len() + size_of::<u64>()).next_multiple_of(BLOCK);
        self.begun.resize(whole - size_of::<u64>(), 0);
        self.begun.extend_from_slice(&(self.bytes * 8).to_be_bytes());
        compress256(&mut self.state, self.begun.as_chunks().0);
        let mut hash = [0; 32];
        for (out, word) in hash.as_chunks_mut().0.iter_mut().zip(self.state) {
            *out = word.to_be_bytes();
        }
        hash
    }
}

/// Adds blocks to two states, as many to the one as to the other.
fn compress([first, second]: [&mut [u32; 8]; 2], [firsts, seconds]: [&[[u8; BLOCK]]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if sha_ni::compress([&mut *first, &mut *second], [firsts, seconds]) {
        return;
    }
    compress256(first, firsts);
    compress256(second, seconds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn is_the_sha256_of_each_range_however_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..5000_u32).map(|index| ((index * 7919) >> 5) as u8).collect();
        for piece in [1, 7, 63, 64, 65, 200, 1024, 5000] {
            for (start, len) in
                [(0, 5000), (8, 0), (72, 4096), (100, 1), (130, 55), (131, 56), (132, 63), (133, 64), (4999, 1)]
            {
                let range = start..start + len;
                let mut pair = Pair::default();
                for (index, part) in bytes.chunks(piece).enumerate() {
                    let at = |offset: usize| offset.saturating_sub(index * piece).min(part.len());
                    pair.add(part, &part[at(range.start)..at(range.end)]);
                }
                let expected: [[u8; 32]; 2] =
                    [Sha256::digest(&bytes).into(), Sha256::digest(&bytes[range.clone()]).into()];
                assert_eq!(pair.finish(), expected, "{piece} {range:?}");
            }
        }
    }
}
