//! Products with affine-quantised weights ([`crate::Format::Affine`]), over vectors whose lanes are weight rows.
//!
//! The q's of as many weight rows as a vector has lanes are unpacked to bytes once, four of a row to a lane, and serve
//! all activation rows. An output is one lane, so nothing is summed across lanes, and its arithmetic is one chain in the
//! order of the groups whatever the number of rows: integer dot products of blocks of 32 are exact, and each enters the
//! f32 sum by one multiply-add. Everything here is inlined into functions that enable the instructions: those that
//! [`affine_kernels_of`] makes.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::tile::{self, Bf16, Element, F16, F32, Lanes};
use super::{AffineDots, Dots};
use crate::Format;

/// Weights that share a scale of int8 activations; every group is some of them.
pub(in crate::cpu) const BLOCK: usize = 32;

/// Most lanes of a vector.
const LANES_MAX: usize = 16;

/// Weights of each row that are unpacked at once, a multiple of every group: 16 rows of them stay in the first-level
/// cache.
const K_MAX: usize = 1024;

/// Groups among them.
const GROUPS_MAX: usize = K_MAX / 32;

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

/// Which of a block's 32 weights comes at place `at` when the block has been unpacked. Activations take the same order.
#[inline(always)]
pub(super) fn order(bits: usize, at: usize) -> usize {
    let (word, byte) = (at / 4, at % 4);
    match bits {
        2 => 16 * (word / 4) + 4 * byte + word % 4,
        4 => 8 * (word / 2) + 2 * byte + word % 2,
        _ => at,
    }
}

/// A block of 32 weights of each row, from `bits` words to 8, each of four bytes.
#[inline(always)]
unsafe fn unpack<I: Ints, const BITS: usize>(words: &[I]) -> [I; 8] {
    // SAFETY: the caller has the instructions.
    unsafe {
        let mut bytes = [I::splat(0); 8];
        for (j, bytes) in bytes.iter_mut().enumerate() {
            *bytes = match BITS {
                2 => words[j / 4].shr(2 * (j % 4) as u32).and(I::splat(0x0303_0303)),
                4 => words[j / 2].shr(4 * (j % 2) as u32).and(I::splat(0x0f0f_0f0f)),
                8 => words[j],
                _ => spread::<I, BITS>(words, 4 * j * BITS),
            };
        }
        bytes
    }
}

/// Four consecutive weights from bit `at` of the words on, each moved to a byte of its own.
#[inline(always)]
unsafe fn spread<I: Ints, const BITS: usize>(words: &[I], at: usize) -> I {
    // SAFETY: the caller has the instructions.
    unsafe {
        let (word, shift) = (at / 32, (at % 32) as u32);
        let mut field = words[word].shr(shift);
        if shift as usize + 4 * BITS > 32 {
            field = field.or(words[word + 1].shl(32 - shift));
        }
        let mut bytes = field.and(I::splat((1 << BITS) - 1));
        for i in 1..4 {
            let mask = ((1u32 << BITS) - 1) << (8 * i);
            bytes = bytes.or(field.shl(((8 - BITS) * i) as u32).and(I::splat(mask as i32)));
        }
        bytes
    }
}

/// Some rows' weights `k..k + len`, unpacked, with their scales and biases: what a tile is computed from.
#[repr(align(64))]
struct Panel {
    /// `[len / 4, N, 4]`
    q: [u8; K_MAX * LANES_MAX],
    /// `[len / group, N]`
    scales: [f32; GROUPS_MAX * LANES_MAX],
    biases: [f32; GROUPS_MAX * LANES_MAX],
}

/// Where a panel lies in the matrix.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    k: usize,
    len: usize,
}

impl Panel {
    #[inline(always)]
    unsafe fn fill<I: Ints>(&mut self, d: &AffineDots, at: Place) {
        // SAFETY: the place is inside `d`.
        unsafe {
            match d.bits {
                2 => self.unpack::<I, 2>(&d.dots, at),
                3 => self.unpack::<I, 3>(&d.dots, at),
                4 => self.unpack::<I, 4>(&d.dots, at),
                5 => self.unpack::<I, 5>(&d.dots, at),
                6 => self.unpack::<I, 6>(&d.dots, at),
                _ => self.unpack::<I, 8>(&d.dots, at),
            }
            let [scales, biases] = d.scales;
            match d.scale_format {
                Format::F32 => {
                    widen::<I, F32>(d, scales, at, &mut self.scales);
                    widen::<I, F32>(d, biases, at, &mut self.biases);
                }
                Format::F16 => {
                    widen::<I, F16>(d, scales, at, &mut self.scales);
                    widen::<I, F16>(d, biases, at, &mut self.biases);
                }
                _ => {
                    widen::<I, Bf16>(d, scales, at, &mut self.scales);
                    widen::<I, Bf16>(d, biases, at, &mut self.biases);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn unpack<I: Ints, const BITS: usize>(&mut self, d: &Dots, at: Place) {
        let (blocks, at_once) = (at.len / BLOCK, I::WORDS / BITS);
        let row_bytes = |k: usize| k * BITS / 8;
        let mut to = self.q.as_mut_ptr();
        let mut first = 0;
        while first < blocks {
            let n = at_once.min(blocks - first);
            let byte = row_bytes(at.k + first * BLOCK);
            let rows = rows_at::<I>(at.rows, |row| d.w.wrapping_add((at.row + row) * d.w_stride + byte));
            // SAFETY: n blocks from byte `byte` of each row on are inside the matrix, and N times as many bytes inside
            // the panel.
            unsafe {
                let words =
                    if n == at_once { I::transposed(&rows, at_once * BITS) } else { I::transposed(&rows, n * BITS) };
                for i in 0..at_once {
                    if i < n {
                        for bytes in unpack::<I, BITS>(&words[i * BITS..(i + 1) * BITS]) {
                            bytes.store(to);
                            to = to.add(4 * I::F::N);
                        }
                    }
                }
            }
            first += n;
        }
    }
}

/// Addresses of the rows of a panel. Lanes beyond its rows repeat the last: their results are not stored.
#[inline(always)]
fn rows_at<I: Ints>(rows: usize, row_at: impl Fn(usize) -> *const u8) -> [*const u8; LANES_MAX] {
    let mut at = [row_at(0); LANES_MAX];
    for lane in 1..I::F::N {
        at[lane] = row_at(lane.min(rows - 1));
    }
    at
}

/// The panel's scales or biases, widened, from `[rows, groups]` to `[groups, N]`.
#[inline(always)]
unsafe fn widen<I: Ints, E: Element>(d: &AffineDots, from: *const u8, at: Place, to: &mut [f32]) {
    let (groups, row_groups) = (at.len / d.group, d.dots.k / d.group);
    let mut wide = [[0f32; GROUPS_MAX]; LANES_MAX];
    for row in 0..at.rows {
        let from = from.wrapping_add(((at.row + row) * row_groups + at.k / d.group) * E::BYTES);
        // SAFETY: `groups` elements of this row are inside the tensor, and fit into `wide`.
        unsafe { tile::convert::<I::F, E, F32>(from, wide[row].as_mut_ptr().cast(), groups) };
    }
    for first in (0..groups).step_by(I::WORDS) {
        let rows = rows_at::<I>(at.rows, |row| wide[row][first..].as_ptr().cast());
        let n = I::WORDS.min(GROUPS_MAX - first);
        // SAFETY: rows of `wide` have n elements from `first` on; `to` has N for each.
        unsafe {
            let words = I::transposed(&rows, n);
            for (i, words) in words[..n].iter().enumerate() {
                words.store(to[(first + i) * I::F::N..].as_mut_ptr().cast());
            }
        }
    }
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
            let scale = <B::I as Ints>::F::load_f32(p.scales.as_ptr().add(g * lanes).cast());
            for b in g * blocks..(g + 1) * blocks {
                let mut dots = [B::I::splat(0); C];
                let (w, x8) = (p.q.as_ptr().add(b * BLOCK * lanes), x.add(at.k + b * BLOCK));
                for word in 0..BLOCK / 4 {
                    let w = B::I::load(w.add(word * 4 * lanes));
                    for j in 0..C {
                        dots[j] = B::dot::<EIGHT>(dots[j], w, x8.add(j * d.dots.x_stride + 4 * word));
                    }
                }
                for j in 0..C {
                    let x_scale = number(x.add(j * d.dots.x_stride), k, at.k / BLOCK + b);
                    sums[j] = sums[j].fma(dots[j].to_f32(), scale.mul(Lanes::splat(x_scale)));
                }
            }
            let bias = <B::I as Ints>::F::load_f32(p.biases.as_ptr().add(g * lanes).cast());
            for j in 0..C {
                let x_sum = number(x.add(j * d.dots.x_stride), k + k / BLOCK * 4, at.k / d.group + g);
                sums[j] = sums[j].fma(bias, Lanes::splat(x_sum));
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
                let four = I::load(p.q.as_ptr().add(word * 4 * lanes));
                for byte in 0..4 {
                    let w = four.shr(8 * byte as u32).and(I::splat(0xff)).to_f32();
                    for j in 0..C {
                        let x = number(x.add(j * d.dots.x_stride), 0, at.k + 4 * word + byte);
                        parts[byte % 2][j] = parts[byte % 2][j].fma(w, Lanes::splat(x));
                    }
                }
            }
            let scale = I::F::load_f32(p.scales.as_ptr().add(g * lanes).cast());
            let bias = I::F::load_f32(p.biases.as_ptr().add(g * lanes).cast());
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
    let mut panel = Panel {
        q: [0; K_MAX * LANES_MAX],
        scales: [0.0; GROUPS_MAX * LANES_MAX],
        biases: [0.0; GROUPS_MAX * LANES_MAX],
    };
    for row in (0..d.dots.rows).step_by(lanes) {
        for k in (0..d.dots.k).step_by(K_MAX) {
            let at = Place { row, rows: lanes.min(d.dots.rows - row), k, len: K_MAX.min(d.dots.k - k) };
            // SAFETY: the place is inside `d`, and so are the columns of each tile.
            unsafe {
                panel.fill::<B::I>(d, at);
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
