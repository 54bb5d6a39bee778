//! Products with affine-quantised weights ([`crate::Format::Affine`]), over vectors whose lanes are weight rows.
//!
//! The q's of as many weight rows as a vector has lanes are unpacked to bytes once, four of a row to a lane, and serve
//! all activation rows. An output is one lane, so nothing is summed across lanes, and its arithmetic is one chain in the
//! order of the groups whatever the number of rows: integer dot products of blocks of 32 are exact, and each enters the
//! f32 sum by one multiply-add. Everything here is inlined into functions that enable the instructions: those that
//! [`affine_kernels_of`] makes.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::panel::{BLOCK, K_MAX, LANES_MAX, Panel, Place, Sink, Store, unpack_all, unpack_rows};
use super::tile::Lanes;
use super::{AffineDots, Dots};

/// A vector of 32-bit integers with as many lanes as [`Ints::F`].
///
/// # Safety
/// All functions: the machine has the instructions, and the addresses hold a vector, at any byte.
pub(super) trait Ints: Copy {
    type F: Lanes;
    /// Words that [`Ints::transposed`] takes from each row at most, at least 8 and at most 16.
    const WORDS: usize;
    unsafe fn splat(value: i32) -> Self;
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn shl(self, bits: u32) -> Self;
    /// Shifts zeros in.
    unsafe fn shr(self, bits: u32) -> Self;
    unsafe fn to_f32(self) -> Self::F;
    /// Asks for the cache line at an address, which need not exist.
    unsafe fn prefetch(at: *const u8);
    /// The first `words` little-endian words at each of the first `N` addresses: vector i holds the i-th of each.
    /// Reads nothing behind them.
    unsafe fn transposed(rows: &[*const u8; LANES_MAX], words: usize) -> [Self; 16];
}

/// How an instruction set multiplies bytes.
///
/// # Safety
/// As for [`Ints`].
pub(super) trait Bytes {
    type I: Ints;
    /// `sum` plus the dot product of each lane's four unsigned bytes with the four signed ones at `x`, none of which is
    /// -128. Unless `EIGHT`, the unsigned ones are below 64.
    unsafe fn dot<const EIGHT: bool>(sum: Self::I, w: Self::I, x: *const u8) -> Self::I;
}

/// They are multiplied with the only row of int8 activations at once.
struct Multiply<'a, B: Bytes, const EIGHT: bool> {
    d: &'a AffineDots,
    panel: &'a Panel,
    at: Place,
    block: usize,
    first_group: usize,
    group: usize,
    /// Blocks of the group that are still to come.
    left: usize,
    sum: <B::I as Ints>::F,
}

impl<B: Bytes, const EIGHT: bool> Sink<B::I> for Multiply<'_, B, EIGHT> {
    #[inline(always)]
    unsafe fn take(&mut self, bytes: [B::I; 8]) {
        let (d, k, b, g) = (self.d, self.d.dots.k, self.block, self.group);
        let (x8, x_scales) = (d.dots.x.wrapping_add(self.at.k), k + self.at.k / BLOCK * 4);
        // SAFETY: the block is one of the row's and the group one of the panel's.
        unsafe {
            let mut dot = B::I::splat(0);
            for word in 0..8 {
                dot = B::dot::<EIGHT>(dot, bytes[word], x8.add(b * BLOCK + 4 * word));
            }
            self.sum = add_block::<B::I>(self.sum, dot, self.panel.scale(g), number(d.dots.x, x_scales, b));
            (self.block, self.left) = (b + 1, self.left - 1);
            if self.left == 0 {
                let x_sum = number(d.dots.x, k + k / BLOCK * 4, self.first_group + g);
                self.sum = self.sum.fma(self.panel.bias(g), Lanes::splat(x_sum));
                (self.group, self.left) = (g + 1, d.group / BLOCK);
            }
        }
    }
}

/// The sum with the product of a block.
#[inline(always)]
unsafe fn add_block<I: Ints>(sum: I::F, dot: I, scale: I::F, x_scale: f32) -> I::F {
    // SAFETY: the caller has the instructions.
    unsafe { sum.fma(dot.to_f32(), scale.mul(Lanes::splat(x_scale))) }
}

/// Outputs of a panel's rows and `C` columns: those of earlier panels, or zeros.
#[inline(always)]
unsafe fn load<L: Lanes, const C: usize>(d: &Dots, at: Place, c: usize) -> [L; C] {
    // SAFETY: the caller's outputs are inside `d`; fewer than a vector's are copied to one.
    unsafe {
        let mut sums = [L::zero(); C];
        if at.k > 0 {
            for j in 0..C {
                let out = d.out.add((c + j) * d.out_stride + at.row);
                if at.rows == L::N {
                    sums[j] = L::load_f32(out.cast());
                } else {
                    let mut values = [0f32; LANES_MAX];
                    std::ptr::copy_nonoverlapping(out, values.as_mut_ptr(), at.rows);
                    sums[j] = L::load_f32(values.as_ptr().cast());
                }
            }
        }
        sums
    }
}

#[inline(always)]
unsafe fn store<L: Lanes, const C: usize>(d: &Dots, at: Place, c: usize, sums: [L; C]) {
    // SAFETY: as for `load`.
    unsafe {
        for j in 0..C {
            let out = d.out.add((c + j) * d.out_stride + at.row);
            if at.rows == L::N {
                sums[j].store_f32(out.cast());
            } else {
                let mut values = [0f32; LANES_MAX];
                sums[j].store_f32(values.as_mut_ptr().cast());
                std::ptr::copy_nonoverlapping(values.as_ptr(), out, at.rows);
            }
        }
    }
}

/// f32 number `index` behind `bytes` bytes of an activation row.
#[inline(always)]
unsafe fn number(row: *const u8, bytes: usize, index: usize) -> f32 {
    // SAFETY: the caller's row holds it.
    unsafe { row.add(bytes).cast::<f32>().add(index).read_unaligned() }
}

/// A panel times `C` activation rows of int8.
#[inline(always)]
unsafe fn rounded_tile<B: Bytes, const C: usize, const EIGHT: bool>(d: &AffineDots, p: &Panel, at: Place, c: usize) {
    let (k, lanes, blocks) = (d.dots.k, <B::I as Ints>::F::N, d.group / BLOCK);
    // SAFETY: columns c..c + C are inside `d`; an activation row holds what `round` writes, the panel what `fill` does.
    unsafe {
        let x = d.dots.x.add(c * d.dots.x_stride);
        let mut sums = load::<<B::I as Ints>::F, C>(&d.dots, at, c);
        for g in 0..at.len / d.group {
            for b in g * blocks..(g + 1) * blocks {
                let mut dots = [B::I::splat(0); C];
                let (w, x8) = (p.q.as_ptr().cast::<u8>().add(b * BLOCK * lanes), x.add(at.k + b * BLOCK));
                for word in 0..BLOCK / 4 {
                    let w = B::I::load(w.add(word * 4 * lanes));
                    for j in 0..C {
                        dots[j] = B::dot::<EIGHT>(dots[j], w, x8.add(j * d.dots.x_stride + 4 * word));
                    }
                }
                for j in 0..C {
                    let x_scale = number(x.add(j * d.dots.x_stride), k, at.k / BLOCK + b);
                    sums[j] = add_block(sums[j], dots[j], p.scale(g), x_scale);
                }
            }
            for j in 0..C {
                let x_sum = number(x.add(j * d.dots.x_stride), k + k / BLOCK * 4, at.k / d.group + g);
                sums[j] = sums[j].fma(p.bias(g), Lanes::splat(x_sum));
            }
        }
        store(&d.dots, at, c, sums);
    }
}

/// A panel times `C` activation rows of f32: each group in two sums, of its even places and of its odd ones.
#[inline(always)]
unsafe fn precise_tile<I: Ints, const C: usize>(d: &AffineDots, p: &Panel, at: Place, c: usize) {
    let lanes = I::F::N;
    // SAFETY: as for `rounded_tile`, with rows that `sum` writes.
    unsafe {
        let x = d.dots.x.add(c * d.dots.x_stride);
        let mut sums = load::<I::F, C>(&d.dots, at, c);
        for g in 0..at.len / d.group {
            let mut parts = [[I::F::zero(); C]; 2];
            for word in g * d.group / 4..(g + 1) * d.group / 4 {
                let four = I::load(p.q.as_ptr().cast::<u8>().add(word * 4 * lanes));
                for byte in 0..4 {
                    let w = four.shr(8 * byte as u32).and(I::splat(0xff)).to_f32();
                    for j in 0..C {
                        let x = number(x.add(j * d.dots.x_stride), 0, at.k + 4 * word + byte);
                        parts[byte % 2][j] = parts[byte % 2][j].fma(w, Lanes::splat(x));
                    }
                }
            }
            let (scale, bias) = (p.scale(g), p.bias(g));
            for j in 0..C {
                let x_sum = number(x.add(j * d.dots.x_stride), 4 * d.dots.k, at.k / d.group + g);
                sums[j] = sums[j].fma(parts[0][j], scale).fma(parts[1][j], scale).fma(bias, Lanes::splat(x_sum));
            }
        }
        store(&d.dots, at, c, sums);
    }
}

/// All outputs, panel by panel: `C` activation rows at once, then two, then one.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `AffineDots` says.
#[inline(always)]
pub(super) unsafe fn dots<B: Bytes, const C: usize, const PRECISE: bool>(d: &AffineDots) {
    let lanes = <B::I as Ints>::F::N;
    let mut panel = Panel::new();
    for row in (0..d.dots.rows).step_by(lanes) {
        for k in (0..d.dots.k).step_by(K_MAX) {
            let at = Place { row, rows: lanes.min(d.dots.rows - row), k, len: K_MAX.min(d.dots.k - k) };
            // SAFETY: the place is inside `d`, and so are the columns of each tile.
            unsafe {
                panel.fill_scales::<B::I>(d, at);
                if d.dots.columns == 1 && !PRECISE {
                    multiply_once::<B>(d, &panel, at);
                    continue;
                }
                unpack_all::<B::I, _>(d, at, &mut Store(panel.q.as_mut_ptr().cast()));
                let mut c = 0;
                while c + C <= d.dots.columns {
                    tile::<B, C, PRECISE>(d, &panel, at, c);
                    c += C;
                }
                while C > 2 && c + 2 <= d.dots.columns {
                    tile::<B, 2, PRECISE>(d, &panel, at, c);
                    c += 2;
                }
                while c < d.dots.columns {
                    tile::<B, 1, PRECISE>(d, &panel, at, c);
                    c += 1;
                }
            }
        }
    }
}

/// A place times the only activation row, rounded to int8.
#[inline(always)]
unsafe fn multiply_once<B: Bytes>(d: &AffineDots, panel: &Panel, at: Place) {
    // SAFETY: the place is inside `d`, and the scales are the panel's.
    unsafe {
        let [sum] = load::<<B::I as Ints>::F, 1>(&d.dots, at, 0);
        let (first_group, left) = (at.k / d.group, d.group / BLOCK);
        let sum = if d.bits == 8 {
            let mut sink = Multiply::<B, true> { d, panel, at, block: 0, first_group, group: 0, left, sum };
            unpack_rows::<B::I, _, 8>(&d.dots, at, &mut sink);
            sink.sum
        } else {
            let mut sink = Multiply::<B, false> { d, panel, at, block: 0, first_group, group: 0, left, sum };
            unpack_all::<B::I, _>(d, at, &mut sink);
            sink.sum
        };
        store(&d.dots, at, 0, [sum]);
    }
}

#[inline(always)]
unsafe fn tile<B: Bytes, const C: usize, const PRECISE: bool>(d: &AffineDots, p: &Panel, at: Place, c: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if PRECISE {
            precise_tile::<B::I, C>(d, p, at, c);
        } else if d.bits == 8 {
            rounded_tile::<B, C, true>(d, p, at, c);
        } else {
            rounded_tile::<B, C, false>(d, p, at, c);
        }
    }
}

/// Makes `affine()`, the products of one instruction set with affine-quantised weights: `$bytes` multiplies, so many
/// activation rows at once, rounded or precise, in functions that enable the instructions given.
macro_rules! affine_kernels_of {
    ($bytes:ty, rounded: $rounded:literal, precise: $precise:literal $(, $features:literal)?) => {{
        use $crate::cpu::isa::{AffineDots, AffineKernels, affine, group};

        $(#[target_feature(enable = $features)])?
        unsafe fn rounded(d: &AffineDots) {
            // SAFETY: the caller's promise, here and below.
            unsafe { affine::dots::<$bytes, $rounded, false>(d) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn precise(d: &AffineDots) {
            // SAFETY: as above.
            unsafe { affine::dots::<$bytes, $precise, true>(d) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn round(x: &[f32], bits: usize, group: usize, to: *mut u8) {
            // SAFETY: as above.
            unsafe { group::round(x, bits, group, to) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn sum(x: &[f32], bits: usize, group: usize, to: *mut u8) {
            // SAFETY: as above.
            unsafe { group::sum(x, bits, group, to) }
        }
        AffineKernels { rounded, precise, round, sum }
    }};
}
pub(super) use affine_kernels_of;
