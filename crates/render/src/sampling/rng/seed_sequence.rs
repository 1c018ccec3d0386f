const INITIAL: (u32, u32) = (0x43b0_d7e5, 0x8b51_f9dd);
const MULTIPLIERS: (u32, u32) = (0x931e_8875, 0x58f3_8ded);
const MIX: (u32, u32) = (0xca01_f9dd, 0x4973_f715);
const SHIFT: u32 = 16;

/// Number of words in the pool of the seed sequences of torchsde's `BrownianTree`.
const POOL: usize = 24;

/// Returns the first word of the state that numpy's `SeedSequence` (O'Neill, 2015) generates from an entropy and a spawn
/// key, with a pool of 24 words.
pub(in crate::sampling) fn first_word(entropy: u64, spawn_key: &[u64]) -> u32 {
    // numpy pads the entropy to the length of the pool if there is a spawn key. Without one, the pool is padded, with the
    // same result.
    let mut filling = words(entropy).chain(std::iter::repeat(0));
    let mut hash = Hash { constant: INITIAL.0 };
    let mut pool = [0_u32; POOL].map(|_| hash.value(filling.next().unwrap_or(0)));
    for source in 0..POOL {
        for target in (0..POOL).filter(|target| *target != source) {
            let value = hash.value(word(&pool, source));
            mix(&mut pool, target, value);
        }
    }
    for key in spawn_key.iter().flat_map(|key| words(*key)) {
        for target in 0..POOL {
            let value = hash.value(key);
            mix(&mut pool, target, value);
        }
    }
    let first = word(&pool, 0) ^ INITIAL.1;
    let first = first.wrapping_mul(INITIAL.1.wrapping_mul(MULTIPLIERS.1));
    first ^ (first >> SHIFT)
}

/// The words of a number, the lowest first. Zero has one word.
fn words(number: u64) -> impl Iterator<Item = u32> {
    let (low, high) = (number as u32, (number >> 32) as u32);
    [low].into_iter().chain((high != 0).then_some(high))
}

struct Hash {
    constant: u32,
}

impl Hash {
    fn value(&mut self, value: u32) -> u32 {
        let value = value ^ self.constant;
        self.constant = self.constant.wrapping_mul(MULTIPLIERS.0);
        let value = value.wrapping_mul(self.constant);
        value ^ (value >> SHIFT)
    }
}

#[expect(clippy::indexing_slicing, reason = "the index is below the length")]
fn word(pool: &[u32; POOL], index: usize) -> u32 {
    pool[index]
}

#[expect(clippy::indexing_slicing, reason = "the index is below the length")]
fn mix(pool: &mut [u32; POOL], target: usize, value: u32) {
    let mixed = MIX.0.wrapping_mul(pool[target]).wrapping_sub(MIX.1.wrapping_mul(value));
    pool[target] = mixed ^ (mixed >> SHIFT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_numpy() {
        // SeedSequence(entropy, spawn_key=key, pool_size=24).generate_state(1)
        assert_eq!(first_word(0, &[]), 4_025_752_534);
        assert_eq!(first_word(1234, &[]), 4_280_268_349);
        assert_eq!(first_word(1234, &[0, 0]), 840_100_010);
        assert_eq!(first_word(1234, &[5, 3]), 1_860_635_963);
        assert_eq!(first_word(9223372036854788153, &[8388607, 23]), 877_742_675);
        assert_eq!(first_word(42, &[8589934592, 34]), 3_684_928_205);
    }
}
