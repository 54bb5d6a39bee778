//! E4M3 with a lone row of f32 activations, widened in registers: the values, and the order in which an output adds its products,
//! are those of a row that is widened to f32 first. Everything here is inlined into functions that enable the instructions.

// Rows are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::Dots;
use super::prefetch;
use super::tile::Lanes;
use crate::quant::coded::{Rows, WHOLE, widen_e4m3};

/// Weights that are widened at once.
pub(super) const STEP: usize = 64;
/// Columns that share a scale at least.
const GROUP: usize = 32;
/// Rows at once: one chain of sums for each.
const ROWS: usize = 4;
/// Scales of a row that are looked up at once.
const SCALES: usize = 256;

/// How an instruction set widens.
///
/// # Safety
/// All functions: the machine has the instructions, and [`STEP`] weights are at `w`.
pub(super) trait Widen {
    /// Sixteen lanes.
    type L: Lanes;
    /// What scales are multiplied with, a power of two: values come out as many times too small.
    const FACTOR: f32;
    /// Adds the products of so many weights, two scales to them, with activations, sixteen at a time.
    unsafe fn add(sum: Self::L, w: *const u8, x: *const u8, scales: [f32; 2]) -> Self::L;
}

/// Whether a product is one that [`rows`] computes.
pub(super) fn fit(d: &Dots, codes: &Rows) -> bool {
    let across = codes.coded.block[1];
    d.columns == 1 && d.k.is_multiple_of(STEP) && (across == WHOLE || (across as usize).is_multiple_of(GROUP))
}

/// Computes the product of rows of E4M3 with one row of f32 activations.
///
/// # Safety
/// The machine has the instructions; the addresses hold what `Dots` says, but for the weights, which are the rows'.
#[inline(always)]
pub(super) unsafe fn rows<W: Widen>(d: &Dots, codes: &Rows) {
    let mut scales = [const { Scales::new() }; ROWS];
    let mut row = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while row + ROWS <= d.rows {
            some_rows::<W, ROWS>(d, codes, row, &mut scales);
            row += ROWS;
        }
        while row < d.rows {
            some_rows::<W, 1>(d, codes, row, &mut scales);
            row += 1;
        }
    }
}

/// A row's scales from some column on, one for each [`GROUP`]; those of the row of blocks that was asked for last.
struct Scales {
    of: [f32; SCALES],
    /// Whether they were multiplied with [`Widen::FACTOR`]: all are finite so.
    multiplied: bool,
    from: Option<(usize, usize)>,
}

impl Scales {
    const fn new() -> Self {
        Scales { of: [0.0; SCALES], multiplied: false, from: None }
    }

    #[inline(always)]
    fn look_up<W: Widen>(&mut self, codes: &Rows, row: usize, k: usize, len: usize) {
        let from = Some(((codes.first + codes.step * row) / codes.coded.block[0] as usize, k));
        if self.from == from {
            return;
        }
        let scales = &mut self.of[..len.div_ceil(GROUP)];
        if !codes.scales_in_line(row, k, GROUP, scales) {
            codes.blocks(row, k, len, |columns, scale, _| {
                scales[columns.start / GROUP..columns.end.div_ceil(GROUP)].fill(scale);
            });
        }
        self.multiplied = scales.iter().all(|scale| (scale * W::FACTOR).is_finite());
        if self.multiplied {
            scales.iter_mut().for_each(|scale| *scale *= W::FACTOR);
        }
        self.from = from;
    }
}

#[inline(always)]
unsafe fn some_rows<W: Widen, const R: usize>(d: &Dots, codes: &Rows, row: usize, scales: &mut [Scales; ROWS]) {
    // SAFETY: the caller's rows, each of whole steps, and as many activations.
    unsafe {
        let mut sums = [W::L::zero(); R];
        let w = |i: usize| codes.data.as_ptr().wrapping_add((codes.first + codes.step * (row + i)) * codes.shape[1]);
        for k in (0..d.k).step_by(SCALES * GROUP) {
            let len = (SCALES * GROUP).min(d.k - k);
            for i in 0..R {
                scales[i].look_up::<W>(codes, row + i, k, len);
            }
            for at in (0..len).step_by(STEP) {
                let x = d.x.add(4 * (k + at)).cast::<u8>();
                for i in 0..R {
                    let w = w(i).wrapping_add(k + at);
                    // Rows side by side are not foreseen: the next ones are asked for.
                    prefetch(w.wrapping_add(R * codes.step * codes.shape[1]));
                    let two = [scales[i].of[at / GROUP], scales[i].of[at / GROUP + 1]];
                    sums[i] =
                        if scales[i].multiplied { W::add(sums[i], w, x, two) } else { one_by_one(sums[i], w, x, two) };
                }
            }
        }
        let mut four = [W::L::zero(); 4];
        four[..R].copy_from_slice(&sums);
        let totals = W::L::sums(four);
        d.out.add(row).cast::<u8>().copy_from_nonoverlapping(totals.as_ptr().cast(), 4 * R);
    }
}

/// [`Widen::add`] with scales as they are.
#[inline(always)]
unsafe fn one_by_one<L: Lanes>(mut sum: L, w: *const u8, x: *const u8, scales: [f32; 2]) -> L {
    // SAFETY: the caller's promise; a vector has sixteen lanes.
    unsafe {
        for i in 0..STEP / L::N {
            let mut values = [0f32; 16];
            let bytes = std::slice::from_raw_parts(w.add(L::N * i), L::N);
            widen_e4m3(bytes, scales[L::N * i / GROUP], &mut values);
            sum = sum.fma(L::load_f32(values.as_ptr().cast()), L::load_f32(x.add(4 * L::N * i)));
        }
        sum
    }
}
