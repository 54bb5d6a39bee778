//! ggml's blocks side by side.

// Words are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::{E2M1_VALUES, Out, Stored, Strip};
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::tile::Lanes;
use crate::quant::ggml::IQ4_VALUES;
use crate::quant::ggml::types::{
    Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K,
    Q6K, Q8_0, Tq1_0, Tq2_0,
};

/// The four bytes from byte `at` of some words on.
#[inline(always)]
unsafe fn word_at<I: Ints>(words: &[I], at: usize) -> I {
    let (i, shift) = (at / 4, 8 * (at % 4) as u32);
    // SAFETY: the caller has the instructions, here and below.
    unsafe { if shift == 0 { words[i] } else { words[i].shr(shift).or(words[i + 1].shl(32 - shift)) } }
}

/// `count` bits, of one word, from bit `at` of some words on.
#[inline(always)]
unsafe fn bits<I: Ints>(words: &[I], at: usize, count: u32) -> I {
    // SAFETY: as above.
    unsafe { words[at / 32].shr((at % 32) as u32).and(I::splat((1 << count) - 1)) }
}

/// The number of binary16 at an even byte of some words.
#[inline(always)]
unsafe fn half<I: Ints>(words: &[I], at: usize) -> I::F {
    // SAFETY: as above.
    unsafe { words[at / 4].shr(8 * (at % 4) as u32).lower_f16() }
}

#[inline(always)]
unsafe fn nibbles<I: Ints>(bytes: I) -> I {
    // SAFETY: as above.
    unsafe { bytes.and(I::splat(0x0f0f_0f0f)) }
}

/// Adds bits `bit..` of each byte, as many as `mask` has, moved to where the mask has them.
#[inline(always)]
unsafe fn with<I: Ints>(bytes: I, of: I, bit: u32, mask: i32) -> I {
    let to = mask.trailing_zeros();
    // SAFETY: as above.
    unsafe { bytes.or(if bit < to { of.shl(to - bit) } else { of.shr(bit - to) }.and(I::splat(mask))) }
}

/// A block's sixteen bytes from byte `at` on: the lower four bits are the first sixteen weights.
#[inline(always)]
unsafe fn put_halves<I: Ints>(words: &[I], at: usize, to: &mut Out<I>, block: usize) {
    for j in 0..4 {
        // SAFETY: as above.
        unsafe {
            let q = word_at(words, at + 4 * j);
            to.put(8 * block + j, nibbles(q));
            to.put(8 * block + 4 + j, nibbles(q.shr(4)));
        }
    }
}

/// The same where they are places in a table.
#[inline(always)]
unsafe fn put_values<I: Ints>(words: &[I], at: usize, table: &[u8; 16], to: &mut Out<I>, block: usize) {
    for j in 0..4 {
        // SAFETY: as above.
        unsafe {
            let q = word_at(words, at + 4 * j);
            to.put(8 * block + j, nibbles(q).look_up(table));
            to.put(8 * block + 4 + j, nibbles(q.shr(4)).look_up(table));
        }
    }
}

/// The same with a fifth bit: bit i of a word is weight i's.
#[inline(always)]
unsafe fn put_five_bits<I: Ints>(words: &[I], fifth: usize, at: usize, to: &mut Out<I>, block: usize) {
    // SAFETY: as above.
    unsafe {
        let fifth = word_at(words, fifth);
        for j in 0..8 {
            let q = word_at(words, at + 4 * (j % 4));
            let mut bytes = nibbles(q.shr(4 * (j / 4) as u32));
            for byte in 0..4 {
                // To bit 4 of the byte; the mask keeps it alone.
                let (from, to) = (4 * j + byte, 8 * byte + 4);
                let moved = if from < to { fifth.shl((to - from) as u32) } else { fifth.shr((from - to) as u32) };
                bytes = bytes.or(moved.and(I::splat(1 << to)));
            }
            to.put(8 * block + j, bytes);
        }
    }
}

impl Strip for Q4_0 {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: the caller's promise, here and below.
        unsafe {
            let w = w.words::<I, 9>(0);
            for b in 0..2 {
                to.scale(b, half(&w, 18 * b));
                put_halves(&w, 18 * b + 2, to, b);
            }
        }
    }
}

impl Strip for Q4_1 {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 10>(0);
            for b in 0..2 {
                to.scale_and_less(b, half(&w, 20 * b), half(&w, 20 * b + 2));
                put_halves(&w, 20 * b + 4, to, b);
            }
        }
    }
}

impl Strip for Q5_0 {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 11>(0);
            for b in 0..2 {
                to.scale(b, half(&w, 22 * b));
                put_five_bits(&w, 22 * b + 2, 22 * b + 6, to, b);
            }
        }
    }
}

impl Strip for Q5_1 {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 12>(0);
            for b in 0..2 {
                to.scale_and_less(b, half(&w, 24 * b), half(&w, 24 * b + 2));
                put_five_bits(&w, 24 * b + 4, 24 * b + 8, to, b);
            }
        }
    }
}

impl Strip for Q8_0 {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let sign = I::splat(0x8080_8080_u32.cast_signed());
            let blocks = [w.words::<I, 9>(0), w.words::<I, 9>(32)];
            for b in 0..2 {
                // The second begins two bytes behind the first word of its own.
                to.scale(b, half(&blocks[b], 2 * b));
                for j in 0..8 {
                    to.put(8 * b + j, word_at(&blocks[b], 2 + 2 * b + 4 * j).xor(sign));
                }
            }
        }
    }
}

impl Strip for Iq4Nl {
    const BLOCKS: usize = 2;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 9>(0);
            for b in 0..2 {
                to.scale(b, half(&w, 18 * b));
                put_values(&w, 18 * b + 2, &IQ4_VALUES, to, b);
            }
        }
    }
}

impl Strip for Iq4Xs {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 34>(0);
            let d = half(&w, 0);
            for g in 0..8 {
                let scale = bits(&w, 32 + 4 * g, 4).or(bits(&w, 16 + 2 * g, 2).shl(4));
                to.scale(g, less_32(scale).mul(d));
                put_values(&w, 8 + 16 * g, &IQ4_VALUES, to, g);
            }
        }
    }
}

/// Whole numbers less 32.
#[inline(always)]
unsafe fn less_32<I: Ints>(of: I) -> I::F {
    // SAFETY: as above.
    unsafe { of.add(I::splat(-32)).to_f32() }
}

impl Strip for Mxfp4 {
    const BLOCKS: usize = 4;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 17>(0);
            for b in 0..4 {
                // 2^(e - 128), which may be subnormal, is the product of two powers that are not.
                let exponent = bits(&w, 8 * 17 * b, 8);
                let lesser = exponent.shr(1);
                let greater = exponent.and(I::splat(1)).add(lesser);
                to.scale(b, power(lesser).mul(power(greater)));
                put_values(&w, 17 * b + 1, &E2M1_VALUES, to, b);
            }
        }
    }
}

/// 2^(of - 64).
#[inline(always)]
unsafe fn power<I: Ints>(of: I) -> I::F {
    // SAFETY: as above.
    unsafe { of.add(I::splat(63)).shl(23).as_f32() }
}

/// Two bits of each byte: in each half of eight words, first the lowest.
#[inline(always)]
unsafe fn crumb<I: Ints>(q: &[I], part: usize, j: usize) -> I {
    // SAFETY: as above.
    unsafe { q[8 * (part / 4) + j].shr(2 * (part % 4) as u32).and(I::splat(0x0303_0303)) }
}

impl Strip for Q2K {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 21>(0);
            let (d, dmin) = (half(&w, 80), half(&w, 82));
            for g in 0..16 {
                let (scale, min) = (bits(&w, 8 * g, 4), bits(&w, 8 * g + 4, 4));
                to.scale_and_min(g, scale.to_f32().mul(d), min.to_f32().mul(dmin));
            }
            for part in 0..8 {
                for j in 0..8 {
                    to.put(8 * part + j, crumb(&w[4..20], part, j));
                }
            }
        }
    }
}

impl Strip for Q3K {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            // The last words begin two bytes before the scales.
            let (w, scales) = (w.words::<I, 24>(0), w.words::<I, 4>(94));
            let d = half(&scales, 14);
            for g in 0..16 {
                let low = bits(&scales, 8 * (2 + g % 8) + 4 * (g / 8), 4);
                let high = bits(&scales, 8 * (10 + g % 4) + 2 * (g / 4), 2);
                to.scale(g, less_32(low.or(high.shl(4))).mul(d));
            }
            for part in 0..8 {
                for j in 0..8 {
                    to.put(8 * part + j, with(crumb(&w[8..], part, j), w[j], part as u32, 0x0404_0404));
                }
            }
        }
    }
}

/// Scales and mins of six bits, eight of each in words 1 to 3, times the d and the dmin in word 0.
#[inline(always)]
unsafe fn put_scales_and_mins<I: Ints>(w: &[I], to: &mut Out<I>) {
    // SAFETY: as above.
    unsafe {
        let (d, dmin) = (half(w, 0), half(w, 2));
        for i in 0..4 {
            let [low, middle, high] = [8 * (4 + i), 8 * (8 + i), 8 * (12 + i)];
            let (scale, min) = (bits(w, low, 6), bits(w, middle, 6));
            to.scale_and_min(i, scale.to_f32().mul(d), min.to_f32().mul(dmin));
            let scale = bits(w, high, 4).or(bits(w, low + 6, 2).shl(4));
            let min = bits(w, high + 4, 4).or(bits(w, middle + 6, 2).shl(4));
            to.scale_and_min(4 + i, scale.to_f32().mul(d), min.to_f32().mul(dmin));
        }
    }
}

impl Strip for Q4K {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 36>(0);
            put_scales_and_mins(&w, to);
            for part in 0..8 {
                for j in 0..8 {
                    let q = w[4 + 8 * (part / 2) + j];
                    to.put(8 * part + j, nibbles(q.shr(4 * (part % 2) as u32)));
                }
            }
        }
    }
}

impl Strip for Q5K {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            let w = w.words::<I, 44>(0);
            put_scales_and_mins(&w, to);
            for part in 0..8 {
                for j in 0..8 {
                    let q = nibbles(w[12 + 8 * (part / 2) + j].shr(4 * (part % 2) as u32));
                    to.put(8 * part + j, with(q, w[4 + j], part as u32, 0x1010_1010));
                }
            }
        }
    }
}

impl Strip for Q6K {
    const BLOCKS: usize = 1;
    #[inline(always)]
    unsafe fn unpack_strip<I: Ints>(w: &Stored, to: &mut Out<I>) {
        // SAFETY: as above.
        unsafe {
            // The last words begin two bytes before the scales.
            let (w, scales) = (w.words::<I, 48>(0), w.words::<I, 5>(190));
            let d = half(&scales, 18);
            for g in 0..16 {
                // Of eight bits and a sign.
                let scale = bits(&scales, 8 * (2 + g), 8).xor(I::splat(0x80)).add(I::splat(-0x80));
                to.scale(g, scale.to_f32().mul(d));
            }
            for part in 0..8 {
                let (half, part_of_half) = (part / 4, part % 4);
                for j in 0..8 {
                    let low = w[16 * half + 8 * (part_of_half % 2) + j];
                    let low = nibbles(low.shr(4 * (part_of_half / 2) as u32));
                    let high = w[32 + 8 * half + j];
                    to.put(8 * part + j, with(low, high, 2 * part_of_half as u32, 0x3030_3030));
                }
            }
        }
    }
}

impl Strip for Iq1S {}
impl Strip for Iq1M {}
impl Strip for Iq2Xxs {}
impl Strip for Iq2Xs {}
impl Strip for Iq2S {}
impl Strip for Iq3Xxs {}
impl Strip for Iq3S {}
impl Strip for Tq1_0 {}
impl Strip for Tq2_0 {}
