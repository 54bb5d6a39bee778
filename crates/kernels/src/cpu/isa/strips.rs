//! Blocks and codes of as many rows as a vector has lanes, unpacked to a panel side by side: a strip.
//!
//! Words are transposed as they are stored, so that each lane holds its row's, and taken apart there: nothing but unpacked
//! weights goes to memory, and a block's scales are unpacked for all rows at once. What comes out is, to the bit, what
//! [`Block::unpack`] makes of each block.

// Words are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::affine::Ints;
use super::panel::{BLOCK, LANES_MAX, Place, rows_at, spread, transpose};
use super::tile::Lanes;
use super::unpacked::{GROUPS_MAX, Panel};
use super::{Dots, Packed, UnpackedDots};
use crate::quant::Code;
use crate::quant::coded::{Rows, e2m1_table};
use crate::quant::ggml::types::{
    Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K,
    Q6K, Q8_0, Tq1_0, Tq2_0,
};
use crate::quant::ggml::{Block, IQ4_VALUES, of_type};

/// Most bytes of a row that are unpacked at once, where these are several blocks.
const BYTES_MAX: usize = 72;

static E2M1_VALUES: [u8; 16] = e2m1_table();

/// A type whose blocks are known side by side.
pub(super) trait Strip: Block {
    /// Blocks of a row that are unpacked at once, so that they are whole words; 0 where they are unpacked row by row.
    const BLOCKS: usize = 0;
    /// Unpacks so many of each row.
    ///
    /// # Safety
    /// The machine has the instructions, and the blocks are stored there.
    unsafe fn unpack_strip<I: Ints>(_w: &Stored, _to: &mut Out<I>) {
        unreachable!("no strips of such blocks")
    }
}

/// Where the blocks of each row begin.
pub(super) struct Stored([*const u8; LANES_MAX]);

impl Stored {
    /// `N` words of each row from byte `at` on.
    #[inline(always)]
    unsafe fn words<I: Ints, const N: usize>(&self, at: usize) -> [I; N] {
        // SAFETY: the caller has the instructions, and the rows hold so many words.
        unsafe {
            let mut words = [I::splat(0); N];
            let whole = N / I::WORDS * I::WORDS;
            for first in (0..whole).step_by(I::WORDS) {
                let some = I::transposed(&self.behind(at + 4 * first).0, I::WORDS);
                words[first..first + I::WORDS].copy_from_slice(&some[..I::WORDS]);
            }
            if whole < N {
                let some = I::transposed(&self.behind(at + 4 * whole).0, N - whole);
                words[whole..].copy_from_slice(&some[..N - whole]);
            }
            words
        }
    }

    /// The same so many bytes further.
    #[inline(always)]
    fn behind(&self, bytes: usize) -> Stored {
        let mut rows = self.0;
        for row in &mut rows {
            *row = row.wrapping_add(bytes);
        }
        Stored(rows)
    }
}

/// Where a strip is unpacked to: a panel, from some word and some group on.
pub(super) struct Out<'a, I: Ints> {
    panel: &'a mut Panel,
    word: usize,
    group: usize,
    /// What a u stands for that is worth a scale of -1: biases are of `u - base`.
    zero: I::F,
}

impl<'a, I: Ints> Out<'a, I> {
    #[inline(always)]
    unsafe fn new(panel: &'a mut Panel, base: u8, offset: u8) -> Self {
        // SAFETY: the caller has the instructions, here and below.
        let zero = unsafe { I::F::splat(f32::from(i16::from(base) - i16::from(offset))) };
        Out { panel, word: 0, group: 0, zero }
    }

    /// Goes on behind so many weights.
    #[inline(always)]
    fn advance(&mut self, weights: usize, group: usize) {
        self.word += weights / 4;
        self.group += weights / group;
    }

    /// Four weights of each row.
    #[inline(always)]
    unsafe fn put(&mut self, word: usize, bytes: I) {
        // SAFETY: as above; a strip ends inside the panel.
        unsafe { bytes.store(self.panel.q().add((self.word + word) * 4 * I::F::N)) };
    }

    #[inline(always)]
    unsafe fn scale(&mut self, group: usize, scale: I::F) {
        // SAFETY: as above.
        unsafe { self.panel.set(self.group + group, scale, scale.mul(self.zero)) };
    }

    /// With what is taken from a weight.
    #[inline(always)]
    unsafe fn scale_and_min(&mut self, group: usize, scale: I::F, min: I::F) {
        // SAFETY: as above.
        unsafe { self.scale_and_less(group, scale, min.mul(I::F::splat(-1.0))) };
    }

    /// With what is added to a weight.
    #[inline(always)]
    unsafe fn scale_and_less(&mut self, group: usize, scale: I::F, less: I::F) {
        // SAFETY: as above.
        unsafe { self.panel.set(self.group + group, scale, scale.mul(self.zero).add(less)) };
    }
}

/// Unpacks a place, with biases of `u - base`; or says that it cannot. Lanes beyond its rows hold another row's.
///
/// # Safety
/// The machine has the instructions; the place is inside what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn fill<I: Ints>(d: &UnpackedDots, at: Place, base: u8, panel: &mut Panel) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match &d.weights {
            Packed::Ggml(format) => of_type!(*format => of_blocks [I] (&d.dots, at, base, panel)),
            Packed::Coded(rows, group) => of_codes::<I>(rows, *group, at, base, panel),
        }
    }
}

#[inline(always)]
unsafe fn of_blocks<T: Strip, I: Ints>(d: &Dots, at: Place, base: u8, panel: &mut Panel) -> bool {
    if T::BLOCKS == 0 {
        return false;
    }
    let (weights, bytes) = (T::BLOCKS * T::WEIGHTS, T::BLOCKS * T::BYTES);
    let first = at.k / T::WEIGHTS * T::BYTES;
    let rows = Stored(rows_at::<I>(at.rows, |row| d.w.wrapping_add((at.row + row) * d.w_stride + first)));
    let (whole, rest) = (at.len / weights, at.len % weights);
    // SAFETY: the caller's promise; what is no whole strip is copied. A panel is some whole strips.
    unsafe {
        let mut out = Out::<I>::new(panel, base, T::OFFSET);
        for i in 0..whole {
            T::unpack_strip::<I>(&rows.behind(i * bytes), &mut out);
            out.advance(weights, T::GROUP);
        }
        if rest > 0 {
            let mut copies = [[0u8; BYTES_MAX]; LANES_MAX];
            for (copy, row) in copies.iter_mut().zip(rows.behind(whole * bytes).0) {
                std::ptr::copy_nonoverlapping(row, copy.as_mut_ptr(), rest / T::WEIGHTS * T::BYTES);
            }
            T::unpack_strip::<I>(&Stored(std::array::from_fn(|lane| copies[lane].as_ptr())), &mut out);
        }
    }
    true
}

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

#[inline(always)]
unsafe fn of_codes<I: Ints>(w: &Rows, group: usize, at: Place, base: u8, panel: &mut Panel) -> bool {
    let (cols, code_bits) = (w.shape[1], w.coded.bits());
    let rows = Stored(rows_at::<I>(at.rows, |row| {
        w.data.as_ptr().wrapping_add(((w.first + w.step * (at.row + row)) * cols + at.k) * code_bits / 8)
    }));
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = Out::<I>::new(panel, 0, 0);
        match w.coded.code {
            Code::Int8 => of_bytes(&rows, at.len, I::splat(0), &mut out),
            Code::Signed8 => of_bytes(&rows, at.len, I::splat(0x8080_8080_u32.cast_signed()), &mut out),
            Code::Int4 => of_nibbles::<I, false>(&rows, at.len, &mut out),
            Code::E2m1 => of_nibbles::<I, true>(&rows, at.len, &mut out),
            Code::Gptq if w.step == 1 => of_columns(w, at, &mut out),
            Code::Gptq | Code::Awq | Code::E4m3 => return false,
        }
        put_scales_of_codes::<I>(w, group, at, base, panel);
    }
    true
}

#[inline(always)]
unsafe fn of_bytes<I: Ints>(rows: &Stored, len: usize, sign: I, to: &mut Out<I>) {
    for k in (0..len).step_by(BLOCK) {
        // SAFETY: the caller has the instructions, and rows of so many weights, some whole blocks, here and below.
        unsafe {
            let words = rows.words::<I, 8>(k);
            for j in 0..8 {
                to.put(j, words[j].xor(sign));
            }
        }
        to.advance(BLOCK, BLOCK);
    }
}

/// Of four bits, the lower of a byte first.
#[inline(always)]
unsafe fn of_nibbles<I: Ints, const E2M1: bool>(rows: &Stored, len: usize, to: &mut Out<I>) {
    const AT_ONCE: usize = 4 * BLOCK;
    let whole = len / AT_ONCE * AT_ONCE;
    for k in (0..whole).step_by(AT_ONCE) {
        // SAFETY: as above.
        unsafe { put_nibbles::<I, 16, E2M1>(rows, k, to) };
    }
    for k in (whole..len).step_by(BLOCK) {
        // SAFETY: as above.
        unsafe { put_nibbles::<I, 4, E2M1>(rows, k, to) };
    }
}

/// Those of `WORDS` words.
#[inline(always)]
unsafe fn put_nibbles<I: Ints, const WORDS: usize, const E2M1: bool>(rows: &Stored, k: usize, to: &mut Out<I>) {
    // SAFETY: as above.
    unsafe {
        let words = rows.words::<I, WORDS>(k / 2);
        for j in 0..2 * WORDS {
            let bytes = spread::<I, 4>(&words, 16 * j);
            to.put(j, if E2M1 { bytes.look_up(&E2M1_VALUES) } else { bytes });
        }
    }
    to.advance(8 * WORDS, BLOCK);
}

/// Words of eight weights of a row, those of neighbouring rows side by side.
#[inline(always)]
unsafe fn of_columns<I: Ints>(w: &Rows, at: Place, to: &mut Out<I>) {
    let rows = w.shape[0];
    for i in 0..at.len / 8 {
        let words = w.data.as_ptr().wrapping_add(4 * ((at.k / 8 + i) * rows + w.first + at.row));
        // SAFETY: as above; fewer words than a vector's are copied.
        unsafe {
            let word = if at.rows == I::F::N {
                I::load(words)
            } else {
                let mut copy = [0u8; 4 * LANES_MAX];
                std::ptr::copy_nonoverlapping(words, copy.as_mut_ptr(), 4 * at.rows);
                I::load(copy.as_ptr())
            };
            to.put(2 * i, spread::<I, 4>(&[word], 0));
            to.put(2 * i + 1, spread::<I, 4>(&[word], 16));
        }
    }
}

#[inline(always)]
unsafe fn put_scales_of_codes<I: Ints>(w: &Rows, group: usize, at: Place, base: u8, panel: &mut Panel) {
    let groups = at.len / group;
    let (mut scales, mut biases) = ([[0f32; GROUPS_MAX]; LANES_MAX], [[0f32; GROUPS_MAX]; LANES_MAX]);
    for row in 0..at.rows {
        let (scales, biases) = (&mut scales[row][..groups], &mut biases[row][..groups]);
        w.scales_and_biases(at.row + row, at.k, group, base, scales, biases);
    }
    let [to_scales, to_biases] = panel.scales_and_biases();
    // SAFETY: the caller has the instructions.
    unsafe {
        transpose::<I, GROUPS_MAX>(&scales, at.rows, groups, to_scales);
        transpose::<I, GROUPS_MAX>(&biases, at.rows, groups, to_biases);
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::super::affine::Bytes;
    use super::super::portable::OneByOne;
    use super::super::unpacked::{self, To};
    use super::*;
    use crate::quant::coded::{Coded, Second, WHOLE};
    use crate::tensor::DType;
    use crate::{Format, GgmlType};

    type Words = <OneByOne as Bytes>::I;
    const LANES: usize = 8;

    fn random_bytes(count: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // No f16 among them is infinite or NaN.
        (0..count).map(|_| byte()).map(|byte| if byte & 0x7c == 0x7c { byte ^ 0x40 } else { byte }).collect()
    }

    /// Whether a place is unpacked side by side; if so, to what it is unpacked to row by row.
    fn is_same(d: &UnpackedDots, at: Place) -> bool {
        let (mut strip, mut rows) = (Box::new(Panel::new()), Box::new(Panel::new()));
        let group = d.weights.group();
        // SAFETY: plain Rust, and the caller's addresses hold what is said of them.
        unsafe {
            if !fill::<Words>(d, at, 0, &mut strip) {
                return false;
            }
            unpacked::fill(d, at, To::side_by_side(LANES, 0), &mut rows);
        }
        let bits = |of: &[f32]| of.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        for row in 0..at.rows {
            for k in 0..at.len {
                // SAFETY: a panel of so many weights.
                let u = unsafe { strip.q().add((k / 4 * LANES + row) * 4 + k % 4).read() };
                assert_eq!(u, rows.row(row)[k], "row {row}, weight {k}");
            }
            for g in 0..at.len / group {
                let number = g * LANES + row;
                let of = |panel: &mut Panel| panel.scales_and_biases().map(|of| bits(&of[number..=number]));
                assert_eq!(of(&mut strip), of(&mut rows), "row {row}, group {g}");
            }
        }
        true
    }

    fn dots(w: *const u8, w_stride: usize, rows: usize, k: usize) -> Dots {
        Dots { w, w_stride, rows, x: w, x_stride: 0, columns: 0, k, out: null_mut(), out_stride: 0 }
    }

    /// All rows of a panel and fewer, and parts that are no whole strips.
    #[test]
    fn blocks_are_what_they_are_row_by_row() {
        let mut known = 0;
        for blocks in GgmlType::ALL {
            let format = Format::Ggml(blocks);
            for (rows, len) in [(8, 512), (5, 256), (1, 32), (7, 160)] {
                if len % blocks.block_weights() != 0 {
                    continue;
                }
                let k = 768 + len;
                let w = random_bytes(rows * format.row_bytes(k));
                let dots = dots(w.as_ptr(), format.row_bytes(k), rows, k);
                let d = UnpackedDots { dots, weights: Packed::Ggml(blocks) };
                known += usize::from(is_same(&d, Place { row: 0, rows, k: 768, len }));
            }
        }
        assert_eq!(known, 7 * 4 + 6 * 2);
    }

    #[test]
    fn codes_are_what_they_are_row_by_row() {
        let (mut known, shape) = (0, [16, 768 + 160]);
        let coded = [
            Coded { code: Code::Int4, block: [1, 32], second: Second::None },
            Coded { code: Code::E2m1, block: [1, 16], second: Second::None },
            Coded { code: Code::E2m1, block: [1, 32], second: Second::None },
            Coded { code: Code::Int8, block: [1, WHOLE], second: Second::None },
            Coded { code: Code::Signed8, block: [4, 64], second: Second::None },
            Coded { code: Code::Gptq, block: [1, 32], second: Second::ZerosLessOne },
            Coded { code: Code::Awq, block: [1, 32], second: Second::Zeros },
        ];
        for coded in coded {
            let of = |i: usize| random_bytes(coded.shapes(shape[0], shape[1])[i].map_or(0, |[a, b]| 2 * a * b));
            let (data, scales, second) = (of(0), of(1), of(2));
            let group = coded.group(shape[1]).expect("a group of whole numbers");
            for step in [1, 2] {
                let rows = Rows {
                    coded,
                    data: &data,
                    scales: &scales,
                    scale_type: DType::F16,
                    second: &second,
                    shape,
                    first: 1,
                    step,
                };
                let d = UnpackedDots { dots: dots(data.as_ptr(), 0, 7, shape[1]), weights: Packed::Coded(rows, group) };
                known += usize::from(is_same(&d, Place { row: 0, rows: 7, k: 768, len: 160 }));
            }
        }
        // AWQ and, with rows that are not neighbours, GPTQ are unpacked row by row.
        assert_eq!(known, 2 * 5 + 1);
    }
}
