//! The values of the 4-bit codes of bitsandbytes, which it does not read from files: `bitsandbytes/functional.py`.

/// NF4: the quantiles of a normal distribution, scaled to -1 to 1, with an exact zero.
pub(super) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// FP4: a sign bit, and the floats of 3 bits below it, divided by the largest (12).
pub(super) const FP4: [f32; 16] = {
    let magnitudes = [0.0, 0.0625 / 12.0, 8.0 / 12.0, 1.0, 4.0 / 12.0, 0.5, 2.0 / 12.0, 0.25];
    let [a, b, c, d, e, f, g, h] = magnitudes;
    [a, b, c, d, e, f, g, h, a, -b, -c, -d, -e, -f, -g, -h]
};

/// Returns whether a table read from a file is this one. Signs of zero do not matter.
pub(super) fn is_same(found: &[f32], table: &[f32; 16]) -> bool {
    found == table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_the_bits_of_bitsandbytes() {
        let nf4 = [
            0xbf80_0000,
            0xbf32_39b1,
            0xbf06_6b30,
            0xbeca_32a0,
            0xbe91_a24d,
            0xbe3d_353f,
            0xbdba_7871,
            0,
            0x3da2_faff,
            0x3e24_cae3,
            0x3e7c_04dd,
            0x3ead_033a,
            0x3ee1_a4b8,
            0x3f10_07ab,
            0x3f39_13b3,
            0x3f80_0000,
        ];
        assert_eq!(NF4.map(f32::to_bits), nf4);
        let fp4 = [
            0,
            0x3baa_aaab,
            0x3f2a_aaab,
            0x3f80_0000,
            0x3eaa_aaab,
            0x3f00_0000,
            0x3e2a_aaab,
            0x3e80_0000,
            0,
            0xbbaa_aaab,
            0xbf2a_aaab,
            0xbf80_0000,
            0xbeaa_aaab,
            0xbf00_0000,
            0xbe2a_aaab,
            0xbe80_0000,
        ];
        assert_eq!(FP4.map(f32::to_bits), fp4);
    }
}
