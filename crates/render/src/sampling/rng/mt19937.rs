use std::f64::consts::TAU;

use crate::single::{cos, ln, sin};

const LENGTH: usize = 624;
const SHIFT: usize = 397;

/// For tensors with fewer elements, torch draws each element separately, in double precision.
const FILLED: usize = 16;

/// The Mersenne Twister (Matsumoto and Nishimura, 1998), drawing f32 tensors as `torch.randn` does on the CPU.
#[derive(Debug, Clone)]
pub(super) struct Mt19937 {
    state: [u32; LENGTH],
    position: usize,
    /// The second value of a pair from a single draw, kept for the next single draw.
    waiting: Option<f64>,
}

impl Mt19937 {
    /// Seeds the generator. torch uses the low 32 bits.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = [0; LENGTH];
        let mut last = seed as u32;
        for (index, word) in state.iter_mut().enumerate() {
            if index > 0 {
                last = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
            }
            *word = last;
        }
        Mt19937 { state, position: LENGTH, waiting: None }
    }

    #[expect(clippy::indexing_slicing, reason = "the index is reduced modulo the length")]
    fn word(&self, index: usize) -> u32 {
        self.state[index % LENGTH]
    }

    /// Computes the next block of words.
    #[expect(clippy::indexing_slicing, reason = "the index is below the length")]
    fn twist(&mut self) {
        for index in 0..LENGTH {
            let mixed = (self.word(index) & 0x8000_0000) | (self.word(index + 1) & 0x7fff_ffff);
            let twist = if mixed & 1 == 0 { 0 } else { 0x9908_b0df };
            let next = self.word(index + SHIFT) ^ (mixed >> 1) ^ twist;
            self.state[index] = next;
        }
        self.position = 0;
    }

    fn next(&mut self) -> u32 {
        if self.position >= LENGTH {
            self.twist();
        }
        let mut word = self.word(self.position);
        self.position += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Draws from [0, 1) with 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.next() & 0xff_ffff) as f32 / (1 << 24) as f32
    }

    /// Draws from [0, 1) with 53 bits, the high word first.
    fn uniform_double(&mut self) -> f64 {
        let (high, low) = (u64::from(self.next()), u64::from(self.next()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    /// Draws a tensor of `count` values from the standard normal distribution.
    pub(super) fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < FILLED {
            return (0..count).map(|_| self.one() as f32).collect();
        }
        let mut drawn: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for block in drawn.chunks_exact_mut(FILLED) {
            transform(block);
        }
        if !count.is_multiple_of(FILLED) {
            // Like torch, draw the last block again if it is incomplete.
            let (_, last) = drawn.split_at_mut(count - FILLED);
            last.fill_with(|| self.uniform());
            transform(last);
        }
        drawn
    }

    fn one(&mut self) -> f64 {
        if let Some(waiting) = self.waiting.take() {
            return waiting;
        }
        let (angle, radius) = (TAU * self.uniform_double(), (-2.0 * libm::log1p(-self.uniform_double())).sqrt());
        self.waiting = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

/// Transforms eight pairs of uniform values, eight apart, to normal ones (Box and Muller, 1958).
fn transform(block: &mut [f32]) {
    let (radii, angles) = block.split_at_mut(FILLED / 2);
    for (radius, angle) in radii.iter_mut().zip(angles) {
        let length = (-2.0 * ln(1.0 - *radius)).sqrt();
        let turn = std::f32::consts::TAU * *angle;
        (*radius, *angle) = (length * cos(turn), length * sin(turn));
    }
}

#[cfg(test)]
// The digits are from torch.
#[allow(clippy::excessive_precision)]
mod tests {
    use super::*;

    fn assert_close(found: &[f32], expected: &[f32]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn matches_torch() {
        // torch.manual_seed(1234); torch.randn(4, 64, 64)
        let expected =
            [-0.11171857, -0.49659011, 0.16307370, -0.88168776, 0.05390019, 0.66837370, -0.05965761, -0.46749794];
        assert_close(&Mt19937::new(1234).normal(4 * 64 * 64), &expected);
        // torch uses the low 32 bits of the seed.
        assert_close(&Mt19937::new(1234 + (1 << 32)).normal(16), &expected);
    }

    #[test]
    fn matches_the_known_answers_of_mt19937() {
        // The first value of mt19937ar with init_genrand(5489), and the ten thousandth, from the C++ standard.
        let mut twister = Mt19937::new(5489);
        assert_eq!(twister.next(), 3_499_211_612);
        for _ in 1..9_999 {
            twister.next();
        }
        assert_eq!(twister.next(), 4_123_659_995);
    }

    #[test]
    fn matches_torch_for_lengths_with_an_incomplete_block() {
        // torch.manual_seed(3); torch.randn(33); torch.randn(5); torch.randn(16)
        let mut twister = Mt19937::new(3);
        let drawn = twister.normal(33);
        assert_close(&drawn[..2], &[-0.076_644_294, 0.359_881_52]);
        assert_close(&drawn[17..19], &[-0.292_912_543, -0.348_089_308]);
        assert_close(&drawn[31..], &[0.819_459_2, 0.561_593_89]);
        assert_close(
            &twister.normal(5),
            &[-0.313_898_057, -0.934_475_958, -3.362_036_71, -0.744_356_93, -0.331_725_895],
        );
        assert_close(&twister.normal(16)[..2], &[-0.204_422_772, -0.412_137_896]);
    }
}
