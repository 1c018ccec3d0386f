use std::f32::consts::TAU;

/// Philox 4x32-10 (Salmon et al., 2011), drawing as `torch.randn` does on an NVIDIA GPU: each element of a tensor has a
/// separate counter, and each tensor uses the next offset.
///
/// The values match those of a GPU if the tensor fits into one launch of torch's kernel, which is always the case for
/// 512x512 pictures.
#[derive(Debug, Clone)]
pub(super) struct Philox {
    key: [u32; 2],
    /// The number of tensors drawn so far.
    offset: u32,
}

const MULTIPLIERS: (u64, u64) = (0xD251_1F53, 0xCD9E_8D57);
const WEYL: (u32, u32) = (0x9E37_79B9, 0xBB67_AE85);
const ROUNDS: usize = 10;

/// 2^-32 and 2^-32 of a full turn, with curand's single-precision constants.
const UNIT: f32 = 2.328_306_4e-10;
const UNIT_TURN: f32 = UNIT * TAU;

impl Philox {
    /// Seeds the generator.
    pub(super) fn new(seed: u64) -> Self {
        Philox { key: [seed as u32, (seed >> 32) as u32], offset: 0 }
    }

    /// Draws a tensor of `count` values from the standard normal distribution.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        let offset = self.offset;
        self.offset = offset.wrapping_add(1);
        (0..count as u32).map(|element| box_muller(self.block([offset, 0, element, 0]))).collect()
    }

    /// The Philox block function.
    fn block(&self, mut counter: [u32; 4]) -> [u32; 4] {
        let mut key = self.key;
        for _ in 0..ROUNDS {
            let ([a, b, c, d], [key_a, key_b]) = (counter, key);
            let (left, right) = (u64::from(a) * MULTIPLIERS.0, u64::from(c) * MULTIPLIERS.1);
            let high = |product: u64| (product >> 32) as u32;
            counter = [high(right) ^ b ^ key_a, right as u32, high(left) ^ d ^ key_b, left as u32];
            key = [key_a.wrapping_add(WEYL.0), key_b.wrapping_add(WEYL.1)];
        }
        counter
    }
}

/// The second value of a Box-Muller pair, which is the one that torch keeps. Computed in double precision, as WebUI's
/// generator "NV" does.
fn box_muller([radius, angle, _, _]: [u32; 4]) -> f32 {
    let u = f64::from(radius) * f64::from(UNIT) + f64::from(UNIT / 2.0);
    let v = f64::from(angle) * f64::from(UNIT_TURN) + f64::from(UNIT_TURN / 2.0);
    ((-2.0 * libm::log(u)).sqrt() * libm::sin(v)) as f32
}

#[cfg(test)]
// The digits are from torch.
#[allow(clippy::excessive_precision)]
mod tests {
    use super::*;

    #[test]
    fn matches_torch_on_a_gpu() {
        // The first values of `torch.randn` with seed 0 on a GPU, from WebUI's documentation.
        let drawn = Philox::new(0).normal(4);
        for (found, expected) in drawn.iter().zip([-0.92466259_f32, -0.42534415, -2.64384580, 0.14518388]) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn computes_in_double_precision_like_webui() {
        // The values of WebUI's `rng_philox.py` with seed 0 that differ most from those in single precision.
        let drawn = Philox::new(0).normal(16_384);
        for (index, expected) in [(13_237, -0.926_496_7_f32), (748, -0.709_850_67), (1125, -0.162_368_63)] {
            assert!((drawn[index] - expected).abs() < 6e-8, "{} instead of {expected}", drawn[index]);
        }
    }

    #[test]
    fn draws_differ_and_both_halves_of_the_seed_count() {
        let mut philox = Philox::new(7);
        let (first, second) = (philox.normal(8), philox.normal(8));
        assert_ne!(first, second);
        assert_eq!(Philox::new(7).normal(8), first);
        assert_ne!(Philox::new(7 | 1 << 40).normal(8), first);
        // The values do not depend on the length of the tensor.
        assert_eq!(Philox::new(7).normal(3), first[..3]);
    }

    #[test]
    fn block_matches_the_known_answers_of_random123() {
        // From kat_vectors of Random123: philox4x32-10.
        let none = Philox { key: [0, 0], offset: 0 };
        assert_eq!(none.block([0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let all = Philox { key: [u32::MAX; 2], offset: 0 };
        assert_eq!(all.block([u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }
}
