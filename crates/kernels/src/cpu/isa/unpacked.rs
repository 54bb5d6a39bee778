//! Products with ggml's blocks ([`crate::Format::Ggml`]) and codes of whole numbers ([`crate::Format::Coded`]), over vectors
//! whose lanes are weight rows.
//!
//! The weights of as many rows as a vector has lanes are unpacked to bytes, with a scale and a bias for each group of 16 or 32:
//! the one step that knows how they are stored. The rest is as for affine-quantised weights of eight bits (`affine`): an output is one
//! chain in the order of the groups, whether the bytes are multiplied where they lie ([`lone`]) or transposed ([`tile`]).

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use super::affine::{Bytes, Ints, STEP_BLOCKS_MAX, X_BYTES_MAX, load, number, store};
use super::panel::{BLOCK, LANES_MAX, Place, rows_at, unpack_rows};
use super::tile::Lanes;
use super::{Dots, Packed, UnpackedDots};
use crate::quant::coded::Rows;
use crate::quant::ggml::{Block, GROUP_MIN, SCALES_MAX, of_type};

/// Weights of each row that are unpacked at once, a multiple of every block: with their transposed copy, 16 rows stay in the
/// first-level cache.
const K_MAX: usize = 512;
const GROUPS_MAX: usize = K_MAX / GROUP_MIN;

/// Some rows' weights `k..k + len`, unpacked.
#[repr(align(64))]
struct Panel {
    /// `[len / group, N]`
    scales: [f32; GROUPS_MAX * LANES_MAX],
    biases: [f32; GROUPS_MAX * LANES_MAX],
    /// `[N, K_MAX]`
    rows: [u8; K_MAX * LANES_MAX],
    /// `[len / 4, N, 4]`; written before it is read, and not at all for a lone activation row.
    q: MaybeUninit<[u8; K_MAX * LANES_MAX]>,
}

impl Panel {
    fn new() -> Self {
        let zeros = [0.0; GROUPS_MAX * LANES_MAX];
        Panel { scales: zeros, biases: zeros, rows: [0; K_MAX * LANES_MAX], q: MaybeUninit::uninit() }
    }

    /// Scales and biases of a group.
    #[inline(always)]
    unsafe fn group<L: Lanes>(&self, group: usize) -> (L, L) {
        let of = |numbers: &[f32]| {
            // SAFETY: the caller's group is one of the panel's.
            unsafe { L::load_f32(numbers.as_ptr().add(group * L::N).cast()) }
        };
        (of(&self.scales), of(&self.biases))
    }

    /// Unpacks a place of codes. Lanes beyond its rows hold what was there: their results are not stored.
    #[inline(always)]
    fn fill_coded<I: Ints>(&mut self, w: &Rows, group: usize, at: Place, base: u8) {
        let lanes = I::F::N;
        w.unpack_all(at.row, at.rows, at.k, at.len, &mut self.rows, K_MAX);
        for lane in 0..at.rows {
            w.blocks(at.row + lane, at.k, at.len, |range, scale, zero| {
                let bias = scale * f32::from(i16::from(base) - zero);
                for g in range.start / group..range.end.div_ceil(group) {
                    self.scales[g * lanes + lane] = scale;
                    self.biases[g * lanes + lane] = bias;
                }
            });
        }
    }

    /// Unpacks a place of blocks. Lanes beyond its rows repeat the last: their results are not stored. Biases are those of `u - base`.
    #[inline(always)]
    unsafe fn fill<T: Block, I: Ints>(&mut self, d: &Dots, at: Place, base: u8) {
        let (lanes, groups) = (I::F::N, T::WEIGHTS / T::GROUP);
        let row_bytes = at.len / T::WEIGHTS * T::BYTES;
        for lane in 0..lanes {
            let row = (at.row + lane.min(at.rows - 1)) * d.w_stride;
            let w = d.w.wrapping_add(row + at.k / T::WEIGHTS * T::BYTES);
            for line in (0..row_bytes).step_by(64) {
                // SAFETY: a hint.
                unsafe { I::prefetch(w.wrapping_add(lanes * d.w_stride + line)) };
            }
            // SAFETY: the place is inside `d`.
            let blocks = unsafe { std::slice::from_raw_parts(w, row_bytes) }.chunks_exact(T::BYTES);
            let rows = self.rows[lane * K_MAX..][..at.len].chunks_exact_mut(T::WEIGHTS);
            for (b, (block, u)) in blocks.zip(rows).enumerate() {
                let (mut scales, mut mins) = ([0.0; SCALES_MAX], [0.0; SCALES_MAX]);
                T::unpack(block, u, &mut scales[..groups], &mut mins[..groups]);
                for group in 0..groups {
                    let to = (b * groups + group) * lanes + lane;
                    self.scales[to] = scales[group];
                    let of_base = scales[group] * f32::from(i16::from(base) - i16::from(T::OFFSET));
                    self.biases[to] = if T::MINS { of_base - mins[group] } else { of_base };
                }
            }
        }
    }
}

/// All outputs, panel by panel: `C` activation rows at once, then four, two, one.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn dots<B: Bytes, const C: usize>(d: &UnpackedDots) {
    // SAFETY: the caller's promise.
    unsafe {
        match (d.weights.bits(), d.weights.group()) {
            (4, 16) => columns::<B, C, 4, 4>(d),
            (4, _) => columns::<B, C, 4, 8>(d),
            (5, _) => columns::<B, C, 5, 8>(d),
            (6, _) => columns::<B, C, 6, 4>(d),
            (_, 16) => columns::<B, C, 8, 4>(d),
            _ => columns::<B, C, 8, 8>(d),
        }
    }
}

/// The same of types whose u has so many bits, and whose groups are so many words of four.
#[inline(always)]
unsafe fn columns<B: Bytes, const C: usize, const BITS: usize, const WORDS: usize>(d: &UnpackedDots) {
    let columns_max = (X_BYTES_MAX / d.dots.x_stride).next_multiple_of(C).max(4 * C);
    let mut panel = Panel::new();
    for first in (0..d.dots.columns).step_by(columns_max) {
        let x = d.dots.x.wrapping_add(first * d.dots.x_stride);
        let out = d.dots.out.wrapping_add(first * d.dots.out_stride);
        let columns = columns_max.min(d.dots.columns - first);
        let d = &UnpackedDots { dots: Dots { x, columns, out, ..d.dots }, ..*d };
        // SAFETY: these columns are inside the caller's.
        unsafe { panels::<B, C, BITS, WORDS>(d, &mut panel) };
    }
}

#[inline(always)]
unsafe fn panels<B: Bytes, const C: usize, const BITS: usize, const WORDS: usize>(g: &UnpackedDots, panel: &mut Panel) {
    let (d, lanes) = (&g.dots, <B::I as Ints>::F::N);
    let base = if B::SIGNED && BITS == 8 { 128 } else { 0 };
    let lone = d.columns == 1 && B::step_blocks(8) > 0;
    for row in (0..d.rows).step_by(lanes) {
        for k in (0..d.k).step_by(K_MAX) {
            let at = Place { row, rows: lanes.min(d.rows - row), k, len: K_MAX.min(d.k - k) };
            // SAFETY: the place is inside `d`, and so are the columns of each tile.
            unsafe {
                match &g.weights {
                    Packed::Ggml(blocks) => of_type!(*blocks => fill [B::I] (panel, d, at, base)),
                    Packed::Coded(rows, group) => panel.fill_coded::<B::I>(rows, *group, at, base),
                }
                if lone {
                    self::lone::<B, BITS, WORDS>(d, panel, at);
                    continue;
                }
                let unpacked = Dots { w: panel.rows.as_ptr(), w_stride: K_MAX, ..*d };
                let within = Place { row: 0, rows: lanes, k: 0, len: at.len };
                unpack_rows::<B::I, 8>(&unpacked, within, panel.q.as_mut_ptr().cast());
                let mut c = 0;
                while c + C <= d.columns {
                    tile::<B, BITS, WORDS, C>(d, panel, at, c);
                    c += C;
                }
                while C > 4 && c + 4 <= d.columns {
                    tile::<B, BITS, WORDS, 4>(d, panel, at, c);
                    c += 4;
                }
                while C > 2 && c + 2 <= d.columns {
                    tile::<B, BITS, WORDS, 2>(d, panel, at, c);
                    c += 2;
                }
                while c < d.columns {
                    tile::<B, BITS, WORDS, 1>(d, panel, at, c);
                    c += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn fill<T: Block, I: Ints>(panel: &mut Panel, d: &Dots, at: Place, base: u8) {
    // SAFETY: the caller's promise.
    unsafe { panel.fill::<T, I>(d, at, base) }
}

/// A panel times `C` activation rows.
#[inline(always)]
unsafe fn tile<B: Bytes, const BITS: usize, const WORDS: usize, const C: usize>(
    d: &Dots,
    p: &Panel,
    at: Place,
    c: usize,
) {
    let (k, lanes, group, stride) = (d.k, <B::I as Ints>::F::N, 4 * WORDS, d.x_stride);
    // SAFETY: columns c..c + C are inside `d`; an activation row holds what `round` writes, the panel what is unpacked.
    unsafe {
        let x = d.x.add(c * stride);
        let mut sums = load::<<B::I as Ints>::F, C>(d, at, c);
        for g in 0..at.len / group {
            let w = p.q.as_ptr().cast::<u8>().add(g * group * lanes);
            let dots = B::words::<BITS, WORDS, C>(w, x.add(at.k + g * group), stride);
            let (scale, bias) = p.group(g);
            for j in 0..C {
                sums[j] =
                    add_group(sums[j], dots[j].to_f32(), (scale, bias), x.add(j * stride), k, at.k / group + g, group);
            }
        }
        store(d, at, c, sums);
    }
}

/// A place times the only activation row: first all dot products, then what they add up to.
#[inline(always)]
unsafe fn lone<B: Bytes, const BITS: usize, const WORDS: usize>(d: &Dots, p: &Panel, at: Place) {
    let (step, k, group, x) = (B::step_blocks(8) * BLOCK, d.k, 4 * WORDS, d.x);
    let mut dots = [MaybeUninit::<B::I>::uninit(); GROUPS_MAX + STEP_BLOCKS_MAX];
    // SAFETY: a step is inside the panel's rows, whose bytes behind the place are of an earlier one or zero, and inside the
    // activation row or a copy of its end.
    unsafe {
        for first in (0..at.len).step_by(step) {
            let rows = rows_at::<B::I>(LANES_MAX, |lane| p.rows.as_ptr().wrapping_add(lane * K_MAX + first));
            let mut rest = [0u8; STEP_BLOCKS_MAX * BLOCK];
            let mut x_step = x.add(at.k + first);
            if first + step > at.len {
                rest[..at.len - first].copy_from_slice(std::slice::from_raw_parts(x_step, at.len - first));
                x_step = rest.as_ptr();
            }
            let of_step = if WORDS == 4 {
                B::unpacked::<BITS, true>(&rows, x_step)
            } else {
                B::unpacked::<BITS, false>(&rows, x_step)
            };
            for i in 0..step / group {
                dots[first / group + i].write(of_step[i]);
            }
        }
        let [mut sum] = load::<<B::I as Ints>::F, 1>(d, at, 0);
        for g in 0..at.len / group {
            let dots = dots[g].assume_init().to_f32();
            sum = add_group(sum, dots, p.group(g), x, k, at.k / group + g, group);
        }
        store(d, at, 0, [sum]);
    }
}

/// Adds a group's dot products with row `x` of `k` activations, times its scales, and its biases times the activations' sum.
#[inline(always)]
unsafe fn add_group<L: Lanes>(
    sum: L,
    dots: L,
    (scale, bias): (L, L),
    x: *const u8,
    k: usize,
    index: usize,
    group: usize,
) -> L {
    // SAFETY: the caller's activation row has this group.
    unsafe {
        let part = L::zero().fma(dots, number(x, k, index * group / BLOCK));
        sum.fma(part, scale).fma(bias, number(x, k + k / BLOCK * 4, index))
    }
}
