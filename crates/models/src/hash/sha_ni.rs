//! Two sha256 at once, with the SHA instructions of x86-64 processors.
//!
//! A round waits for the one before it, so that a single sha256 leaves half of the processor's units idle. Taking turns between
//! two of them takes little more time than one. The constants and the order of words are those of FIPS 180-4 and of Intel's
//! description of the instructions.

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};
use std::iter::zip;

/// A block of 64 bytes, as the vectors that it is loaded into.
type Block = [[u8; 16]; 4];

/// The constants of the rounds, four at a time.
#[rustfmt::skip]
const ROUNDS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// Whether this processor has the instructions.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1")
}

/// Adds as many blocks to each of two states as both have. Returns whether the processor has the instructions; otherwise the
/// states are as before.
pub(super) fn compress(states: [&mut [u32; 8]; 2], blocks: [&[[u8; 64]]; 2]) -> bool {
    if !is_available() {
        return false;
    }
    // SAFETY: the processor has the instructions that the function is compiled for.
    unsafe { compress_pair(states, blocks.map(vectors)) };
    true
}

fn vectors(blocks: &[[u8; 64]]) -> &[Block] {
    blocks.as_flattened().as_chunks().0.as_chunks().0
}

/// The state of a sha256 in the order of the instructions.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress_pair([first, second]: [&mut [u32; 8]; 2], [firsts, seconds]: [&[Block]; 2]) {
    let (mut a, mut b) = (load(*first), load(*second));
    let [k0, k1, k2, k3, later @ ..] = &ROUNDS;
    for ([x0, x1, x2, x3], [y0, y1, y2, y3]) in zip(firsts, seconds) {
        let before = (a, b);
        let (mut x0, mut x1, mut x2, mut x3) = (words(x0), words(x1), words(x2), words(x3));
        let (mut y0, mut y1, mut y2, mut y3) = (words(y0), words(y1), words(y2), words(y3));
        rounds(&mut a, &mut b, x0, y0, k0);
        rounds(&mut a, &mut b, x1, y1, k1);
        rounds(&mut a, &mut b, x2, y2, k2);
        rounds(&mut a, &mut b, x3, y3, k3);
        for [k0, k1, k2, k3] in later.as_chunks::<4>().0 {
            (x0, y0) = (schedule(x0, x1, x2, x3), schedule(y0, y1, y2, y3));
            rounds(&mut a, &mut b, x0, y0, k0);
            (x1, y1) = (schedule(x1, x2, x3, x0), schedule(y1, y2, y3, y0));
            rounds(&mut a, &mut b, x1, y1, k1);
            (x2, y2) = (schedule(x2, x3, x0, x1), schedule(y2, y3, y0, y1));
            rounds(&mut a, &mut b, x2, y2, k2);
            (x3, y3) = (schedule(x3, x0, x1, x2), schedule(y3, y0, y1, y2));
            rounds(&mut a, &mut b, x3, y3, k3);
        }
        (a, b) = (sum(a, before.0), sum(b, before.1));
    }
    (*first, *second) = (store(a), store(b));
}

/// Four rounds of each.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn rounds(a: &mut State, b: &mut State, x: __m128i, y: __m128i, constants: &[u32; 4]) {
    let constants = vector(*constants);
    let (x, y) = (_mm_add_epi32(x, constants), _mm_add_epi32(y, constants));
    a.cdgh = _mm_sha256rnds2_epu32(a.cdgh, a.abef, x);
    b.cdgh = _mm_sha256rnds2_epu32(b.cdgh, b.abef, y);
    a.abef = _mm_sha256rnds2_epu32(a.abef, a.cdgh, _mm_shuffle_epi32(x, 0x0e));
    b.abef = _mm_sha256rnds2_epu32(b.abef, b.cdgh, _mm_shuffle_epi32(y, 0x0e));
}

/// The four words after 16.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn schedule(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m128i {
    _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8(d, c, 4)), d)
}

/// Four big-endian words.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn words(bytes: &[u8; 16]) -> __m128i {
    let bytes = u128::from_le_bytes(*bytes);
    let swapped = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm_shuffle_epi8(_mm_set_epi64x((bytes >> 64) as i64, bytes as i64), swapped)
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn vector(lanes: [u32; 4]) -> __m128i {
    let [a, b, c, d] = lanes.map(u32::cast_signed);
    _mm_set_epi32(d, c, b, a)
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn load([a, b, c, d, e, f, g, h]: [u32; 8]) -> State {
    State { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]) }
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn store(State { abef, cdgh }: State) -> [u32; 8] {
    let (a, b) = (_mm_extract_epi32(abef, 3), _mm_extract_epi32(abef, 2));
    let (c, d) = (_mm_extract_epi32(cdgh, 3), _mm_extract_epi32(cdgh, 2));
    let (e, f) = (_mm_extract_epi32(abef, 1), _mm_extract_epi32(abef, 0));
    let (g, h) = (_mm_extract_epi32(cdgh, 1), _mm_extract_epi32(cdgh, 0));
    [a, b, c, d, e, f, g, h].map(i32::cast_unsigned)
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn sum(a: State, b: State) -> State {
    State { abef: _mm_add_epi32(a.abef, b.abef), cdgh: _mm_add_epi32(a.cdgh, b.cdgh) }
}
